package resolver

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// askFrom sends a question from one address to another over a connected socket,
// which takes responses from no other address than the one that was asked.
func askFrom(t *testing.T, c net.Conn, proto Proto, name string, typ uint16) *dns.Msg {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	send(t, proto, c, query(t, name, typ, edns(1232)))
	resp, err := receive(proto, c)
	if err != nil {
		t.Errorf("%s asks %s: %v", c.LocalAddr(), c.RemoteAddr(), err)
		return nil
	}
	return unpack(t, resp)
}

func TestWildcardAnswersFromTheAddressAsked(t *testing.T) {
	for listen, asked := range map[string][]string{
		"0.0.0.0:0": {"127.0.0.1", "127.0.0.2", "127.8.9.10"},
		"[::]:0":    {"::1", "127.0.0.1", "127.0.0.2"},
	} {
		_, addr, _ := start(t, func(c *Config) { c.Listen = []netip.AddrPort{netip.MustParseAddrPort(listen)} })
		for _, a := range asked {
			for _, proto := range []Proto{UDP, TCP} {
				c := dial(t, proto, netip.AddrPortFrom(netip.MustParseAddr(a), addr.Port()))
				defer c.Close()
				if m := askFrom(t, c, proto, "my-app.internal.", dns.TypeAAAA); m == nil || len(m.Answer) != 3 {
					t.Errorf("%s asked at %s: %v", listen, a, m)
				}
			}
		}
	}
}

// TestDeferredAnswerFromTheAddressAsked: what is asked at another address
// meanwhile does not change where an answer comes from.
func TestDeferredAnswerFromTheAddressAsked(t *testing.T) {
	for _, listen := range []string{"0.0.0.0:0", "[::]:0"} {
		g := newGate(t)
		_, addr, _ := start(t, listenOn(listen), func(c *Config) { c.Forward, c.Sockets = g, 1 })
		c := dial(t, UDP, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), addr.Port()))
		defer c.Close()
		send(t, UDP, c, query(t, "waiting01.", dns.TypeA))
		eventually(t, "the question is waiting", func() bool { return g.waiting.Load() == 1 })
		for _, other := range []string{"127.0.0.1", "127.8.9.10"} {
			ask(t, UDP, netip.AddrPortFrom(netip.MustParseAddr(other), addr.Port()), query(t, "my-app.internal.", dns.TypeAAAA))
		}
		close(g.open)
		if resp, err := receive(UDP, c); err != nil || len(unpack(t, resp).Answer) != 1 {
			t.Errorf("asked at %s, the response is %x, %v", listen, resp, err)
		}
	}
}

// TestNetworkOfItsOwn serves real private addresses: those of two networks, the
// server's in each of them, and a stranger's.
func TestNetworkOfItsOwn(t *testing.T) {
	const a, b, strange = "fdaa:0:18:1::2", "fdaa:0:99:1::2", "2001:db8::1"
	servers := []string{"fdaa::3", "fdaa:0:18::3", "fdaa:0:99::3"}
	r := newResolver(t, func(c *Config) {
		c.Listen = []netip.AddrPort{netip.MustParseAddrPort("[::]:53")}
		c.Sockets = 3
	})
	r.strangerTime = patience             // they are asked one after the other
	conns := make(map[string][2]net.Conn) // from>to, by protocol
	var problem error
	elsewhere(t, []string{a + "/128", b + "/128", strange + "/128", "fdaa::3/128", "fdaa:0:18::3/128", "fdaa:0:99::3/128", "192.0.2.1/32"}, func() {
		if problem = r.Listen(); problem != nil {
			return
		}
		for _, from := range []string{a, b, strange, "192.0.2.1"} {
			for _, to := range append(servers, "127.0.0.9") {
				if strings.Contains(from, ":") != strings.Contains(to, ":") {
					continue
				}
				uc, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0)),
					net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(to), 53)))
				problem = errors.Join(problem, err)
				tc, err := net.DialTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0)),
					net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(to), 53)))
				problem = errors.Join(problem, err)
				conns[from+">"+to] = [2]net.Conn{uc, tc}
			}
		}
	})
	if problem != nil {
		t.Fatal(problem)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	for way, pair := range conns {
		for proto, c := range pair {
			from, _, _ := strings.Cut(way, ">")
			m := askFrom(t, c, Proto(proto), "echo.internal.", dns.TypeTXT)
			if m == nil {
				continue
			}
			if !strings.HasPrefix(from, "fdaa:") {
				if m.Rcode != dns.RcodeRefused {
					t.Errorf("%s: response is\n%v\nwant REFUSED", way, m)
				}
				if Proto(proto) == TCP {
					if _, err := receive(TCP, c); !errors.Is(err, io.EOF) {
						t.Errorf("%s: the connection goes on: %v", way, err)
					}
				}
			} else if len(m.Answer) != 1 || m.Answer[0].(*dns.TXT).Txt[0] != from {
				t.Errorf("%s: response is\n%v\nwant %s", way, m, from)
			}
			c.Close()
		}
	}
	cancel()
	running.Wait()
}

