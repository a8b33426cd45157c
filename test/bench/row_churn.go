package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/miekg/dns"
)

// churnRate is how many changes a second dnsd must bear.
const churnRate = 2000

// churned is a load under which machines change.
type churned struct {
	cluster *cluster
	apps    []*app
	rate    int
	end     func() (float64, error)
	reached []float64 // the changes a second that etcd took, round by round
}

func (c *churned) before(ctx context.Context) error {
	// Not the run's context: a put cut short would look like a failure.
	c.end = c.cluster.churn(context.WithoutCancel(ctx), c.apps, c.rate)
	return nil
}

func (c *churned) after() error {
	rate, err := c.end()
	c.reached = append(c.reached, rate)
	return err
}

// churnRow compares dnsd at rest with dnsd while machines change: those that
// are asked for, and others.
func churnRow(ctx context.Context, b *bench) error {
	f := newFleet(2000, 5, 2000)
	asked := &fleet{apps: f.apps[:1000]}
	qs := asked.mix(newRand())
	c, err := b.startCluster(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.fill(ctx, f); err != nil {
		return err
	}
	s, err := b.dnsdServer(ctx, daemon{registry: c.url})
	if err != nil {
		return err
	}
	defer s.stop()
	file := filepath.Join(b.dir, "asked")
	if err := writeQuestions(file, qs); err != nil {
		return err
	}
	if err := check(s.v4, qs); err != nil {
		return err
	}
	others := &churned{cluster: c, apps: f.apps[1000:], rate: churnRate}
	own := &churned{cluster: c, apps: asked.apps, rate: churnRate}
	load := b.dnsperfLoad(s.v4, file, 0)
	all, err := b.alternate(ctx, []entrant{
		{name: "quiet", server: s, load: load},
		{name: "other names change", server: s, load: load, before: others.before, after: others.after},
		{name: "the names asked for change", server: s, load: load, before: own.before, after: own.after},
	})
	if err != nil {
		return err
	}
	if err := check(s.v4, changing(qs)); err != nil {
		return err
	}
	alone, err := b.changesAlone(ctx, s, own)
	if err != nil {
		return err
	}
	b.heading("Churn", "The plain mix while machines change, %d times a second, through a real etcd (its CPU time not counted): "+
		"among the 5,000 machines of other apps, or among the 5,000 asked for, so that each app asked for changes twice a second. "+
		"A change moves a machine to another address. Reached: %.0f and %.0f changes a second.", churnRate, median(others.reached), median(own.reached))
	b.comparison(all, "quiet")
	fmt.Fprintf(b.out, "With no questions asked, the changes alone take %.0f µs of dnsd's CPU each: "+
		"what they add to a question depends on how many questions share it.\n\n", alone)
	return nil
}

// changesAlone returns what a change costs dnsd while nobody asks, in µs of CPU.
func (b *bench) changesAlone(ctx context.Context, s *server, c *churned) (float64, error) {
	if err := s.rest(ctx); err != nil {
		return 0, err
	}
	from, err := cpuTime(s.pids)
	if err != nil {
		return 0, err
	}
	if err := c.before(ctx); err != nil {
		return 0, err
	}
	began := time.Now()
	waited := pause(ctx, b.duration())
	if err := errors.Join(waited, c.after()); err != nil {
		return 0, err
	}
	changes := c.reached[len(c.reached)-1] * time.Since(began).Seconds()
	to, err := cpuTime(s.pids)
	return float64((to - from).Microseconds()) / changes, err
}

// bigMachines is how many machines the large app has.
const bigMachines = 10_000

// bigAppRow compares dnsd at rest with dnsd while an app of 10,000 machines has
// one change a second, for names of other apps and for its own.
func bigAppRow(ctx context.Context, b *bench) error {
	f := newFleet(1000, 5, 1000)
	big := newFleet(1, bigMachines, 1).apps[0]
	big.name = "big-app"
	for i := range big.machines {
		m := &big.machines[i]
		m.id, m.addr = fmt.Sprintf("%014x", 0x90000000000000+i*7919), machineAddr(home, uint64(1<<24+i), 2)
	}
	others := f.mix(newRand())
	c, err := b.startCluster(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.fill(ctx, &fleet{apps: append(f.apps, big)}); err != nil {
		return err
	}
	s, err := b.dnsdServer(ctx, daemon{registry: c.url})
	if err != nil {
		return err
	}
	defer s.stop()
	own := big.ownQuestions()
	files := []string{filepath.Join(b.dir, "others"), filepath.Join(b.dir, "own")}
	for i, qs := range [][]question{others, own} {
		if err := writeQuestions(files[i], qs); err != nil {
			return err
		}
		if err := check(s.v4, qs); err != nil {
			return err
		}
	}
	change := &churned{cluster: c, apps: []*app{big}, rate: 1}
	entrants := []entrant{
		{name: "other names, quiet", server: s, load: b.dnsperfLoad(s.v4, files[0], 0)},
		{name: "other names, changing", server: s, load: b.dnsperfLoad(s.v4, files[0], 0), before: change.before, after: change.after},
		{name: "its own names, quiet", server: s, load: b.dnsperfLoad(s.v4, files[1], 0)},
		{name: "its own names, changing", server: s, load: b.dnsperfLoad(s.v4, files[1], 0), before: change.before, after: change.after},
	}
	all, err := b.alternate(ctx, entrants)
	if err != nil {
		return err
	}
	if err := check(s.v4, changing(own)); err != nil {
		return err
	}
	if err := check(s.v4, others); err != nil {
		return err
	}
	b.heading("A big app", "An app of %d machines beside the plain mix, fed by etcd, with and without one change a second of one of its machines. "+
		"Its own names: a quarter each of the app and its regions (both truncated to 512 bytes), 1,000 of its machines, and its list (TC and no more).", bigMachines)
	b.comparison(all, "other names, quiet", "its own names, quiet")
	return nil
}

// ownQuestions returns the mix for one app of thousands of machines. What
// doesn't fit a datagram is truncated.
func (a *app) ownQuestions() []question {
	short := func(name string, typ uint16) question {
		return question{name: name, typ: typ, network: a.network, records: -1}
	}
	var out []question
	for i := range 1000 {
		m := a.machines[i*len(a.machines)/1000]
		out = append(out, short(a.name+".internal.", dns.TypeAAAA), short(m.region+"."+a.name+".internal.", dns.TypeAAAA),
			a.vm(m), short("vms."+a.name+".internal.", dns.TypeTXT))
	}
	return shuffled(out)
}
