package forward

import (
	"cmp"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// scripted is an upstream on real sockets that does as its script says.
type scripted struct {
	addr    netip.AddrPort
	udp     *net.UDPConn
	tcp     net.Listener
	group   sync.WaitGroup
	accepts atomic.Int32
	packets atomic.Int32

	mu    sync.Mutex
	conns map[net.Conn]struct{}

	at string // the address to listen at; by default, any port
	// Both may send any number of messages, or none. onTCP returning false
	// closes the connection. All three are set before start.
	onUDP func(q *dns.Msg, send func(*dns.Msg))
	onTCP func(q *dns.Msg, send func(*dns.Msg)) bool
}

// start opens the sockets. With TLS, only the stream one answers.
func (s *scripted) start(t testing.TB, secure *tls.Config) *scripted {
	t.Helper()
	eventually(t, "listening", func() (ok bool) { // at the same port for both
		var err error
		if s.tcp, err = net.Listen("tcp", cmp.Or(s.at, "127.0.0.1:0")); err != nil {
			return false
		}
		s.addr = s.tcp.Addr().(*net.TCPAddr).AddrPort()
		if s.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(s.addr)); err != nil {
			s.tcp.Close()
		}
		return err == nil
	})
	if secure != nil {
		s.tcp = tls.NewListener(s.tcp, secure)
	}
	s.conns = make(map[net.Conn]struct{})
	s.group.Go(s.serveUDP)
	s.group.Go(s.serveTCP)
	t.Cleanup(s.stop)
	return s
}

func (s *scripted) stop() {
	s.udp.Close()
	s.tcp.Close()
	s.closeConns()
	s.group.Wait()
}

func (s *scripted) closeConns() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

func (s *scripted) serveUDP() {
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, from, err := s.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		s.packets.Add(1)
		q := new(dns.Msg)
		if q.Unpack(buf[:n]) != nil || s.onUDP == nil {
			continue
		}
		s.group.Go(func() {
			s.onUDP(q, func(m *dns.Msg) {
				b, err := m.Pack()
				if err != nil {
					panic(err)
				}
				_, _ = s.udp.WriteToUDPAddrPort(b, from)
			})
		})
	}
}

func (s *scripted) serveTCP() {
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			return
		}
		s.accepts.Add(1)
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.group.Go(func() { s.serveConn(c) })
	}
}

func (s *scripted) serveConn(c net.Conn) {
	var wmu sync.Mutex
	defer c.Close()
	for {
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		q := new(dns.Msg)
		if q.Unpack(b) != nil || s.onTCP == nil {
			return
		}
		s.group.Go(func() {
			if !s.onTCP(q, func(m *dns.Msg) {
				b, err := m.Pack()
				if err != nil {
					panic(err)
				}
				wmu.Lock()
				defer wmu.Unlock()
				_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
			}) {
				c.Close()
			}
		})
	}
}

// answering returns an answer to q with an A record, or as many as asked.
func answering(q *dns.Msg, addrs ...string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	for _, a := range addrs {
		m.Answer = append(m.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
			A:   net.ParseIP(a),
		})
	}
	return m
}

func onTCP(q *dns.Msg, send func(*dns.Msg)) bool {
	send(answering(q, "192.0.2.1"))
	return true
}

func onUDP(q *dns.Msg, send func(*dns.Msg)) { send(answering(q, "192.0.2.1")) }

func truncating(q *dns.Msg, send func(*dns.Msg)) {
	m := answering(q)
	m.Truncated = true
	send(m)
}

// newReal returns a running forwarder to upstreams on sockets. It is patient, lest tests fail
// because the machine is busy.
func newReal(t testing.TB, cfg Config) *Forwarder {
	t.Helper()
	cfg.Timeout, cfg.TryTimeout = cmp.Or(cfg.Timeout, time.Minute), cmp.Or(cfg.TryTimeout, 20*time.Second)
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	run(t, f)
	return f
}

func forwardTo(t testing.TB, s ...*scripted) *Forwarder {
	t.Helper()
	f := newReal(t, Config{})
	var addrs []netip.AddrPort
	for _, s := range s {
		addrs = append(addrs, s.addr)
	}
	update(t, f, addrs...)
	return f
}

// update has f ask other upstreams.
func update(t testing.TB, f *Forwarder, addrs ...netip.AddrPort) {
	t.Helper()
	var ups []Upstream
	for _, a := range addrs {
		ups = append(ups, Upstream{Domain: ".", Addr: a})
	}
	if err := f.Update(ups); err != nil {
		t.Fatal(err)
	}
}

const oneAnswer = "NOERROR; a.example. 60 IN A 192.0.2.1"

