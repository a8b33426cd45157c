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
		var held []netip.Prefix // one for each place that is taken
		for l.take(network(0)) {
			held = append(held, network(0))
		}
		sums := make([]int, n)
		for round := range 2 * rounds {
			i := rand.IntN(len(held)) // an answer comes
			l.give(held[i])
			held[i] = held[len(held)-1]
			held = held[:len(held)-1]
			for _, i := range rand.Perm(n) {
				if l.take(network(i)) {
					held = append(held, network(i))
				}
			}
			if !l.room(network(n)) {
				t.Fatalf("%d networks left nothing for another", n)
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

// TestLimiterHistory: over random histories the books balance.
func TestLimiterHistory(t *testing.T) {
	l := newLimiter(50)
	var held []netip.Prefix
	refreshing := 0
	for range 20000 {
		switch n := network(rand.IntN(5)); rand.IntN(4) {
		case 0, 1:
			room := l.room(n)
			if took := l.take(n); took != room {
				t.Fatalf("room %v, take %v", room, took)
			} else if took {
				held = append(held, n)
			}
		case 2:
			if len(held) > 0 {
				i := rand.IntN(len(held))
				l.give(held[i])
				held = append(held[:i], held[i+1:]...)
			}
		case 3:
			if refreshing > 0 && rand.IntN(2) == 0 {
				l.giveRefresh()
				refreshing--
			} else if l.takeRefresh() {
				refreshing++
			}
		}
		if l.inflight() != len(held)+refreshing || l.inflight() > 50 {
			t.Fatalf("%d in flight, should be %d", l.inflight(), len(held)+refreshing)
		}
	}
	for _, n := range held {
		l.give(n)
	}
	if len(l.held) != 0 {
		t.Errorf("left over: %v", l.held)
	}
}

func TestSmallestLimiter(t *testing.T) {
	l := newLimiter(1)
	if !l.take(netA) || l.take(netA) || l.take(netB) || l.takeRefresh() {
		t.Error("a bound of one is not one")
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
		f, stop := newFaked(t, Config{MaxInflight: inflight}, &fakeNet{answer: u.answer})
		defer stop()
		cached := query("cached.example", dns.TypeA)
		cached.Network = netB
		f.Resolve(t.Context(), cached)

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
					flood.Go(func() { f.Resolve(ctx, q) })
				}
				time.Sleep(service / 10)
			}
		})
		time.Sleep(10 * inflight * service) // until the flood fills its share
		for i := range 50 {
			q := query(fmt.Sprintf("quiet-%d.example", i), dns.TypeA)
			q.Network = netB
			start := time.Now()
			if r := f.Resolve(t.Context(), q); r.Rcode != dns.RcodeSuccess {
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
		f, stop := newFaked(t, Config{MaxInflight: 10}, u)
		defer stop()
		var g sync.WaitGroup
		for range 20 {
			q := query("slow.example", dns.TypeA)
			if f.Immediate(q) == nil {
				g.Go(func() { f.Resolve(t.Context(), q) })
			}
			synctest.Wait()
		}
		if n := f.limits.inflight(); n != 5 {
			t.Errorf("one network holds %d of 10 places", n)
		}
		g.Wait()
	})
}
