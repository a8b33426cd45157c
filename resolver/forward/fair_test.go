package forward

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

func network(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0xaa, 0, 0, byte(i >> 8), byte(i)}), 48)
}

// TestLimiterShares floods from up to 20 networks, the first of them long before
// the others, and finds that all come to the same share and that there is always a
// place for one more network.
func TestLimiterShares(t *testing.T) {
	const max, rounds = 420, 2000
	for _, n := range []int{1, 2, 3, 7, 20} {
		l := newLimiter(max)
		var held []*place // all that are taken
		for p := l.take(network(0)); p != nil; p = l.take(network(0)) {
			held = append(held, p)
		}
		sums := make([]int, n)
		for round := range 2 * rounds {
			i := rand.IntN(len(held)) // an answer comes
			held[i].leave()
			held[i] = held[len(held)-1]
			held = held[:len(held)-1]
			for _, i := range rand.Perm(n) {
				if p := l.take(network(i)); p != nil {
					held = append(held, p)
				}
			}
			if p := l.take(network(n)); p == nil {
				t.Fatalf("%d networks left nothing for another", n)
			} else {
				p.leave()
			}
			for i := range sums {
				if round >= rounds {
					sums[i] += l.held[network(i)]
				}
			}
		}
		for i, sum := range sums {
			if got, share := sum/rounds, max/(n+1); got < share*3/4-1 || got > share*5/4+1 {
				t.Errorf("%d networks: number %d held %d of %d, its share is %d", n, i, got, max, share)
			}
		}
	}
}

// TestLimiterHistory: over random histories the books balance, a place is taken
// until the last part of it is given back, and renewals leave clients what they need.
func TestLimiterHistory(t *testing.T) {
	l := newLimiter(50)
	type part struct {
		*place
		n int
	}
	var held []part
	for range 20000 {
		switch n := network(rand.IntN(5)); rand.IntN(5) {
		case 0, 1:
			free := 50 - len(held)
			before := l.held[n]
			if p := l.take(n); (p != nil) != (before < free) {
				t.Fatalf("%d of %d held, %d free: %v", before, len(held), free, p)
			} else if p != nil {
				held = append(held, part{p, 1})
			}
		case 2, 3:
			if len(held) > 0 {
				i := rand.IntN(len(held))
				if rand.IntN(3) == 0 {
					held[i].share()
					held[i].n++
					continue
				}
				held[i].leave()
				if held[i].n--; held[i].n == 0 {
					held = append(held[:i], held[i+1:]...)
				}
			}
		case 4:
			before, free := l.held[n], 50-len(held)
			p := l.takeOf(n, renewalShare)
			if (p != nil) != (before < free/renewalShare) {
				t.Fatalf("%d held, %d free: renewal %v", before, free, p)
			}
			if p != nil {
				held = append(held, part{p, 1})
			}
		}
		if l.inflight() != len(held) || l.inflight() > 50 {
			t.Fatalf("%d in flight, should be %d", l.inflight(), len(held))
		}
	}
	for _, p := range held {
		for range p.n {
			p.leave()
		}
	}
	if len(l.held) != 0 || l.inflight() != 0 {
		t.Errorf("left over: %v", l.held)
	}
}

func TestSmallestLimiter(t *testing.T) {
	l := newLimiter(1)
	if l.take(netA) == nil || l.take(netA) != nil || l.take(netB) != nil || l.takeOf(netA, renewalShare) != nil {
		t.Error("a bound of one is not one")
	}
}

// TestLimiterResized: fewer places take nothing from those that have one.
func TestLimiterResized(t *testing.T) {
	l := newLimiter(100)
	var held []*place
	for range 50 {
		held = append(held, l.take(netA))
	}
	l.resize(10)
	if l.take(netB) != nil {
		t.Error("a place beyond the bound")
	}
	for _, p := range held {
		p.leave()
	}
	if l.take(netB) == nil || l.inflight() != 1 {
		t.Errorf("%d in flight", l.inflight())
	}
}

// queue is an upstream that works off one question after the other.
type queue struct {
	service time.Duration
	mu      sync.Mutex
	free    time.Time // guarded by mu; when all that has come is done
	depth   int       // guarded by mu
	deepest int       // guarded by mu
}