// TestQueryUpstream looks at what leaves: EDNS of our own, the flags that are to
// be passed on, an id and a port that differ from query to query.
func TestQueryUpstream(t *testing.T) {
	t.Parallel()
	ids, mu := map[uint16]bool{}, sync.Mutex{}
	s := (&scripted{onUDP: func(q *dns.Msg, send func(*dns.Msg)) {
		mu.Lock()
		ids[q.Id] = true
		mu.Unlock()
		opt := q.IsEdns0()
		want := fmt.Sprintf("do-%v-cd-%v.example.", opt.Do(), q.CheckingDisabled)
		if opt.UDPSize() != 1232 || len(opt.Option) != 0 || !q.RecursionDesired || !q.AuthenticatedData || q.Question[0].Name != want {
			m := new(dns.Msg).SetRcode(q, dns.RcodeFormatError)
			send(m)
			return
		}
		send(answering(q, "192.0.2.1"))
	}}).start(t, nil)
	f := forwardTo(t, s)
	for i := range 4 {
		q := query(fmt.Sprintf("do-%v-cd-%v.example", i&1 != 0, i&2 != 0), dns.TypeA)
		q.DO, q.CD = i&1 != 0, i&2 != 0
		if r := resolve(t.Context(), f, q); r.Rcode != dns.RcodeSuccess {
			t.Errorf("DO %v, CD %v: %v", q.DO, q.CD, r)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ids) < 3 {
		t.Errorf("ids %v", ids)
	}
}

// TestSocketsAreClosed: a query leaves no socket.
func TestSocketsAreClosed(t *testing.T) {
	open := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			skip(t, err.Error())
		}
		return len(list)
	}
	f := forwardTo(t, (&scripted{onUDP: onUDP}).start(t, nil))
	before := open()
	for i := range 50 {
		resolve(t.Context(), f, query(fmt.Sprintf("n%d.example", i), dns.TypeA))
	}
	if n := open() - before; n > 25 {
		t.Errorf("%d more descriptors after 50 queries", n)
	}
}

// TestLyingUpstream: answers to something else are counted and passed over, and the right
// one is still taken.
func TestLyingUpstream(t *testing.T) {
	t.Parallel()
	for name, lie := range map[string]func(m *dns.Msg){
		"id":          func(m *dns.Msg) { m.Id++ },
		"name":        func(m *dns.Msg) { m.Question[0].Name = "b.example." },
		"longer name": func(m *dns.Msg) { m.Question[0].Name = "a.example.org." },
		"type":        func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
		"class":       func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		"query":       func(m *dns.Msg) { m.Response = false },
		"opcode":      func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify },
		"no question": func(m *dns.Msg) { m.Question = nil },
	} {
		t.Run(name, func(t *testing.T) {
			script := func(q *dns.Msg, send func(*dns.Msg)) bool {
				m := answering(q, "203.0.113.66")
				lie(m)
				send(m)
				m = answering(q, "192.0.2.1")
				m.Question[0].Name = "A.eXAMPLE." // case is no difference
				send(m)
				return true
			}
			s := (&scripted{onUDP: func(q *dns.Msg, send func(*dns.Msg)) { script(q, send) }}).start(t, nil)
			f := forwardTo(t, s)
			q := query("a.example", dns.TypeA)
			wantText(t, q, resolve(t.Context(), f, q), "NOERROR; a.example. 60 IN A 192.0.2.1")
			if n := value(f.at(0).metrics.mismatched); n != 1 {
				t.Errorf("%v mismatched", n)
			}

			s = (&scripted{onUDP: truncating, onTCP: script}).start(t, nil)
			f = forwardTo(t, s)
			wantText(t, q, resolve(t.Context(), f, q), "NOERROR; a.example. 60 IN A 192.0.2.1")
			if n := value(f.at(0).metrics.mismatched); n != 1 {
				t.Errorf("%v mismatched over TCP", n)
			}
		})
	}
}

func TestTruncatingUpstream(t *testing.T) {
	t.Parallel()
	addrs := make([]string, 200)
	for i := range addrs {
		addrs[i] = fmt.Sprintf("192.0.2.%d", i)
	}
	for name, udp := range map[string]func(*dns.Msg, func(*dns.Msg)){
		"TC":       truncating,
		"oversize": func(q *dns.Msg, send func(*dns.Msg)) { send(answering(q, addrs...)) },
	} {
		t.Run(name, func(t *testing.T) {
			s := (&scripted{onUDP: udp, onTCP: func(q *dns.Msg, send func(*dns.Msg)) bool {
				send(answering(q, addrs...))
				return true
			}}).start(t, nil)
			f := forwardTo(t, s)
			for i := range 5 {
				q := query(fmt.Sprintf("n%d.example", i), dns.TypeA)
				if m := response(t, q, resolve(t.Context(), f, q), dns.MaxMsgSize); len(m.Answer) != len(addrs) || m.Truncated {
					t.Fatalf("%d records, TC %v", len(m.Answer), m.Truncated)
				}
			}
			if n := s.accepts.Load(); n != 1 {
				t.Errorf("%d connections", n)
			}
			if n := value(f.at(0).metrics.reused); n != 4 {
				t.Errorf("reused %v times", n)
			}
		})
	}
}

