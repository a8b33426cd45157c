package forward

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// certificate returns one for a name, and the pool that trusts it.
func certificate(t testing.TB, name string) (*tls.Config, *x509.CertPool) {
	t.Helper()
	return certificateUntil(t, name, time.Now().Add(time.Hour))
}

func certificateUntil(t testing.TB, name string, end time.Time) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: end,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"dot"}}, pool
}

func TestTLS(t *testing.T) {
	t.Parallel()
	server, pool := certificate(t, "dns.example")
	s := (&scripted{onTCP: onTCP}).start(t, server)
	for _, c := range []struct {
		name string
		pool *x509.CertPool
		want string
	}{
		{"dns.example", pool, oneAnswer},
		{"other.example", pool, "SERVFAIL; EDE 22"},
		{"dns.example", x509.NewCertPool(), "SERVFAIL; EDE 22"},
	} {
		f := newReal(t, Config{RootCAs: c.pool, Upstreams: []Upstream{{Domain: ".", Addr: s.addr, TLS: true, Name: c.name}}})
		q := query("a.example", dns.TypeA)
		r := resolve(t.Context(), f, q)
		wantText(t, q, r, c.want)
		if r.Rcode != dns.RcodeSuccess && !strings.Contains(r.EDE[0].Text, "certificate") {
			t.Errorf("the EDE does not name the reason: %s", r.EDE[0].Text)
		}
	}
	if n := s.packets.Load(); n != 0 {
		t.Errorf("%d packets in the clear", n)
	}
}

// TestShutdown: Run returns while a connection is open, one is being opened to
// somebody who never answers, and questions wait.
func TestShutdown(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 10)
	s := (&scripted{onUDP: truncating, onTCP: func(*dns.Msg, func(*dns.Msg)) bool {
		asked <- struct{}{}
		return true
	}}).start(t, nil)
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	f, err := New(Config{Upstreams: []Upstream{
		{Domain: ".", Addr: s.addr},
		{Domain: "tls.example.", Addr: deaf.Addr().(*net.TCPAddr).AddrPort(), TLS: true, Name: "x"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	var g sync.WaitGroup
	for _, name := range []string{"a.example", "a.tls.example"} {
		g.Go(func() { resolve(ctx, f, query(name, dns.TypeA)) })
	}
	<-asked
	cancel()
	g.Wait()
	stop()
	wantA(t, f, "late.tls.example", "SERVFAIL; EDE 22")
}

// TestStreamAge: connections are not kept for ever, nor is one that fell silent.
func TestStreamAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mute atomic.Bool
		var dials atomic.Int32
		up := peer(func(c net.Conn) {
			dials.Add(1)
			answerEach(c, func(*dns.Msg) bool { return !mute.Load() })
		})
		p := pooled(t, up.dial)
		defer p.close()
		p.timeout = time.Second
		ask := func(want error, connections int32) {
			t.Helper()
			if err := exchangeFor(p, "a.example", time.Second); !errors.Is(err, want) || dials.Load() != connections {
				t.Errorf("%v over %d connections, want %v over %d", err, dials.Load(), want, connections)
			}
		}
		ask(nil, 1)
		for range int(streamMaxAge/streamIdle) * 2 {
			time.Sleep(streamIdle / 2)
			ask(nil, 1)
		}
		time.Sleep(time.Second)
		ask(nil, 2)
		time.Sleep(time.Second)
		mute.Store(true)
		ask(context.DeadlineExceeded, 2)
		mute.Store(false)
		ask(nil, 3)
		time.Sleep(streamIdle)
		synctest.Wait()
		if len(p.live) != 0 {
			t.Errorf("%d idle connections", len(p.live))
		}
	})
}

// pooled returns a pool whose connections dial makes.
func pooled(t *testing.T, dial func(context.Context) (net.Conn, error)) *streams {
	t.Helper()
	var group sync.WaitGroup
	p := &streams{
		dial: dial, timeout: time.Minute, metrics: newMetrics().of("x"), group: &group,
		guard: &guard{log: slog.New(slog.DiscardHandler)}, live: make(map[*stream]struct{}),
	}
	t.Cleanup(func() { p.close(); group.Wait() })
	return p
}

// exchangeFor asks over a pool and waits no longer than that.
func exchangeFor(p *streams, name string, d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	_, err := p.exchange(ctx, newMessage(query(name, dns.TypeA), true))
	return err
}

// TestStreamsAreBounded: whatever an upstream does, it costs so many descriptors.
func TestStreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int32
		p := pooled(t, func(context.Context) (net.Conn, error) {
			dials.Add(1)
			c, _ := net.Pipe()
			return c, nil
		})
		defer p.close()
		for range 3 * maxStreams { // questions that nobody wants to end
			s, _, err := p.take(&waiter{})
			if err != nil {
				if !errors.Is(err, errManyStreams) {
					t.Error(err)
				}
				continue
			}
			s.retired = true
		}
		synctest.Wait()
		if n := dials.Load(); n != maxStreams {
			t.Errorf("%d connections", n)
		}
	})
}

