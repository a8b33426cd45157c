package tenants

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

// clogs are the ways to make answers wait in the kernel. Each sets one up for a
// tenant and returns the addresses that it asks from, if not its own.
var clogs = []struct {
	name string
	set  func(t *testing.T, a *lab.Tenant) []netip.Addr
}{
	{"neighbours", func(_ *testing.T, a *lab.Tenant) []netip.Addr { return addresses(a.Addr, 400) }},
	{"gateway", func(t *testing.T, a *lab.Tenant) []netip.Addr {
		a.Behind(t, netip.MustParseAddr("fe80::dead"))
		return nil
	}},
	{"link", func(t *testing.T, a *lab.Tenant) []netip.Addr { a.Shape(t, "200kbit"); return nil }},
}

// TestAnswersThatWait has a's answers wait in the kernel: for neighbours or a
// gateway that do not answer, for a slow link. They may take a's own answers with
// them and no others.
func TestAnswersThatWait(t *testing.T) {
	for _, clog := range clogs {
		for _, rate := range []int{100, 300, 2000} {
			t.Run(fmt.Sprintf("%s/%d", clog.name, rate), func(t *testing.T) {
				h := newHost(t, nil)
				from := clog.set(t, h.a)
				h.attacked(t, func(ctx context.Context) {
					n := flood{rate: rate, next: only("home.internal", dns.TypeAAAA), from: from}.run(ctx, t, h.a, server)
					t.Logf("a sent %d", n)
				}).unharmed(t)
			})
		}
	}
}
