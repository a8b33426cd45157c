package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
)

// mixNeeds are the programs of the rows that compare with NSD and Knot DNS.
var mixNeeds = []string{"dnsperf", "nsd", "knotd"}

// variant is one way to ask the mix.
type variant struct {
	title, text string
	questions   func([]question) []question // nil: as they are
	v6          bool
	args        []string // of dnsperf
	missing     float64  // share of NXDOMAIN
}

var variants = map[string]variant{
	"plain": {title: "Plain", text: "%d questions over %d apps of 5 machines, a quarter each of app, region, vm (AAAA) and vms (TXT), over IPv4, without EDNS."},
	"ipv6":  {title: "IPv6", text: "The same %d questions over %d apps, over IPv6.", v6: true},
	"edns":  {title: "EDNS", text: "The same %d questions over %d apps, with an OPT record.", questions: withEDNS, args: []string{"-e"}},
	"case": {title: "Random case", text: "The same %d questions over %d apps, each letter in upper or lower case at random (five spellings of each).",
		questions: func(qs []question) (out []question) {
			r := newRand()
			for range 5 {
				out = append(out, randomCase(qs, r)...)
			}
			return out
		}},
	"missing": {title: "5 % missing", text: "The same %d questions over %d apps, every twentieth replaced by a name that does not exist, each of those a different one.",
		questions: func(qs []question) []question { return withMissing(qs, 50) }, missing: 0.05},
}

// mixRow returns the row of a variant: dnsd, NSD and Knot DNS with the same
// RRsets, and dnsd with the plain mix for comparison.
func mixRow(name string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		return b.mix(ctx, name, variants[name])
	}
}

func (b *bench) mix(ctx context.Context, name string, v variant) error {
	f := newFleet(1000, 5, 1000)
	plain := f.mix(newRand())
	asked := plain
	if v.questions != nil {
		asked = v.questions(plain)
	}
	registry, zone := filepath.Join(b.dir, "registry.json"), filepath.Join(b.dir, "internal.zone")
	plainFile, askedFile := filepath.Join(b.dir, "plain"), filepath.Join(b.dir, "asked")
	for _, err := range []error{f.writeRegistry(registry), f.writeZone(zone), writeQuestions(plainFile, plain), writeQuestions(askedFile, asked)} {
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
	var entrants []entrant
	for _, s := range servers {
		addr := s.v4
		if v.v6 {
			addr = s.v6
		}
		entrants = append(entrants, entrant{name: s.name, server: s, load: b.dnsperfLoad(addr, askedFile, v.missing, v.args...)})
	}
	references := []string{"NSD"}
	if name != "plain" {
		entrants = append(entrants, entrant{name: "dnsd, plain", server: servers[0], load: b.dnsperfLoad(servers[0].v4, plainFile, 0)})
		references = append(references, "dnsd, plain")
	}

	checkAll := func() error {
		for _, s := range servers {
			addr := s.v4
			if v.v6 {
				addr = s.v6
			}
			if err := check(addr, asked); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
		return nil
	}
	if err := checkAll(); err != nil {
		return err
	}
	all, err := b.alternate(ctx, entrants)
	if err != nil {
		return err
	}
	if err := checkAll(); err != nil {
		return err
	}
	if b.profile != "" {
		if err := b.takeProfile(ctx, name, entrants[0].load); err != nil {
			return err
		}
	}
	b.heading(v.title, v.text, len(plain), len(f.apps))
	b.comparison(all, references...)
	return nil
}

// takeProfile writes a CPU profile of dnsd under a load.
func (b *bench) takeProfile(ctx context.Context, name string, load func(context.Context) (tally, error)) error {
	loaded := make(chan error, 1)
	go func() { _, err := load(ctx); loaded <- err }()
	err := fetch(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", at("127.0.0.1", portAdmin), b.seconds), filepath.Join(b.profile, name+".pprof"))
	return errors.Join(err, <-loaded)
}

// fetch writes what a URL gives to a file.
func fetch(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return writeFile(file, func(w io.Writer) error {
		_, err := io.Copy(w, resp.Body)
		return err
	})
}

// mixServers starts dnsd, the dnsd to compare it with where one is given, NSD
// and Knot DNS. On an error it returns those that run.
func (b *bench) mixServers(ctx context.Context, registry, zone, first string) (out []*server, err error) {
	start := func(s *server, err error) error {
		if err == nil {
			out = append(out, s)
		}
		return err
	}
	if err := start(b.dnsdServer(ctx, daemon{registry: "file:" + registry})); err != nil {
		return out, err
	}
	if b.against != "" {
		other := daemon{name: "dnsd, -against", bin: b.against, registry: "file:" + registry, port: portAgainst, admin: portAdminAgainst}
		if err := start(b.dnsdServer(ctx, other)); err != nil {
			return out, err
		}
	}
	if err := start(b.nsdServer(ctx, "NSD", portNSD, "internal", zone, first)); err != nil {
		return out, err
	}
	return out, start(b.knotServer(ctx, portKnot, zone, first))
}

// dnsperfLoad returns a load by dnsperf that must be answered rightly.
func (b *bench) dnsperfLoad(addr, file string, missing float64, args ...string) func(context.Context) (tally, error) {
	return func(ctx context.Context) (tally, error) {
		t, err := dnsperf(ctx, addr, file, b.duration(), args...)
		if err == nil {
			err = t.fair(missing)
		}
		return t, err
	}
}
