package forward

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
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

type dialFunc = func(context.Context) (net.Conn, error)

// peer is an upstream at the other end of a pipe: what it does with each connection.
type peer func(net.Conn)

func (p peer) dial(context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		p(there)
	}()
	return here, nil
}

// answerEach answers the questions of a connection that are wanted.
func answerEach(c net.Conn, wanted func(q *dns.Msg) bool) {
	for {
		q, err := readQuestion(c)
		if err != nil {
			return
		}
		if wanted(q) {
			c.Write(framed(answering(q, "192.0.2.1")))
		}
	}
}

func answerAll(c net.Conn) { answerEach(c, func(*dns.Msg) bool { return true }) }

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
	for name, do := range map[string]peer{
		"says nothing": func(c net.Conn) { io.Copy(io.Discard, c) },
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
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, stop := newPiped(t, Config{TryTimeout: 300 * time.Millisecond, Timeout: 10 * time.Second}, do.dial, peer(answerAll).dial)
				defer time.Sleep(time.Second) // for a peer that is asleep
				defer stop()
				besideHealthy(t, f, 20, 10)
				if f.at(1).isDown() {
					t.Error("the healthy one is down")
				}
				pool := f.at(0).pool
				pool.mu.Lock()
				defer pool.mu.Unlock()
				if n := len(pool.live); n > maxStreams {
					t.Errorf("%d connections to the other", n)
				}
			})
		})
	}
}

// newPiped returns a running forwarder whose connections the functions make.
func newPiped(t *testing.T, cfg Config, dials ...dialFunc) (f *Forwarder, stop func()) {
	t.Helper()
	for i := range dials {
		cfg.Upstreams = append(cfg.Upstreams, Upstream{
			Domain: ".", Addr: netip.MustParseAddrPort("192.0.2.1:853"), TLS: true, Name: fmt.Sprint(i),
		})
	}
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i, dial := range dials {
		f.at(i).pool.dial = dial
	}
	return f, run(t, f)
}

// TestStalledStreams: a peer that takes nothing, and one that answers no handshake, keep
// nobody who has an answer from another.
func TestStalledStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, dial := range []dialFunc{
			peer(func(net.Conn) { <-t.Context().Done() }).dial, // writes to a pipe wait for a reader
			func(ctx context.Context) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			},
		} {
			const forever = 10 * time.Minute
			f, stop := newPiped(t, Config{TryTimeout: forever, Timeout: forever}, dial, peer(answerAll).dial)
			start := time.Now()
			besideHealthy(t, f, 2*streamQueue, 2)
			if took := time.Since(start); took > time.Second {
				t.Errorf("took %s", took)
			}
			stop()
		}
	})
}

// TestRestart: 200 clients at once over one connection to an upstream that is restarted. With
// another beside it nobody goes without; alone, it is used again as soon as it is there.
func TestRestart(t *testing.T) {
	for _, alone := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var asked, opened atomic.Int32
			var gone atomic.Bool
			up := peer(func(c net.Conn) {
				opened.Add(1)
				answerEach(c, func(*dns.Msg) bool {
					if n := asked.Add(1); gone.Load() || n%100 == 0 && n <= 500 {
						c.Close() // what is under way is lost
						return false
					}
					return true
				})
			})
			dials := []dialFunc{func(ctx context.Context) (net.Conn, error) {
				if gone.Load() {
					return nil, syscall.ECONNREFUSED
				}
				return up.dial(ctx)
			}}
			if !alone {
				dials = append(dials, peer(answerAll).dial)
			}
			f, _ := newPiped(t, Config{}, dials...)
			besideHealthy(t, f, 200, 10)
			if n := opened.Load(); n < 2 {
				t.Errorf("%d connections: nothing was restarted", n)
			}
			gone.Store(true)
			if alone {
				for i := range 20 {
					resolve(t.Context(), f, query(fmt.Sprintf("down%d.example", i), dns.TypeA))
					time.Sleep(probeSpacing)
				}
				if !f.at(0).isDown() {
					t.Error("not down")
				}
			} else {
				besideHealthy(t, f, 200, 2)
			}
			gone.Store(false)
			time.Sleep(2 * probeSlowest)
			if f.at(0).isDown() {
				t.Error("not up again")
			}
			besideHealthy(t, f, 200, 2)
		})
	}
}

// TestCertificateExpires: a connection outlives its certificate; the next one is refused, and
// the other upstream has the questions.
func TestCertificateExpires(t *testing.T) {
	t.Parallel()
	end := time.Now().Add(2500 * time.Millisecond).Truncate(time.Second)
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
