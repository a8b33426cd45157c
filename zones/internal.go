package zones

import (
	"net/netip"

	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// internalZone is internal.: apps, machines, peers and the lists of them.
type internalZone struct{ *zone }

// Answer implements resolver.Zone.
func (z internalZone) Answer(q *resolver.Question) *resolver.Answer {
	l := z.begin(q)
	if l == nil {
		return refused()
	}
	n := parseName(q.Labels)
	// These four need no registry: they answer while it is empty, so that a
	// person can ask what is wrong. _whoami and _dnsd say what is known so far.
	switch n.kind {
	case kindApex:
		return l.apex()
	case kindAPI:
		return l.api()
	case kindWhoami:
		return l.whoami()
	case kindInfo:
		return l.info()
	}
	if !l.open() {
		return l.notReady()
	}
	switch n.kind {
	case kindApps:
		return l.apps()
	case kindInstances:
		return l.instances(n.all)
	case kindPeers:
		return l.peers()
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
	return l.app(fleet, &n)
}

// app answers for a name at or below an existing app.
func (l *lookup) app(f *registry.Fleet, n *name) *resolver.Answer {
	switch n.kind {
	case kindApp:
		return l.addresses(f, n, f.Deployed())
	case kindBetween:
		return l.nodata(textBetween)
	case kindMachine:
		return l.machine(f, n)
	case kindNearest:
		return l.nearest(f, n)
	case kindVMs:
		return l.vms(f, n.all)
	case kindRegions:
		return l.regionList(f, n.all)
	}
	var machines []*registry.Machine
	switch n.kind {
	case kindRegion:
		machines = f.InRegion(n.arg)
	case kindGroup:
		machines = f.InGroup(n.arg)
	case kindKey:
		machines = f.WithKey(n.arg)
	case kindPair:
		machines = f.WithPair(n.arg, n.value)
		if len(machines) == 0 && f.HasValueEnd(n.arg, n.value) {
			// With role=a.b.c, c.role.kv._metadata.… has a.b.c.role.… below
			// it, and so must not be NXDOMAIN (RFC 8020, section 2).
			return l.nodata(textBetween)
		}
	}
	if len(machines) == 0 {
		return l.nxdomain(missing(f.Name(), n))
	}
	return l.addresses(f, n, machines)
}

// addresses answers with the started ones of machines, of which n names at
// least those that are deployed.
func (l *lookup) addresses(f *registry.Fleet, n *name, machines []*registry.Machine) *resolver.Answer {
	if !l.wants(dns.TypeAAAA) {
		return l.otherType(dns.TypeAAAA)
	}
	data, _ := pickAddresses(f, [][]*registry.Machine{machines}, 0)
	if len(data) == 0 {
		return l.nodata(noneStarted(f.Name(), n, machines))
	}
	return l.allAddresses(data)
}

// machine answers for <id>.vm.<app>.
func (l *lookup) machine(f *registry.Fleet, n *name) *resolver.Answer {
	m := f.Machine(n.arg)
	switch {
	case m == nil:
		return l.nxdomain(missing(f.Name(), n))
	case !l.wants(dns.TypeAAAA):
		return l.otherType(dns.TypeAAAA)
	case !m.Started():
		return l.nodata(notStarted(f.Name(), m))
	}
	return l.allAddresses([][]byte{addressData(m.Addr)})
}

// api answers for _api, which is configuration and nothing else.
func (l *lookup) api() *resolver.Answer {
	switch {
	case !l.cfg.API.IsValid():
		return l.nxdomain("dnsd runs without --api-address")
	case !l.wants(dns.TypeAAAA):
		return l.otherType(dns.TypeAAAA)
	}
	return l.allAddresses([][]byte{addressData(l.cfg.API)})
}

// peer answers for <peer>._peer.
func (l *lookup) peer(label string) *resolver.Answer {
	p, ch := l.view.Peer(l.network, label)
	watched(l, p, ch)
	switch {
	case p == nil || p.Interactive():
		return l.nxdomain("no peer " + clean(label) + " in your network")
	case !l.wants(dns.TypeAAAA):
		return l.otherType(dns.TypeAAAA)
	}
	return l.allAddresses([][]byte{addressData(p.Addr)})
}

// pickAddresses returns the addresses of the started machines of each run, and
// how many each run has. An address counts once, in the first run that has it:
// an RRset holds no record twice (RFC 2181, section 5), and two machines share
// an address for a moment when one is renamed. With a limit, runs after the one
// that reaches it are left out, since no response would ever show them.
//
// What it returns is kept as long as the answer, so it holds no byte more than
// it needs.
func pickAddresses(f *registry.Fleet, runs [][]*registry.Machine, limit int) (data [][]byte, turns []int) {
	var seen map[netip.Addr]struct{}
	if f.SharesAddresses() {
		seen = make(map[netip.Addr]struct{})
	}
	takes := func(m *registry.Machine) bool {
		if !m.Started() {
			return false
		}
		if seen == nil {
			return true
		}
		_, twice := seen[m.Addr]
		seen[m.Addr] = struct{}{}
		return !twice
	}
	total := 0
	for _, run := range runs {
		before := total
		for _, m := range run {
			if takes(m) {
				total++
			}
		}
		if total > before {
			turns = append(turns, total-before)
		}
		if limit > 0 && total >= limit {
			break
		}
	}
	clear(seen)
	data = make([][]byte, 0, total)
	bytes := make([]byte, 0, 16*total) // never grows: data points into it
	for _, run := range runs {
		for _, m := range run {
			if len(data) == total {
				return data, turns
			}
			if takes(m) {
				addr := m.Addr.As16()
				bytes = append(bytes, addr[:]...)
				data = append(data, bytes[len(bytes)-16:len(bytes):len(bytes)])
			}
		}
	}
	return data, turns
}
