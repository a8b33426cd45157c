package resolver

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/miekg/dns"
)

// TestFairQueue: who waits is served in turn, network by network.
func TestFairQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newFairQueue(1)
		q.enter(network)
		var order []string // guarded by the only turn
		for _, who := range []string{"a1", "a2", "a3", "b1", "c1", "b2"} {
			n := netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0xaa, 5: who[0]}), 48)
			go func() {
				q.enter(n)
				order = append(order, who)
				q.leave()
			}()
			synctest.Wait()
		}
		if len(order) != 0 {
			t.Errorf("%v did not wait", order)
		}
		q.leave()
		synctest.Wait()
		if want := []string{"a1", "b1", "c1", "a2", "b2", "a3"}; !slices.Equal(order, want) {
			t.Errorf("served %v, want %v", order, want)
		}
		if q.free != 1 || len(q.next)+len(q.waiting) != 0 {
			t.Errorf("left over: %+v", q)
		}
	})
}

// TestFairQueueAtOnce: never more at once than may, nor fewer while some wait.
func TestFairQueueAtOnce(t *testing.T) {
	q := newFairQueue(3)
	var all sync.WaitGroup
	var now, most atomic.Int32
	for i := range 50 {
		n := netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0xaa, 5: byte(i % 4)}), 48)
		all.Go(func() {
			for range 200 {
				q.enter(n)
				for m := now.Add(1); m > most.Load(); {
					most.CompareAndSwap(most.Load(), m)
				}
				now.Add(-1)
				q.leave()
			}
		})
	}
	all.Wait()
	if most.Load() > 3 || q.free != 3 || len(q.next)+len(q.waiting) != 0 {
		t.Errorf("%d at once of 3; left over: %+v", most.Load(), q)
	}
}

// TestTCPLeavesUDPItsPart: of many requests over TCP no more are computed at a
// time than may, and UDP does not wait for them.
func TestTCPLeavesUDPItsPart(t *testing.T) {
	var computing atomic.Int32
	open := make(chan struct{})
	zone := internalZone()
	zone.answers["slow"] = func(*Question) *Answer {
		computing.Add(1)
		<-open
		return &Answer{}
	}
	r, addr, _ := start(t, func(c *Config) { c.Zones = []Zone{zone} })
	defer sync.OnceFunc(func() { close(open) })()
	most := tcpProcessors()
	waiting := func() (n int) {
		r.conns.computing.mu.Lock()
		defer r.conns.computing.mu.Unlock()
		for _, queue := range r.conns.computing.waiting {
			n += len(queue)
		}
		return n
	}
	for range most + 20 {
		c := dial(t, TCP, addr)
		defer c.Close()
		send(t, TCP, c, query(t, "slow.internal.", dns.TypeAAAA))
	}
	eventually(t, "all that may not be computed yet are waiting", func() bool { return waiting() == 20 })
	if n := int(computing.Load()); n != most {
		t.Errorf("%d are computed at once, want %d", n, most)
	}
	if m := unpack(t, ask(t, UDP, addr, query(t, "my-app.internal.", dns.TypeAAAA))); len(m.Answer) != 3 {
		t.Errorf("UDP gets\n%v", m)
	}
}
