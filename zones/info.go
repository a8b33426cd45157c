package zones

import (
	"fmt"
	"time"

	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// whoami answers for _whoami: who the client is, as dnsd sees it. What is
// unknown is left out.
func (l *lookup) whoami() *resolver.Answer {
	l.noStore = true
	l.open()
	fields := []string{"network=" + l.network.String()}
	// A client outside its network (loopback, with --network) is no machine.
	if n, ok := registry.NetworkOf(l.q.Client); ok && n == l.network {
		if m, _ := l.view.MachineNear(l.q.Client); m != nil {
			fields = append(fields, "app="+m.App, "machine="+m.ID)
		}
	}
	if region := l.q.View.Region; region != "" {
		fields = append(fields, "region="+region)
	}
	return l.fields(fields)
}

// info answers for _dnsd: how this server is, and what it knows of the client's
// network (and of no other). It is not kept, since it depends on the clock.
func (l *lookup) info() *resolver.Answer {
	l.noStore = true
	l.open()
	var fields []string
	if !l.cfg.Anonymous {
		fields = append(fields, "version="+l.cfg.Version, "source="+l.status.Source)
	}
	fields = append(fields, fmt.Sprintf("synced=%t", l.status.Synced()), "state="+string(l.status.State))
	if alive := l.reg.LastAlive(); !alive.IsZero() {
		fields = append(fields, fmt.Sprintf("age=%ds", int64(time.Since(alive).Seconds())))
	}
	if l.empty() {
		fields = append(fields, "registry=empty")
	}
	have := l.view.Counts(l.network)
	return l.fields(append(fields,
		fmt.Sprintf("apps=%d", have.Apps),
		fmt.Sprintf("machines=%d", have.Machines),
		fmt.Sprintf("peers=%d", have.Peers)))
}

// fields answers with one TXT record of a character-string for each field.
func (l *lookup) fields(fields []string) *resolver.Answer {
	var rdata []byte
	for _, f := range fields {
		rdata = appendString(rdata, f)
	}
	return l.records(dns.TypeTXT, [][]byte{rdata})
}
