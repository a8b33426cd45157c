package registry

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestMetadataBeyondTheBound(t *testing.T) {
	many := func(n, size int, more ...string) map[string]string {
		pairs := map[string]string{}
		for i := range n {
			pairs[fmt.Sprintf("k%05d", i)] = strings.Repeat("v", size-6)
		}
		for _, key := range more {
			pairs[key] = "web"
		}
		return pairs
	}
	for _, test := range []struct {
		name          string
		pairs         map[string]string
		kept, omitted int
		last          string // key of the last that is kept
	}{
		{"none", nil, 0, 0, ""},
		{"as many as may be", many(maxPairs, 10), maxPairs, 0, "k00255"},
		{"one more", many(maxPairs+1, 10), maxPairs, 1, "k00255"},
		{"a hundred times as many", many(100*maxPairs, 10), maxPairs, 99 * maxPairs, "k00255"},
		{"with a process group behind them", many(maxPairs, 10, "zzz"), maxPairs, 1, "k00255"},
		{"with a process group", many(maxPairs+7, 10, processGroupKey), maxPairs, 8, "k00254"},
		{"as large as may be", many(64, 1024), 64, 0, "k00063"},
		{"one byte more", many(64, 1024, "x"), 64, 1, "k00063"},
		{"large, with a process group", many(64, 1024, processGroupKey), 64, 1, "k00062"},
		{"one too large of itself", map[string]string{"a": strings.Repeat("v", maxMetadata), "B": "1", "c": "2"}, 2, 1, "c"},
	} {
		m := machine(t, "m1", func(s *MachineSpec) { s.Metadata = test.pairs })
		last := ""
		if n := len(m.Metadata); n > 0 {
			last = m.Metadata[n-1].Key
		}
		if len(m.Metadata) != test.kept || last != test.last {
			t.Errorf("%s: %d pairs up to %q, want %d up to %q", test.name, len(m.Metadata), last, test.kept, test.last)
		}
		if _, had := test.pairs[processGroupKey]; had != (m.Group() == "web") {
			t.Errorf("%s: the process group is lost", test.name)
		}
		want := "<nil>"
		if test.omitted > 0 {
			want = fmt.Sprintf("%d of its metadata pairs are left out: a machine has at most 256, and 64 KiB of them", test.omitted)
		}
		if got := fmt.Sprint(Put(m).Note); got != want {
			t.Errorf("%s: noted %s, want %s", test.name, got, want)
		}
		if again := machine(t, "m1", func(s *MachineSpec) { s.Metadata = test.pairs }); !again.equal(m) {
			t.Errorf("%s: two readings differ", test.name)
		}
	}
}

// Of a machine with too much metadata no more is lost than that, and it is told
// once and counted each time, as a rejection is.
func TestMachineUsedInPart(t *testing.T) {
	over := func(state string) Item {
		item := Put(machine(t, "m1", inState(state), func(s *MachineSpec) {
			s.Metadata = map[string]string{"role": "db", "zz": strings.Repeat("x", maxMetadata)}
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
	now.set([]Item{over("started"), Put(machine(t, "m2"))})
	follow(t, src, FollowerConfig{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, r *Registry, f *Follower) {
		check := func(what, state string, counted int64, told int) {
			t.Helper()
			fleet, _ := r.View().Fleet(24, "web")
			if m := fleet.Machine("m1"); m == nil || m.State != state || fmt.Sprint(m.Metadata) != "[{role db}]" || len(fleet.Deployed()) != 2 {
				t.Fatalf("%s: the machine is %+v", what, m)
			}
			if n := f.stats.partial[KindMachine].Load(); n != counted || f.stats.rejected[KindMachine].Load() != 0 {
				t.Errorf("%s: %d counted, want %d; %d rejected", what, n, counted, f.stats.rejected[KindMachine].Load())
			}
			line := `msg="an object of the registry's source is used in part" object="machine web/m1 in fdaa:0:18::/48" where="line 7, column 1" reason="1 of its`
			if n := strings.Count(log.String(), line); n != told || strings.Count(log.String(), "in part") != told {
				t.Errorf("%s: told %d times, want %d:\n%s", what, n, told, log.String())
			}
		}
		relist := func() { f.relist <- struct{}{}; pass(time.Second) }
		change := func(items ...Item) {
			if err := feed.Change(t.Context(), items); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
		}
		check("listed", "started", 1, 1)
		relist()
		check("listed again", "started", 2, 1)
		now.set([]Item{over("stopped"), Put(machine(t, "m2"))})
		relist()
		check("listed in another state", "stopped", 3, 1)
		relist()
		check("and again", "stopped", 4, 1)
		change(over("started"))
		check("changed", "started", 5, 1)
		change(Put(machine(t, "m1", func(s *MachineSpec) { s.Metadata = map[string]string{"role": "db"} })))
		check("put right", "started", 5, 1)
		change(over("started"))
		check("over the bound again", "started", 6, 2)
	})
}
