package forward

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// serve lets a forwarder be asked over the network, as the resolver would.
func serve(t testing.TB, f *Forwarder) *scripted {
	return (&scripted{onUDP: func(m *dns.Msg, send func(*dns.Msg)) {
		q := query(m.Question[0].Name, m.Question[0].Qtype)
		q.RD, q.CD = m.RecursionDesired, m.CheckingDisabled
		if opt := m.IsEdns0(); opt != nil {
			q.DO = opt.Do()
		}
		r := resolve(t.Context(), f, q)
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
func looping(t testing.TB, back *scripted) *scripted {
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
		in, _, err := (&dns.Client{Timeout: 8 * time.Second}).Exchange(out, back.addr.String())
		mu.Lock()
		delete(busy, id)
		mu.Unlock()
		if err == nil {
			in.Id, in.Question = m.Id, m.Question
			send(in)
		}
	}}).start(t, nil)
}

func wantLoop(t testing.TB, q *Query, r *Reply) {
	t.Helper()
	wantText(t, q, r, "SERVFAIL; EDE 0")
	if r.EDE[0].Text != errLoop.Error() {
		t.Errorf("the EDE does not name the loop: %q", r.EDE[0].Text)
	}
}

// TestLoop: the names that go round fail with a reason, long before anybody's time-out,
// and all others are answered meanwhile.
func TestLoop(t *testing.T) {
	t.Parallel()
	f := newReal(t, Config{})
	update(t, f, looping(t, serve(t, f)).addr)
	var g sync.WaitGroup
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		g.Go(func() {
			q := query("www.loop.example", qtype)
			wantLoop(t, q, resolve(t.Context(), f, q))
			if r := f.Immediate(q); r == nil {
				t.Error("the failure was not kept")
			}
		})
	}
	g.Wait()
	if n := value(f.metrics.loops); n != 2 {
		t.Errorf("%v loops counted", n)
	}
	wantA(t, f, "a.example", oneAnswer)
	if f.at(0).isDown() {
		t.Error("the upstream is down for other names as well")
	}
}

// TestLoopOfDnsd: dnsd as its own upstream, and two that are each other's.
func TestLoopOfDnsd(t *testing.T) {
	t.Parallel()
	one, a, b := newReal(t, Config{}), newReal(t, Config{}), newReal(t, Config{})
	update(t, one, serve(t, one).addr)
	update(t, a, serve(t, b).addr)
	update(t, b, serve(t, a).addr)
	for _, f := range []*Forwarder{one, a} {
		q := query("www.loop.example", dns.TypeA)
		wantLoop(t, q, resolve(t.Context(), f, q))
	}
}

// TestNoLoop: two clients that ask the same slow name are no loop, even while
// one of them guesses at the probe and knows all of it but a letter.
func TestNoLoop(t *testing.T) {
	withFake(t, after(time.Second, "192.0.2.1"), func(t *testing.T, f *Forwarder, u *fakeNet) {
		var g sync.WaitGroup
		for range 3 {
			q := query("slow.example", dns.TypeA)
			g.Go(func() { wantText(t, q, resolve(t.Context(), f, q), "NOERROR; slow.example. 60 IN A 192.0.2.1") })
		}
		time.Sleep(5 * loopDelay)
		if n := u.count(); n != 2 {
			t.Errorf("%d queries, want the question and one probe", n)
		}
		probe := sentProbe(t, f)
		for typ := range uint16(256) {
			f.returned(query("slow.example", 65280+typ))
		}
		for i := range probeLabel {
			guess := bytes.Clone(probe)
			guess[1+i] = 'a' + (guess[1+i]-'a'+1)%26
			if r := f.returned(&Query{Name: guess, Type: dns.TypeA, Class: dns.ClassINET}); r != nil {
				t.Errorf("%q was taken for %q", guess, probe)
			}
		}
		g.Wait()
		if n := value(f.metrics.loops); n != 0 {
			t.Errorf("%v loops", n)
		}
		wantIdle(t, f)
	})
}

// sentProbe returns the name of the only loop probe.
func sentProbe(t testing.TB, f *Forwarder) []byte {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.probes.young) != 1 {
		t.Fatalf("%d probes", len(f.probes.young))
	}
	for name := range f.probes.young {
		return []byte(name)
	}
	return nil
}

