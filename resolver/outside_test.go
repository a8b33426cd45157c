package resolver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"dnsd/resolver/forward"
)

// realReply returns a reply with one A record for any name as long as localhost.
func realReply(t testing.TB) *forward.Reply {
	t.Helper()
	f, err := forward.New(forward.Config{})
	if err != nil {
		t.Fatal(err)
	}
	r := f.Immediate(&forward.Query{Name: []byte("\x09localhost\x00"), Type: dns.TypeA, Class: dns.ClassINET, RD: true})
	if r == nil {
		t.Fatal("the forwarder does not know localhost")
	}
	return r
}

func withForwarder(f *fakeForwarder) func(*Config) { return func(c *Config) { c.Forward = f } }

func TestForwardedAtOnce(t *testing.T) {
	reply := realReply(t)
	reply2 := *reply
	reply2.AD = true
	reply2.EDE = []EDE{{Code: 3, Text: "stale"}}
	var got forward.Query
	r := newResolver(t, withForwarder(&fakeForwarder{immediate: func(q *forward.Query) *forward.Reply {
		got = *q
		got.Name, got.Hits = []byte(string(q.Name)), nil
		return &reply2
	}}))
	m := respond(t, r, query(t, "LocalHost.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, true); m.CheckingDisabled = true }), machine, UDP)
	if len(m.Answer) != 1 || m.Answer[0].Header().Name != "LocalHost." || flagNames(m) != "RD RA AD CD" {
		t.Errorf("response\n%v\nwant one record and flags RD RA AD CD", m)
	}
	if o := m.IsEdns0().Option; len(o) != 1 || o[0].(*dns.EDNS0_EDE).InfoCode != 3 {
		t.Errorf("options %v, want the reply's EDE", o)
	}
	want := forward.Query{Name: []byte("\x09localhost\x00"), Type: dns.TypeA, Class: dns.ClassINET, DO: true, CD: true, RD: true, Network: network}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the forwarder was asked %v, want %v", got, want)
	}
	// AD is not for clients that have not shown that they know it.
	m = respond(t, r, query(t, "localhost.", dns.TypeA), machine, UDP)
	if flagNames(m) != "RD RA" || m.IsEdns0() != nil || len(m.Answer) != 1 {
		t.Errorf("without EDNS the response is\n%v", m)
	}
	m = respond(t, r, query(t, "localhost.", dns.TypeA, func(m *dns.Msg) { m.AuthenticatedData = true }), machine, UDP)
	if flagNames(m) != "RD RA AD" {
		t.Errorf("with AD in the query the flags are %s", flagNames(m))
	}
	respond(t, r, query(t, "localhost.", dns.TypeA, func(m *dns.Msg) { m.RecursionDesired = false }), machine, UDP)
	if got.RD || got.CD || got.DO {
		t.Errorf("without a flag in the query the forwarder is asked %v", got)
	}
}

func TestForwardedWithoutNetwork(t *testing.T) {
	r := newResolver(t, withForwarder(&fakeForwarder{immediate: func(q *forward.Query) *forward.Reply {
		if q.Network.IsValid() {
			t.Errorf("network is %v", q.Network)
		}
		return realReply(t)
	}}))
	if m := respond(t, r, query(t, "localhost.", dns.TypeA), bridge, UDP); len(m.Answer) != 1 {
		t.Errorf("response %v, want the answer: forwarding needs no network", m)
	}
	if m := respond(t, r, query(t, "localhost.", dns.TypeA), stranger, UDP); m.Rcode != dns.RcodeRefused {
		t.Errorf("a stranger's response is %v, want REFUSED", m)
	}
}

// TestMetaTypesAreNeverForwarded: types that are no data (RFC 6895, section 3.1) are
// answered here.
func TestMetaTypesAreNeverForwarded(t *testing.T) {
	r := newResolver(t, withForwarder(&fakeForwarder{immediate: func(q *forward.Query) *forward.Reply {
		t.Errorf("forwarded: %s", dns.Type(q.Type))
		return nil
	}}))
	for typ, want := range map[uint16]int{
		dns.TypeOPT: dns.RcodeFormatError, dns.TypeTSIG: dns.RcodeFormatError, dns.TypeTKEY: dns.RcodeNotImplemented,
		dns.TypeMAILA: dns.RcodeNotImplemented, dns.TypeMAILB: dns.RcodeNotImplemented, dns.TypeAXFR: dns.RcodeRefused, dns.TypeIXFR: dns.RcodeRefused,
	} {
		if m := respond(t, r, query(t, "example.com.", typ), machine, UDP); m.Rcode != want {
			t.Errorf("%s: %s", dns.Type(typ), dns.RcodeToString[m.Rcode])
		}
	}
}

func TestInternalNamesAreNeverForwarded(t *testing.T) {
	r := newResolver(t, withForwarder(&fakeForwarder{immediate: func(q *forward.Query) *forward.Reply {
		t.Errorf("forwarded: %q", q.Name)
		return nil
	}}))
	for _, name := range []string{"internal.", "no-such.internal.", "a.b.c.INTERNAL.", "panic.internal."} {
		for _, typ := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeDS, dns.TypeANY, dns.TypeNS, dns.TypeAXFR, 65280} {
			for _, from := range []netip.AddrPort{loopback, bridge, stranger} {
				respond(t, r, query(t, name, typ), from, UDP)
			}
		}
	}
}

