package main

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"
)

// fewQuestions are as many as the small registry is asked for in other rows.
const fewQuestions = 4000

// zipfRow compares dnsd with a small registry and with one of a million
// machines, asked by clients of all its networks.
func zipfRow(ctx context.Context, b *bench) error {
	apps := pick(b, 50_000, 5_000)
	small, large := newFleet(250, 20, 250), newFleet(apps, 20, 10)
	machines, networks := large.machines(), apps/10
	drawn := pick(b, 1_000_000, 100_000)
	qs := map[string][]question{"small": withEDNS(small.mix(newRand())), "large": withEDNS(large.zipf(drawn, newRand()))}
	different := distinct(qs["large"])

	files := map[string]string{"small": filepath.Join(b.dir, "small.json"), "large": filepath.Join(b.dir, "large.json")}
	if err := small.writeRegistry(files["small"]); err != nil {
		return err
	}
	if err := large.writeRegistry(files["large"]); err != nil {
		return err
	}
	asked := make(map[string][]packed)
	for size, q := range qs {
		p, err := pack(q)
		if err != nil {
			return err
		}
		asked[size] = p
	}
	small, large = nil, nil
	runtime.GC() // the generator's memory is not to press the server's
	debug.FreeOSMemory()

	names := map[string]string{"small": "dnsd, 5,000 machines", "large": fmt.Sprintf("dnsd, %d machines", machines)}
	few := asked["large"][:fewQuestions]
	var entrants []entrant
	servers := make(map[string]*server)
	var load time.Duration
	for i, size := range []string{"small", "large"} {
		began := time.Now()
		s, err := b.dnsdServer(ctx, daemon{
			name: "dnsd-" + size, registry: "file:" + files[size], port: portDNSD + i*(portAgainst-portDNSD), admin: portAdmin + i*(portAdminAgainst-portAdmin),
		})
		if err != nil {
			return err
		}
		defer s.stop()
		load = time.Since(began)
		addr := at("fdaa::3", portDNSD+i*(portAgainst-portDNSD))
		if err := check(addr, qs[size]); err != nil {
			return err
		}
		servers[size] = s
		entrants = append(entrants, entrant{name: names[size], server: s, load: func(ctx context.Context) (tally, error) {
			return manyNetworks(ctx, addr, asked[size], b.duration())
		}})
	}
	addr := at("fdaa::3", portAgainst)
	entrants = append(entrants, entrant{name: names["large"] + ", few questions", server: servers["large"], load: func(ctx context.Context) (tally, error) {
		return manyNetworks(ctx, addr, few, b.duration())
	}})
	before, err := memoryOf(servers["large"].pids)
	if err != nil {
		return err
	}
	// Questions are asked at their natural frequency; one whole round of them
	// has been sent when the first, uncounted runs end, on a machine that
	// answers 50,000 a second or more. Make sure of it on slower ones.
	warm := time.Now()
	for sent := 0; sent < drawn && time.Since(warm) < time.Minute; {
		t, err := manyNetworks(ctx, addr, asked["large"], 2*time.Second)
		if err != nil {
			return err
		}
		sent += t.answered
	}
	all, err := b.alternate(ctx, entrants)
	if err != nil {
		return err
	}
	after, err := memoryOf(servers["large"].pids)
	if err != nil {
		return err
	}
	for i, size := range []string{"small", "large"} {
		if err := check(at("fdaa::3", portDNSD+i*(portAgainst-portDNSD)), qs[size]); err != nil {
			return err
		}
	}
	b.heading("A million machines", "%d machines, %d apps, %d networks, from a file; %d questions of the four kinds about apps drawn by Zipf's law (exponent 1.01), %d of them different, "+
		"each asked by a client of its app's network (few questions: the first %d of them over and over, which tells the size of the registry from the spread of the questions), against the mix over 5,000 machines in 250 apps of one network, so that answers have the same sizes. Both over IPv6 with EDNS (an app's 20 addresses don't fit 512 bytes) by the bench's own generator, because dnsperf cannot be in many networks.",
		machines, apps, networks, drawn, different, fewQuestions)
	b.comparison(all, names["small"])
	b.table([]string{"memory of dnsd with " + fmt.Sprint(machines) + " machines", "MiB"}, [][]string{
		{"resident when ready", mib(before.RSS)},
		{"resident after the load", mib(after.RSS)},
		{"highest", mib(after.Peak)},
	})
	fmt.Fprintf(b.out, "Ready %s after its start.\n\n", load.Round(10*time.Millisecond))
	return nil
}
