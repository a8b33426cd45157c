package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"dnsd/registry/etcd"
	"dnsd/registry/etcd/etcdtest"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func startHere(_ int, cmd *exec.Cmd) error { return cmd.Start() }

// measure prints what sources cost, and then how they recover from faults.
func (s *simulation) measure(ctx context.Context) error {
	columns := []string{"sources", "all listed after", "changes/s", "etcd's watchers", "etcd, cores", "etcd, MB", "etcd sends, kB/s",
		"proxies, cores", "proxies, MB", "sites' lo, kB/s", "sources, cores", "seen after, p50", "p99", "worst", "machine busy"}
	s.table(columns...)
	for _, n := range s.sources {
		began := time.Now()
		s.running = n
		listed, err := s.caughtUp(ctx, began)
		if err != nil {
			return err
		}
		s.logf("%d sources: listed and caught up after %s", n, listed)
		for _, rate := range s.rates {
			if n*rate > s.most {
				empty := slices.Repeat([]string{"–"}, len(columns)-4)
				s.row(slices.Concat([]string{fmt.Sprint(n), listed, fmt.Sprint(rate)}, empty, []string{"more than this machine receives"})...)
				continue
			}
			if err := s.measureRow(ctx, n, rate, listed); err != nil {
				return err
			}
		}
	}
	if !s.faults {
		return nil
	}
	fmt.Fprintln(s.out)
	return s.breakThings(ctx)
}

func (s *simulation) measureRow(ctx context.Context, n, rate int, listed string) error {
	end := s.writer.churn(ctx, rate)
	defer end()
	if err := pause(ctx, 2*time.Second); err != nil { // until what went before is over
		return err
	}
	r, err := s.tell(&order{})
	if err != nil {
		return err
	}
	from := s.costs(r.Sent)
	if err := pause(ctx, s.window); err != nil {
		return err
	}
	if r, err = s.tell(&order{}); err != nil {
		return err
	}
	to := s.costs(r.Sent)
	over := to.at.Sub(from.at)
	perSecond := func(n int64) string { return fmt.Sprintf("%.0f", float64(n)/1e3/over.Seconds()) }
	local := perSecond(to.proxySent - from.proxySent)
	if s.loopback {
		local = "–"
	}
	s.row(fmt.Sprint(n), listed, fmt.Sprint(rate), fmt.Sprint(to.watchers), cores(to.etcd-from.etcd, over), megabytes(resident(s.cluster.PIDs()...)), perSecond(to.etcdSent-from.etcdSent),
		cores(to.proxies-from.proxies, over), megabytes(resident(s.proxyPIDs()...)), local,
		cores(to.sites-from.sites, over), round(r.Seen.quantile(0.5)), round(r.Seen.quantile(0.99)), round(r.Seen.quantile(1)),
		fmt.Sprintf("%.0f %%", 100*float64(to.work-from.work)/float64(max(1, to.all-from.all))))
	s.logf("%d sources at %d changes/s: measured", n, rate)
	return nil
}

