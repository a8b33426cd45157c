package follow

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/registrytest"
)

// Of a machine with too much metadata no more is lost than that, and it is told
// once and counted each time, as a rejection is.
func TestMachineUsedInPart(t *testing.T) {
	over := func(state string) registry.Item {
		item := registry.Put(registrytest.Machine(t, "m1", registrytest.InState(state), func(s *registry.MachineSpec) {
			s.Metadata = map[string]string{"role": "db", "zz": strings.Repeat("x", 64<<10)}
		}))
		item.Where = "line 7, column 1"
		return item
	}
	var now world
	var log strings.Builder
	var feed Feed
	src := &script{steps: []func(context.Context, Feed, bool) error{func(ctx context.Context, d Feed, resume bool) error {
		feed = d
		return list(now.get)(ctx, d, resume)
	}}}
	now.set([]registry.Item{over("started"), registry.Put(registrytest.Machine(t, "m2"))})
	follow(t, src, Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, r *registry.Registry, f *Follower) {
		check := func(what, state string, counted int64, told int) {
			t.Helper()
			fleet, _ := r.Snapshot().Fleet(24, "web")
			if m := fleet.Machine("m1"); m == nil || m.State != state || fmt.Sprint(m.Metadata) != "[{role db}]" || len(fleet.Deployed()) != 2 {
				t.Fatalf("%s: the machine is %+v", what, m)
			}
			if n := f.stats.partial[registry.KindMachine].Load(); n != counted || f.stats.rejected[registry.KindMachine].Load() != 0 {
				t.Errorf("%s: %d counted, want %d; %d rejected", what, n, counted, f.stats.rejected[registry.KindMachine].Load())
			}
			line := `msg="an object of the registry's source is used in part" object="machine web/m1 in fdaa:0:18::/48" where="line 7, column 1" reason="1 of its`
			if n := strings.Count(log.String(), line); n != told || strings.Count(log.String(), "in part") != told {
				t.Errorf("%s: told %d times, want %d:\n%s", what, n, told, log.String())
			}
		}
		relist := func() { f.owed.Store(true); pass(2 * time.Second) }
		change := func(items ...registry.Item) {
			if err := feed.Change(t.Context(), items); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
		}
		check("listed", "started", 1, 1)
		relist()
		check("listed again", "started", 2, 1)
		now.set([]registry.Item{over("stopped"), registry.Put(registrytest.Machine(t, "m2"))})
		relist()
		check("listed in another state", "stopped", 3, 1)
		relist()
		check("and again", "stopped", 4, 1)
		change(over("started"))
		check("changed", "started", 5, 1)
		change(registry.Put(registrytest.Machine(t, "m1", func(s *registry.MachineSpec) { s.Metadata = map[string]string{"role": "db"} })))
		check("put right", "started", 5, 1)
		change(over("started"))
		check("over the bound again", "started", 6, 2)
	})
}