// loopsBack is an upstream that asks f for what it is asked, as a resolver does: with
// flags of its own, once for identical questions, and for as long as it likes.
func loopsBack(f func() *Forwarder) answerFunc {
	var mu sync.Mutex
	busy := map[question]bool{}
	return func(ctx context.Context, m *message) (*dns.Msg, error) {
		if len(m.name) == 1 {
			return answerTo(m, dns.RcodeRefused), nil
		}
		id := question{string(m.name), m.qtype, m.class}
		mu.Lock()
		known := busy[id]
		busy[id] = true
		mu.Unlock()
		if known {
			return silent(ctx, m)
		}
		result := make(chan *Reply, 1)
		go func() {
			q := &Query{Name: m.name, Type: m.qtype, Class: m.class, RD: true, DO: true}
			r := resolve(context.WithoutCancel(ctx), f(), q)
			mu.Lock()
			delete(busy, id)
			mu.Unlock()
			result <- r
		}()
		select {
		case r := <-result:
			return answerTo(m, int(r.Rcode)), nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// TestLoopBesideHealthy: an upstream that sends names back costs nobody an answer that
// another has, and after the first of them not even time.
func TestLoopBesideHealthy(t *testing.T) {
	const latency = 150 * time.Millisecond
	for _, perNetwork := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var f *Forwarder
			loop := &fakeNet{answer: after(time.Millisecond, "192.0.2.1")}
			healthy := &fakeNet{answer: after(latency, "192.0.2.2")}
			f = newFaked(t, Config{PerNetwork: perNetwork}, loop, healthy)
			for i := range 3 { // until both are measured
				resolve(t.Context(), f, query(fmt.Sprintf("n%d.other.example", i), dns.TypeA))
			}
			loop.set(loopsBack(func() *Forwarder { return f }))
			asked := 0
			for i := range 60 {
				if i == 1 {
					asked = loop.count()
				}
				q, start := query(fmt.Sprintf("n%d.loop.example", i), dns.TypeA), time.Now()
				wantText(t, q, resolve(t.Context(), f, q), fmt.Sprintf("NOERROR; n%d.loop.example. 60 IN A 192.0.2.2", i))
				if took := time.Since(start); took > latency+2*loopDelay || i > 0 && took != latency {
					t.Errorf("name %d took %s", i, took)
				}
			}
			if n := value(f.metrics.loops); n != 1 {
				t.Errorf("%v loops counted, want that of the first name", n)
			}
			if n := value(f.at(0).metrics.failures.WithLabelValues(reasonLoop)); n == 0 {
				t.Error("no try ended because of a loop")
			}
			if f.at(0).isDown() {
				t.Error("the looping upstream is down")
			}
			if n := loop.count(); n != asked {
				t.Errorf("%d queries to it after the first name", n-asked)
			}
			// Other names are asked as before, and after a while these as well.
			loop.set(after(time.Millisecond, "192.0.2.1"))
			time.Sleep(loopsFor)
			q := query("again.loop.example", dns.TypeA)
			for range 30 { // until the latency that the loop left is outweighed
				resolve(t.Context(), f, query(fmt.Sprintf("n%d.other.example", rand.Int()), dns.TypeA))
				time.Sleep(sampleEvery)
			}
			wantText(t, q, resolve(t.Context(), f, q), "NOERROR; again.loop.example. 60 IN A 192.0.2.1")
			wantIdle(t, f)
		})
	}
}

// TestLoopsOnly: when every upstream sends a name back, the answer says so. Flights
// that differ in their flags share what is found out.
func TestLoopsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f *Forwarder
		nets := []*fakeNet{{answer: loopsBack(func() *Forwarder { return f })}, {answer: loopsBack(func() *Forwarder { return f })}}
		var log lockedBuffer
		f = newFaked(t, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, nets...)
		var g sync.WaitGroup
		for i := range 4 {
			g.Go(func() {
				q := query("www.loop.example", dns.TypeA)
				q.DO, q.CD = i&1 != 0, i&2 != 0
				wantLoop(t, q, resolve(t.Context(), f, q))
			})
		}
		g.Wait()
		if n := value(f.metrics.loops); n != 2 {
			t.Errorf("%v loops counted, want one an upstream", n)
		}
		if n := strings.Count(log.String(), "forwarding loop"); n != 1 {
			t.Errorf("%d loops logged, want the first", n)
		}
		q := query("www.loop.example", dns.TypeA)
		wantLoop(t, q, f.Immediate(q))
		// What is repeated is known, and goes nowhere.
		before := nets[0].count() + nets[1].count()
		f.mu.Lock()
		names := slices.Collect(maps.Keys(f.probes.young))
		f.mu.Unlock()
		for _, name := range names {
			if f.Immediate(&Query{Name: []byte(name), Type: dns.TypeA, Class: dns.ClassINET, RD: true}) == nil {
				t.Error("a probe that comes again is forwarded")
			}
		}
		if n := nets[0].count() + nets[1].count(); n != before {
			t.Errorf("%d more queries", n-before)
		}
		synctest.Wait() // for what the loops have asked
		if n := nets[0].probed(); n != 0 {
			t.Errorf("probed %d times: a loop is no silence", n)
		}
		wantIdle(t, f)
	})
}

