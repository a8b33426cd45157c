package main

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"
	"time"
)

// listRow measures how long dnsd takes from its start until it is ready, from a
// file and from etcd, and what a second listing of unchanged data costs.
func listRow(ctx context.Context, b *bench) error {
	sizes := pick(b, []int{10_000, 100_000, 1_000_000}, []int{10_000})
	var rows [][]string
	for _, n := range sizes {
		f := newFleet(n/20, 20, 10)
		file := filepath.Join(b.dir, "registry.json")
		if err := f.writeRegistry(file); err != nil {
			return err
		}
		cells, err := b.listOnce(ctx, f, "file:"+file, true)
		if err != nil {
			return err
		}
		rows = append(rows, append([]string{fmt.Sprint(n), "file"}, cells...))

		c, err := b.startCluster(ctx)
		if err != nil {
			return err
		}
		if err = c.fill(ctx, f); err == nil {
			cells, err = b.listOnce(ctx, f, c.url, false)
		}
		c.close()
		if err != nil {
			return err
		}
		rows = append(rows, append([]string{fmt.Sprint(n), "etcd"}, cells...))
	}
	b.heading("First listing", "Machines 20 an app, 10 apps a network; from the start of the process until it is ready and has answered for the last machine. "+
		"Listing again: the file read again on SIGHUP, unchanged.")
	b.table([]string{"machines", "from", "ready after, s", "CPU, s", "resident, MiB", "highest, MiB", "listing again, CPU s"}, rows)
	return nil
}

// listOnce starts a dnsd and returns the cells of its line.
func (b *bench) listOnce(ctx context.Context, f *fleet, url string, again bool) ([]string, error) {
	began := time.Now()
	s, err := b.dnsdServer(ctx, daemon{registry: url})
	if err != nil {
		return nil, err
	}
	defer s.stop()
	last := f.apps[len(f.apps)-1]
	if err := check(at("fdaa::3", portDNSD), withEDNS([]question{last.all(), last.list()})); err != nil {
		return nil, err
	}
	ready := time.Since(began)
	used, err := cpuTime(s.pids)
	if err != nil {
		return nil, err
	}
	if err := s.rest(ctx); err != nil {
		return nil, err
	}
	m, err := memoryOf(s.pids)
	if err != nil {
		return nil, err
	}
	b.say("  %d machines, %s: ready after %s", f.machines(), url, ready.Round(time.Millisecond))
	cells := []string{fmt.Sprintf("%.2f", ready.Seconds()), fmt.Sprintf("%.2f", used.Seconds()), mib(m.RSS), mib(m.Peak), "–"}
	if !again {
		return cells, nil
	}
	from, err := cpuTime(s.pids)
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return nil, err
	}
	// Time to begin; rest then waits until it is over.
	if err := pause(ctx, time.Second); err != nil {
		return nil, err
	}
	if err := s.rest(ctx); err != nil {
		return nil, err
	}
	to, err := cpuTime(s.pids)
	cells[4] = fmt.Sprintf("%.2f", (to - from).Seconds())
	return cells, err
}
