package forward

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// The tests here put an upstream that does harm, first choice of all, beside a healthy one,
// and find that nobody goes without an answer.

// besideHealthy has n clients ask rounds questions each of a forwarder to both
// upstreams, and fails for each that is not answered by the healthy one or the other.
func besideHealthy(t *testing.T, f *Forwarder, n, rounds int) {
	t.Helper()
	var clients sync.WaitGroup
	var lost atomic.Int32
	for i := range n {
		clients.Go(func() {
			for j := range rounds {
				q := query(fmt.Sprintf("n%d-%d.example", i, j), dns.TypeA)
				q.Network = network(i)
				if r := resolve(t.Context(), f, q); r.Rcode != dns.RcodeSuccess {
					if lost.Add(1) < 5 {
						t.Errorf("%v", r.EDE)
					}
				}
			}
		})
	}
	clients.Wait()
	if n := lost.Load(); n > 0 {
		t.Errorf("%d lost", n)
	}
}

// harmful is what a stream upstream does with each connection, once it is accepted.
func harmful(t *testing.T, secure *tls.Config, do func(net.Conn)) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			all.Go(func() { do(c); c.Close() })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr()
}

// blocked reads nothing of a connection until it is closed.
type blocked struct{ net.Conn }

func (b blocked) Read([]byte) (int, error) {
	for b.SetReadDeadline(time.Time{}) == nil { // closed, it fails
		time.Sleep(5 * time.Millisecond)
	}
	return 0, io.EOF
}

// readQuestion returns the next question of a stream.
func readQuestion(c net.Conn) (*dns.Msg, error) {
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, err
	}
	q := new(dns.Msg)
	return q, q.Unpack(b)
}

