package forward

import (
	"fmt"
	"slices"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

// routes are the upstreams by domain. They are replaced as a whole.
type routes struct {
	domains map[string][]*upstream // by domain in wire form
	all     []*upstream
}

// File descriptors that forwarding takes in addition to those of questions: the loop probes,
// and for each upstream its connections, a probe and a sample.
const (
	ownDescriptors      = maxLoopProbes
	upstreamDescriptors = maxStreams + 2
)

// Update replaces the upstreams. Those that stay keep their connections and their health,
// which upstreams that differ only in their domain share. Safe for concurrent use.
func (f *Forwarder) Update(upstreams []Upstream) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.routes.Load()
	after := &routes{domains: make(map[string][]*upstream)}
	known := make(map[string]*upstream)
	for _, u := range before.all {
		known[u.label] = u
	}
	for _, up := range upstreams {
		if !up.Addr.IsValid() {
			return fmt.Errorf("upstream %q has no address", up)
		}
		domain, err := wire.PackName(dns.CanonicalName(up.Domain))
		if err != nil {
			return fmt.Errorf("upstream %s: domain: %w", up, err)
		}
		u := known[up.endpoint()]
		if u == nil {
			u = f.newUpstream(up)
			known[u.label] = u
		}
		if !slices.Contains(after.all, u) {
			after.all = append(after.all, u)
		}
		after.domains[string(domain)] = append(after.domains[string(domain)], u)
	}
	f.routes.Store(after)
	f.limits.resize(f.places(after))
	for _, u := range before.all {
		if !slices.Contains(after.all, u) {
			f.retire(u)
		}
	}
	for _, u := range after.all {
		if f.running && !slices.Contains(before.all, u) {
			f.start("probing an upstream", u.keepProbing)
		}
	}
	return nil
}

// retire ends an upstream that was removed: first the questions under way are answered, and
// then its connections are closed and its metrics removed. The caller holds mu.
func (f *Forwarder) retire(u *upstream) {
	u.end()
	if !f.running {
		return
	}
	f.start("retiring an upstream", func() {
		sleep(f.life, f.cfg.Timeout)
		u.pool.close()
		f.mu.Lock()
		defer f.mu.Unlock()
		if !slices.ContainsFunc(f.routes.Load().all, func(other *upstream) bool { return other.label == u.label }) {
			f.metrics.remove(u.label)
		}
	})
}

// places returns how many questions may be admitted: each may hold a socket for every
// upstream that it is sent to at once.
func (f *Forwarder) places(r *routes) int {
	if f.cfg.Descriptors == 0 {
		return f.cfg.MaxInflight
	}
	widest := 1
	for _, ups := range r.domains {
		widest = max(widest, min(len(ups), maxTries))
	}
	left := f.cfg.Descriptors - ownDescriptors - upstreamDescriptors*len(r.all)
	return min(f.cfg.MaxInflight, max(left/widest, 1))
}
