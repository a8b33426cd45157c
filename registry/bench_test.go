package registry_test

import (
	"fmt"
	"runtime"
	"testing"

	"dnsd/registry"
	"dnsd/registry/registrytest"
)

// BenchmarkRegistryMemory reports what a machine costs in memory and in time to
// load.
func BenchmarkRegistryMemory(b *testing.B) {
	for _, n := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				r := registry.New()
				r.Apply(registrytest.Many(n))
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
		r := registry.New()
		items := registrytest.Many(n)
		for i := range items {
			m := items[i].Object.(*registry.Machine)
			m.App, m.Network = "big", 1
		}
		r.Apply(items)
		m := *items[0].Object.(*registry.Machine)
		for b.Loop() {
			next := m
			next.State = map[bool]string{true: state, false: "started"}[m.State == "started"]
			m = next
			r.Apply([]registry.Item{registry.Put(&next)})
		}
	})
}
