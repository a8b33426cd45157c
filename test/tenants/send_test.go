package tenants

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// clogs are the ways to make answers wait in the kernel. Each sets one up for a
// tenant and returns the addresses that it asks from, if not its own.
var clogs = []struct {
	name string
	set  func(t *testing.T, a *lab.Tenant) []netip.Addr
}{
	// (The kernel keeps 1,024 neighbours, of all namespaces together.)
	{"neighbours", func(_ *testing.T, a *lab.Tenant) []netip.Addr { return addresses(a.Addr, 200) }},
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
	t.Parallel()
	for _, clog := range clogs {
		for _, rate := range lab.Full([]int{100, 2000}, []int{100, 300, 2000}) {
			t.Run(fmt.Sprintf("%s/%d", clog.name, rate), func(t *testing.T) {
				t.Parallel()
				h := newHost(t, nil)
				from := clog.set(t, h.a)
				// Longer than the kernel looks for a neighbour: 3 s.
				h.unharmed(t, 4*time.Second, func(ctx context.Context) {
					n := flood{rate: rate, next: only("home.internal", dns.TypeAAAA), from: from}.run(ctx, t, h.a, server)
					t.Logf("a sent %d", n)
				})
			})
		}
	}
}

// TestAnswersThatWaitEverywhere is the same with a wildcard listener and with the
// privilege to make buffers larger than others may.
func TestAnswersThatWaitEverywhere(t *testing.T) {
	t.Parallel()
	h := newHostWith(t, nil, []uintptr{unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_ADMIN}, "--listen", "[::]:53")
	from := clogs[0].set(t, h.a)
	h.unharmed(t, 4*time.Second, func(ctx context.Context) {
		flood{rate: 2000, next: only("home.internal", dns.TypeAAAA), from: from}.run(ctx, t, h.a, server)
	})
	if h.Metric(t, "dnsd_send_drops_total") == 0 {
		t.Error("nothing had to be dropped: no answer waited")
	}
}

// TestFirewall has a firewall refuse most answers to a, with the error that the
// kernel gives then (EPERM), while dnsd sends a's and b's in one system call. That
// costs a's answers alone, and no more than while it lasts.
func TestFirewall(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	batched := func() float64 { return h.Metric(t, `dnsd_udp_sockets{mode="batched"}`) }
	sockets := batched()
	h.Tool(t, fmt.Sprintf("table ip6 f { chain out { type filter hook output priority 0; ip6 daddr %s udp sport 53 limit rate over 20/second drop; }; }", h.a.Addr), "nft", "-f", "-")
	h.unharmed(t, 3*time.Second, func(ctx context.Context) {
		flood{rate: 2000, next: only("home.internal", dns.TypeAAAA)}.run(ctx, t, h.a, server)
	})
	if refused := h.Metric(t, `dnsd_write_errors_total{proto="udp"}`); refused < 1000 {
		t.Errorf("%v answers were refused: there was no firewall", refused)
	}
	h.Tool(t, "flush ruleset", "nft", "-f", "-")
	if got := ask(t, h.a, server, 100, time.Second, only("home.internal", dns.TypeAAAA), 3); got.lost() > 0 || got.wrong > 0 {
		t.Errorf("without the firewall, of a's: %v", got)
	}
	if now := batched(); sockets == 0 || now != sockets {
		t.Errorf("%v sockets move many packets a call, %v did before", now, sockets)
	}
}