// TestLargestOverUDP: an answer of udpSize bytes needs no TCP, and one byte more does.
func TestLargestOverUDP(t *testing.T) {
	t.Parallel()
	for more, streams := range []int32{0, 1} {
		answer := func(q *dns.Msg, send func(*dns.Msg)) {
			m := new(dns.Msg).SetReply(q)
			m.Answer = []dns.RR{&dns.RFC3597{Hdr: dns.RR_Header{Name: "a.example.", Rrtype: 65300, Class: dns.ClassINET, Ttl: 60}}}
			m.Answer[0].(*dns.RFC3597).Rdata = strings.Repeat("00", udpSize-m.Len()+more)
			send(m)
		}
		s := (&scripted{onUDP: answer, onTCP: func(q *dns.Msg, send func(*dns.Msg)) bool { answer(q, send); return true }}).start(t, nil)
		q := query("a.example", 65300)
		if r := resolve(t.Context(), forwardTo(t, s), q); len(r.records) != 1 || s.accepts.Load() != streams {
			t.Errorf("%d bytes: %d records over %d streams", udpSize+more, len(r.records), s.accepts.Load())
		}
	}
}

// TestTruncatedStream: what is cut short even over TCP or TLS goes out with TC
// and is not kept; an upstream that has all of it is preferred.
func TestTruncatedStream(t *testing.T) {
	t.Parallel()
	server, pool := certificate(t, "dns.example")
	q := query("a.example", dns.TypeA)
	for _, c := range []struct {
		name  string
		addrs []string
	}{{"nothing", nil}, {"one of many", []string{"192.0.2.1"}}} {
		cut := &scripted{onUDP: truncating, onTCP: func(q *dns.Msg, send func(*dns.Msg)) bool {
			m := answering(q, c.addrs...)
			m.Truncated = true
			send(m)
			return true
		}}
		check := func(t *testing.T, f *Forwarder) {
			for range 2 {
				m := response(t, q, resolve(t.Context(), f, q), dns.MaxMsgSize)
				if m.Rcode != dns.RcodeSuccess || !m.Truncated || len(m.Answer) != len(c.addrs) {
					t.Errorf("got %v", m)
				}
				if f.Immediate(q) != nil {
					t.Error("a part was kept")
				}
			}
		}
		t.Run(c.name+" over TCP", func(t *testing.T) { check(t, forwardTo(t, cut.start(t, nil))) })
		t.Run(c.name+" while another fails", func(t *testing.T) {
			failing := &scripted{onUDP: func(q *dns.Msg, send func(*dns.Msg)) {
				send(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
			}}
			cut := &scripted{onUDP: cut.onUDP, onTCP: cut.onTCP}
			check(t, forwardTo(t, failing.start(t, nil), cut.start(t, nil)))
		})
		t.Run(c.name+" while another has all", func(t *testing.T) {
			cut := &scripted{onUDP: cut.onUDP, onTCP: cut.onTCP}
			f := forwardTo(t, cut.start(t, nil), (&scripted{onUDP: onUDP}).start(t, nil))
			wantText(t, q, resolve(t.Context(), f, q), oneAnswer)
			if r := f.Immediate(q); r == nil || response(t, q, r, udpSize).Truncated {
				t.Errorf("kept: %v", r)
			}
		})
		t.Run(c.name+" over TLS", func(t *testing.T) {
			s := (&scripted{onTCP: cut.onTCP}).start(t, server)
			check(t, newReal(t, Config{RootCAs: pool, Upstreams: []Upstream{{Domain: ".", Addr: s.addr, TLS: true, Name: "dns.example"}}}))
		})
	}
}

// TestPipelined: many questions share a connection, and answers come in any order.
func TestPipelined(t *testing.T) {
	t.Parallel()
	const n = 20
	var waiting sync.WaitGroup
	waiting.Add(n)
	s := (&scripted{onUDP: truncating, onTCP: func(q *dns.Msg, send func(*dns.Msg)) bool {
		waiting.Done()
		waiting.Wait() // no answer before all have arrived
		send(answering(q, "192.0.2.1"))
		return true
	}}).start(t, nil)
	f := forwardTo(t, s)
	var g sync.WaitGroup
	for i := range n {
		g.Go(func() {
			wantA(t, f, fmt.Sprintf("n%d.example", i), fmt.Sprintf("NOERROR; n%d.example. 60 IN A 192.0.2.1", i))
		})
	}
	g.Wait()
	if n := s.accepts.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestClosingUpstream: one that closes, at whatever moment, costs nobody an answer.
func TestClosingUpstream(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	s := &scripted{onUDP: truncating, onTCP: func(q *dns.Msg, send func(*dns.Msg)) bool {
		if asked.Add(1)%2 == 0 {
			return false // the second question of a connection gets no answer
		}
		send(answering(q, "192.0.2.1"))
		return true
	}}
	s.start(t, nil)
	f := forwardTo(t, s)
	for i := range 6 {
		wantA(t, f, fmt.Sprintf("n%d.example", i), fmt.Sprintf("NOERROR; n%d.example. 60 IN A 192.0.2.1", i))
	}
	if n := value(f.at(0).metrics.requests); n != 6 {
		t.Errorf("%v tries for 6 questions: what is lost with a connection is asked again over a new one", n)
	}
	s.closeConns() // while idle
	wantA(t, f, "idle.example", "NOERROR; idle.example. 60 IN A 192.0.2.1")
}

// TestStreamIDs: an id that was answered may be the next question's before the first
// has been let go.
func TestStreamIDs(t *testing.T) {
	s := &stream{pending: make(map[uint16]*waiter), born: time.Now()}
	first := &waiter{}
	s.register(first)
	second := &waiter{id: first.id}
	s.pending[first.id] = second
	s.release(first)
	if s.pending[second.id] != second {
		t.Error("letting go of one question lost another")
	}
	s.release(second)
	if len(s.pending) != 0 {
		t.Errorf("%d pending", len(s.pending))
	}
}

// TestTCPRefused: what answers over UDP stays up although TCP does not get through.
func TestTCPRefused(t *testing.T) {
	t.Parallel()
	s := (&scripted{onUDP: truncating}).start(t, nil)
	s.tcp.Close()
	f := forwardTo(t, s)
	wantA(t, f, "a.example", "SERVFAIL; EDE 22")
	u := f.at(0)
	u.mu.Lock()
	if u.silent != 0 || len(u.kick) != 0 {
		t.Errorf("%d times silent, though it has answered", u.silent)
	}
	u.mu.Unlock()
	if u.isDown() {
		t.Error("the upstream is down")
	}
}

// TestRecoveringUpstream: down at once when nobody listens, up again by a probe.
func TestRecoveringUpstream(t *testing.T) {
	t.Parallel()
	s := (&scripted{onUDP: onUDP}).start(t, nil)
	f := forwardTo(t, s)
	s.stop()
	wantA(t, f, "a.example", "SERVFAIL; EDE 22")
	if !f.at(0).isDown() {
		t.Fatal("not down")
	}
	(&scripted{at: s.addr.String(), onUDP: onUDP}).start(t, nil)
	eventually(t, "up again", func() bool { return !f.at(0).isDown() })
	wantA(t, f, "b.example", "NOERROR; b.example. 60 IN A 192.0.2.1")
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never %s", what)
		}
	}
}

// TestRoutes: the longest domain wins, and below its own names nothing else is asked.
func TestRoutes(t *testing.T) {
	t.Parallel()
	servers := map[string]*scripted{}
	var ups []Upstream
	for i, domain := range []string{".", "corp.example.", "deep.corp.example."} {
		s := (&scripted{onUDP: func(q *dns.Msg, send func(*dns.Msg)) {
			send(answering(q, fmt.Sprintf("192.0.2.%d", i)))
		}}).start(t, nil)
		servers[domain] = s
		ups = append(ups, Upstream{Domain: domain, Addr: s.addr})
	}
	f := newReal(t, Config{Upstreams: ups})
	for name, want := range map[string]int{
		"www.example.": 0, "example.": 0, "xcorp.example.": 0, "corp.example.": 1, "a.b.corp.example.": 1,
		"deep.corp.example.": 2, "x.deep.corp.example.": 2, "xdeep.corp.example.": 1,
	} {
		wantA(t, f, name, fmt.Sprintf("NOERROR; %s 60 IN A 192.0.2.%d", name, want))
	}
	servers["corp.example."].stop()
	wantA(t, f, "other.corp.example", "SERVFAIL; EDE 22")
}
