package follow

import (
	"runtime"
	"testing"

	"dnsd/registry"
	"dnsd/registry/registrytest"
)

// BenchmarkListing is a complete listing on its way through the follower: the
// first one, one that changes nothing, and one in which all machines are stopped,
// which the sweep guard holds back.
func BenchmarkListing(b *testing.B) {
	const n = 100_000
	items, stopped := registrytest.Many(n), registrytest.Many(n)
	for i := range stopped {
		stopped[i].Object.(*registry.Machine).State = "stopped"
	}
	list := func(f *Follower, items []registry.Item) {
		l := newListing(f.reg.Snapshot())
		for i := range items {
			l.add(&items[i])
		}
		f.complete(l)
	}
	for name, c := range map[string]struct {
		before, then []registry.Item
	}{"first": {nil, items}, "same": {items, items}, "stopped": {items, stopped}} {
		b.Run(name, func(b *testing.B) {
			var f *Follower
			for b.Loop() {
				b.StopTimer()
				f = New(registry.New(), &script{}, Config{})
				list(f, c.before)
				runtime.GC()
				b.StartTimer()
				list(f, c.then)
			}
		})
	}
}
