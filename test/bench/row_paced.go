package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
)

// pacedRates are questions a second: of a quiet host, of usual ones, and of a busy one.
var pacedRates = []int{100, 1000, 10_000, 50_000}

// pacedRow asks the plain mix at fixed rates. A server that waits for packets most of
// the time pays for waking up, which saturation hides.
func pacedRow(ctx context.Context, b *bench) error {
	f := newFleet(1000, 5, 1000)
	plain := f.mix(newRand())
	registry, zone, asked := filepath.Join(b.dir, "registry.json"), filepath.Join(b.dir, "internal.zone"), filepath.Join(b.dir, "asked")
	for _, err := range []error{f.writeRegistry(registry), f.writeZone(zone), writeQuestions(asked, plain)} {
		if err != nil {
			return err
		}
	}
	servers, err := b.mixServers(ctx, registry, zone, f.apps[0].name+".internal.")
	defer func() {
		for _, s := range servers {
			s.stop()
		}
	}()
	if err != nil {
		return err
	}
	for _, s := range servers {
		if err := check(s.v4, plain); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	b.heading("Everyday rates", "The plain mix at fixed rates over IPv4, evenly spaced (`dnsperf -Q`).")
	for _, rate := range pacedRates {
		var entrants []entrant
		for _, s := range servers {
			entrants = append(entrants, entrant{name: fmt.Sprintf("%s, %d a second", s.name, rate), server: s,
				load: b.dnsperfLoad(s.v4, asked, 0, "-Q", strconv.Itoa(rate))})
		}
		all, err := b.alternate(ctx, entrants)
		if err != nil {
			return err
		}
		b.comparison(all, all[len(all)-2].name)
	}
	return nil
}
