package zones

import (
	"net/netip"
	"slices"
	"strings"

	"dnsd/resolver"

	"github.com/miekg/dns"
)

const (
	originNibbles  = 4                  // of an address, fixed by the zone's origin
	networkNibbles = 8                  // after those: the network
	freeNibbles    = 32 - originNibbles // in a full name
)

// reverse answers for a.a.d.f.ip6.arpa.: the reverse of fdaa::/16. A name of
// another network, whole or in part, is NXDOMAIN without being looked up.
func (l *lookup) reverse() *resolver.Answer {
	q := l.q
	switch {
	case len(q.Labels) == 0:
		return l.apex()
	case !l.open():
		return l.notReady()
	}
	addr, ok := parseReverse(q.Labels)
	if !ok {
		return l.nxdomain("this is not the reverse name of an address: want 32 hexadecimal digits before ip6.arpa")
	}
	given := min(len(q.Labels), networkNibbles)
	if p := netip.PrefixFrom(addr, 4*(originNibbles+given)); !p.Contains(l.network.Prefix().Addr()) {
		return l.nxdomain("not an address of your network")
	}
	if len(q.Labels) < freeNibbles {
		return l.nodata(textBetween)
	}
	names := l.namesAt(addr)
	switch {
	case len(names) == 0:
		return l.nxdomain("no machine, peer or flycast address of your network is " + addr.String())
	case !l.wants(dns.TypePTR):
		return l.otherType(dns.TypePTR)
	}
	return l.records(dns.TypePTR, names)
}

// parseReverse reads the labels left of the origin, the last nibble of the
// address leftmost (RFC 3596, section 2.5). The nibbles that a partial name
// does not give are zero.
func parseReverse(labels []string) (netip.Addr, bool) {
	addr := [16]byte{0xfd, 0xaa}
	if len(labels) > freeNibbles {
		return netip.Addr{}, false
	}
	for i, label := range slices.Backward(labels) {
		nibble := originNibbles + len(labels) - 1 - i // counted from the address's left
		if len(label) != 1 {
			return netip.Addr{}, false
		}
		v := strings.IndexByte("0123456789abcdef", label[0])
		if v < 0 {
			return netip.Addr{}, false
		}
		addr[nibble/2] |= byte(v) << (4 * (1 - nibble%2))
	}
	return netip.AddrFrom16(addr), true
}

// namesAt returns the names of what has exactly this address, as PTR rdata:
// mostly one. A deployed machine that is not started has its name still (it
// exists), after those that are started.
func (l *lookup) namesAt(addr netip.Addr) [][]byte {
	var names [][]byte
	for _, started := range []bool{true, false} {
		machines, ch := l.view.MachinesAt(addr, started)
		for _, m := range watched(l, machines, ch) {
			if !l.budget.Step(stepsRow) {
				break
			}
			if m.Network == l.network && !m.Skip {
				names = append(names, appendName(nil, m.ID, "vm", m.App, "internal"))
			}
		}
	}
	peers, ch := l.view.PeersAt(addr)
	for p := range watched(l, peers, ch).All {
		if !l.budget.Step(stepsRow) {
			break
		}
		if p.Network == l.network && !p.Interactive() {
			names = append(names, appendName(nil, p.Name, "_peer", "internal"))
		}
	}
	addresses, ch := l.view.AddressesAt(addr)
	for a := range watched(l, addresses, ch).All {
		if !l.budget.Step(stepsRow) {
			break
		}
		if a.Network == l.network {
			names = append(names, appendName(nil, a.App, "flycast"))
		}
	}
	return names
}

// local answers for d.f.ip6.arpa., the reverse of the locally assigned addresses
// fd00::/8. The zone is served here, and empty except for fdaa::/16 below it, so
// that no question for a private address is forwarded (RFC 6303, section 4.4).
// a.d.f.ip6.arpa. exists, because a.a.d.f.ip6.arpa. is below it.
func (l *lookup) local() *resolver.Answer {
	q := l.q
	switch {
	case len(q.Labels) == 0:
		return l.apex()
	case len(q.Labels) == 1 && q.Labels[0] == "a":
		return l.nodata(textBetween)
	}
	return l.nxdomain("only fdaa::/16 has names here, and nothing of fd00::/8 is forwarded")
}
