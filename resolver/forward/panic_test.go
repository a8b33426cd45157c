package forward

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// TestPanicsAreSurvived: wherever reading what an upstream sent panics, it costs what was
// being done, is counted, and the next question is answered.
func TestPanicsAreSurvived(t *testing.T) {
	// An upstream that panics where the test says so.
	panics := func(when func(m *message) bool, otherwise answerFunc) answerFunc {
		return func(ctx context.Context, m *message) (*dns.Msg, error) {
			if when(m) {
				panic("what the upstream sent")
			}
			return otherwise(ctx, m)
		}
	}
	always := func(*message) bool { return true }
	isProbe := func(m *message) bool { return len(m.name) == 1 }
	isLoopProbe := func(m *message) bool { return m.name[0] == probeLabel }
	ask := func(t *testing.T, f *Forwarder, name, want string) {
		t.Helper()
		wantA(t, f, name, want)
	}
	good := after(time.Millisecond, "192.0.2.1")
	for _, c := range []struct {
		name string
		do   func(t *testing.T, f *Forwarder, nets []*fakeNet)
	}{
		{"try", func(t *testing.T, f *Forwarder, nets []*fakeNet) {
			nets[0].set(panics(always, nil))
			ask(t, f, "a.example", "NOERROR; a.example. 60 IN A 192.0.2.1") // from the other
			nets[1].set(panics(always, nil))
			ask(t, f, "b.example", "SERVFAIL; EDE 0")
		}},
		{"renewal", func(t *testing.T, f *Forwarder, nets []*fakeNet) {
			ask(t, f, "a.example", "NOERROR; a.example. 60 IN A 192.0.2.1")
			time.Sleep(55 * time.Second)
			for _, n := range nets {
				n.set(panics(always, nil))
			}
			ask(t, f, "a.example", "NOERROR; a.example. 5 IN A 192.0.2.1")
			synctest.Wait()
		}},
		{"behind a stale answer", func(t *testing.T, f *Forwarder, nets []*fakeNet) {
			ask(t, f, "a.example", "NOERROR; a.example. 60 IN A 192.0.2.1")
			time.Sleep(2 * time.Minute)
			for _, n := range nets {
				n.set(panics(always, nil))
			}
			ask(t, f, "a.example", "NOERROR; a.example. 30 IN A 192.0.2.1; EDE 3")
		}},
		{"prober", func(t *testing.T, f *Forwarder, nets []*fakeNet) {
			nets[0].set(panics(isProbe, good))
			f.at(0).suspect()
			synctest.Wait()
			f.at(0).down(errRefused) // and it goes on: see below
			f.at(0).suspect()
			time.Sleep(probeSlowest)
			nets[0].set(good)
			time.Sleep(2 * probeSlowest)
			if f.at(0).isDown() {
				t.Error("nobody probes any more")
			}
		}},
		{"loop probe", func(t *testing.T, f *Forwarder, nets []*fakeNet) {
			for _, n := range nets {
				n.set(panics(isLoopProbe, after(time.Second, "192.0.2.1")))
			}
			again := make(chan struct{})
			go func() {
				defer close(again)
				ask(t, f, "a.example", "NOERROR; a.example. 60 IN A 192.0.2.1")
			}()
			ask(t, f, "a.example", "NOERROR; a.example. 60 IN A 192.0.2.1")
			<-again
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.probes.waiting != 0 {
				t.Errorf("%d loop probes wait", f.probes.waiting)
			}
		}},
		{"sample", func(t *testing.T, f *Forwarder, nets []*fakeNet) {
			nets[1].set(after(100*time.Millisecond, "192.0.2.1"))
			ask(t, f, "a.example", "NOERROR; a.example. 60 IN A 192.0.2.1")
			ask(t, f, "b.example", "NOERROR; b.example. 60 IN A 192.0.2.1")
			nets[1].set(panics(always, nil))
			time.Sleep(sampleEvery)
			ask(t, f, "c.example", "NOERROR; c.example. 60 IN A 192.0.2.1")
			synctest.Wait()
			time.Sleep(sampleEvery)
			ask(t, f, "d.example", "NOERROR; d.example. 60 IN A 192.0.2.1")
			synctest.Wait()
			if n := f.Panics(); n != 2 { // it is sampled again
				t.Errorf("%d panics", n)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nets := []*fakeNet{{answer: good}, {answer: good}}
				f := newFaked(t, Config{}, nets...)
				c.do(t, f, nets)
				if f.Panics() == 0 {
					t.Error("no panic was counted")
				}
				for _, n := range nets {
					n.set(good)
				}
				time.Sleep(2 * probeSlowest)
				ask(t, f, "last.example", "NOERROR; last.example. 60 IN A 192.0.2.1")
				wantIdle(t, f)
			})
		})
	}
}

// panickyConn panics where the test says so.
type panickyConn struct {
	net.Conn
	read, write bool
}

func (c panickyConn) Read(b []byte) (int, error) {
	if c.read {
		panic("while reading")
	}
	return c.Conn.Read(b)
}

func (c panickyConn) Write(b []byte) (int, error) {
	if c.write {
		panic("while writing")
	}
	return c.Conn.Write(b)
}

// TestPanicsOfConnections: they cost the connection, and those who wait for it know at once.
func TestPanicsOfConnections(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"dial", "read", "write"} {
		t.Run(at, func(t *testing.T) {
			s := (&scripted{onUDP: truncating, onTCP: onTCP}).start(t, nil)
			f := newReal(t, Config{Timeout: time.Minute, TryTimeout: 30 * time.Second, Upstreams: []Upstream{{Domain: ".", Addr: s.addr}}})
			pool := f.at(0).pool
			dial := pool.dial
			var failed atomic.Int32
			pool.dial = func(ctx context.Context) (net.Conn, error) {
				if failed.Add(1) > maxTries {
					return dial(ctx)
				}
				if at == "dial" {
					panic("while dialing")
				}
				c, err := dial(ctx)
				return panickyConn{c, at == "read", at == "write"}, err
			}
			start := time.Now()
			wantA(t, f, "a.example", "SERVFAIL; EDE 0")
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %s", took)
			}
			eventually(t, "the panic is counted", func() bool { return f.Panics() > 0 })
			eventually(t, "answered over a new connection", func() bool {
				q := query(fmt.Sprintf("n%d.example", failed.Load()), dns.TypeA)
				return resolve(t.Context(), f, q).Rcode == dns.RcodeSuccess
			})
		})
	}
}

// TestPanicsAreLogged: with where it was, and ever more seldom.
func TestPanicsAreLogged(t *testing.T) {
	var log lockedBuffer
	g := &guard{log: slog.New(slog.NewTextHandler(&log, nil))}
	for range 100 {
		g.run("reading", func() { panic("the same") })
	}
	if n := strings.Count(log.String(), "level=ERROR"); g.panics.Load() != 100 || n != 7 {
		t.Errorf("%d panics, %d of them logged", g.panics.Load(), n)
	}
	if !strings.Contains(log.String(), "TestPanicsAreLogged") || !strings.Contains(log.String(), "doing=reading") {
		t.Errorf("the log does not say where: %s", log.String())
	}
}