// TestVerdictEndsOneTry: another upstream's that is under way goes on.
func TestVerdictEndsOneTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f *Forwarder
		loop, healthy := &fakeNet{answer: after(time.Millisecond, "192.0.2.1")}, &fakeNet{answer: after(time.Millisecond, "192.0.2.2")}
		f = newFaked(t, Config{}, loop, healthy)
		for i := range 20 { // until both are known to be fast, so that the second is asked soon
			resolve(t.Context(), f, query(fmt.Sprintf("n%d.example", i), dns.TypeA))
		}
		loop.set(loopsBack(func() *Forwarder { return f }))
		healthy.set(after(loopDelay+raceDelayMin, "192.0.2.2"))
		wantA(t, f, "www.loop.example", "NOERROR; www.loop.example. 60 IN A 192.0.2.2")
		ended := func(i int) float64 { return value(f.at(i).metrics.failures.WithLabelValues(reasonLoop)) }
		if ended(0) == 0 || ended(1) != 0 {
			t.Errorf("%v and %v tries have ended as loops", ended(0), ended(1))
		}
	})
}

// TestEcho: when the loop ends with the failure that dnsd itself gave the probe, that is no
// answer of the upstream's.
func TestEcho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f *Forwarder
		u := &fakeNet{answer: func(ctx context.Context, m *message) (*dns.Msg, error) {
			if m.name[0] == probeLabel {
				f.Immediate(&Query{Name: m.name, Type: m.qtype, Class: m.class, RD: true})
			}
			<-ctx.Done()
			return answerTo(m, dns.RcodeServerFailure), nil
		}}
		f = newFaked(t, Config{}, u)
		var g sync.WaitGroup
		for range 2 {
			g.Go(func() {
				q := query("www.loop.example", dns.TypeA)
				wantLoop(t, q, resolve(t.Context(), f, q))
			})
		}
		g.Wait()
	})
}

// TestLaterFlights: what is known of a question counts for flights that come later.
func TestLaterFlights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f *Forwarder
		loop, dead := &fakeNet{answer: loopsBack(func() *Forwarder { return f })}, &fakeNet{answer: silent}
		f = newFaked(t, Config{}, loop, dead)
		ended := func() float64 { return value(f.at(0).metrics.failures.WithLabelValues(reasonLoop)) }
		var g sync.WaitGroup
		ask := func(do bool) {
			g.Go(func() {
				q := query("www.loop.example", dns.TypeA)
				q.CD = do
				resolve(t.Context(), f, q)
			})
		}
		ask(false)
		time.Sleep(time.Second)
		before := ended()
		ask(true)
		time.Sleep(raceDelayMax + time.Millisecond)
		if n := ended() - before; n != 1 {
			t.Errorf("%v more tries at the looping upstream have ended", n)
		}
		g.Wait()
	})
}

// TestLoopProbesAreBounded: many slow questions that are asked twice cost no more probes at a
// time than may be, and each its own in the end.
func TestLoopProbesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var probing, most, probes atomic.Int32
		u := &fakeNet{answer: func(ctx context.Context, m *message) (*dns.Msg, error) {
			if m.name[0] != probeLabel {
				return slowly(4*time.Second, says(dns.RcodeNameError))(ctx, m)
			}
			probes.Add(1)
			if n := probing.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer probing.Add(-1)
			return silent(ctx, m)
		}}
		f := newFaked(t, Config{TryTimeout: 5 * time.Second}, u)
		const n = 3 * maxLoopProbes
		var g sync.WaitGroup
		for i := range 2 * n {
			g.Go(func() { resolve(t.Context(), f, query(fmt.Sprintf("n%d.example", i/2), dns.TypeA)) })
		}
		g.Wait()
		if most.Load() > maxLoopProbes || probes.Load() != n {
			t.Errorf("%d probes, %d at once", probes.Load(), most.Load())
		}
	})
}

// TestLoopMemory: a probe is known for a while, and not for ever.
func TestLoopMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p loopProbes
		p.add("first", loopProbe{})
		for i, want := range []bool{true, true, false} {
			if _, ok := p.find([]byte("first")); ok != want {
				t.Errorf("after %d times loopMemory: known %v", i, ok)
			}
			time.Sleep(loopMemory + 1)
			p.add(fmt.Sprint(i), loopProbe{})
		}
	})
}

