package turns

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

var network = netip.MustParsePrefix("fdaa:0:18::/48")

// TestTurns: who waits is served in turn, network by network.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(1)
		q.Enter(network)
		var order []string // guarded by the only turn
		for _, who := range []string{"a1", "a2", "a3", "b1", "c1", "b2"} {
			n := netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0xaa, 5: who[0]}), 48)
			go func() {
				q.Enter(n)
				order = append(order, who)
				q.Leave()
			}()
			synctest.Wait()
		}
		if len(order) != 0 {
			t.Errorf("%v did not wait", order)
		}
		q.Leave()
		synctest.Wait()
		if want := []string{"a1", "b1", "c1", "a2", "b2", "a3"}; !slices.Equal(order, want) {
			t.Errorf("served %v, want %v", order, want)
		}
		if q.free != 1 || len(q.next)+len(q.waiting) != 0 {
			t.Errorf("left over: %+v", q)
		}
	})
}

// TestAtOnce: never more at once than may, nor fewer while some wait.
func TestAtOnce(t *testing.T) {
	q := New(3)
	var all sync.WaitGroup
	var now, most atomic.Int32
	for i := range 50 {
		n := netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0xaa, 5: byte(i % 4)}), 48)
		all.Go(func() {
			for range 200 {
				q.Enter(n)
				for m := now.Add(1); m > most.Load(); {
					most.CompareAndSwap(most.Load(), m)
				}
				now.Add(-1)
				q.Leave()
			}
		})
	}
	all.Wait()
	if most.Load() > 3 || q.free != 3 || len(q.next)+len(q.waiting) != 0 {
		t.Errorf("%d at once of 3; left over: %+v", most.Load(), q)
	}
}