// TestStreamOfADeadName: a name without an answer takes no connection from others that brings
// theirs; nor does one that is not there yet get replaced.
func TestStreamOfADeadName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		up := peer(func(c net.Conn) {
			answerEach(c, func(q *dns.Msg) bool { return q.Question[0].Name != "dead.example." })
		})
		p := pooled(t, func(ctx context.Context) (net.Conn, error) {
			dials++
			time.Sleep(40 * time.Second)
			return up.dial(ctx)
		})
		defer p.close()
		if err := exchangeFor(p, "early.example", 35*time.Second); err == nil {
			t.Error("an answer before there is a connection")
		}
		if err := exchangeFor(p, "a.example", time.Minute); err != nil || dials != 1 {
			t.Errorf("%v, %d connections", err, dials)
		}
		time.Sleep(time.Second)
		var g sync.WaitGroup
		g.Go(func() { exchangeFor(p, "dead.example", time.Minute) })
		time.Sleep(time.Second)
		if err := exchangeFor(p, "b.example", time.Minute); err != nil {
			t.Error(err)
		}
		for range 10 {
			time.Sleep(6 * time.Second)
			if err := exchangeFor(p, "c.example", time.Minute); err != nil || dials != 1 {
				t.Errorf("%v, %d connections", err, dials)
			}
		}
		g.Wait()
		if err := exchangeFor(p, "d.example", time.Minute); err != nil || dials != 1 {
			t.Errorf("%v, %d connections", err, dials)
		}
	})
}

// TestUnwantedIsNotSent: what nobody waits for any more when its turn comes is not written.
func TestUnwantedIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		p := pooled(t, func(context.Context) (net.Conn, error) { return here, nil })
		defer p.close()
		var g sync.WaitGroup
		for _, name := range []string{"first", "second", "third"} {
			d := 5 * time.Second
			if name == "second" {
				d = time.Second
			}
			g.Go(func() { exchangeFor(p, name, d) })
			synctest.Wait()
		}
		time.Sleep(2 * time.Second) // the second has gone, and the first is still being written
		for _, want := range []string{"first.", "third."} {
			if q, err := readQuestion(there); err != nil || q.Question[0].Name != want {
				t.Errorf("%v, %v; want %s", q, err, want)
			}
		}
		g.Wait()
	})
}

// TestStraysAreBounded: an upstream that sends what nobody asked for loses the connection.
func TestStraysAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		p := pooled(t, func(context.Context) (net.Conn, error) { return here, nil })
		defer p.close()
		go io.Copy(io.Discard, there)
		var sent int
		go func() {
			m := framed(answering(new(dns.Msg).SetQuestion("n.example.", dns.TypeA), "203.0.113.66"))
			for {
				if _, err := there.Write(m); err != nil {
					return
				}
				sent++
			}
		}()
		if err := exchangeFor(p, "a.example", time.Minute); !errors.Is(err, errStrays) {
			t.Error(err)
		}
		synctest.Wait()
		if sent > streamMaxStray+3 || sent < streamMaxStray {
			t.Errorf("%d were read", sent)
		}
		there.Close()
	})
}

// TestLateAnswersAreNoStrays: an upstream may answer each question, however late.
func TestLateAnswersAreNoStrays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		dials := 0
		p := pooled(t, func(context.Context) (net.Conn, error) { dials++; return here, nil })
		defer p.close()
		go func() {
			for {
				q, err := readQuestion(there)
				if err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
				there.Write(framed(answering(q, "203.0.113.66")))
			}
		}()
		for range 2 * streamMaxStray {
			if err := exchangeFor(p, "late.example", 10*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if err := exchangeFor(p, "a.example", time.Minute); err != nil || dials != 1 {
			t.Errorf("%v, %d connections", err, dials)
		}
		there.Close()
	})
}

// TestClosedWhileOpening: a connection that comes after its pool was closed is closed, too.
func TestClosedWhileOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := peer(answerAll)
		p := pooled(t, func(ctx context.Context) (net.Conn, error) {
			time.Sleep(2 * time.Second)
			if ctx.Err() == nil {
				t.Error("closing does not end what opens a connection")
			}
			return up.dial(ctx)
		})
		exchangeFor(p, "a.example", time.Second)
		p.close()
		start := time.Now()
		p.group.Wait()
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %s", took)
		}
		if err := exchangeFor(p, "a.example", time.Second); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

// lingering is a connection whose writes end only when the test says so.
type lingering struct {
	net.Conn
	end chan struct{}
}

func (c lingering) Write([]byte) (int, error) {
	<-c.end
	return 0, net.ErrClosed
}

// TestWriterIsWaitedFor: nothing of a connection is left when Run returns.
func TestWriterIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		end := make(chan struct{})
		f, stop := newPiped(t, Config{}, func(context.Context) (net.Conn, error) { return lingering{here, end}, nil })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		resolve(ctx, f, query("a.example", dns.TypeA))
		gone := false
		go func() {
			stop()
			gone = true
		}()
		synctest.Wait()
		if gone {
			t.Error("the writer is left over")
		}
		close(end)
		there.Close()
		synctest.Wait()
		if !gone {
			t.Error("the connection has not ended")
		}
	})
}
