package forward

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// serve lets a forwarder be asked over the network, as the resolver would.
func serve(t testing.TB, f func() *Forwarder) *scripted {
	return (&scripted{onUDP: func(m *dns.Msg, send func(*dns.Msg)) {
		q := query(m.Question[0].Name, m.Question[0].Qtype)
		q.RD, q.CD = m.RecursionDesired, m.CheckingDisabled
		if opt := m.IsEdns0(); opt != nil {
			q.DO = opt.Do()
		}
		r := f().Immediate(q)
		if r == nil {
			r = f().Resolve(context.Background(), q)
		}
		out := response(t, q, r, udpSize)
		out.Id, out.Question = m.Id, m.Question
		for _, e := range r.EDE {
			withEDE(out, e.Code, e.Text)
		}
		send(out)
	}}).start(t, nil)
}

func randomCase(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' && rand.IntN(2) == 0 {
			return r - 32
		}
		return r
	}, s)
}

// looping returns an upstream that has other names than those below
// loop.example, for which it asks back, as a resolver does: with an id, flags and a
// case of its own, and once for identical questions.
func looping(t testing.TB, back func() *scripted) *scripted {
	var mu sync.Mutex
	busy := map[string]bool{}
	return (&scripted{onUDP: func(m *dns.Msg, send func(*dns.Msg)) {
		name := m.Question[0].Name
		if !strings.HasSuffix(name, "loop.example.") {
			send(answering(m, "192.0.2.1"))
			return
		}
		id := name + dns.Type(m.Question[0].Qtype).String()
		mu.Lock()
		known := busy[id]
		busy[id] = true
		mu.Unlock()
		if known {
			return // the first asker's answer would be sent to all; nobody waits for it here
		}
		out := new(dns.Msg).SetQuestion(randomCase(name), m.Question[0].Qtype)
		out.SetEdns0(1400, true)
		in, _, err := (&dns.Client{Timeout: 8 * time.Second}).Exchange(out, back().addr.String())
		mu.Lock()
		delete(busy, id)
		mu.Unlock()
		if err == nil {
			in.Id, in.Question = m.Id, m.Question
			send(in)
		}
	}}).start(t, nil)
}

func wantLoop(t testing.TB, q *Query, r *Reply, upstream string) {
	t.Helper()
	wantText(t, q, r, "SERVFAIL; EDE 0")
	if !strings.Contains(r.EDE[0].Text, "loop") || !strings.Contains(r.EDE[0].Text, upstream) {
		t.Errorf("the EDE does not name the loop: %q", r.EDE[0].Text)
	}
}

// TestLoop: the names that go round fail with a reason, long before anybody's time-out,
// and all others are answered meanwhile.
func TestLoop(t *testing.T) {
	var f *Forwarder
	var front *scripted
	ready := make(chan struct{})
	front = serve(t, func() *Forwarder { <-ready; return f })
	up := looping(t, func() *scripted { return front })
	f = forwardTo(t, up)
	close(ready)
	var g sync.WaitGroup
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		g.Go(func() {
			q := query("www.loop.example", qtype)
			wantLoop(t, q, f.Resolve(t.Context(), q), up.addr.String())
			if r := f.Immediate(q); r == nil {
				t.Error("the failure was not kept")
			}
		})
	}
	g.Wait()
	if n := value(f.metrics.loops); n != 2 {
		t.Errorf("%v loops counted", n)
	}
	q := query("a.example", dns.TypeA)
	wantText(t, q, f.Resolve(t.Context(), q), oneAnswer)
	if f.upstreams[0].isDown() {
		t.Error("the upstream is down for other names as well")
	}
}

// TestLoopOfTwo: two dnsd that are each other's upstream.
func TestLoopOfTwo(t *testing.T) {
	var a, b *Forwarder
	ready := make(chan struct{})
	frontA := serve(t, func() *Forwarder { <-ready; return a })
	frontB := serve(t, func() *Forwarder { <-ready; return b })
	a, b = forwardTo(t, frontB), forwardTo(t, frontA)
	close(ready)
	q := query("www.loop.example", dns.TypeA)
	r := a.Resolve(t.Context(), q)
	if r.Rcode != dns.RcodeServerFailure || len(r.EDE) == 0 || !strings.Contains(r.EDE[0].Text, "loop") {
		t.Errorf("got %v", r)
	}
}

// TestLoopOfOne: dnsd as its own upstream.
func TestLoopOfOne(t *testing.T) {
	var f *Forwarder
	ready := make(chan struct{})
	front := serve(t, func() *Forwarder { <-ready; return f })
	f = forwardTo(t, front)
	close(ready)
	q := query("www.loop.example", dns.TypeA)
	wantLoop(t, q, f.Resolve(t.Context(), q), front.addr.String())
}

// TestNoLoop: two clients that ask the same slow name are no loop, even while
// one of them guesses at the probes.
func TestNoLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &fakeNet{answer: after(time.Second, "192.0.2.1")}
		f, stop := newFaked(t, Config{}, u)
		defer stop()
		var g sync.WaitGroup
		for range 3 {
			q := query("slow.example", dns.TypeA)
			g.Go(func() { wantText(t, q, f.Resolve(t.Context(), q), "NOERROR; slow.example. 60 IN A 192.0.2.1") })
		}
		time.Sleep(2 * loopDelay)
		if n := u.count(); n != 2 {
			t.Errorf("%d queries, want the question and one probe", n)
		}
		f.mu.Lock()
		sent := f.probes[string(mustName("slow.example."))].sent[0].qtype
		f.mu.Unlock()
		tries := 0
		for guess := uint16(privateTypes); guess < privateTypes+privateTypeCount; guess++ {
			if guess != sent { // the unluckiest of guessers
				f.Immediate(query("slow.example", guess))
				tries++
			}
		}
		if r := f.returned(query("slow.example", sent)); r != nil {
			t.Errorf("guessed after %d tries", tries)
		}
		g.Wait()
		if len(f.probes)+len(f.watches) != 0 {
			t.Error("probes are left over")
		}
	})
}
