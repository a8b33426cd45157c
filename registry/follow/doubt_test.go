package follow

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/registrytest"
)

const gaps = "the agent has gaps in what it knows"

// What a listing in doubt lacks stays, however little and for however long, and
// what it has is applied. A listing without doubt decides as ever.
func TestAListingInDoubtRemovesNothing(t *testing.T) {
	src := newPuppet(fleetOf(t, 100))
	log := &bytes.Buffer{}
	follow(t, src, Config{Log: registrytest.TextLog(log)}, func(t *testing.T, r *registry.Registry, f *Follower) {
		expect := func(what string, machines, held int, state registry.State) {
			t.Helper()
			if s := r.Status(); r.Count(registry.KindMachine) != machines || s.Held != held || s.State != state {
				t.Errorf("%s: %d machines, %d held, %s; want %d, %d, %s", what, r.Count(registry.KindMachine), s.Held, s.State, machines, held, state)
			}
		}
		src.list(t, fleetOf(t, 100), gaps)
		expect("none is lacking", 100, 0, registry.Live)
		src.list(t, append(fleetOf(t, 100), registry.Put(registrytest.Machine(t, "gone", registrytest.InState("destroyed")))), "")
		src.list(t, fleetOf(t, 100), gaps)
		expect("one is lacking that is in no answer", 101, 0, registry.Live)
		src.list(t, fleetOf(t, 100), "")
		expect("without doubt", 100, 0, registry.Live)
		src.list(t, append(fleetOf(t, 99), registry.Put(registrytest.Machine(t, "new"))), gaps)
		expect("one is lacking", 101, 1, registry.Held)
		if r.Status().Doubt != gaps || strings.Count(log.String(), gaps) != 3 {
			t.Errorf("doubt %q, log:\n%s", r.Status().Doubt, log)
		}
		pass(5 * time.Minute)
		src.list(t, fleetOf(t, 99), gaps)
		expect("still, after minutes and another listing", 101, 2, registry.Held)
		if src.calls() != 1 {
			t.Error("the source was made to list again though it is in doubt")
		}
		src.list(t, fleetOf(t, 100), gaps)
		expect("one is back", 101, 1, registry.Held)
		src.list(t, fleetOf(t, 100), "")
		expect("without doubt", 100, 0, registry.Live)
		src.list(t, nil, gaps)
		pass(5 * time.Minute)
		expect("all are lacking", 100, 100, registry.Held)
		src.list(t, nil, "")
		expect("and a first listing without doubt says so", 100, 100, registry.Held)
		src.list(t, nil, "")
		expect("and one too soon", 100, 100, registry.Held)
		src.list(t, fleetOf(t, 100), gaps)
		expect("and then they are back", 100, 0, registry.Live)
		src.list(t, fleetOf(t, 90), gaps)
		f.Release()
		pass(time.Second)
		expect("released", 90, 0, registry.Live)
		if n := strings.Count(log.String(), gaps); n != 5 {
			t.Errorf("the doubt is logged %d times, want once each of five times that it came up", n)
		}
		if n := strings.Count(log.String(), "no doubt any more"); n != 4 {
			t.Errorf("its end is logged %d times, want 4", n)
		}
		if !strings.Contains(log.String(), "changed=1 removed=1 rejected=0 held=0") {
			t.Errorf("no listing is logged that removed one:\n%s", log)
		}
	})
}

// A source in doubt is waited for, also where a second opinion is due.
func TestADoubtingSourceIsNotPressed(t *testing.T) {
	src := newPuppet(fleetOf(t, 100))
	follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, f *Follower) {
		src.list(t, nil, "")
		src.list(t, nil, gaps)
		pass(5 * time.Minute)
		if src.calls() != 1 || r.Count(registry.KindMachine) != 100 {
			t.Errorf("followed %d times, %d machines are left", src.calls(), r.Count(registry.KindMachine))
		}
		src.list(t, nil, "")
		if s := r.Status(); r.Count(registry.KindMachine) != 0 || s.State != registry.Live {
			t.Errorf("the second listing without doubt, minutes later: %d machines, %s", r.Count(registry.KindMachine), s.State)
		}
	})
}

// What a listing in doubt lacks is saved as it is served: the source may doubt
// itself for long, and what is known must not grow old on disk meanwhile.
func TestTheStateIsSavedInDoubt(t *testing.T) {
	dir := t.TempDir()
	src := newPuppet(fleetOf(t, 50))
	follow(t, src, Config{StateDir: dir}, func(t *testing.T, r *registry.Registry, f *Follower) {
		src.list(t, fleetOf(t, 10), gaps)
		src.change(t, registry.Put(registrytest.Machine(t, "new")))
		pass(2 * time.Minute)
		if n, err := saved(dir); err != nil || n != 51 {
			t.Errorf("%d objects are saved (%v), want 51", n, err)
		}
	})
}

// Who releases what is held has not vouched for what was never listed.
func TestReleaseMakesNothingReady(t *testing.T) {
	dir := t.TempDir()
	run(t, named{newPuppet(fleetOf(t, 50)), ""}, dir, time.Second, &bytes.Buffer{})
	for dir, want := range map[string]registry.State{"": registry.Listing, dir: registry.Cached} {
		follow(t, named{dead(), ""}, Config{StateDir: dir}, func(t *testing.T, r *registry.Registry, f *Follower) {
			f.Release()
			pass(time.Minute)
			if s := r.Status(); s.State != want {
				t.Errorf("%s, want %s", s.State, want)
			}
		})
	}
}

// Nobody is told that a name does not exist before the source knows everything:
// a registry that was not ready, or from disk, remains so.
func TestAListingInDoubtMakesNothingReady(t *testing.T) {
	dir := t.TempDir()
	sure := &script{steps: []func(context.Context, Feed, bool) error{list(func() []registry.Item { return fleetOf(t, 50) })}}
	run(t, named{sure, ""}, dir, time.Second, &bytes.Buffer{})
	for name, c := range map[string]struct {
		dir  string
		want registry.State
		all  int
	}{
		"nothing known": {"", registry.Listing, 10},
		"from disk":     {dir, registry.Cached, 50},
	} {
		t.Run(name, func(t *testing.T) {
			var once sync.Once
			src := named{&script{steps: []func(context.Context, Feed, bool) error{func(ctx context.Context, feed Feed, resume bool) error {
				if resume {
					t.Error("a stream is to be resumed behind a listing in doubt")
				}
				err := errors.Join(feed.List(ctx, fleetOf(t, 10)), feed.Listed(ctx, gaps))
				once.Do(func() { err = errors.New("broken") })
				if err != nil {
					return err
				}
				return stayAlive(ctx, feed)
			}}}, ""}
			follow(t, src, Config{StateDir: c.dir}, func(t *testing.T, r *registry.Registry, f *Follower) {
				pass(time.Minute)
				s := r.Status()
				if s.State != c.want || s.Doubt != gaps || r.Count(registry.KindMachine) != c.all {
					t.Errorf("%s with the doubt %q and %d machines; want %s and %d", s.State, s.Doubt, r.Count(registry.KindMachine), c.want, c.all)
				}
				f.Release() // somebody vouches for it
				pass(time.Second)
				if s := r.Status(); s.State != registry.Live || r.Count(registry.KindMachine) != 10 {
					t.Errorf("released: %s with %d machines, want 10, live", s.State, r.Count(registry.KindMachine))
				}
			})
		})
	}
}
