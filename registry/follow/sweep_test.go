package follow

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/registrytest"
)

// started is what answers hold, or what of them is held back, where there are only
// started machines.
func started(n int) [registry.Classes]int { return [registry.Classes]int{registry.StartedMachines: n} }

func TestSweepGuard(t *testing.T) {
	all := running(t, 100)
	for name, c := range map[string]struct {
		then       int // machines in later listings
		wait       time.Duration
		release    bool
		want, held int
	}{
		"half is let through":                      {50, time.Second, false, 50, 0},
		"more than half is held":                   {49, time.Second, false, 100, 51},
		"all is held":                              {0, time.Second, false, 100, 100},
		"all is held for nearly half a minute":     {0, 29 * time.Second, false, 100, 100},
		"a second listing is asked for and obeyed": {0, 33 * time.Second, false, 0, 0},
		"SIGUSR1 releases":                         {10, time.Second, true, 10, 0},
	} {
		guarding(t, all, func(g *guarded) {
			g.lists(all[:c.then])
			if c.release {
				g.f.Release()
			}
			pass(c.wait)
			g.expect(name, started(c.want), started(c.held))
		})
	}
}

// A second listing that comes sooner than 30 s confirms nothing.
func TestSweepGuardWaitsForTheSecondListing(t *testing.T) {
	guarding(t, running(t, 100), func(g *guarded) {
		for range 29 {
			g.lists()
			pass(time.Second)
		}
		g.expect("after 29 s and as many listings", started(100), started(100))
		pass(2 * time.Second)
		g.expect("after 31 s and another", started(0), started(0))
	})
}

// Additions of a held listing are applied; a source that comes to its senses
// takes the hold away; a small registry is not guarded.
func TestSweepGuardKeepsAddingAndForgets(t *testing.T) {
	all := running(t, 101)
	guarding(t, all[:100], func(g *guarded) {
		g.lists(all[100:])
		g.expect("one is new", started(101), started(100))
		g.set(all[10:], "")
		pass(32 * time.Second)
		g.expect("most are back", started(91), started(0))
		g.lists(all[:20])
		g.f.Release()
		pass(0)
		g.lists()
		g.expect("twenty may go at once", started(0), started(0))
	})
}

// SIGUSR1 during a listing that has the held objects again: what the listing
// found unchanged must not stay removed, or in another state.
func TestReleaseDuringAListing(t *testing.T) {
	all, stopped := running(t, 100), running(t, 100, registrytest.InState("stopped"))
	all = append(all, registry.Put(&registry.App{Name: "empty", Network: 24}))
	whole := [registry.Classes]int{registry.StartedMachines: 100, registry.Apps: 1}
	for name, then := range map[string]struct {
		items    []registry.Item
		released [registry.Classes]int
	}{
		"gone":    {nil, [registry.Classes]int{}},
		"stopped": {stopped, [registry.Classes]int{registry.OtherMachines: 100}},
	} {
		guarding(t, all, func(g *guarded) {
			g.lists(then.items)
			g.lists(slices.Clone(then.items))
			g.pull(t, func(ctx context.Context, feed Feed) error {
				err := feed.List(ctx, all)
				g.f.Release()
				time.Sleep(time.Second)
				if got := answering(g.r); got != then.released {
					t.Errorf("%s, released: answers hold %v, want %v", name, got, then.released)
				}
				return errors.Join(err, feed.Listed(ctx, ""))
			})
			pass(2 * time.Second)
			g.expect(name+", and the listing that was under way has them", whole, [registry.Classes]int{})
		})
	}
}
