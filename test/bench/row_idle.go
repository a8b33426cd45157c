package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"
)

// idleRow measures servers that nobody asks.
func idleRow(ctx context.Context, b *bench) error {
	length := pick(b, 60*time.Second, 5*time.Second)
	f := newFleet(1000, 5, 1000)
	registry, zone := filepath.Join(b.dir, "registry.json"), filepath.Join(b.dir, "internal.zone")
	if err := f.writeRegistry(registry); err != nil {
		return err
	}
	if err := f.writeZone(zone); err != nil {
		return err
	}
	c, err := b.startCluster(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.fill(ctx, f); err != nil {
		return err
	}
	fromFile, err := b.dnsdServer(ctx, daemon{name: "dnsd, from a file", registry: "file:" + registry})
	if err != nil {
		return err
	}
	defer fromFile.stop()
	fromEtcd, err := b.dnsdServer(ctx, daemon{name: "dnsd, from etcd", registry: c.url, port: portAgainst, admin: portAdminAgainst})
	if err != nil {
		return err
	}
	defer fromEtcd.stop()
	nsd, err := b.nsdServer(ctx, "NSD", portNSD, "internal", zone, f.apps[0].name+".internal.")
	if err != nil {
		return err
	}
	defer nsd.stop()

	servers := []*server{fromFile, fromEtcd, nsd}
	if err := pause(ctx, 3*time.Second); err != nil { // what starting left to do
		return err
	}
	from := make([]time.Duration, len(servers))
	for i, s := range servers {
		if from[i], err = cpuTime(s.pids); err != nil {
			return err
		}
	}
	if err := pause(ctx, length); err != nil {
		return err
	}
	var rows [][]string
	for i, s := range servers {
		to, err := cpuTime(s.pids)
		if err != nil {
			return err
		}
		m, err := memoryOf(s.pids)
		if err != nil {
			return err
		}
		rows = append(rows, []string{s.name, fmt.Sprintf("%.3f", 100*(to-from[i]).Seconds()/length.Seconds()), mib(m.RSS), mib(m.Peak)})
	}
	b.heading("Idle", "%d machines, no questions, over %s. Memory of NSD is that of all its processes, shared pages counted in each.", f.machines(), length)
	b.table([]string{"server", "% of a core", "resident, MiB", "highest, MiB"}, rows)
	return nil
}

// pause waits, or returns early with the context's error.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
