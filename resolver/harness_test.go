package resolver

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"dnsd/resolver/forward"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen: much, since the
// machine may be busy.
const patience = 20 * time.Second

var (
	network  = netip.MustParsePrefix("fdaa:0:18::/48")
	loopback = netip.MustParseAddrPort("127.0.0.1:4242")
	machine  = netip.MustParseAddrPort("[fdaa:0:18:a7b:7d:f066:b83b:2]:4242")
	stranger = netip.MustParseAddrPort("[2001:db8::1]:4242")
	bridge   = netip.MustParseAddrPort("172.17.0.2:4242") // allowed, in no network
)

// testZone answers by the labels before its origin, joined by dots, and type.
type testZone struct {
	origin  string
	answers map[string]func(*Question) *Answer
}

func (z *testZone) Origin() string { return z.origin }

var testSOA = &SOA{TTL: 5, Data: append(
	[]byte("\x08internal\x00\x0ahostmaster\x08internal\x00"), make([]byte, 20)...)}

func (z *testZone) Answer(q *Question) *Answer {
	if f := z.answers[strings.Join(q.Labels, ".")]; f != nil {
		a := *f(q)
		if a.SOA == nil {
			a.SOA = testSOA
		}
		return &a
	}
	return &Answer{Rcode: dns.RcodeNameError, SOA: testSOA, EDE: []EDE{{Text: "no such app"}}}
}

// addresses returns the rdata of n addresses, the i-th ending in i.
func addresses(n int) [][]byte {
	data := make([][]byte, n)
	for i := range data {
		a := netip.MustParseAddr("fdaa:0:18::").As16()
		binary.BigEndian.PutUint32(a[12:], uint32(i))
		data[i] = a[:]
	}
	return data
}

// fleet returns an answer with n addresses that take turns.
func fleet(n int) func(*Question) *Answer {
	data := addresses(n)
	return func(q *Question) *Answer {
		if q.Type != dns.TypeAAAA {
			return &Answer{}
		}
		return &Answer{Type: dns.TypeAAAA, TTL: 5, Data: data, Turns: []int{n}}
	}
}

func always(a *Answer) func(*Question) *Answer { return func(*Question) *Answer { return a } }

// internalZone returns the zone that most tests ask.
func internalZone() *testZone {
	long := make([]byte, 200)
	for i := range long {
		long[i] = 'x'
	}
	return &testZone{origin: "internal.", answers: map[string]func(*Question) *Answer{
		"":       always(&Answer{}),
		"my-app": fleet(3),
		"vm.my-app": always(&Answer{EDE: []EDE{{Code: dns.ExtendedErrorCodeStaleAnswer, Text: "3 minutes old"},
			{Code: dns.ExtendedErrorCodeOther, Text: string(long)}, {Code: dns.ExtendedErrorCodeOther, Text: string(long)}}}),
		"many":      fleet(100),
		"huge":      fleet(10_000),
		"not-ready": always(&Answer{Rcode: dns.RcodeServerFailure, EDE: []EDE{{Code: dns.ExtendedErrorCodeNotReady, Text: "not synced"}}}),
		"any":       always(&Answer{Type: dns.TypeHINFO, TTL: 5, Data: [][]byte{[]byte("\x07RFC8482\x00")}}),
		"panic":     func(*Question) *Answer { panic("at the zone") },
		"nil":       func(*Question) *Answer { return nil },
		"list":      always(&Answer{Type: dns.TypeTXT, Data: [][]byte{longText(64_000)}, Partial: &Partial{Shown: 700, Total: 900, What: "machines"}}),
		"echo": func(q *Question) *Answer {
			text := q.Client.String()
			return &Answer{Type: dns.TypeTXT, Data: [][]byte{append([]byte{byte(len(text))}, text...)}, NoStore: true}
		},
	}}
}

// longText returns TXT rdata of n bytes.
func longText(n int) []byte {
	b := make([]byte, 0, n)
	for len(b) < n {
		l := min(255, n-len(b)-1)
		b = append(b, byte(l))
		b = append(b, make([]byte, l)...)
	}
	return b
}

// viewFunc is a Viewer.
type viewFunc func(netip.Addr) View

func (f viewFunc) View(a netip.Addr) (View, []<-chan struct{}) { return f(a), nil }

func testView(a netip.Addr) View {
	if a == bridge.Addr() {
		return View{}
	}
	return View{Network: network, Region: "iad"}
}

// fakeForwarder answers from functions that a test may set; the default is
// SERVFAIL at once.
type fakeForwarder struct {
	places    atomic.Int32 // taken
	immediate func(*forward.Query) *forward.Reply
	resolve   func(context.Context, *forward.Query) *forward.Reply
}

func (f *fakeForwarder) Immediate(q *forward.Query) *forward.Reply {
	if f.immediate != nil {
		if r := f.immediate(q); r != nil {
			return r
		}
	}
	f.places.Add(1)
	return nil
}

func (f *fakeForwarder) Release(*forward.Query) { f.places.Add(-1) }

func (f *fakeForwarder) Resolve(ctx context.Context, q *forward.Query) *forward.Reply {
	if f.resolve == nil {
		return &forward.Reply{Rcode: dns.RcodeServerFailure}
	}
	return f.resolve(ctx, q)
}

