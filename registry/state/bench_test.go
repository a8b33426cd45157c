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
	const changes = 4_000
	for _, n := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := registry.New()
			items := machines(b, n)
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
					m := *items[(i*7919+round*31)%n].Object.(*registry.Machine)
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
				} else {
					bytes += d.out.size // it was written anew
				}
			}
			perChange := float64(bytes) / float64(round) / changes
			b.ReportMetric(perChange, "file-B/change")
			b.ReportMetric(perChange*2000*3600/1e6, "MB/hour-at-2000/s")
			b.ReportMetric(float64(d.base)/float64(n), "file-B/machine")
		})
	}
}

// machines returns n machines with the metadata of the platform's kind: some are the
// same for all, some each app's own.
func machines(b *testing.B, n int) []registry.Item {
	items := registrytest.Many(n)
	for i, item := range items {
		m, err := registry.NewMachine(registry.MachineSpec{
			ID: item.Object.(*registry.Machine).ID, App: item.Object.(*registry.Machine).App, State: "started", Region: item.Object.(*registry.Machine).Region,
			PrivateIP: item.Object.(*registry.Machine).Addr.String(),
			Metadata: map[string]string{
				"fly_process_group": "app", "fly_platform_version": "v2", "role": "replica",
				"fly_release_id": fmt.Sprintf("release-%013x", i/20), "fly_release_version": fmt.Sprint(i / 20 % 97),
			},
		})
		if err != nil {
			b.Fatal(err)
		}
		items[i] = registry.Put(m)
	}
	return items
}
