package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"dnsd/registry/follow"
)

// A sourceKind is one kind of source that --registry can name; sourceKinds lists
// them. To add one: write its entry and a registrySource, and say in
// docs/cluster.md and writers.md what it is for. The tests hold help and
// docs/flags.md to the list.
type sourceKind struct {
	scheme string // what its URLs begin with
	url    string // what they look like, for messages, the help and docs/flags.md
	read   func(url string) (registrySource, error)

	// silence is how long a healthy source may prove nothing, and so the least
	// --stale-after.
	silence time.Duration
	// ownHost says that the source is an agent of this host; see follow.Config.
	ownHost bool
}

// Secrets that may stand in the environment. They have no flag: other users of
// a host can read the arguments of a process.
const (
	etcdPassword   = "DNSD_ETCD_PASSWORD"
	corrosionToken = "DNSD_CORROSION_TOKEN"
)

// registrySource is what a URL of --registry says.
type registrySource interface {
	// open returns the source. It connects to nothing, but reads the files that
	// flags name, so that a mistake in them shows at start.
	open(c *config, getenv func(string) string, log *slog.Logger) (follow.Source, error)

	// check writes to stdout what can be said of what the source holds, and returns
	// an error if something is wrong with it. The flags are good.
	check(ctx context.Context, c *config, getenv func(string) string, stdout io.Writer) error
}

// What a follow.Source may implement as well, beside follow.Identifier and
// prometheus.Collector.
type (
	// reloader reads everything again on SIGHUP.
	reloader interface{ Reload() }

	// neighbourly says what lies beside the place that is read, for one who may have
	// named the wrong place: "/dnsd/v2/, /other/". It is called beside Follow, and
	// returns the empty string for nothing, or where it cannot tell before ctx ends.
	neighbourly interface {
		Beside(ctx context.Context) string
	}

	// troubled says why what is read cannot be used, nil for nothing, where that
	// ends no stream.
	troubled interface{ Trouble() error }
)

// registryURL is the value of --registry.
type registryURL struct {
	kind   *sourceKind // nil: it was wrong
	source registrySource
}

// set reads --registry. A wrong one leaves u as it is.
func (u *registryURL) set(s string) error {
	scheme, _, found := strings.Cut(s, ":")
	if !found {
		return fmt.Errorf("no scheme: write file:%s for a file", s)
	}
	i := slices.IndexFunc(sourceKinds, func(k *sourceKind) bool { return k.scheme == scheme })
	if i < 0 {
		return fmt.Errorf("unknown scheme %q: write %s", scheme, kindsText())
	}
	source, err := sourceKinds[i].read(s)
	if err == nil {
		*u = registryURL{sourceKinds[i], source}
	}
	return err
}

// kindsText lists what URLs look like: "A, B or C".
func kindsText() string {
	var urls []string
	for _, k := range sourceKinds {
		urls = append(urls, k.url)
	}
	last := len(urls) - 1
	return strings.Join(urls[:last], ", ") + " or " + urls[last]
}

// silence is the least --stale-after.
func (u *registryURL) silence() time.Duration {
	if u.kind == nil {
		return fileKind.silence
	}
	return u.kind.silence
}

// trouble returns what is wrong with the registry's source, empty for nothing.
func trouble(problem string, source follow.Source) string {
	if s, ok := source.(troubled); ok {
		if err := s.Trouble(); err != nil {
			return cmp.Or(err.Error(), problem)
		}
	}
	return problem
}