func testConfig() Config {
	return Config{
		Listen:   []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")},
		Zones:    []Zone{internalZone()},
		Viewer:   viewFunc(testView),
		Allow:    []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")},
		Sockets:  2,
		Identity: Identity{Version: "dnsd test", Hostname: "host-1"},
	}
}

func newResolver(t testing.TB, change ...func(*Config)) *Resolver {
	t.Helper()
	cfg := testConfig()
	for _, c := range change {
		c(&cfg)
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// start serves a resolver until the test ends, and fails the test if it
// breaks down. stop ends it early.
func start(t testing.TB, change ...func(*Config)) (r *Resolver, addr netip.AddrPort, stop func()) {
	t.Helper()
	r = newResolver(t, change...)
	addr, stop = serve(t, r)
	return r, addr, stop
}

// run is start for a resolver that is there.
func run(t testing.TB, r *Resolver) netip.AddrPort {
	t.Helper()
	addr, _ := serve(t, r)
	return addr
}

func serve(t testing.TB, r *Resolver) (addr netip.AddrPort, stop func()) {
	t.Helper()
	if err := r.Listen(); err != nil {
		t.Fatal(err)
	}
	return r.Addresses()[0], serveBound(t, r)
}

// serveBound is serve for a resolver that has been bound.
func serveBound(t testing.TB, r *Resolver) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

// query packs a question.
func query(t testing.TB, name string, typ uint16, change ...func(*dns.Msg)) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	for _, c := range change {
		c(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func edns(size uint16) func(*dns.Msg)       { return func(m *dns.Msg) { m.SetEdns0(size, false) } }
func class(c uint16) func(*dns.Msg)         { return func(m *dns.Msg) { m.Question[0].Qclass = c } }
func flags(f func(*dns.Msg)) func(*dns.Msg) { return f }

func option(o dns.EDNS0) func(*dns.Msg) {
	return func(m *dns.Msg) { m.IsEdns0().Option = append(m.IsEdns0().Option, o) }
}

func unpack(t testing.TB, b []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("response does not unpack: %v\n%x", err, b)
	}
	return m
}

// Respond answers one request as a worker of its own does.
func (r *Resolver) Respond(req []byte, from netip.AddrPort, proto Proto, dst []byte) (resp []byte, later *deferred) {
	return newWorker(r, proto, new(stats)).respond(req, from, dst)
}

// respond asks the core.
func respond(t testing.TB, r *Resolver, req []byte, from netip.AddrPort, proto Proto) *dns.Msg {
	t.Helper()
	resp, later := r.Respond(req, from, proto, make([]byte, 0, 1<<16))
	if later != nil {
		t.Fatal("question was deferred")
	}
	if resp == nil {
		return nil
	}
	return unpack(t, resp)
}

// ask sends one request over a socket and returns the raw response. It is nil
// where a question sent after it is answered first: packets of one client and
// messages of one connection stay in order.
func ask(t testing.TB, proto Proto, addr netip.AddrPort, req []byte) []byte {
	t.Helper()
	c := dial(t, proto, addr)
	defer c.Close()
	const later = 0xbeef
	send(t, proto, c, req)
	send(t, proto, c, query(t, "later.internal.", dns.TypeAAAA, func(m *dns.Msg) { m.Id = later }))
	resp, err := receive(proto, c)
	if err != nil {
		t.Fatalf("no response: %v", err)
	}
	if binary.BigEndian.Uint16(resp) == later {
		return nil
	}
	return resp
}

func dial(t testing.TB, proto Proto, addr netip.AddrPort) net.Conn {
	t.Helper()
	c, err := net.Dial([...]string{"udp", "tcp"}[proto], addr.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

func send(t testing.TB, proto Proto, c net.Conn, req []byte) {
	t.Helper()
	if proto == TCP {
		req = append(binary.BigEndian.AppendUint16(nil, uint16(len(req))), req...)
	}
	if _, err := c.Write(req); err != nil {
		t.Fatal(err)
	}
}

func receive(proto Proto, c net.Conn) ([]byte, error) {
	b := make([]byte, 1<<16)
	if proto == UDP {
		n, err := c.Read(b)
		return b[:n], err
	}
	if _, err := io.ReadFull(c, b[:2]); err != nil {
		return nil, err
	}
	b = b[:binary.BigEndian.Uint16(b)]
	_, err := io.ReadFull(c, b)
	return b, err
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// logTo returns a logger whose lines go to w.
func logTo(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func listenOn(addrs ...string) func(*Config) {
	return func(c *Config) {
		c.Listen = nil
		for _, a := range addrs {
			c.Listen = append(c.Listen, netip.MustParseAddrPort(a))
		}
	}
}

// askAs asks for a name's addresses over UDP from an IPv4 address of this host, and
// waits for the response.
func askAs(t *testing.T, from string, to netip.AddrPort, name string) {
	t.Helper()
	c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)}, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	send(t, UDP, c, query(t, name, dns.TypeAAAA))
	if _, err := receive(UDP, c); err != nil {
		t.Fatal(err)
	}
}

// closeAll closes the sockets of a resolver that does not run.
func closeAll(r *Resolver) {
	for _, l := range r.lanes {
		l.close()
	}
	for _, s := range r.sockets {
		s.conn.Close()
	}
	for _, a := range r.acceptors {
		a.listener.Close()
	}
}

// skip skips the test, or fails it where nothing may be skipped.
func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("DNSD_TEST_NO_SKIP") != "" {
		t.Fatal("would be skipped: " + why)
	}
	t.Skip(why)
}
