package zones

import (
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// flycastZone is flycast.: the private proxy addresses of apps. An address
// belongs to the network it was allocated for, which need not be the app's.
type flycastZone struct{ *zone }

// Answer implements resolver.Zone.
func (z flycastZone) Answer(q *resolver.Question) *resolver.Answer {
	l := z.begin(q)
	switch {
	case l == nil:
		return refused()
	case len(q.Labels) == 0:
		return l.apex()
	case !l.open():
		return l.notReady()
	case len(q.Labels) > 1:
		return l.nxdomain("names under flycast. have one label: want " +
			clean(q.Labels[len(q.Labels)-1]) + ".flycast")
	}
	addresses, ch := l.view.Addresses(l.network, q.Labels[0])
	watched(l, addresses, ch)
	switch {
	case len(addresses) == 0:
		return l.nxdomain(clean(q.Labels[0]) + " has no flycast address for your network")
	case !l.wants(dns.TypeAAAA):
		return l.otherType(dns.TypeAAAA)
	}
	data := make([][]byte, 0, len(addresses))
	for _, a := range addresses {
		data = append(data, addressData(a.Addr))
	}
	return l.allAddresses(data)
}
