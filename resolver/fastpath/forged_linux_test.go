//go:build amd64 || arm64

package fastpath_test

import (
	"net/netip"
	"testing"
	"time"

	"dnsd/resolver/fastpath"

	"github.com/miekg/dns"
)

// Two questions with the same hash are two questions: an answer of another network, to another
// type or to another name is not taken for the one that was asked for.
func TestSameHash(t *testing.T) {
	const app = "\x04app0\x08internal\x00"
	own := netip.MustParsePrefix("fdaa:0:18::/48")
	for _, c := range []struct {
		name     string
		network  netip.Prefix
		typ      uint16
		question string
		hit      bool
	}{
		{"the_same", own, dns.TypeAAAA, app, true}, // which shows that the others could be found
		{"another_network", netip.MustParsePrefix("fdaa:0:19::/48"), dns.TypeAAAA, app, false},
		{"another_type", own, dns.TypeTXT, app, false},
		{"another_type_but_for_case", own, dns.TypeAAAA | 0x20<<8, app, false},
		{"another_name", own, dns.TypeAAAA, "\x04app1\x08internal\x00", false},
		{"a_longer_name", own, dns.TypeAAAA, app + "\x00", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t, 1<<4, nil)
			answer := func(network netip.Prefix, typ uint16, name string) *fastpath.Answer {
				g, ok := s.kernel.Generation(network, "app0")
				if !ok {
					t.Fatal("no generation")
				}
				return &fastpath.Answer{Network: network, Type: typ, Name: []byte(name), Generation: g, Flags: 0x8400, Answers: 1, Records: make([]byte, 28)}
			}
			if err := s.kernel.Forge(answer(c.network, c.typ, c.question), answer(own, dns.TypeAAAA, app)); err != nil {
				t.Fatal(err)
			}
			conn, buf := s.dial(t), make([]byte, 1500)
			req, _ := new(dns.Msg).SetQuestion("app0.internal.", dns.TypeAAAA).Pack()
			hit := false
			for asked := 0; !hit && asked < 50 && s.kernel.Results()[fastpath.Miss] == 0; asked++ {
				if _, err := conn.Write(req); err != nil {
					t.Fatal(err)
				}
				conn.SetReadDeadline(time.Now().Add(5 * time.Second))
				if _, err := conn.Read(buf); err != nil {
					t.Fatal(err)
				}
				hit = buf[3]&15 == dns.RcodeSuccess // there is no such app, as the socket knows
				if !hit && c.hit {
					time.Sleep(20 * time.Millisecond) // the lease may not have begun
				}
			}
			n := s.kernel.Results()
			if hit != c.hit || (n[fastpath.Hit] == 1) != c.hit || !c.hit && n[fastpath.Stale] > 0 {
				t.Errorf("answered from the block: %t, want %t; counted are %v", hit, c.hit, n)
			}
		})
	}
}
