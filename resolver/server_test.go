package resolver

import (
	"context"
	"encoding/binary"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// TestDrain: what is in hand when the server stops is answered, and nobody is
// waited for longer than that.
func TestDrain(t *testing.T) {
	for proto, name := range []string{UDP: "udp", TCP: "tcp"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate(t)
			_, addr, stop := start(t, func(c *Config) { c.Forward, c.Drain, c.TCPIdle = g, patience, time.Hour })
			idle := dial(t, TCP, addr)
			defer idle.Close()
			c := dial(t, Proto(proto), addr)
			defer c.Close()
			send(t, Proto(proto), c, query(t, "waiting01.", dns.TypeA, withID(77)))
			eventually(t, "the question is waiting", func() bool { return g.waiting.Load() == 1 })
			var stopped sync.WaitGroup
			stopped.Go(stop)
			if !closed(t, idle) {
				t.Error("the idle connection is not closed")
			}
			close(g.open)
			resp, err := receive(Proto(proto), c)
			if err != nil || binary.BigEndian.Uint16(resp) != 77 {
				t.Errorf("response %x, %v, want the one in hand", resp, err)
			}
			stopped.Wait()
		})
	}
}

func TestTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		var fails trouble
		for n := range maxTrouble {
			if !fails.wait(ctx) {
				t.Fatalf("it gives up after %d failures", n)
			}
		}
		if fails.wait(ctx) || time.Since(began) < 10*time.Second || time.Since(began) > 20*time.Second {
			t.Errorf("after %d failures %s have passed, or it goes on", maxTrouble, time.Since(began))
		}
		cancel()
		if fails = 0; fails.wait(ctx) {
			t.Error("it goes on after the context has ended")
		}
	})
}

func TestDrainEnds(t *testing.T) {
	g := newGate(t) // never opened
	r, addr, stop := start(t, func(c *Config) { c.Forward, c.Drain = g, time.Hour })
	for _, proto := range []Proto{UDP, TCP} {
		c := dial(t, proto, addr)
		defer c.Close()
		send(t, proto, c, query(t, "waiting01.", dns.TypeA))
	}
	eventually(t, "both questions are waiting", func() bool { return g.waiting.Load() == 2 })
	r.DrainFor(10 * time.Millisecond)
	stop()
}

// TestDrainEndsUnread: a client that does not read its responses keeps nobody.
func TestDrainEndsUnread(t *testing.T) {
	r := newResolver(t, func(c *Config) { c.Drain = 10 * time.Millisecond })
	r.messageTime = time.Hour
	addr, stop := serve(t, r)
	c := dial(t, TCP, addr)
	defer c.Close()
	for range 200 { // 12 MB of answers: more than both ends' buffers
		send(t, TCP, c, query(t, "huge.internal.", dns.TypeAAAA))
	}
	var last int64
	eventually(t, "a response waits for the client", func() (waits bool) {
		r.conns.mu.Lock()
		defer r.conns.mu.Unlock()
		for c := range r.conns.open {
			since, idle := c.idle()
			waits, last = !idle && since == last, since
		}
		return waits
	})
	stop()
}

// TestDrainAnswersWhatWasReceived: questions that dnsd has not read yet when it is
// stopped, but its sockets have received, are answered as well.
func TestDrainAnswersWhatWasReceived(t *testing.T) {
	const questions = 60
	for proto, name := range []string{UDP: "udp", TCP: "tcp"} {
		t.Run(name, func(t *testing.T) {
			entered, open := make(chan struct{}, questions), make(chan struct{})
			zone := internalZone()
			zone.answers["gate"] = func(*Question) *Answer {
				entered <- struct{}{}
				<-open
				return &Answer{NoStore: true}
			}
			r, addr, stop := start(t, func(c *Config) { c.Zones, c.Sockets, c.Drain = []Zone{zone}, 1, patience })
			c := dial(t, Proto(proto), addr)
			defer c.Close()
			send(t, Proto(proto), c, query(t, "gate.internal.", dns.TypeAAAA, withID(0)))
			<-entered // it is being answered, and the others wait behind it
			for i := 1; i < questions; i++ {
				send(t, Proto(proto), c, query(t, "gate.internal.", dns.TypeAAAA, withID(uint16(i))))
			}
			var stopped sync.WaitGroup
			stopped.Go(stop)
			eventually(t, "it is stopping", func() bool { return r.sockets[0].stopping.Load() })
			close(open)
			answered := make(map[uint16]bool)
			for len(answered) < questions {
				resp, err := receive(Proto(proto), c)
				if err != nil {
					t.Fatalf("%d of %d are answered: %v", len(answered), questions, err)
				}
				answered[binary.BigEndian.Uint16(resp)] = true
			}
			c.Close()
			stopped.Wait()
		})
	}
}

// TestRunBinds: Run binds the addresses where Listen was not called.
func TestRunBinds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := newResolver(t, listenOn("192.0.2.1:53")).Run(ctx); err == nil || !strings.Contains(err.Error(), "192.0.2.1:53") {
		t.Errorf("an address that this host does not have: %v", err)
	}
	r := newResolver(t)
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()
	eventually(t, "it is bound", func() bool { return len(r.Addresses()) > 0 })
	ask(t, UDP, r.Addresses()[0], query(t, "my-app.internal.", dns.TypeAAAA))
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
