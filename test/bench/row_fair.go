package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"dnsd/registry"

	"github.com/miekg/dns"
)

// The fairness experiment: an upstream that takes its time, a bound on the
// questions in flight, and so a capacity; a flood of ten times that.
const (
	slowDelay    = 100 * time.Millisecond
	fairInflight = 128                                       // --max-inflight
	capacity     = fairInflight * int(time.Second/slowDelay) // questions a second
	floodRate    = 10 * capacity                             // of one network
	victimRate   = 50                                        // of another, cached and uncached names each
	floodNetwork = registry.Network(0x99)                    // the victim is home
)

// fairRow measures what a network notices of another one's flood of random
// names.
func fairRow(ctx context.Context, b *bench) error {
	f := newFleet(10, 5, 10)
	file := filepath.Join(b.dir, "registry.json")
	if err := f.writeRegistry(file); err != nil {
		return err
	}
	slow, err := startSlow(at("127.0.0.1", portSlow))
	if err != nil {
		return err
	}
	defer slow.close()
	s, err := b.dnsdServer(ctx, daemon{registry: "file:" + file, args: []string{"--upstream", at("127.0.0.1", portSlow), "--max-inflight", fmt.Sprint(fairInflight)}})
	if err != nil {
		return err
	}
	defer s.stop()
	internal, err := pack(f.mix(newRand()))
	if err != nil {
		return err
	}
	kinds := []string{"internal", "cached", "uncached"}
	latency := make(map[string]map[bool][]time.Duration) // by kind; by whether the flood ran
	lost := make(map[string]map[bool]int)
	for _, kind := range kinds {
		latency[kind], lost[kind] = make(map[bool][]time.Duration), make(map[bool]int)
	}
	var flood outcome
	for round := range b.runs + 1 {
		for _, flooded := range []bool{false, true} {
			out, err := b.fairRound(ctx, round, flooded, internal)
			if err != nil {
				return err
			}
			if round == 0 {
				continue // it filled the cache
			}
			for _, kind := range kinds {
				o := out[kind]
				latency[kind][flooded] = append(latency[kind][flooded], o.latency...)
				lost[kind][flooded] += o.sent - len(o.latency)
			}
			flood.sent += out["flood"].sent
			for i, n := range out["flood"].rcodes {
				flood.rcodes[i] += n
			}
		}
	}
	var rows [][]string
	for _, kind := range kinds {
		for _, flooded := range []bool{false, true} {
			all := latency[kind][flooded]
			if len(all) == 0 {
				return fmt.Errorf("%s names: no answers, flood %v", kind, flooded)
			}
			slices.Sort(all)
			rows = append(rows, []string{kind + " names", map[bool]string{false: "no", true: "yes"}[flooded], fmt.Sprint(len(all)), fmt.Sprint(lost[kind][flooded]),
				milli(quantile(all, 0.5)), milli(quantile(all, 0.99)), milli(all[len(all)-1])})
		}
	}
	b.heading("Fairness", "An upstream that answers after %s, --max-inflight %d: %d questions a second are the capacity. One network floods random names at %d a second, all new; "+
		"another asks %d a second each of internal, cached and new names. Of the flood %.1f %% were answered, %.1f %% got SERVFAIL, the rest nothing. "+
		"Flood, victim and upstream share the cores with dnsd.", slowDelay, fairInflight, capacity, floodRate, victimRate,
		share(flood.rcodes[dns.RcodeSuccess], flood.sent), share(flood.rcodes[dns.RcodeServerFailure], flood.sent))
	b.table([]string{"the other network's", "flood", "answered", "failed or lost", "p50, ms", "p99, ms", "worst, ms"}, rows)
	return nil
}

func share(n, of int) float64 { return 100 * float64(n) / float64(max(1, of)) }

// fairRound runs all clients for a while.
func (b *bench) fairRound(ctx context.Context, round int, flooded bool, internal []packed) (map[string]*outcome, error) {
	addr := at("fdaa::3", portDNSD)
	tag := fmt.Sprintf("%d-%v", round, flooded)
	clients := map[string]paced{
		"internal": {addr, home, victimRate, cycle(internal)},
		"cached":   {addr, home, victimRate, numbered("cached", 20)},
		"uncached": {addr, home, victimRate, numbered("victim-"+tag, 1<<30)},
	}
	if flooded {
		clients["flood"] = paced{addr, floodNetwork, floodRate, numbered("flood-"+tag, 1<<30)}
	}
	ctx, cancel := context.WithTimeout(ctx, b.duration())
	defer cancel()
	out := map[string]*outcome{"flood": {}}
	var mu sync.Mutex // guards out and failed
	var failed error
	var wg sync.WaitGroup
	for name, p := range clients {
		wg.Go(func() {
			o, err := p.run(ctx)
			mu.Lock()
			defer mu.Unlock()
			out[name] = &o
			if err != nil {
				failed = fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	wg.Wait()
	b.say("  round %d, flood %v: %d questions of it", round, flooded, out["flood"].sent)
	return out, failed
}

// numbered returns questions for count names outside, in turns.
func numbered(name string, count int) func([]byte) []byte {
	n := -1
	return func(buf []byte) []byte {
		n++
		m := new(dns.Msg).SetQuestion(fmt.Sprintf("%s-%d.%s", name, n%count, outside), dns.TypeAAAA)
		wire, err := m.Pack()
		if err != nil {
			panic(err) // the names are ours
		}
		return append(buf, wire...)
	}
}
