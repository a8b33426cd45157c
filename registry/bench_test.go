package registry

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
)

// benchMachines returns n machines of apps of twenty, a tenth as many networks
// as apps, with two metadata pairs each.
func benchMachines(n int) []Item {
	items := make([]Item, 0, n)
	regions := []string{"iad", "ams", "nrt", "syd", "gru"}
	for i := range n {
		app := i / 20
		net := app/10 + 1
		m, err := NewMachine(MachineSpec{
			ID: fmt.Sprintf("%014x", i*7919), App: fmt.Sprintf("app-%d", app), State: "started", Region: regions[i%5],
			PrivateIP: netip.AddrFrom16([16]byte{0xfd, 0xaa, 0, 0, byte(net >> 8), byte(net), 0, 1, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i), 0, 0, 0, 2}).String(),
			Metadata:  map[string]string{"fly_process_group": "app", "role": "primary"},
		})
		if err != nil {
			panic(err)
		}
		items = append(items, Put(m))
	}
	return items
}

// BenchmarkRegistryMemory reports what a machine costs in memory and in time to
// load.
func BenchmarkRegistryMemory(b *testing.B) {
	for _, n := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				r := New()
				r.Apply(benchMachines(n))
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "heap-B/machine")
				runtime.KeepAlive(r)
			}
		})
	}
}

// BenchmarkApplyOne is a busy app's worst case: one machine of a large fleet
// changes, in a transaction of its own; the network's counts stay as they are, or
// change, too.
func BenchmarkApplyOne(b *testing.B) {
	for _, n := range []int{20, 10_000} {
		benchApplyOne(b, n, "stopped")
		benchApplyOne(b, n, "destroyed")
	}
}

func benchApplyOne(b *testing.B, n int, state string) {
	b.Run(fmt.Sprint(n, "/", state), func(b *testing.B) {
		r := New()
		items := benchMachines(n)
		for i := range items {
			m := items[i].Object.(*Machine)
			m.App, m.Network = "big", 1
		}
		r.Apply(items)
		m := *items[0].Object.(*Machine)
		for b.Loop() {
			next := m
			next.State = map[bool]string{true: state, false: "started"}[m.State == "started"]
			m = next
			r.Apply([]Item{Put(&next)})
		}
	})
}

// BenchmarkListing is a complete listing on its way through the follower: the
// first one, one that changes nothing, and one in which all machines are stopped,
// which the sweep guard holds back.
func BenchmarkListing(b *testing.B) {
	const n = 100_000
	items, stopped := benchMachines(n), benchMachines(n)
	for i := range stopped {
		stopped[i].Object.(*Machine).State = "stopped"
	}
	list := func(f *Follower, items []Item) {
		l := newListing(f.reg.View())
		for i := range items {
			l.add(&items[i])
		}
		f.complete(l)
	}
	for name, c := range map[string]struct {
		before, then []Item
	}{"first": {nil, items}, "same": {items, items}, "stopped": {items, stopped}} {
		b.Run(name, func(b *testing.B) {
			f := NewFollower(New(), &script{}, FollowerConfig{})
			for b.Loop() {
				b.StopTimer()
				f = NewFollower(New(), &script{}, FollowerConfig{})
				list(f, c.before)
				runtime.GC()
				b.StartTimer()
				list(f, c.then)
			}
		})
	}
}