func TestExtendedCodeNeedsOPT(t *testing.T) {
	r := newResolver(t, withForwarder(&fakeForwarder{immediate: func(*forward.Query) *forward.Reply { return &forward.Reply{Rcode: dns.RcodeBadCookie} }}))
	if m := respond(t, r, query(t, "a.", dns.TypeA), loopback, UDP); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("code is %d, want SERVFAIL", m.Rcode)
	}
	if m := respond(t, r, query(t, "a.", dns.TypeA, edns(1232)), loopback, UDP); m.Rcode != dns.RcodeBadCookie {
		t.Errorf("code is %d, want BADCOOKIE", m.Rcode)
	}
	r = newResolver(t, withForwarder(&fakeForwarder{immediate: func(*forward.Query) *forward.Reply { return &forward.Reply{Rcode: 15} }}))
	if m := respond(t, r, query(t, "a.", dns.TypeA), loopback, UDP); m.Rcode != 15 {
		t.Errorf("code is %d, want 15: the header has four bits", m.Rcode)
	}
}

// gate is a forwarder that answers names from "wait" on only when it is opened.
type gate struct {
	fakeForwarder
	open    chan struct{}
	waiting atomic.Int32
}

func newGate(t testing.TB) *gate {
	g := &gate{open: make(chan struct{})}
	reply := realReply(t)
	g.resolve = func(ctx context.Context, q *forward.Query) *forward.Reply {
		if string(q.Name[1:5]) != "wait" {
			return reply
		}
		g.waiting.Add(1)
		defer g.waiting.Add(-1)
		select {
		case <-g.open:
			return reply
		case <-ctx.Done():
			return &forward.Reply{Rcode: dns.RcodeServerFailure}
		}
	}
	return g
}

func withID(id uint16) func(*dns.Msg) { return func(m *dns.Msg) { m.Id = id } }

// TestDeferredKeepsNobodyWaiting: while a question waits upstream, the same socket
// and the same connection answer others, and each waiting one gets its own answer.
func TestDeferredKeepsNobodyWaiting(t *testing.T) {
	for proto, name := range []string{UDP: "udp", TCP: "tcp"} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t)
			_, addr, _ := start(t, func(c *Config) { c.Forward, c.Sockets = g, 1 })
			c := dial(t, Proto(proto), addr)
			defer c.Close()
			const n = 20
			for i := range n {
				send(t, Proto(proto), c, query(t, fmt.Sprintf("WAITing%02d.", i), dns.TypeA, withID(uint16(i))))
			}
			eventually(t, "all questions are waiting", func() bool { return g.waiting.Load() == n })
			send(t, Proto(proto), c, query(t, "my-app.internal.", dns.TypeAAAA, withID(1000)))
			send(t, Proto(proto), c, query(t, "otherhost.", dns.TypeA, withID(1001)))
			for range 2 {
				resp, err := receive(Proto(proto), c)
				if err != nil || unpack(t, resp).Id < 1000 {
					t.Fatalf("response %x, %v, want those that need not wait", resp, err)
				}
			}
			close(g.open)
			seen := make(map[uint16]bool)
			for range n {
				resp, err := receive(Proto(proto), c)
				if err != nil {
					t.Fatal(err)
				}
				m := unpack(t, resp)
				if want := fmt.Sprintf("WAITing%02d.", m.Id); m.Question[0].Name != want || len(m.Answer) != 1 || m.Answer[0].Header().Name != want {
					t.Errorf("id %d has the answer\n%v", m.Id, m)
				}
				seen[m.Id] = true
			}
			if len(seen) != n {
				t.Errorf("%d questions answered, want %d", len(seen), n)
			}
		})
	}
}

