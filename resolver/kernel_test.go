package resolver

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"dnsd/resolver/fastpath"
	"dnsd/resolver/forward"
	"dnsd/resolver/internal/wire"
)

// fakeKernel notes what it is given.
type fakeKernel struct {
	closed bool
	onRead func() // called when a generation is read
	full   bool
	given  []*fastpath.Answer
	counts [fastpath.Counters]uint64
}

func (k *fakeKernel) Generation(network netip.Prefix, app string) (fastpath.Generation, bool) {
	if k.onRead != nil {
		k.onRead()
	}
	return fastpath.Generation{}, !k.closed
}

func (k *fakeKernel) Put(a *fastpath.Answer) bool {
	if k.full {
		return false
	}
	k.given = append(k.given, a)
	return true
}

func (k *fakeKernel) Answered() [fastpath.Counters]uint64 { return k.counts }

// kernelWorker returns a worker whose zone's answers are z's, and the kernel.
func kernelWorker(t *testing.T, z Zone, change ...func(*Config)) (*worker, *fakeKernel) {
	t.Helper()
	k := &fakeKernel{}
	cfg := Config{Zones: []Zone{z}, Viewer: everyone{}, Kernel: k}
	for _, f := range change {
		f(&cfg)
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return keeping(r), k
}

var (
	inNetwork = netip.MustParseAddrPort("[fdaa:0:18::1]:4000")
	appData   = &Answer{Type: dns.TypeAAAA, TTL: 5, Data: addresses(3), Turns: []int{3}, App: "my-app"}
)

// The kernel is given what is asked again and may be given to all clients of the network,
// once.
func TestWhatTheKernelIsGiven(t *testing.T) {
	with := func(change func(*Answer)) *Answer { a := *appData; change(&a); return &a }
	for _, c := range []struct {
		name   string
		answer *Answer
		from   netip.AddrPort
		kernel func(*fakeKernel)
		asked  int
		given  int
	}{
		{name: "asked_once", answer: appData, asked: 1},
		{name: "asked_again", answer: appData, asked: 2, given: 1},
		{name: "asked_often", answer: appData, asked: 9, given: 1},
		{name: "NODATA", answer: &Answer{SOA: &SOA{TTL: 5, Data: make([]byte, 30)}, App: "my-app"}, asked: 3, given: 1},
		{name: "no_app", answer: with(func(a *Answer) { a.App = "" }), asked: 3},
		{name: "not_kept", answer: with(func(a *Answer) { a.NoStore = true }), asked: 3},
		{name: "NXDOMAIN", answer: &Answer{Rcode: dns.RcodeNameError, SOA: &SOA{Data: make([]byte, 30)}, App: "my-app"}, asked: 3},
		{name: "limited", answer: with(func(a *Answer) { a.Limit = 1 }), asked: 3},
		{name: "several_runs", answer: with(func(a *Answer) { a.Turns = []int{1, 2} }), asked: 3},
		{name: "incomplete", answer: with(func(a *Answer) { a.Partial = &Partial{} }), asked: 3},
		{name: "client_of_no_network", answer: appData, from: loopback, asked: 3},
		{name: "client_of_another_network", answer: appData, from: netip.MustParseAddrPort("[fdaa:0:19::1]:4000"), asked: 3},
		{name: "while_it_changes", answer: appData, kernel: func(k *fakeKernel) { k.closed = true }, asked: 3},
		{name: "full", answer: appData, kernel: func(k *fakeKernel) { k.full = true }, asked: 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			z := &changingZone{}
			z.change(c.answer)
			w, k := kernelWorker(t, z)
			if c.kernel != nil {
				c.kernel(k)
			}
			from := c.from
			if !from.IsValid() {
				from = inNetwork
			}
			for range c.asked {
				w.respond(query(t, "my-app.internal.", dns.TypeAAAA), from, make([]byte, 0, DefaultMaxUDPSize))
			}
			if len(k.given) != c.given {
				t.Errorf("the kernel is given %d answers, want %d", len(k.given), c.given)
			}
			if k.full = false; c.name == "full" {
				w.respond(query(t, "my-app.internal.", dns.TypeAAAA), from, make([]byte, 0, DefaultMaxUDPSize))
				if len(k.given) != 1 {
					t.Error("what was not taken is not offered again")
				}
			}
		})
	}
}

