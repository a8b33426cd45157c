package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"dnsd/registry/etcd"
	"dnsd/registry/etcd/etcdtest"
	"dnsd/test/internal/rig"
)

// notes is how often etcd tells of progress by itself: what docs/scale.md says for
// clusters behind proxies.
const notes = 5 * time.Second

// simulation is one run.
type simulation struct {
	options
	out, progress io.Writer

	sites   []*host
	limits  string // of the links
	cluster *etcdtest.Cluster
	proxies [][]*etcdtest.GRPCProxy // of each site
	writer  *writer
	login   etcd.Config // what sources need besides the end points
	running int         // sources
}

func (s *simulation) logf(format string, args ...any) {
	fmt.Fprintf(s.progress, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

func (s *simulation) run(ctx context.Context) (err error) {
	if !s.loopback {
		if err := bridge(); err != nil {
			return err
		}
	}
	s.limits = "loopback, no limit"
	for i := range s.options.sites {
		h, err := startSite(i, &s.options)
		if err != nil {
			return err
		}
		defer h.close()
		if !s.loopback {
			s.limits = h.limit(s.link, s.delay)
		}
		s.sites = append(s.sites, h)
	}
	fmt.Fprintf(s.out, "%d processors, %s; %d objects (most sources follow %d); %d sites of %d grpc-proxies; each site's link: %s.\n\n",
		runtime.NumCPU(), time.Now().Format(time.DateOnly), s.objects, s.few, s.options.sites, s.options.proxies, s.limits)
	if err := s.inCluster(ctx, etcdtest.Options{Notify: notes}, s.measure); err != nil {
		return err
	}
	if s.herd == 0 {
		return nil
	}
	return s.inCluster(ctx, etcdtest.Options{Notify: notes, TLS: true, BcryptCost: s.bcrypt}, s.herdStart)
}

// inCluster runs a part of the simulation with an etcd and proxies of its own.
func (s *simulation) inCluster(ctx context.Context, o etcdtest.Options, part func(context.Context) error) (err error) {
	dir, err := os.MkdirTemp("", "dnsd-scale-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r := rig.New(ctx, dir)
	defer r.Close()
	defer r.Rescue(&err)
	if !s.loopback {
		o.Hosts, o.Start = []string{centreAddr}, startHere
	}
	s.cluster, s.running, s.login = etcdtest.Start(r, o), 0, etcd.Config{}
	cli := s.cluster.Client()
	began := time.Now()
	if err := fill(ctx, cli, s.objects, s.few); err != nil {
		return err
	}
	s.logf("%d objects are written in %s", s.objects+s.few, round(time.Since(began)))
	s.writer = &writer{cli: cli, objects: s.objects, few: s.few}
	s.proxies = make([][]*etcdtest.GRPCProxy, len(s.sites))
	for i, h := range s.sites {
		for j := range s.options.proxies {
			s.proxies[i] = append(s.proxies[i], s.cluster.GRPCProxy(r, etcdtest.GRPCProxyOptions{
				Addr: fmt.Sprintf("%s:%d", h.addr, 23790+j), Start: h.inside}))
		}
	}
	defer func() { _, _ = s.tell(&order{Stop: true}) }()
	return part(ctx)
}

// endpoints returns what the sources of a site ask.
func (s *simulation) endpoints(site int) (out []string) {
	for _, p := range s.proxies[site] {
		out = append(out, p.Addr())
	}
	if out == nil {
		out = s.cluster.Endpoints()
	}
	return out
}

func (s *simulation) proxyPIDs() (pids []int) {
	for _, site := range s.proxies {
		for _, p := range site {
			if pid := p.PID(); pid != 0 {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func (s *simulation) sitePIDs() (pids []int) {
	for _, h := range s.sites {
		pids = append(pids, h.cmd.Process.Pid)
	}
	return pids
}

// tell gives all sites an order and returns their reports as one.
func (s *simulation) tell(o *order) (*report, error) {
	sum := &report{Seen: &histogram{}}
	for i, h := range s.sites {
		mine := *o
		mine.Config = s.login
		mine.Config.Endpoints = s.endpoints(i)
		mine.Sources = (s.running + len(s.sites) - 1 - i) / len(s.sites)
		mine.Whole = s.whole
		if o.Stop {
			mine.Sources = 0
		}
		r, err := h.tell(&mine)
		if err != nil {
			return nil, err
		}
		sum.Running += r.Running
		sum.Listed += r.Listed
		sum.Behind += r.Behind
		sum.Sent += r.Sent
		sum.Seen.merge(r.Seen)
	}
	return sum, nil
}

// caughtUp makes a change and waits until every source has seen it. It says in words
// how long that took since a moment, or how many have not seen it in time.
func (s *simulation) caughtUp(ctx context.Context, since time.Time) (how string, err error) {
	seq, err := s.writer.mark(ctx)
	if err != nil {
		return "", err
	}
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		r, err := s.tell(&order{Seq: seq})
		if err != nil {
			return "", err
		}
		took := time.Since(since)
		if r.Behind == 0 && r.Listed == r.Running {
			return round(took), nil
		}
		if took > s.patience {
			return fmt.Sprintf("%d of %d not within %s", max(r.Behind, r.Running-r.Listed), r.Running, round(took)), nil
		}
		if err := pause(ctx, wait); err != nil {
			return "", err
		}
	}
}

// table prints a Markdown table's head.
func (s *simulation) table(columns ...string) {
	fmt.Fprintf(s.out, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
}

func (s *simulation) row(cells ...string) { fmt.Fprintf(s.out, "| %s |\n", strings.Join(cells, " | ")) }