func (s *queue) answer(ctx context.Context, m *message) (*dns.Msg, error) {
	s.mu.Lock()
	now := time.Now()
	if s.free.Before(now) {
		s.free = now
	}
	s.free = s.free.Add(s.service)
	wait := s.free.Sub(now)
	s.depth++
	s.deepest = max(s.deepest, s.depth)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.depth--
		s.mu.Unlock()
	}()
	return after(wait, "192.0.2.1")(ctx, m)
}

// TestFlood: one network asks random names at ten times what the upstream can
// do. Another is refused nothing, never finds more than the bound's half before
// it, and its cached names are answered without waiting.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const inflight, service = 64, time.Millisecond
		u := &queue{service: service}
		f := newFaked(t, Config{MaxInflight: inflight}, &fakeNet{answer: u.answer})
		cached := query("cached.example", dns.TypeA)
		cached.Network = netB
		resolve(t.Context(), f, cached)

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var flood sync.WaitGroup
		refused := 0
		flood.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				q := query(fmt.Sprintf("random-%d.example", i), dns.TypeA)
				if r := f.Immediate(q); r != nil {
					wantText(t, q, r, "SERVFAIL; EDE 23")
					refused++
				} else {
					flood.Go(func() {
						defer f.Release(q)
						f.Resolve(ctx, q)
					})
				}
				time.Sleep(service / 10)
			}
		})
		time.Sleep(10 * inflight * service) // until the flood fills its share
		for i := range 50 {
			q := query(fmt.Sprintf("quiet-%d.example", i), dns.TypeA)
			q.Network = netB
			start := time.Now()
			if r := resolve(t.Context(), f, q); r.Rcode != dns.RcodeSuccess {
				t.Fatalf("question %d: %v", i, r)
			}
			if took := time.Since(start); took > (inflight/2+1)*service {
				t.Fatalf("question %d took %s", i, took)
			}
			start = time.Now()
			if f.Immediate(cached) == nil || time.Since(start) != 0 {
				t.Fatal("a cached name had to wait")
			}
		}
		cancel()
		flood.Wait()
		if u.deepest > inflight/2+1 {
			t.Errorf("%d questions in the upstream's queue", u.deepest)
		}
		if refused == 0 || value(f.metrics.refused) < float64(refused) {
			t.Errorf("%d refused, %v counted", refused, value(f.metrics.refused))
		}
		if f.limits.inflight() != 0 {
			t.Error("places were not given back")
		}
	})
}

// TestFollowersCount: a crowd that waits for one slow name takes places too, since
// each holds one of the resolver's goroutines.
func TestFollowersCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &fakeNet{answer: after(time.Second, "192.0.2.1")}
		f := newFaked(t, Config{MaxInflight: 10}, u)
		var g sync.WaitGroup
		for range 20 {
			q := query("slow.example", dns.TypeA)
			g.Go(func() { resolve(t.Context(), f, q) })
			synctest.Wait()
		}
		if n := f.limits.inflight(); n != 5 {
			t.Errorf("one network holds %d of 10 places", n)
		}
		g.Wait()
	})
}

// TestRenewalsGiveWay: a network that has questions waiting renews nothing at their cost.
func TestRenewalsGiveWay(t *testing.T) {
	for _, waiting := range []int{0, 3} {
		synctest.Test(t, func(t *testing.T) {
			u := &fakeNet{answer: func(ctx context.Context, m *message) (*dns.Msg, error) {
				if m.name[1] == 'w' {
					return after(4*time.Second, "192.0.2.1")(ctx, m)
				}
				return after(0, "192.0.2.1")(ctx, m)
			}}
			f := newFaked(t, Config{MaxInflight: 3 * renewalShare, TryTimeout: DefaultTimeout}, u)
			q := query("a.example", dns.TypeA)
			resolve(t.Context(), f, q)
			time.Sleep(55 * time.Second)
			var g sync.WaitGroup
			for i := range waiting {
				g.Go(func() { resolve(t.Context(), f, query(fmt.Sprintf("waiting%d.example", i), dns.TypeA)) })
			}
			synctest.Wait()
			before := u.count()
			wantText(t, q, f.Immediate(q), "NOERROR; a.example. 5 IN A 192.0.2.1")
			synctest.Wait()
			if renewed := u.count() > before; renewed != (waiting == 0) {
				t.Errorf("%d waiting: renewed %v", waiting, renewed)
			}
			g.Wait()
		})
	}
}