// breakThings prints how long it takes until all sources are caught up after a fault.
func (s *simulation) breakThings(ctx context.Context) error {
	const rate = 5 // changes a second meanwhile
	s.table("fault, with "+fmt.Sprint(s.running)+" sources", "all caught up after", "etcd, CPU-s", "proxies, CPU-s")
	for _, f := range []struct {
		name   string
		happen func(context.Context) (mended time.Time, err error)
	}{
		{"etcd killed (-9), started again after 1 s", s.killEtcd},
		{"a proxy killed (-9), not started again", s.killProxy},
		{"a third cut off for " + s.away.String(), s.cutThird},
		{"a third cut off for " + s.away.String() + ", the history compacted", s.compactThird},
	} {
		end := s.writer.churn(ctx, rate)
		mended, err := f.happen(ctx)
		if err != nil {
			end()
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if mended.IsZero() {
			end()
			continue // there is no such fault here
		}
		err = s.recover(ctx, f.name, mended)
		end()
		if err != nil {
			return err
		}
		if err := s.restore(ctx); err != nil {
			return err
		}
	}
	return nil
}

// recover waits until all are caught up after a fault, and prints how long that took
// and what it cost since the fault was mended.
func (s *simulation) recover(ctx context.Context, fault string, mended time.Time) error {
	etcd, proxies := cpuTime(s.cluster.PIDs()...), cpuTime(s.proxyPIDs()...)
	how, err := s.caughtUp(ctx, mended)
	if err != nil {
		return err
	}
	s.row(fault, how, fmt.Sprintf("%.1f", (cpuTime(s.cluster.PIDs()...)-etcd).Seconds()), fmt.Sprintf("%.1f", (cpuTime(s.proxyPIDs()...)-proxies).Seconds()))
	s.logf("%s: %s", fault, how)
	return nil
}

// restore starts what is down.
func (s *simulation) restore(ctx context.Context) error {
	for _, site := range s.proxies {
		for _, p := range site {
			if p.PID() == 0 {
				p.Restart()
			}
		}
	}
	return pause(ctx, 2*time.Second)
}

func (s *simulation) killEtcd(ctx context.Context) (time.Time, error) {
	s.cluster.Kill(0)
	if err := pause(ctx, time.Second); err != nil {
		return time.Time{}, err
	}
	s.cluster.Restart(0)
	return time.Now(), nil
}

func (s *simulation) killProxy(context.Context) (time.Time, error) {
	if s.options.proxies < 2 {
		return time.Time{}, nil // nobody would be left
	}
	s.proxies[0][0].Kill()
	return time.Now(), nil
}

func (s *simulation) cutThird(ctx context.Context) (time.Time, error) { return s.cut(ctx, false) }

func (s *simulation) compactThird(ctx context.Context) (time.Time, error) { return s.cut(ctx, true) }

// cut cuts off a third of the sites and joins them again.
func (s *simulation) cut(ctx context.Context, compact bool) (time.Time, error) {
	third := (len(s.sites) + 2) / 3
	if s.loopback && s.options.proxies == 0 {
		return time.Time{}, nil
	}
	for i, h := range s.sites[:third] {
		if h.link != "" {
			if err := ip("link set " + h.link + " down"); err != nil {
				return time.Time{}, err
			}
			continue
		}
		for _, p := range s.proxies[i] {
			p.Kill()
		}
	}
	if err := pause(ctx, s.away); err != nil {
		return time.Time{}, err
	}
	if compact {
		r, err := s.writer.cli.Get(ctx, "none", clientv3.WithCountOnly())
		if err == nil {
			_, err = s.writer.cli.Compact(ctx, r.Header.Revision)
		}
		if err != nil {
			return time.Time{}, err
		}
	}
	for i, h := range s.sites[:third] {
		if h.link != "" {
			if err := ip("link set " + h.link + " up"); err != nil {
				return time.Time{}, err
			}
			continue
		}
		for _, p := range s.proxies[i] {
			p.Restart()
		}
	}
	return time.Now(), nil
}

// herdStart prints how long sources take that start at once, log in and list, and
// again after etcd has forgotten their tokens.
func (s *simulation) herdStart(ctx context.Context) error {
	s.cluster.AddUsers(s.writer.cli, "/dnsd/")
	if _, err := s.writer.cli.AuthEnable(ctx); err != nil {
		return fmt.Errorf("enabling users: %w", err)
	}
	s.writer.cli = s.cluster.ClientAs("root", "s3cret-root")
	cert, key := s.cluster.CA.Issue(etcdtest.Leaf{})
	s.login = etcd.Config{Username: "dnsd", Password: "s3cret-dnsd", CAFile: absolute(s.cluster.CA.File), CertFile: absolute(cert), KeyFile: absolute(key)}
	fmt.Fprintln(s.out)
	s.table(fmt.Sprintf("%d sources with TLS and passwords of bcrypt cost %d", s.herd, s.bcrypt), "all caught up after", "etcd, CPU-s", "proxies, CPU-s")
	s.running = s.herd
	for _, f := range []struct {
		name   string
		happen func(context.Context) (time.Time, error)
	}{
		{"all start at once", func(context.Context) (time.Time, error) { return time.Now(), nil }},
		{"etcd killed (-9), started again after 1 s", s.killEtcd},
		{"the same, and no token is good any more", func(ctx context.Context) (time.Time, error) {
			if _, err := s.writer.cli.UserChangePassword(ctx, "dnsd", "s3cret-dnsd"); err != nil {
				return time.Time{}, err
			}
			return s.killEtcd(ctx)
		}},
	} {
		began, err := f.happen(ctx)
		if err != nil {
			return err
		}
		if err := s.recover(ctx, f.name, began); err != nil {
			return err
		}
	}
	return nil
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
