package follow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/registrytest"

	"github.com/prometheus/client_golang/prometheus"
)

// Every metric has the value that its name promises; those that are left out here are 0.
func TestMetrics(t *testing.T) {
	src := newPuppet(running(t, 3))
	follow(t, src, Config{StateDir: t.TempDir()}, func(t *testing.T, r *registry.Registry, f *Follower) {
		src.list(t, append(running(t, 2), // one machine less
			registry.Reject(registry.Key{Kind: registry.KindPeer, Name: "p"}, "", errors.New("unusable")),
			registry.Put(registrytest.Machine(t, "big", func(s *registry.MachineSpec) { s.Metadata = map[string]string{"k": strings.Repeat("x", 64<<10)} }))), "")
		src.list(t, running(t, 1), gaps)
		src.pull(t, func(context.Context, Feed) error { return errors.New("broken") })
		pass(5 * time.Second)
		src.change(t, registry.Item{Object: (*registry.Machine)(nil)})
		pass(2500 * time.Millisecond)
		metrics := prometheus.NewPedanticRegistry()
		metrics.MustRegister(NewCollector(f))
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, family := range families {
			for _, m := range family.GetMetric() {
				label := ""
				for _, l := range m.GetLabel() {
					label += " " + l.GetValue()
				}
				if v := m.GetGauge().GetValue() + m.GetCounter().GetValue(); v != 0 {
					got = append(got, fmt.Sprintf("%s%s %.1f", strings.TrimPrefix(family.GetName(), "dnsd_registry_"), label, v))
				}
			}
		}
		want := []string{
			"age_seconds 2.5", "synced_timestamp_seconds 946684800.0", "state_saved_timestamp_seconds 946684802.0", "state held 1.0", "doubt 1.0",
			"objects machine 3.0", "started_machines 2.0", "held started_machine 1.0", "held other_machine 1.0",
			"rejected_objects_total peer 1.0", "rejected_objects_total app 1.0", "partial_objects_total machine 1.0",
			"listings_total 4.0", "changes_total 5.0", "reconnects_total 1.0", "panics_total 1.0", "apply_age_seconds 0.5",
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}
