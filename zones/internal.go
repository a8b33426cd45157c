package zones

import (
	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// internal answers for internal.: apps, machines, peers and the lists of them.
func (l *lookup) internal() *resolver.Answer {
	n := parseName(l.q.Labels)
	// These four do not need the registry, and answer before it is read, so that a
	// person can ask what is wrong. _whoami and _dnsd say what is known so far.
	switch n.kind {
	case kindApex:
		return l.apex()
	case kindAPI:
		return l.api()
	case kindWhoami:
		return l.text(l.whoami)
	case kindInfo:
		return l.text(l.info)
	}
	if !l.open() {
		return l.notReady()
	}
	switch n.kind {
	case kindApps:
		return l.text(l.apps)
	case kindInstances:
		return l.text(func() *resolver.Answer { return l.instances(n.all) })
	case kindPeers:
		return l.text(l.peers)
	case kindPeer:
		return l.peer(n.arg)
	}
	if n.app == "" {
		return l.nxdomain("there is no such name under internal.")
	}
	fleet := l.fleet(n.app)
	if fleet == nil {
		return l.nxdomain(noApp(n.app))
	}
	a := l.app(fleet, &n)
	if n.kind != kindNearest { // which depends on where the client is
		a.App = registry.Lower(fleet.Name())
	}
	return a
}

// app answers for a name at or below an existing app.
func (l *lookup) app(f *registry.Fleet, n *name) *resolver.Answer {
	switch n.kind {
	case kindBetween:
		return l.nodata(textBetween)
	case kindMachine:
		return l.machine(f, n)
	case kindApp, kindNearest:
		return l.nearest(f, n)
	case kindVMs, kindRegions:
		return l.text(func() *resolver.Answer { return l.fleetList(f, n) })
	case kindRegion, kindGroup, kindKey, kindPair:
		return l.selected(f, n)
	}
	return l.nxdomain(missing(f.Name(), n))
}

// text answers for a name that has a TXT record only.
func (l *lookup) text(answer func() *resolver.Answer) *resolver.Answer {
	if !l.wants(dns.TypeTXT) {
		return l.otherType(dns.TypeTXT)
	}
	return answer()
}

// selected answers for the names of an app that name some of its machines.
func (l *lookup) selected(f *registry.Fleet, n *name) *resolver.Answer {
	if l.wants(dns.TypeAAAA) {
		if b := kept(f, n); b != nil {
			return l.reply(dns.TypeAAAA, b)
		}
	}
	var machines registry.Selection
	switch n.kind {
	case kindRegion:
		machines = f.InRegion(n.arg, &l.budget)
	case kindGroup:
		machines = f.InGroup(n.arg, &l.budget)
	case kindKey:
		machines = f.WithKey(n.arg, &l.budget)
	case kindPair:
		machines = f.WithPair(n.arg, n.value, &l.budget)
		if machines.Empty() && f.HasValueEnd(n.arg, n.value, &l.budget) {
			// With role=a.b.c, c.role.kv._metadata.… has a.b.c.role.… below
			// it, and so must not be NXDOMAIN (RFC 8020, section 2).
			return l.nodata(textBetween)
		}
	}
	switch {
	case machines.Empty():
		return l.nxdomain(missing(f.Name(), n))
	case !l.wants(dns.TypeAAAA):
		return l.otherType(dns.TypeAAAA)
	}
	return l.reply(dns.TypeAAAA, l.compute(f, n, false, func() *body {
		some := machines.Machines(&l.budget)
		if !f.Keeps() || len(some) < len(f.Deployed()) || f.Started() == 0 {
			return l.run(f, n, some)
		}
		all := *l.order(f, "", false)
		all.shared = true
		return &all
	}))
}

// machine answers for <id>.vm.<app>.
func (l *lookup) machine(f *registry.Fleet, n *name) *resolver.Answer {
	m := f.Machine(n.arg)
	switch {
	case m == nil:
		return l.nxdomain(missing(f.Name(), n))
	case !m.Started() && l.wants(dns.TypeAAAA):
		return l.nodata(notStarted(f.Name(), m))
	}
	return l.allAddresses([][]byte{addressData(m.Addr)})
}

// api answers for _api, which depends on the configuration alone.
func (l *lookup) api() *resolver.Answer {
	if !l.cfg.API.IsValid() {
		return l.nxdomain("dnsd runs without --api-address")
	}
	return l.allAddresses([][]byte{addressData(l.cfg.API)})
}

// peer answers for <peer>._peer.
func (l *lookup) peer(label string) *resolver.Answer {
	p, ch := l.view.Peer(l.network, label)
	watched(l, p, ch)
	if (&registry.Peer{Name: label}).Interactive() {
		return l.nxdomain("peers called interactive-… are in no answer")
	}
	if p == nil {
		return l.nxdomain("no peer " + clean(label) + " in your network")
	}
	return l.allAddresses([][]byte{addressData(p.Addr)})
}
