package follow

import (
	"context"
	"fmt"
	"runtime"
	"sync"
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

// BenchmarkCatchingUp is 100,000 changes of one app, in the order of their writing, as
// after a break. What it costs must depend on the changes and not on the app's size.
func BenchmarkCatchingUp(b *testing.B) {
	const changes = 100_000
	for _, size := range []int{1000, 300_000} {
		for _, each := range []int{1, 1000} { // changes in a response of etcd's
			b.Run(fmt.Sprint(size, "/", each), func(b *testing.B) {
				items := registrytest.Many(size)
				for i := range items {
					m := items[i].Object.(*registry.Machine)
					m.App, m.Network = "big", 1
				}
				for b.Loop() {
					b.StopTimer()
					f := New(registry.New(), &script{}, Config{})
					f.reg.Apply(items)
					late := make([]registry.Item, changes)
					for i := range late {
						m := *items[i*7919%size].Object.(*registry.Machine)
						m.State = []string{"stopped", "started"}[i/size%2]
						late[i] = registry.Put(&m)
					}
					ctx, cancel := context.WithCancel(b.Context())
					var loop sync.WaitGroup
					loop.Go(func() { f.applyLoop(ctx) })
					runtime.GC()
					b.StartTimer()
					d := &feed{f: f}
					for i := 0; i < changes; i += each {
						_ = d.Change(ctx, late[i:i+each])
					}
					_ = d.await(ctx, op{})
					b.StopTimer()
					cancel()
					loop.Wait()
					b.StartTimer()
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/changes, "µs/change")
			})
		}
	}
}