// TestTooManyWaiting: the forwarder's bound is the only one, and holds for the
// socket's goroutines as well. What is over it is answered at once.
func TestTooManyWaiting(t *testing.T) {
	silent, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for proto, name := range []string{UDP: "udp", TCP: "tcp"} {
		t.Run(name, func(t *testing.T) {
			f, err := forward.New(forward.Config{MaxInflight: 8, Upstreams: []forward.Upstream{
				{Domain: ".", Addr: silent.LocalAddr().(*net.UDPAddr).AddrPort()},
			}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { f.Run(ctx) })
			defer running.Wait()
			defer cancel()
			_, addr, stop := start(t, func(c *Config) { c.Forward, c.Drain = f, time.Millisecond })
			c := dial(t, Proto(proto), addr)
			defer c.Close()
			for i := range 4 { // one network alone gets half the places
				send(t, Proto(proto), c, query(t, fmt.Sprintf("waiting%02d.", i), dns.TypeA))
			}
			eventually(t, "four questions are waiting", func() bool { return gathered(t, f, "dnsd_forward_inflight") == 4 })
			m := unpack(t, ask(t, Proto(proto), addr, query(t, "waiting99.", dns.TypeA, edns(1232))))
			if m.Rcode != dns.RcodeServerFailure || m.IsEdns0().Option[0].(*dns.EDNS0_EDE).InfoCode != dns.ExtendedErrorCodeNetworkError {
				t.Errorf("response is\n%v\nwant SERVFAIL with EDE 23", m)
			}
			stop()
			if n := gathered(t, f, "dnsd_forward_inflight"); n != 0 {
				t.Errorf("%v places are taken by nobody", n)
			}
		})
	}
}

// TestPlaceUntilTheResponseIsOut: a question has its place until its response is
// sent, or given up, however that comes about.
func TestPlaceUntilTheResponseIsOut(t *testing.T) {
	f := &fakeForwarder{resolve: func(_ context.Context, q *forward.Query) *forward.Reply {
		if q.Type == dns.TypeMX {
			panic("upstream")
		}
		return realReply(t)
	}}
	_, addr, _ := start(t, withForwarder(f))
	for _, proto := range []Proto{UDP, TCP} {
		for _, typ := range []uint16{dns.TypeA, dns.TypeMX} {
			askLate(t, proto, addr, query(t, "otherhost.", typ))
			eventually(t, "the place is free", func() bool { return f.places.Load() == 0 })
		}
	}
	g := newGate(t)
	_, addr, _ = start(t, func(c *Config) { c.Forward = g })
	for _, proto := range []Proto{UDP, TCP} {
		c := dial(t, proto, addr)
		defer c.Close()
		send(t, proto, c, query(t, "waiting01.", dns.TypeA))
	}
	eventually(t, "both questions are waiting", func() bool { return g.waiting.Load() == 2 })
	if n := g.places.Load(); n != 2 {
		t.Errorf("%d places are taken", n)
	}
	close(g.open)
	eventually(t, "all places are free", func() bool { return g.places.Load() == 0 })
}

func TestDeferredPanic(t *testing.T) {
	var log syncBuffer
	r, addr, _ := start(t, withForwarder(&fakeForwarder{resolve: func(context.Context, *forward.Query) *forward.Reply { panic("upstream") }}),
		func(c *Config) { c.Log = logTo(&log) })
	for _, proto := range []Proto{UDP, TCP} {
		m := unpack(t, askLate(t, proto, addr, query(t, "example.com.", dns.TypeA, edns(1232))))
		if m.Rcode != dns.RcodeServerFailure || len(m.IsEdns0().Option) != 1 {
			t.Errorf("response is\n%v\nwant SERVFAIL with an EDE", m)
		}
	}
	if n := gathered(t, r, "dnsd_panics_total"); n != 2 {
		t.Errorf("dnsd_panics_total is %v, want 2", n)
	}
	if !log.contains("panic=upstream") || !log.contains("resolver.(*deferred).resolve") {
		t.Errorf("log lacks the panic or its stack:\n%s", log.String())
	}
}

// askLate asks one question that may be deferred.
func askLate(t testing.TB, proto Proto, addr netip.AddrPort, req []byte) []byte {
	t.Helper()
	c := dial(t, proto, addr)
	defer c.Close()
	send(t, proto, c, req)
	resp, err := receive(proto, c)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}