// TestAroundALoop: which names come last at an upstream that has sent one back.
func TestAroundALoop(t *testing.T) {
	for _, c := range []struct {
		loops, name string
		want        bool
	}{
		{"www.loop.example.", "www.loop.example.", true},
		{"www.loop.example.", "other.loop.example.", true},
		{"www.loop.example.", "loop.example.", true},
		{"www.loop.example.", "loops.example.", false},
		{"www.loop.example.", "example.", false},
		{"loop.example.", "www.loop.example.", true},
		{"loop.example.", "other.example.", false}, // not for all of a top-level domain
		{"example.", "example.", true},
		{"example.", "www.example.", true},
		{"example.", "test.", false},
		{".", "example.", false},
		{".", ".", false},
	} {
		u := &upstream{loops: make(map[string]time.Time)}
		u.loopsAt(mustName(c.loops))
		if got := u.mayLoop(mustName(c.name)); got != c.want {
			t.Errorf("%s looped: %s may loop %v", c.loops, c.name, got)
		}
	}
	u := &upstream{loops: make(map[string]time.Time)}
	for i := range 3 * maxLoops {
		u.loopsAt(mustName(fmt.Sprintf("www.n%d.example.", i)))
	}
	if len(u.loops) > maxLoops {
		t.Errorf("%d domains are remembered", len(u.loops))
	}
}

// TestGuessers: whatever another network sends, none of 40 questions fails with a
// loop that is none.
func TestGuessers(t *testing.T) {
	t.Parallel()
	for _, perNetwork := range []bool{false, true} {
		for _, types := range []int{9, 65535} {
			t.Run(fmt.Sprintf("%d types, per network %v", types, perNetwork), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					u := &fakeNet{answer: after(300*time.Millisecond, "192.0.2.1")}
					f := newFaked(t, Config{PerNetwork: perNetwork, MaxInflight: 1 << 20}, u)
					var failed atomic.Int32
					next := 0
					for i := range 40 {
						name := fmt.Sprintf("n%d.example", i)
						var g sync.WaitGroup
						for range 2 { // one victim asks twice, so that there is a suspicion
							g.Go(func() {
								if r := resolve(t.Context(), f, query(name, dns.TypeA)); r.Rcode != dns.RcodeSuccess {
									failed.Add(1)
								}
							})
						}
						time.Sleep(150 * time.Millisecond)
						for range min(types, 255) {
							q := query(name, uint16(privateGuess+next%types))
							q.Network = netB
							if next++; f.Immediate(q) == nil {
								f.Release(q)
							}
						}
						g.Wait()
					}
					if failed.Load() > 0 || value(f.metrics.loops) > 0 {
						t.Errorf("%d of 40 failed, %v loops", failed.Load(), value(f.metrics.loops))
					}
				})
			})
		}
	}
}

// privateGuess is where the types of the private range begin (RFC 6895, section 3.1).
const privateGuess = 65280

func TestProbeNames(t *testing.T) {
	for _, c := range []struct {
		name  string
		qtype uint16
		below string // empty: there is no probe
	}{
		{"www.example.", dns.TypeA, "www.example."},
		{".", dns.TypeNS, "."},
		{"www.example.", dns.TypeDS, "example."},
		{"example.", dns.TypeDS, "."},
		{".", dns.TypeDS, ""},
		{strings.Repeat("a23456789.", 24), dns.TypeA, strings.Repeat("a23456789.", 24)},
		{strings.Repeat("a23456789.", 25), dns.TypeA, ""},
	} {
		q := query(c.name, c.qtype)
		got := probeName(newMessage(q, true))
		if c.below == "" {
			if got != nil {
				t.Errorf("%s %s: %q", c.name, dns.Type(c.qtype), got)
			}
			continue
		}
		if want := mustName(c.below); len(got) != 1+probeLabel+len(want) || !bytes.HasSuffix(got, want) || got[0] != probeLabel {
			t.Errorf("%s %s: %q", c.name, dns.Type(c.qtype), got)
		}
		if bytes.Equal(got, probeName(newMessage(q, true))) {
			t.Errorf("%q is no surprise", got)
		}
		want := c.qtype
		if want == dns.TypeDS {
			want = dns.TypeA
		}
		f := newFaked(t, Config{}, &fakeNet{})
		if m := f.loopProbe(newMessage(q, true), f.targetOf(newWatch(), f.at(0))); m.qtype != want {
			t.Errorf("%s %s: the probe asks for %s", c.name, dns.Type(c.qtype), dns.Type(m.qtype))
		}
	}
}
