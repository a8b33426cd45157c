package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// A setting is one flag, which may also stand in the environment. It keeps its
// values as text until all of them are there, so that every mistake is reported
// and not only the first.
type setting struct {
	name   string
	short  string             // a letter that stands for the name, mostly none
	def    string             // used when neither flag nor environment says anything
	repeat bool               // several values: several flags, or commas in the environment
	toggle bool               // no value needed: the flag alone means true
	order  bool               // it says what to do, and stands in no environment
	source string             // the scheme of the registry that it is for; empty: any
	use    func(string) error // checks one value and puts it to use; the error says what to write instead

	given []string // from flags
}

// String, Set and Type implement pflag.Value.
func (s *setting) String() string     { return s.def }
func (s *setting) Type() string       { return "value" }
func (s *setting) Set(v string) error { s.given = append(s.given, v); return nil }

// environment returns the name of the variable that may stand for the flag.
func (s *setting) environment() string {
	return "DNSD_" + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
}

// A URL may hold a password before an @, or in its query. It is refused then, and
// the refusal must not put the password into a log.
var (
	userInfo = regexp.MustCompile("^([a-z]+:)(//)?[^/]*@")
	query    = regexp.MustCompile(`^([a-z]+:[^?]*\?).*`)
)

// withoutSecrets returns a value as an error message may repeat it.
func withoutSecrets(v string) string {
	return query.ReplaceAllString(userInfo.ReplaceAllString(v, "$1$2***@"), "$1***")
}

// apply calls use with the setting's values: the flag's, or else the
// environment's, or else the default.
func (s *setting) apply(getenv func(string) string) error {
	values, from := s.given, "--"+s.name+" "
	if len(values) == 0 {
		if env := getenv(s.environment()); env != "" && !s.order {
			values, from = []string{env}, s.environment()+"="
			if s.repeat {
				values = strings.Split(env, ",")
			}
		}
	}
	if len(values) == 0 {
		if s.def == "" {
			return nil
		}
		values = []string{s.def}
	}
	var errs []error
	if !s.repeat && len(values) > 1 {
		errs = append(errs, fmt.Errorf("--%s is given %d times: give it once", s.name, len(values)))
	}
	for _, v := range values {
		v = strings.TrimSpace(v)
		if v == "" {
			errs = append(errs, fmt.Errorf("%sis empty: give it a value or leave it out", from))
			continue
		}
		if err := s.use(v); err != nil {
			if shown := withoutSecrets(v); shown != v {
				err, v = errors.New(strings.ReplaceAll(err.Error(), v, shown)), shown
			}
			errs = append(errs, fmt.Errorf("%s%s: %w", from, v, err))
		}
	}
	return errors.Join(errs...)
}

// parseSettings reads args and the environment into settings. It returns the
// arguments that are no flags and, joined, every mistake.
func parseSettings(settings []*setting, args []string, getenv func(string) string) ([]string, error) {
	var errs []error
	flags := pflag.NewFlagSet("dnsd", pflag.ContinueOnError)
	flags.Usage = func() {}
	for _, s := range settings {
		f := flags.VarPF(s, s.name, s.short, "")
		if s.toggle {
			f.NoOptDefVal = "true"
		}
	}
	unknown := false
	for {
		for _, s := range settings {
			s.given = nil
		}
		var missing *pflag.NotExistError
		var valueless *pflag.ValueRequiredError
		switch err := flags.Parse(args); {
		case errors.As(err, &missing) && missing.GetSpecifiedShortnames() == "":
			// Define the flag, so that the next round finds what else is wrong.
			unknown = true
			name := missing.GetSpecifiedName()
			errs = append(errs, unknownFlag(name, settings))
			flags.VarPF(&setting{}, name, "", "").NoOptDefVal = "true"
			continue
		case errors.As(err, &missing):
			errs = append(errs, unknownShort(missing.GetSpecifiedShortnames(), settings))
		case errors.As(err, &valueless):
			errs = append(errs, fmt.Errorf("--%s needs a value", valueless.GetSpecifiedName()))
		case err != nil:
			errs = append(errs, err)
		}
		break
	}
	for _, s := range settings {
		if err := s.apply(getenv); err != nil {
			errs = append(errs, err)
		}
	}
	rest := flags.Args()
	if unknown {
		rest = nil // they may be the values of what is unknown
	}
	return rest, errors.Join(errs...)
}

// unknownFlag says that a flag does not exist and which was probably meant.
func unknownFlag(name string, settings []*setting) error {
	names := make([]string, len(settings))
	for i, s := range settings {
		names[i] = s.name
	}
	if best := nearest(name, names); best != "" {
		return fmt.Errorf("unknown flag --%s: did you mean --%s?", name, best)
	}
	return fmt.Errorf("unknown flag --%s: dnsd --help lists them all", name)
}

// nearest returns the name that was probably meant by a misspelt one, or "".
func nearest(name string, names []string) (best string) {
	distance := 3 // more than two slips is another word
	for _, n := range names {
		if d := editDistance(name, n); d < distance {
			best, distance = n, d
		}
	}
	return best
}

// unknownShort says that there is no flag of one dash and this word or letter, and
// which flag was meant: the one of that name, or the only one that begins so.
func unknownShort(word string, settings []*setting) error {
	var begun []string
	for _, s := range settings {
		if strings.HasPrefix(s.name, word) {
			begun = append(begun, s.name)
		}
	}
	if slices.Contains(begun, word) {
		begun = []string{word}
	}
	if len(begun) == 1 {
		return fmt.Errorf("unknown flag -%s: flags have two dashes, as in --%s", word, begun[0])
	}
	return fmt.Errorf("unknown flag -%s: flags have two dashes, and dnsd --help lists them all", word)
}

// fromKubernetes matches the variables that Kubernetes sets for a service whose
// name begins with dnsd.
var fromKubernetes = regexp.MustCompile(`_SERVICE_(HOST|PORT)|_PORT_[0-9]+_(TCP|UDP|SCTP)|^\w+_PORT=[a-z]+://`)

// strangers returns a sentence for each variable of environ (as os.Environ has
// it) that begins with DNSD_ and is no setting. It may be another program's, so that
// it is no error.
func strangers(settings []*setting, environ []string) (sentences []string) {
	known := []string{etcdPassword, corrosionToken}
	for _, s := range settings {
		known = append(known, s.environment())
	}
	for _, pair := range environ {
		name, _, _ := strings.Cut(pair, "=") // the value may be a secret
		if !strings.HasPrefix(name, "DNSD_") || slices.Contains(known, name) || fromKubernetes.MatchString(pair) {
			continue
		}
		sentence := name + " in the environment is no setting of dnsd's and is ignored"
		if best := nearest(name, known); best != "" {
			sentence += ": did you mean " + best + "?"
		}
		sentences = append(sentences, sentence)
	}
	slices.Sort(sentences)
	return sentences
}

// editDistance counts the insertions, deletions and replacements of a byte that
// turn a into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
