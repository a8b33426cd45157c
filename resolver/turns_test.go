package resolver

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/turns"
)

// TestTCPLeavesUDPItsPart: of many requests over TCP no more are computed at a
// time than may, and UDP does not wait for them.
func TestTCPLeavesUDPItsPart(t *testing.T) {
	var computing atomic.Int32
	open := make(chan struct{})
	zone := internalZone()
	zone.answers["slow"] = func(*Question) *Answer {
		computing.Add(1)
		<-open
		return &Answer{}
	}
	r, addr, _ := start(t, func(c *Config) { c.Zones = []Zone{zone} })
	defer sync.OnceFunc(func() { close(open) })()
	most := turns.Half()
	for range most + 20 {
		c := dial(t, TCP, addr)
		defer c.Close()
		send(t, TCP, c, query(t, "slow.internal.", dns.TypeAAAA))
	}
	eventually(t, "all that may not be computed yet are waiting", func() bool { return r.conns.computing.Waiting() == 20 })
	if n := int(computing.Load()); n != most {
		t.Errorf("%d are computed at once, want %d", n, most)
	}
	if m := unpack(t, ask(t, UDP, addr, query(t, "my-app.internal.", dns.TypeAAAA))); len(m.Answer) != 3 {
		t.Errorf("UDP gets\n%v", m)
	}
}
