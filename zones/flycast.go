package zones

import (
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// flycast answers for flycast.: the private proxy addresses of apps. An address
// belongs to the network it was allocated for, which need not be the app's.
func (l *lookup) flycast() *resolver.Answer {
	q := l.q
	switch {
	case len(q.Labels) == 0:
		return l.apex()
	case !l.open():
		return l.notReady()
	case len(q.Labels) > 1:
		return l.nxdomain("names under flycast. have one label: want " +
			clean(q.Labels[len(q.Labels)-1]) + ".flycast")
	}
	var data [][]byte
	addresses, ch := l.view.Addresses(l.network, q.Labels[0])
	for a := range watched(l, addresses, ch).All {
		data = append(data, addressData(a.Addr))
		if !l.budget.Step(stepsRow) || !l.wants(dns.TypeAAAA) { // for another type it is enough that there is one
			break
		}
	}
	if len(data) == 0 {
		return l.nxdomain(clean(q.Labels[0]) + " has no flycast address for your network")
	}
	return l.allAddresses(data)
}
