package forward

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"dnsd/resolver/internal/wire"
)

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "8") // what runs in parallel here mostly waits
	goleak.VerifyTestMain(m)
}

var (
	netA = netip.MustParsePrefix("fdaa:0:18::/48")
	netB = netip.MustParsePrefix("fdaa:0:99::/48")
)

// query returns the question for a name as the resolver hands it over.
func query(name string, qtype uint16) *Query {
	return &Query{Name: mustName(dns.CanonicalName(name)), Type: qtype, Class: dns.ClassINET, RD: true, Network: netA}
}

func mustName(name string) []byte {
	b, err := wire.PackName(name)
	if err != nil {
		panic(err)
	}
	return b
}

// resolve asks f as the resolver does.
func resolve(ctx context.Context, f *Forwarder, q *Query) *Reply {
	if r := f.Immediate(q); r != nil {
		return r
	}
	defer f.Release(q)
	return f.Resolve(ctx, q)
}

// at returns the i-th upstream.
func (f *Forwarder) at(i int) *upstream { return f.routes.Load().all[i] }

// response returns the response that a resolver would send with a reply.
func response(t testing.TB, q *Query, r *Reply, limit int) *dns.Msg {
	t.Helper()
	b := responseBytes(t, q, r, limit)
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("response does not parse: %v\n%x", err, b)
	}
	return m
}

func responseBytes(t testing.TB, q *Query, r *Reply, limit int) []byte {
	t.Helper()
	b := make([]byte, 12, 512)
	b[2], b[5] = 0x80, 1
	b = append(b, q.Name...)
	b = binary.BigEndian.AppendUint16(b, q.Type)
	b = binary.BigEndian.AppendUint16(b, q.Class)
	b, counts, tc := r.Append(b, limit)
	b[3] |= byte(r.Rcode)
	if tc {
		b[2] |= 0x02
	}
	for i, n := range counts {
		binary.BigEndian.PutUint16(b[6+2*i:], n)
	}
	if len(b) > limit {
		t.Fatalf("response of %d bytes, limit %d", len(b), limit)
	}
	return b
}

// text returns a reply on one line: code, records of the answer, EDE codes.
func text(t testing.TB, q *Query, r *Reply) string {
	t.Helper()
	m := response(t, q, r, dns.MaxMsgSize)
	parts := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		parts = append(parts, strings.Join(strings.Fields(rr.String()), " "))
	}
	for _, e := range r.EDE {
		parts = append(parts, fmt.Sprintf("EDE %d", e.Code))
	}
	return strings.Join(parts, "; ")
}

func wantText(t testing.TB, q *Query, r *Reply, want string) {
	t.Helper()
	if r == nil {
		t.Fatalf("no reply, want %q", want)
	}
	if got := text(t, q, r); got != want {
		t.Fatalf("got  %q\nwant %q (EDE %v)", got, want, r.EDE)
	}
}

// wantA asks f for a name's address.
func wantA(t testing.TB, f *Forwarder, name, want string) {
	t.Helper()
	q := query(name, dns.TypeA)
	wantText(t, q, resolve(t.Context(), f, q), want)
}

// answerTo returns an upstream's answer to m with records in zone file form; those
// after a "--" are authority.
func answerTo(m *message, rcode int, records ...string) *dns.Msg {
	out := new(dns.Msg)
	if err := out.Unpack(m.bytes); err != nil {
		panic(err)
	}
	out.Response, out.RecursionAvailable, out.Rcode, out.Extra = true, true, rcode, nil
	section := &out.Answer
	for _, s := range records {
		if s == "--" {
			section = &out.Ns
			continue
		}
		rr, err := dns.NewRR(s)
		if err != nil {
			panic(err)
		}
		*section = append(*section, rr)
	}
	return out
}

func withEDE(m *dns.Msg, code uint16, text string) *dns.Msg {
	m.SetEdns0(udpSize, false)
	opt := m.IsEdns0()
	opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: text})
	return m
}

// fakeNet is an upstream without a network. It counts.
type fakeNet struct {
	mu     sync.Mutex
	asked  []string // name and type of each query but the probes
	probes int
	answer func(ctx context.Context, m *message) (*dns.Msg, error) // guarded by mu
}

func (n *fakeNet) exchange(ctx context.Context, m *message, doubt func()) ([]byte, error) {
	n.mu.Lock()
	if len(m.name) == 1 {
		n.probes++
	} else {
		name, _, _ := dns.UnpackDomainName(m.name, 0)
		n.asked = append(n.asked, name+" "+dns.Type(m.qtype).String())
	}
	answer := n.answer
	n.mu.Unlock()
	out, err := answer(context.WithValue(ctx, doubtKey{}, doubt), m)
	if err != nil {
		return nil, err
	}
	return packed(out), nil
}

// doubtKey finds what exchange was given to tell of doubts.
type doubtKey struct{}

func packed(m *dns.Msg) []byte {
	m.Compress = true
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return append(make([]byte, 0, len(b)), b...)
}

func (n *fakeNet) set(answer func(ctx context.Context, m *message) (*dns.Msg, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answer = answer
}

func (n *fakeNet) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.asked)
}

func (n *fakeNet) probed() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.probes
}

type answerFunc = func(ctx context.Context, m *message) (*dns.Msg, error)

// after answers an A question with addr after a while.
func after(d time.Duration, addr string) answerFunc {
	return slowly(d, func(_ context.Context, m *message) (*dns.Msg, error) {
		name, _, _ := dns.UnpackDomainName(m.name, 0)
		return answerTo(m, dns.RcodeSuccess, name+" 60 IN A "+addr), nil
	})
}

func silent(ctx context.Context, _ *message) (*dns.Msg, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func fails(err error) answerFunc {
	return func(context.Context, *message) (*dns.Msg, error) { return nil, err }
}

func says(rcode int, records ...string) answerFunc {
	return func(_ context.Context, m *message) (*dns.Msg, error) { return answerTo(m, rcode, records...), nil }
}

// newFaked returns a forwarder whose upstreams 10.0.0.1, 10.0.0.2 … are nets. It runs until
// the test ends.
func newFaked(t testing.TB, cfg Config, nets ...*fakeNet) *Forwarder {
	t.Helper()
	f := faked(t, cfg, nets...)
	run(t, f)
	return f
}

// withFake runs a test of a forwarder with one fake upstream, by a fake clock.
func withFake(t *testing.T, answer answerFunc, test func(t *testing.T, f *Forwarder, u *fakeNet)) {
	synctest.Test(t, func(t *testing.T) {
		u := &fakeNet{answer: answer}
		test(t, newFaked(t, Config{}, u), u)
	})
}

// faked is newFaked without running it.
func faked(t testing.TB, cfg Config, nets ...*fakeNet) *Forwarder {
	t.Helper()
	for i := range nets {
		cfg.Upstreams = append(cfg.Upstreams, Upstream{
			Domain: ".", Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 53),
		})
	}
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range nets {
		f.at(i).net = n
	}
	return f
}

// run runs a forwarder until stop, at the latest at the test's end.
func run(t testing.TB, f *Forwarder) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// slowly does as answer says, after a while.
func slowly(d time.Duration, answer answerFunc) answerFunc {
	return func(ctx context.Context, m *message) (*dns.Msg, error) {
		select {
		case <-time.After(d):
			return answer(ctx, m)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
