package main

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"
)

// fewQuestions are as many as small registries are asked for.
const fewQuestions = 4000

// scale is a registry of some size and what is asked of it.
type scale struct {
	name        string
	fleet       *fleet
	questions   []question
	port, admin int

	asked []packed
	file  string
	addr  string
}

// zipfRow compares dnsd with a small registry and with one of a million
// machines, asked by clients of all its networks. Two more lines tell apart
// what makes the difference: many clients, a large registry, many questions.
func zipfRow(ctx context.Context, b *bench) error {
	apps, drawn := pick(b, 50_000, 5_000), pick(b, 1_000_000, 100_000)
	small, spread, large := newFleet(250, 20, 250), newFleet(1000, 20, 1), newFleet(apps, 20, 10)
	machines := large.machines()
	scales := []*scale{
		{name: "5,000 machines, 1 network", fleet: small, questions: small.mix(newRand()), port: portDNSD, admin: portAdmin},
		{name: "20,000 machines, 1,000 networks", fleet: spread, questions: spread.mix(newRand()), port: portSpread, admin: portAdminSpread},
		{name: fmt.Sprintf("%d machines", machines), fleet: large, questions: large.zipf(drawn, newRand()), port: portAgainst, admin: portAdminAgainst},
	}
	different := distinct(scales[2].questions)
	for _, s := range scales {
		if err := s.prepare(b); err != nil {
			return err
		}
	}
	small, spread, large = nil, nil, nil
	runtime.GC() // the generator's memory is not to press the server's
	debug.FreeOSMemory()

	var servers []*server
	var entrants []entrant
	var ready time.Duration
	for _, sc := range scales {
		began := time.Now()
		s, err := b.dnsdServer(ctx, daemon{name: fmt.Sprintf("dnsd-%d", sc.port), registry: "file:" + sc.file, port: sc.port, admin: sc.admin})
		if err != nil {
			return err
		}
		defer s.stop()
		ready = time.Since(began)
		if err := check(sc.addr, sc.questions); err != nil {
			return err
		}
		servers = append(servers, s)
		entrants = append(entrants, entrant{name: sc.name, server: s, load: b.networksLoad(sc.addr, sc.asked)})
	}
	million, largest := scales[2], servers[2]
	entrants = append(entrants, entrant{name: million.name + ", few questions", server: largest, load: b.networksLoad(million.addr, million.asked[:fewQuestions])})

	before, err := memoryOf(largest.pids)
	if err != nil {
		return err
	}
	if err := warm(ctx, million); err != nil {
		return err
	}
	all, err := b.alternate(ctx, entrants)
	if err != nil {
		return err
	}
	after, err := memoryOf(largest.pids)
	if err != nil {
		return err
	}
	for _, sc := range scales {
		if err := check(sc.addr, sc.questions); err != nil {
			return err
		}
	}
	b.heading("A million machines", "%d machines, 20 an app, %d apps, %d networks, from a file; %d questions of the four kinds about apps drawn by Zipf's law (exponent 1.01), "+
		"%d of them different, each asked by a client of its app's network. Beside it small registries with apps of the same size and the plain mix, in one network and in many; "+
		"and the first %d of the questions over and over. All over IPv6 with EDNS (20 addresses don't fit 512 bytes) by the bench's own generator, because dnsperf cannot be in many networks.",
		machines, apps, apps/10, drawn, different, fewQuestions)
	b.comparison(all, scales[0].name, scales[1].name)
	b.table([]string{"memory of dnsd with " + million.name, "MiB"}, [][]string{
		{"resident when ready", mib(before.RSS)},
		{"resident after the load", mib(after.RSS)},
		{"highest", mib(after.Peak)},
	})
	fmt.Fprintf(b.out, "Ready %s after its start.\n\n", ready.Round(10*time.Millisecond))
	return nil
}

// prepare writes the registry and packs the questions, and lets go of the fleet.
func (s *scale) prepare(b *bench) (err error) {
	s.addr, s.file = at("fdaa::3", s.port), filepath.Join(b.dir, fmt.Sprintf("registry-%d.json", s.port))
	s.questions = withEDNS(s.questions)
	if s.asked, err = pack(s.questions); err != nil {
		return err
	}
	err = s.fleet.writeRegistry(s.file)
	s.fleet = nil
	return err
}

// networksLoad returns a load from clients of the questions' networks.
func (b *bench) networksLoad(addr string, asked []packed) func(context.Context) (tally, error) {
	return func(ctx context.Context) (tally, error) { return manyNetworks(ctx, addr, asked, b.duration()) }
}

// warm asks all of a scale's questions once, for a minute at most: what is
// measured afterwards is how often they really come, not that they are new.
func warm(ctx context.Context, s *scale) error {
	began := time.Now()
	for answered := 0; answered < len(s.asked) && time.Since(began) < time.Minute; {
		t, err := manyNetworks(ctx, s.addr, s.asked, 2*time.Second)
		if err != nil {
			return err
		}
		answered += t.answered
	}
	return nil
}