// An answer that changes between the look at its generation and the next is not given: it
// would hold for that generation, which is the one after the change.
func TestChannelsAreLookedAtAfterTheGeneration(t *testing.T) {
	z := &changingZone{}
	z.change(appData)
	w, k := kernelWorker(t, z)
	k.onRead = func() { k.onRead = nil; z.change(appData) }
	req := query(t, "my-app.internal.", dns.TypeAAAA)
	for range 2 {
		w.respond(req, inNetwork, make([]byte, 0, DefaultMaxUDPSize))
	}
	if len(k.given) != 0 {
		t.Error("the kernel is given an answer that has ended")
	}
}

// What the kernel is given is what replay writes.
func TestKernelAnswers(t *testing.T) {
	for _, c := range []struct {
		name    string
		answer  *Answer
		forward bool
	}{
		{"addresses", appData, true},
		{"one_text", &Answer{Type: dns.TypeTXT, TTL: 7, Data: [][]byte{{3, 'a', 'b', 'c'}}, App: "my-app"}, false},
		{"nodata", &Answer{SOA: &SOA{TTL: 5, Data: make([]byte, 30)}, EDE: []EDE{{Code: 3, Text: "old"}, {Code: 0, Text: "why"}}, App: "my-app"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			z := &changingZone{}
			z.change(c.answer)
			w, k := kernelWorker(t, z, func(cfg *Config) {
				if c.forward {
					cfg.Forward = &fakeForwarder{immediate: func(*forward.Query) *forward.Reply { return nil }}
				}
			})
			req := query(t, "mY-aPP.internal.", dns.TypeTXT, edns(4096))
			var resp []byte
			for range 2 {
				resp = first(w.respond(req, inNetwork, make([]byte, 0, DefaultMaxUDPSize)))
			}
			if len(k.given) != 1 {
				t.Fatalf("the kernel is given %d answers", len(k.given))
			}
			a := k.given[0]
			got := append([]byte(nil), resp[:wire.HeaderLen]...)
			binary.BigEndian.PutUint16(got[2:], a.Flags|wire.RD)
			binary.BigEndian.PutUint16(got[6:], a.Answers)
			binary.BigEndian.PutUint16(got[8:], a.Authority)
			question := w.req.Question
			got = append(append(append(got, question...), a.Records...), a.OPT...)
			if !sameButForTurns(got, resp) {
				t.Errorf("the kernel answers\n%x, the socket\n%x", got, resp)
			}
			if !bytes.Equal(a.Name, []byte("\x06my-app\x08internal\x00")) || a.Type != dns.TypeTXT || a.Network != netip.MustParsePrefix("fdaa:0:18::/48") || typeNames[a.Counter] != "TXT" {
				t.Errorf("the question is %q, type %d, network %s, counter %d", a.Name, a.Type, a.Network, a.Counter)
			}
			if turns := len(c.answer.Turns) > 0; (a.TurnLen > 0) != turns {
				t.Errorf("turns of %d bytes", a.TurnLen)
			}
		})
	}
}

// Requests and responses that the kernel has answered are counted with the others.
func TestKernelIsCounted(t *testing.T) {
	z := &changingZone{}
	z.change(appData)
	w, k := kernelWorker(t, z)
	k.counts[typeSlot(dns.TypeAAAA)], k.counts[typeSlot(dns.TypeTXT)] = 5, 2
	for _, c := range []struct {
		name, label, value, proto string
		want                      float64
	}{
		{"dnsd_requests_total", "type", "AAAA", "udp", 5},
		{"dnsd_requests_total", "type", "TXT", "udp", 2},
		{"dnsd_requests_total", "type", "AAAA", "tcp", 0},
		{"dnsd_responses_total", "rcode", "NOERROR", "udp", 7},
		{"dnsd_responses_total", "rcode", "NXDOMAIN", "udp", 0},
		{"dnsd_responses_total", "rcode", "NOERROR", "tcp", 0},
	} {
		if got := gathered(t, w.r, c.name, c.label, c.value, "proto", c.proto); got != c.want {
			t.Errorf("%s{%s=%q,proto=%q} is %v, want %v", c.name, c.label, c.value, c.proto, got, c.want)
		}
	}
}

// With a kernel that has the answer already, a kept answer costs no memory more.
func TestOfferedAnswersCostNothing(t *testing.T) {
	z := &changingZone{}
	z.change(appData)
	w, _ := kernelWorker(t, z)
	req, out := query(t, "my-app.internal.", dns.TypeAAAA), make([]byte, 0, DefaultMaxUDPSize)
	for range 2 {
		w.respond(req, inNetwork, out)
	}
	if n := testing.AllocsPerRun(100, func() { w.respond(req, inNetwork, out) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
