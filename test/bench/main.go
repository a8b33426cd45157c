// Command bench compares dnsd with NSD and Knot DNS, and dnsd with itself under
// large registries, change and noise, on one machine and in one run:
//
//	go run ./test/bench
//
// It runs inside network, process and mount namespaces of its own, so that its
// servers take no port of the machine's and none outlives it; that takes root,
// or a kernel that lets anyone make a user namespace. It installs nothing. It
// prints Markdown on standard output and its progress on standard error. It
// compares and prints: no figure makes it fail, only a wrong answer does.
//
// README.md in this directory states method, machine and figures.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"dnsd/registry/etcd/etcdtest"

	"github.com/spf13/pflag"
)

// options are the command line's.
type options struct {
	rows     []string
	runs     int
	seconds  int
	workers  int
	quick    bool
	machines []int
	dnsd     string
	against  string
	profile  string
}

func main() {
	floodIfAsked()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run is the program. Started as itself it builds dnsd and then runs the rest
// in namespaces of its own.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if errors.Is(err, pflag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if !isolated() {
		if _, err := etcdtest.Build(); err != nil { // which may need the network
			return err
		}
		return isolate(ctx, o, stdout, stderr)
	}
	if err := settle(); err != nil {
		return err
	}
	dir := os.Getenv(dirEnv)
	b := &bench{options: o, dir: dir, out: stdout, progress: stderr}
	fmt.Fprintf(stdout, "%s\n", machine(b))
	for _, r := range allRows() {
		if len(o.rows) > 0 && !slices.Contains(o.rows, r.name) {
			continue
		}
		if err := b.row(ctx, r); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return nil
}

// parse reads the command line and checks all of it.
func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringSliceVar(&o.rows, "rows", nil, "only these rows, with commas: "+strings.Join(rowNames(), ","))
	flags.IntVar(&o.runs, "runs", 5, "measured runs of each server; one more is thrown away")
	flags.IntVar(&o.seconds, "seconds", 5, "length of a run")
	flags.IntVar(&o.workers, "workers", 1, "NSD server processes, Knot UDP workers, unbound threads, dnsd sockets")
	flags.BoolVar(&o.quick, "quick", false, "two runs of a second, small registries: shows that it works, not how fast dnsd is")
	flags.IntSliceVar(&o.machines, "machines", nil, "how many machines the row of restarts has, with commas (default 25,100000; as quick, 25)")
	flags.StringVar(&o.dnsd, "dnsd", "", "a built dnsd (default: go build dnsd/cmd/dnsd)")
	flags.StringVar(&o.against, "against", "", "another built dnsd, such as one before a change, in the rows of the mix")
	flags.StringVar(&o.profile, "profile", "", "a directory for a CPU profile of dnsd in each row of the mix, taken in a run that does not count")
	flags.SortFlags = false
	// One dash is as good as two, as with package flag.
	args = slices.Clone(args)
	for i, a := range args {
		if len(a) > 2 && a[0] == '-' && a[1] != '-' {
			args[i] = "-" + a
		}
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var errs []error
	for _, r := range o.rows {
		if !slices.Contains(rowNames(), r) {
			errs = append(errs, fmt.Errorf("unknown row %q: there are %s", r, strings.Join(rowNames(), ", ")))
		}
	}
	if o.quick {
		if !flags.Changed("runs") {
			o.runs = 2
		}
		if !flags.Changed("seconds") {
			o.seconds = 1
		}
	}
	for _, n := range o.machines {
		if n < 25 {
			errs = append(errs, fmt.Errorf("-machines %d: at least 25", n))
		}
	}
	if o.runs < 1 || o.seconds < 1 || o.workers < 1 || flags.NArg() > 0 {
		errs = append(errs, errors.New("-runs, -seconds and -workers are at least 1, and there are no other arguments"))
	}
	return o, errors.Join(errs...)
}

// A row is one question about speed, with a table for an answer.
type row struct {
	name  string
	needs []string // programs, besides dnsd
	run   func(context.Context, *bench) error
}

func allRows() []row {
	return []row{
		{"plain", mixNeeds, mixRow("plain")},
		{"paced", mixNeeds, pacedRow},
		{"ipv6", mixNeeds, mixRow("ipv6")},
		{"edns", mixNeeds, mixRow("edns")},
		{"case", mixNeeds, mixRow("case")},
		{"missing", mixNeeds, mixRow("missing")},
		{"zipf", nil, zipfRow},
		{"churn", []string{"dnsperf"}, churnRow},
		{"big-app", []string{"dnsperf"}, bigAppRow},
		{"forward", []string{"dnsperf", "nsd", "unbound", "dnsmasq"}, forwardRow},
		{"fastpath", []string{"nsd"}, fastpathRow},
		{"fair", nil, fairRow},
		{"flood", []string{"nsd", "knotd"}, floodRow},
		{"idle", []string{"nsd"}, idleRow},
		{"visible", nil, visibleRow},
		{"list", nil, listRow},
		{"restart", nil, restartRow},
	}
}

func rowNames() []string {
	var out []string
	for _, r := range allRows() {
		out = append(out, r.name)
	}
	return out
}

// packages says which Debian package brings a program.
var packages = map[string]string{
	"nsd": "nsd", "knotd": "knot", "dnsperf": "dnsperf", "unbound": "unbound", "dnsmasq": "dnsmasq-base",
}

// missing returns an error that says what to install for the rows asked for.
func (o options) missing() error {
	var need []string
	for _, r := range allRows() {
		if len(o.rows) > 0 && !slices.Contains(o.rows, r.name) {
			continue
		}
		for _, program := range r.needs {
			if _, err := exec.LookPath(program); err != nil && !slices.Contains(need, packages[program]) {
				need = append(need, packages[program])
			}
		}
	}
	if len(need) == 0 {
		return nil
	}
	return fmt.Errorf("programs are missing: apt-get install --no-install-recommends %s (or choose other -rows)", strings.Join(need, " "))
}

// bench is what every row works with.
type bench struct {
	options
	dir      string // scratch, removed at the end
	out      io.Writer
	progress io.Writer
}

// row runs one row in a directory of its own and ends what it started.
func (b *bench) row(ctx context.Context, r row) error {
	began := time.Now()
	b.say("row %s", r.name)
	inner := *b
	inner.dir = filepath.Join(b.dir, r.name)
	if err := os.MkdirAll(inner.dir, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(inner.dir)
	err := r.run(ctx, &inner)
	b.say("row %s took %s", r.name, time.Since(began).Round(time.Second))
	return err
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// duration is the length of a run.
func (b *bench) duration() time.Duration { return time.Duration(b.seconds) * time.Second }

// pick returns full, or quick where -quick is given.
func pick[T any](b *bench, full, quick T) T {
	if b.quick {
		return quick
	}
	return full
}
