package state

import (
	"fmt"
	"runtime"
	"testing"

	"dnsd/registry"
	"dnsd/registry/registrytest"
)

// BenchmarkLoad is a start from a state on disk, BenchmarkSave the writing of
// everything, and BenchmarkAppend that of two seconds' changes at 2,000 a second.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			dir := b.TempDir()
			d := New(dir, source)
			r := registry.New()
			r.Apply(registrytest.Many(n))
			if err := d.Save(r.Snapshot(), now); err != nil {
				b.Fatal(err)
			}
			d.Close()
			r = nil
			runtime.GC()
			b.ReportAllocs()
			for b.Loop() {
				r := registry.New()
				d := New(dir, source)
				d.Load(func(_ string, err error) { b.Fatal(err) }).Restore(r)
				d.Close()
				if r.Count(registry.KindMachine) != n {
					b.Fatal(r.Count(registry.KindMachine))
				}
			}
		})
	}
}

func BenchmarkSave(b *testing.B) {
	const n = 100_000
	r := registry.New()
	r.Apply(registrytest.Many(n))
	d := New(b.TempDir(), source)
	defer d.Close()
	for b.Loop() {
		d.forget()
		if err := d.Save(r.Snapshot(), now); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(d.out.size)/n, "file-B/machine")
}

func BenchmarkAppend(b *testing.B) {
	const n, changes = 100_000, 4_000
	r := registry.New()
	items := registrytest.Many(n)
	r.Apply(items)
	d := New(b.TempDir(), source)
	defer d.Close()
	if err := d.Save(r.Snapshot(), now); err != nil {
		b.Fatal(err)
	}
	round, bytes := 0, int64(0)
	for b.Loop() {
		b.StopTimer()
		round++
		var changed []registry.Item
		for i := range changes {
			m := *items[(i*7919+round)%n].Object.(*registry.Machine)
			m.State = fmt.Sprint("odd", round%3)
			changed = append(changed, registry.Put(&m))
		}
		r.Apply(changed)
		before := d.out.size
		b.StartTimer()
		if err := d.Save(r.Snapshot(), now); err != nil {
			b.Fatal(err)
		}
		if d.out.size > before {
			bytes += d.out.size - before
		}
	}
	b.ReportMetric(float64(bytes)/float64(round)/changes, "file-B/change")
}
