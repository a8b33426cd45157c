package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/miekg/dns"
)

// outside is the zone of the names that are forwarded.
const outside = "example.com."

// forwarded returns the questions with their names moved out of the internal
// zone, and the zone file that answers them, with a TTL of a day.
func forwarded(qs []question, file string) ([]question, error) {
	out := make([]question, len(qs))
	err := writeFile(file, func(w io.Writer) error {
		fmt.Fprintf(w, "$ORIGIN %[1]s\n$TTL 86400\n@ SOA ns hostmaster 1 3600 600 86400 5\n@ NS ns\n@ AAAA 2001:db8::1\nns AAAA 2001:db8::1\n", outside)
		for i, q := range qs {
			q.name = strings.TrimSuffix(q.name, "internal.") + outside
			q.data = append([]string(nil), q.data...)
			for j, addr := range q.data {
				q.data[j] = strings.Replace(addr, "fdaa:0:18:", "2001:db8:18:", 1)
				if _, err := fmt.Fprintf(w, "%s AAAA %s\n", q.name, q.data[j]); err != nil {
					return err
				}
			}
			out[i] = q
		}
		return nil
	})
	return out, err
}

// forwardRow compares cached names of an upstream with internal ones, and with
// unbound and dnsmasq as caching forwarders to the same upstream.
func forwardRow(ctx context.Context, b *bench) error {
	f := newFleet(1000, 5, 1000)
	internal := f.addresses()
	zone, registry := filepath.Join(b.dir, "outside.zone"), filepath.Join(b.dir, "registry.json")
	external, err := forwarded(internal, zone)
	if err != nil {
		return err
	}
	files := map[string]string{"internal": filepath.Join(b.dir, "internal"), "external": filepath.Join(b.dir, "external")}
	for _, err := range []error{f.writeRegistry(registry), writeQuestions(files["internal"], internal), writeQuestions(files["external"], external)} {
		if err != nil {
			return err
		}
	}
	upstream, err := b.nsdServer(ctx, "upstream", portUpstream, strings.TrimSuffix(outside, "."), zone, outside)
	if err != nil {
		return err
	}
	defer upstream.stop()

	dnsd, err := b.dnsdServer(ctx, daemon{registry: "file:" + registry, args: []string{"--upstream", upstream.v4}})
	if err != nil {
		return err
	}
	defer dnsd.stop()
	if err := dnsd.awaitAnswer(ctx, dnsd.v4, outside, dns.TypeAAAA); err != nil {
		return err
	}
	unbound, err := b.unboundServer(ctx, upstream.v4, outside)
	if err != nil {
		return err
	}
	defer unbound.stop()
	dnsmasq, err := b.dnsmasqServer(ctx, upstream.v4, outside)
	if err != nil {
		return err
	}
	defer dnsmasq.stop()

	forwarders := []*server{dnsd, unbound, dnsmasq}
	for range 2 { // the first time fills the caches
		for _, s := range forwarders {
			if err := check(s.v4, external); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	if err := check(dnsd.v4, internal); err != nil {
		return err
	}
	const name = "dnsd, internal names"
	entrants := []entrant{{name: name, server: dnsd, load: b.dnsperfLoad(dnsd.v4, files["internal"], 0)}}
	for _, s := range forwarders {
		entrants = append(entrants, entrant{name: s.name + ", forwarded and cached", server: s, load: b.dnsperfLoad(s.v4, files["external"], 0)})
	}
	all, err := b.alternate(ctx, entrants)
	if err != nil {
		return err
	}
	for _, s := range forwarders {
		if err := check(s.v4, external); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	b.heading("Forwarded and cached", "%d names of an upstream (NSD on loopback), AAAA with five addresses or with one, all cached before; and as many internal names with answers of the same shapes. "+
		"unbound without validation.", len(external))
	b.comparison(all, name, "unbound, forwarded and cached")
	return nil
}