func framed(m *dns.Msg) []byte {
	b := packed(m)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

// TestHarmfulStreams: streams that trickle, flood, stall, lie and end.
func TestHarmfulStreams(t *testing.T) {
	server, pool := certificate(t, "dns.example")
	for name, do := range map[string]func(c net.Conn){
		"takes nothing": func(c net.Conn) {
			c.(*tls.Conn).Handshake()
			_, _ = io.Copy(io.Discard, blocked{c.(*tls.Conn).NetConn()})
		},
		"says nothing": func(c net.Conn) { io.Copy(io.Discard, c) },
		"shakes no hands": func(c net.Conn) {
			io.Copy(io.Discard, c.(*tls.Conn).NetConn())
		},
		"trickles": func(c net.Conn) {
			for {
				q, err := readQuestion(c)
				if err != nil {
					return
				}
				for _, b := range framed(answering(q, "192.0.2.1")) {
					if _, err := c.Write([]byte{b}); err != nil {
						return
					}
					time.Sleep(20 * time.Millisecond)
				}
			}
		},
		"floods": func(c net.Conn) {
			go io.Copy(io.Discard, c)
			m := framed(answering(new(dns.Msg).SetQuestion("n.example.", dns.TypeA), "203.0.113.66"))
			for {
				if _, err := c.Write(m); err != nil {
					return
				}
			}
		},
		"claims 64 KiB": func(c net.Conn) {
			if _, err := readQuestion(c); err == nil {
				c.Write([]byte{0xff, 0xff, 1, 2, 3})
				io.Copy(io.Discard, c)
			}
		},
		"ends": func(c net.Conn) { readQuestion(c) },
		"ends half way": func(c net.Conn) {
			if q, err := readQuestion(c); err == nil {
				b := framed(answering(q, "192.0.2.1"))
				c.Write(b[:len(b)/2])
			}
		},
		"talks nonsense": func(c net.Conn) {
			readQuestion(c)
			c.(*tls.Conn).NetConn().Write([]byte(strings.Repeat("x", 100)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := harmful(t, server, do)
			good := (&scripted{onTCP: onTCP}).start(t, server)
			f := newReal(t, Config{RootCAs: pool, TryTimeout: 300 * time.Millisecond, Timeout: 10 * time.Second, Upstreams: []Upstream{
				{Domain: ".", Addr: bad.(*net.TCPAddr).AddrPort(), TLS: true, Name: "dns.example"},
				{Domain: ".", Addr: good.addr, TLS: true, Name: "dns.example"},
			}})
			besideHealthy(t, f, 20, 10)
			u := f.at(0)
			if up := f.at(1); up.isDown() {
				t.Error("the healthy one is down")
			}
			u.pool.mu.Lock()
			defer u.pool.mu.Unlock()
			if n := len(u.pool.live); n > maxStreams {
				t.Errorf("%d connections to the other", n)
			}
		})
	}
}

// TestStalledWrite: a peer that takes nothing keeps nobody who has an answer from another.
func TestStalledWrite(t *testing.T) {
	good := (&scripted{onTCP: onTCP}).start(t, nil)
	const forever = 10 * time.Minute
	f, err := New(Config{TryTimeout: forever, Timeout: forever, Upstreams: []Upstream{
		{Domain: ".", Addr: good.addr, TLS: true, Name: "stalled"},
		{Domain: ".", Addr: good.addr, TLS: true, Name: "good"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	here, there := net.Pipe() // whose writes wait for a reader
	defer there.Close()
	f.at(0).pool.dial = func(context.Context) (net.Conn, error) { return here, nil }
	f.at(1).pool.dial = func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", good.addr.String())
	}
	run(t, f)
	done := make(chan struct{})
	go func() {
		defer close(done)
		besideHealthy(t, f, 2*streamQueue, 2)
	}()
	select {
	case <-done:
	case <-time.After(forever / 10):
		t.Fatal("questions wait for a peer that takes nothing")
	}
}

// TestRestartOverTLS: 200 clients at once over one connection to an upstream that is restarted
// meanwhile. With another beside it nobody goes without; alone, it is used again
// as soon as it is there.
func TestRestartOverTLS(t *testing.T) {
	server, pool := certificate(t, "dns.example")
	for _, alone := range []bool{false, true} {
		t.Run(fmt.Sprintf("alone %v", alone), func(t *testing.T) {
			var asked atomic.Int32
			s := &scripted{}
			s.onTCP = func(q *dns.Msg, send func(*dns.Msg)) bool {
				if n := asked.Add(1); n%100 == 0 && n <= 500 {
					s.closeConns() // what is under way is lost, and new ones are taken at once
					return false
				}
				return onTCP(q, send)
			}
			s.start(t, server)
			other := (&scripted{onTCP: onTCP}).start(t, server)
			ups := []Upstream{{Domain: ".", Addr: s.addr, TLS: true, Name: "dns.example"}}
			if !alone {
				ups = append(ups, Upstream{Domain: ".", Addr: other.addr, TLS: true, Name: "dns.example"})
			}
			f := newReal(t, Config{RootCAs: pool, Upstreams: ups})
			besideHealthy(t, f, 200, 10)
			if n := s.accepts.Load(); n < 2 {
				t.Errorf("%d connections: nothing was restarted", n)
			}
			s.stop() // and now nobody is there for a while
			if alone {
				for i := range 20 {
					resolve(t.Context(), f, query(fmt.Sprintf("down%d.example", i), dns.TypeA))
				}
			} else {
				besideHealthy(t, f, 200, 2)
			}
			eventually(t, "seen to be down", func() bool {
				resolve(t.Context(), f, query(fmt.Sprintf("n%d.example", time.Now().UnixNano()), dns.TypeA))
				return f.at(0).isDown() || !alone
			})
			l, err := net.Listen("tcp", s.addr.String())
			if err != nil {
				t.Skipf("the port is taken: %v", err)
			}
			again := &scripted{onTCP: onTCP, tcp: tls.NewListener(l, server), conns: make(map[net.Conn]struct{})}
			again.group.Go(again.serveTCP)
			defer again.group.Wait()
			defer again.closeConns()
			defer l.Close()
			if alone {
				eventually(t, "up again", func() bool { return !f.at(0).isDown() })
			}
			besideHealthy(t, f, 200, 2)
		})
	}
}

// TestCertificateExpires: a connection outlives its certificate; the next one is refused, and
// the other upstream has the questions.
func TestCertificateExpires(t *testing.T) {
	end := time.Now().Add(3 * time.Second).Truncate(time.Second)
	server, pool := certificateUntil(t, "dns.example", end)
	good, goodPool := certificate(t, "dns.example")
	s := (&scripted{onTCP: onTCP}).start(t, server)
	other := (&scripted{onTCP: onTCP}).start(t, good)
	f, err := New(Config{Upstreams: []Upstream{
		{Domain: ".", Addr: s.addr, TLS: true, Name: "dns.example"},
		{Domain: ".", Addr: other.addr, TLS: true, Name: "dns.example"},
		{Domain: "alone.example.", Addr: s.addr, TLS: true, Name: "dns.example"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range []*Config{{RootCAs: pool}, {RootCAs: goodPool}} {
		up := Upstream{Addr: []*scripted{s, other}[i].addr, TLS: true, Name: "dns.example"}
		f.at(i).pool.dial = dialer(up, p)
	}
	run(t, f)
	ask := func(name string) *Reply { return resolve(t.Context(), f, query(name, dns.TypeA)) }
	if r := ask("a.alone.example"); r.Rcode != dns.RcodeSuccess {
		t.Fatalf("%v", r)
	}
	time.Sleep(time.Until(end.Add(1100 * time.Millisecond)))
	if r := ask("b.alone.example"); r.Rcode != dns.RcodeSuccess || s.accepts.Load() != 1 {
		t.Errorf("%v over %d connections", r, s.accepts.Load())
	}
	s.closeConns()
	if r := ask("c.alone.example"); r.Rcode != dns.RcodeServerFailure || !strings.Contains(r.EDE[0].Text, "certificate") {
		t.Errorf("over a new connection: %v", r)
	}
	besideHealthy(t, f, 20, 5)
}
