package follow

import (
	"context"
	"errors"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/registrytest"
)

func TestSweepGuard(t *testing.T) {
	for name, c := range map[string]struct {
		then  int // machines in later listings, of 100
		wait  time.Duration
		usr1  bool
		want  int
		state registry.State
	}{
		"half is let through":                      {50, time.Second, false, 50, registry.Live},
		"more than half is held":                   {49, time.Second, false, 100, registry.Held},
		"all is held":                              {0, time.Second, false, 100, registry.Held},
		"all is held for nearly half a minute":     {0, 29 * time.Second, false, 100, registry.Held},
		"a second listing is asked for and obeyed": {0, 33 * time.Second, false, 0, registry.Live},
		"SIGUSR1 releases":                         {10, time.Second, true, 10, registry.Live},
	} {
		t.Run(name, func(t *testing.T) {
			all := fleetOf(t, 100)
			src := &script{steps: []func(context.Context, Feed, bool) error{
				func(ctx context.Context, feed Feed, _ bool) error {
					return errors.Join(feed.List(ctx, all), feed.Listed(ctx, ""), errors.New("broken"))
				},
				list(func() []registry.Item { return all[:c.then] }),
			}}
			follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, f *Follower) {
				for src.called() < 2 {
					pass(10 * time.Millisecond)
				}
				pass(c.wait)
				if c.usr1 {
					f.Release()
					pass(time.Second)
				}
				if got := r.Count(registry.KindMachine); got != c.want || r.Status().State != c.state {
					t.Errorf("%d machines, %s; want %d, %s", got, r.Status().State, c.want, c.state)
				}
			})
		})
	}
}

// A second listing that comes sooner than 30 s confirms nothing.
func TestSweepGuardWaitsForTheSecondListing(t *testing.T) {
	var now world
	now.set(fleetOf(t, 100))
	src := &script{steps: []func(context.Context, Feed, bool) error{list(now.get)}}
	follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, f *Follower) {
		now.set(nil)
		for range 29 {
			f.owed.Store(true)
			pass(time.Second)
		}
		if r.Count(registry.KindMachine) != 100 || r.Status().State != registry.Held {
			t.Errorf("after 29 s and as many listings: %d machines, %s; want all, held", r.Count(registry.KindMachine), r.Status().State)
		}
		pass(2 * time.Second)
		f.owed.Store(true)
		pass(time.Second)
		if r.Count(registry.KindMachine) != 0 {
			t.Errorf("after 31 s and another: %d machines, want none", r.Count(registry.KindMachine))
		}
	})
}

// A listing that takes longer than the guard's pause is not begun again and
// again: it is let end, and is the second opinion.
func TestSweepGuardWaitsForASlowListing(t *testing.T) {
	calls := 0
	src := &script{steps: []func(context.Context, Feed, bool) error{func(ctx context.Context, feed Feed, _ bool) error {
		calls++
		if calls > 1 {
			_ = feed.List(ctx, nil)
			select {
			case <-time.After(40 * time.Second):
			case <-ctx.Done():
				return ctx.Err()
			}
		} else if err := feed.List(ctx, fleetOf(t, 100)); err != nil {
			return err
		}
		if err := feed.Listed(ctx, ""); err != nil {
			return err
		}
		return stayAlive(ctx, feed)
	}}}
	follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, f *Follower) {
		f.owed.Store(true)
		pass(3 * time.Minute)
		if r.Count(registry.KindMachine) != 0 || calls != 3 {
			t.Errorf("%d machines after %d listings, want none after 3", r.Count(registry.KindMachine), calls)
		}
	})
}

// Additions of a held listing are applied; a source that comes to its senses
// takes the hold away; a small registry is not guarded.
func TestSweepGuardKeepsAddingAndForgets(t *testing.T) {
	all := fleetOf(t, 100)
	var now world
	src := &script{steps: []func(context.Context, Feed, bool) error{list(now.get)}}
	now.set(all)
	follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, f *Follower) {
		now.set([]registry.Item{registry.Put(registrytest.Machine(t, "new"))})
		f.owed.Store(true)
		pass(time.Second)
		if r.Count(registry.KindMachine) != 101 || r.Status().Held != 100 {
			t.Errorf("%d machines, %d held; want 101 and 100", r.Count(registry.KindMachine), r.Status().Held)
		}
		now.set(append([]registry.Item{registry.Put(registrytest.Machine(t, "new"))}, all[:90]...))
		pass(32 * time.Second)
		if r.Count(registry.KindMachine) != 91 || r.Status().State != registry.Live {
			t.Errorf("%d machines, %s; want 91, live", r.Count(registry.KindMachine), r.Status().State)
		}
		now.set(all[:20])
		f.owed.Store(true)
		pass(time.Second)
		now.set(nil)
		f.Release()
		f.owed.Store(true)
		pass(time.Second)
		if r.Count(registry.KindMachine) != 0 {
			t.Errorf("%d machines; want none: twenty may go at once", r.Count(registry.KindMachine))
		}
	})
}

// SIGUSR1 during a listing that has the held objects again: what the listing
// found unchanged must not stay removed.
func TestReleaseDuringAListing(t *testing.T) {
	step := func(ctx context.Context, feed Feed, _ bool) error {
		all := append(fleetOf(t, 100), registry.Put(&registry.App{Name: "empty", Network: 24}))
		_ = errors.Join(feed.List(ctx, all), feed.Listed(ctx, ""), feed.Listed(ctx, ""), feed.List(ctx, all))
		time.Sleep(10 * time.Second)
		_ = feed.Listed(ctx, "")
		<-ctx.Done()
		return ctx.Err()
	}
	follow(t, &script{steps: []func(context.Context, Feed, bool) error{step}}, Config{}, func(t *testing.T, r *registry.Registry, f *Follower) {
		if r.Status().Held != 101 {
			t.Fatalf("%d held, want all 101", r.Status().Held)
		}
		f.Release()
		pass(time.Second)
		if r.Count(registry.KindMachine) != 0 {
			t.Errorf("%d machines after the release", r.Count(registry.KindMachine))
		}
		pass(10 * time.Second)
		if r.Count(registry.KindMachine) != 100 || r.Count(registry.KindApp) != 1 {
			t.Errorf("%d machines and %d apps after a listing of 100 and 1", r.Count(registry.KindMachine), r.Count(registry.KindApp))
		}
	})
}
