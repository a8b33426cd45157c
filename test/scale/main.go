// Command scale shows what thousands of dnsds cost the etcd that they follow, and
// how long they take to recover from what goes wrong with it:
//
//	go run ./test/scale
//
// One real etcd, grpc-proxies in sites of their own, and many sources and followers
// as dnsd has them, hundreds in a process for each site. As root it gives each site a
// network namespace with a limited link to the others, where tc has one; else all are
// on loopback addresses, links have no limit, and a site is cut off by killing its
// proxies.
//
// A registry of 100,000 objects takes a dnsd a second of CPU and some 40 MB, so that
// thousands of whole ones fit few machines. Most dnsds here follow a smaller prefix
// (-few), into which every change is written as well, and their followers keep
// nothing of it; -whole of each site follow all objects, and keep them. What both do
// with etcd and the proxies is what dnsd does.
//
// It prints Markdown on standard output and its progress on standard error. It
// compares and prints: no figure makes it fail.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"dnsd/registry/etcd/etcdtest"
)

// options are the command line's.
type options struct {
	objects, few int
	sites        int
	proxies      int // of each site; 0: sources ask etcd
	whole        int // of each site
	sources      []int
	rates        []int
	window       time.Duration
	most         int // changes seen a second, of all sources, that the machine is asked for
	faults       bool
	away         time.Duration
	herd         int
	bcrypt       int
	link         string
	delay        string
	loopback     bool
	patience     time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

// run is the program. Started as itself it is a site, or goes on in a network
// namespace of its own.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if os.Getenv(siteEnv) != "" {
		return serveSite(ctx, os.Stdin, stdout)
	}
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := etcdtest.Build(); err != nil { // which may need the network
		return err
	}
	if !o.loopback && os.Getenv(centreEnv) == "" {
		if why := isolable(); why != "" {
			fmt.Fprintf(stderr, "on loopback addresses, without limits: %s\n", why)
			o.loopback = true
		} else {
			return isolate(ctx, args, stdout, stderr)
		}
	}
	s := &simulation{options: o, out: stdout, progress: stderr}
	return s.run(ctx)
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	f := flag.NewFlagSet("scale", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&o.objects, "objects", 100_000, "objects in the registry")
	f.IntVar(&o.few, "few", 1000, "objects in the prefix that most sources follow")
	f.IntVar(&o.sites, "sites", 3, "sites; one is cut off when a third is")
	f.IntVar(&o.proxies, "proxies", 3, "grpc-proxies of each site; 0: sources ask etcd itself")
	f.IntVar(&o.whole, "whole", 1, "sources of each site that follow all objects")
	sources := f.String("sources", "10,100,1000,2000", "how many sources, one row after the other")
	rates := f.String("rates", "20,200", "changes a second")
	f.DurationVar(&o.window, "window", 15*time.Second, "how long each row is measured")
	f.IntVar(&o.most, "most", 50_000, "leave out rows with more sources times changes a second than this machine can receive")
	f.BoolVar(&o.faults, "faults", true, "break things, with as many sources as the last row has")
	f.DurationVar(&o.away, "away", 20*time.Second, "how long a third is cut off: by default longer than connections take to notice")
	f.IntVar(&o.herd, "herd", 500, "sources that start at once with a user and TLS; 0: none")
	f.IntVar(&o.bcrypt, "bcrypt", 10, "what etcd's users' passwords cost: etcd's --bcrypt-cost")
	f.StringVar(&o.link, "link", "100mbit", "each site's link, as tc writes it")
	f.StringVar(&o.delay, "delay", "5ms", "of each site's link, one way, where tc has netem")
	f.BoolVar(&o.loopback, "loopback", false, "use no namespaces")
	f.DurationVar(&o.patience, "patience", 90*time.Second, "how long to wait until all have recovered")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if o.sources, err = numbers(*sources); err != nil {
		return o, fmt.Errorf("-sources: %w", err)
	}
	if o.rates, err = numbers(*rates); err != nil {
		return o, fmt.Errorf("-rates: %w", err)
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.sites < 1 || o.sites > 100 || o.proxies < 0 || o.whole < 0 || o.few < 1 || o.objects < o.few:
		return o, errors.New("want 1 to 100 sites, and at least as many objects as the few, of which there is one")
	case o.window < time.Second:
		return o, errors.New("-window: at least 1s")
	}
	return o, nil
}

func numbers(text string) (out []int, err error) {
	for field := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is no number above 0", field)
		}
		out = append(out, n)
	}
	return out, nil
}
