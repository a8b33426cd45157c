package registry

import (
	"runtime"
	"testing"
)

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