// scriptedConn reads what its script says, one packet or error after the other,
// and then nothing until it is stopped. It cannot send.
type scriptedConn struct {
	script func(read int) error // of the read-th read; nil: a packet; errWait: nothing more
	packet []byte
	reads  int
	sent   int
	stop   chan struct{}
}

var errWait = errors.New("wait")

func (c *scriptedConn) ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, from netip.AddrPort, err error) {
	c.reads++
	switch err := c.script(c.reads); err {
	case nil:
		return copy(b, c.packet), 0, 0, loopback, nil
	case errWait:
		<-c.stop
		return 0, 0, 0, netip.AddrPort{}, os.ErrDeadlineExceeded
	default:
		return 0, 0, 0, netip.AddrPort{}, err
	}
}

func (c *scriptedConn) WriteMsgUDPAddrPort(b, oob []byte, to netip.AddrPort) (n, oobn int, err error) {
	c.sent++
	return 0, 0, syscall.EPERM
}

func (c *scriptedConn) SetReadDeadline(time.Time) error {
	close(c.stop)
	return nil
}

func (c *scriptedConn) Close() error { return nil }

func serveScript(t *testing.T, script func(read int) error) (c *scriptedConn, s *socket, done chan error) {
	r := newResolver(t)
	c = &scriptedConn{script: script, packet: query(t, "my-app.internal.", dns.TypeAAAA), stop: make(chan struct{})}
	s = newSocket(r, c, newLanes(nil, nil, 0, r.log), newAside(nil, r.log), new(stats), r.log)
	done = make(chan error, 1)
	go func() { done <- s.serve(t.Context()) }()
	return c, s, done
}

// TestPassingErrors: errors that pass are waited out, however many there are in
// all; responses that cannot be sent are counted and no more.
func TestPassingErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rounds = 3 * maxTrouble
		start, took := time.Now(), time.Duration(0)
		_, s, done := serveScript(t, func(read int) error {
			switch {
			case read > 4*rounds:
				took = time.Since(start)
				return errWait
			case read%4 == 0:
				return nil
			}
			return syscall.ENOMEM
		})
		time.Sleep(time.Hour)
		s.stop()
		if err := <-done; err != nil {
			t.Errorf("serve ended with %v", err)
		}
		if want := rounds * (1 + 2 + 4) * firstPause; took != want {
			t.Errorf("they took %v, want %v: each series begins with a short pause", took, want)
		}
		if reads, writes := s.stats.readErrs.Load(), s.stats.writeErrs.Load(); reads != 3*rounds || writes != rounds {
			t.Errorf("%d read and %d write errors counted, want %d and %d", reads, writes, 3*rounds, rounds)
		}
	})
}

// TestLastingErrors: errors that do not pass end the loop with them, and no
// time is spent on them until then.
func TestLastingErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c, _, done := serveScript(t, func(read int) error {
			if read == 1 {
				return nil
			}
			return syscall.ENOMEM
		})
		err := <-done
		want := time.Duration(0)
		for pause := firstPause; pause < lastPause; pause *= 2 {
			want += pause
		}
		want += 10 * lastPause // those that are left of maxTrouble
		if took := time.Since(start); !errors.Is(err, syscall.ENOMEM) || took != want || c.reads != 2+maxTrouble {
			t.Errorf("serve ended after %v and %d reads with %v, want %v, %d and the error", took, c.reads, err, want, 2+maxTrouble)
		}
	})
}

// TestDeadReaderIsLoud: a socket or listener that breaks ends Run with an error.
func TestDeadReaderIsLoud(t *testing.T) {
	for name, kill := range map[string]func(*Resolver){
		"udp": func(r *Resolver) { r.sockets[1].conn.Close() },
		"tcp": func(r *Resolver) { r.acceptors[0].listener.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newResolver(t)
			if err := r.Listen(); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- r.Run(context.Background()) }()
			ask(t, UDP, r.Addresses()[0], query(t, "my-app.internal.", dns.TypeAAAA))
			kill(r)
			select {
			case err := <-done:
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("Run returns %v", err)
				}
			case <-time.After(patience):
				t.Error("Run goes on without a reader")
			}
		})
	}
}

func TestLongRequest(t *testing.T) {
	_, addr, _ := start(t)
	for _, proto := range []Proto{UDP, TCP} {
		req := append(query(t, "my-app.internal.", dns.TypeAAAA), make([]byte, 60_000)...)
		if m := unpack(t, ask(t, proto, addr, req)); m.Rcode != dns.RcodeFormatError {
			t.Errorf("60,000 bytes behind the question: %v, want FORMERR", m)
		}
	}
}
