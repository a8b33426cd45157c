package follow

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/registrytest"
)

// beside has the source list items, and send changes in the midst of it.
func (g *guarded) beside(items []registry.Item, then func(), changes ...registry.Item) {
	g.t.Helper()
	g.set(items, "")
	g.pull(g.t, func(ctx context.Context, feed Feed) error {
		half := len(items) / 2
		if err := errors.Join(feed.List(ctx, items[:half]), feed.Change(ctx, changes)); err != nil {
			return err
		}
		time.Sleep(time.Second)
		then()
		return errors.Join(feed.List(ctx, items[half:]), feed.Listed(ctx, ""))
	})
	pass(2 * time.Second)
}

// A change is applied at once, also while a listing is under way, and the listing
// does not undo it: neither by what it has, nor by what it lacks.
func TestAChangeDuringAListing(t *testing.T) {
	all := running(t, 100)
	moved := func(i int) registry.Item {
		return running(t, 100, func(s *registry.MachineSpec) { s.Region = "syd" })[i]
	}
	region := func(g *guarded, id string) string {
		fleet, _ := g.r.Snapshot().Fleet(24, "web")
		if m := fleet.Machine(id); m != nil {
			return m.Region
		}
		return "gone"
	}
	fresh := registry.Put(registrytest.Machine(t, "fresh", registrytest.At("fdaa:0:18:1::ff:2")))
	app := registry.Put(&registry.App{Name: "empty", Network: 24})
	peers, addresses, apps := others(t, 3)
	guarding(t, append(running(t, 90), peers[0], addresses[0], apps[0], apps[1]), func(g *guarded) {
		check := func(when string) {
			t.Helper()
			for id, want := range map[string]string{"m0001": "syd", "m0098": "syd", "m0002": "gone", "m0097": "gone", "fresh": "iad"} {
				if got := region(g, id); got != want {
					t.Errorf("%s: %s is %s, want %s", when, id, got, want)
				}
			}
			for o, want := range map[registry.Object]bool{peers[0].Object: false, peers[1].Object: true, peers[2].Object: false,
				addresses[0].Object: false, addresses[1].Object: true, app.Object: true, apps[0].Object: false, apps[1].Object: true} {
				if _, got := registrytest.Objects(g.r)[o.Key()]; got != want {
					t.Errorf("%s: %s is there: %t", when, o.Key(), got)
				}
			}
		}
		// The listing has most of them as they were before the changes.
		list := append(append(all[:96:96], all[97:]...), apps[0], apps[1], peers[0], peers[2], addresses[0])
		list = append(list[:0:0], list...)
		del := func(items ...registry.Item) (out []registry.Item) {
			for _, i := range items {
				out = append(out, registry.Delete(i.Object.Key()))
			}
			return out
		}
		changes := append(del(all[2], all[97], peers[0], peers[2], addresses[0], apps[0]), moved(1), moved(98), fresh, app, peers[1], addresses[1])
		g.beside(list, func() { check("during the listing") }, changes...)
		check("after the listing")
		if region(g, "m0095") != "iad" || region(g, "m0096") != "gone" {
			t.Error("what nothing was said of is not as it is listed")
		}
	})
}

// What a change has put is no loss, though the listing has it stopped.
func TestAChangeDuringAListingIsNoLoss(t *testing.T) {
	all, stopped := running(t, 100), running(t, 100, registrytest.InState("stopped"))
	moved := running(t, 60, func(s *registry.MachineSpec) { s.Region = "syd" })
	guarding(t, all, func(g *guarded) {
		g.beside(stopped, func() {}, moved...)
		g.expect("forty of a hundred are stopped", [registry.Classes]int{60, 40}, [registry.Classes]int{})
	})
}

// What is put and deleted while a listing is under way is gone, whatever that has.
func TestAChangeAndItsDeletionDuringAListing(t *testing.T) {
	all := running(t, 100)
	guarding(t, all[:99], func(g *guarded) {
		g.beside(all, func() {}, all[99], registry.Delete(all[99].Object.Key()), registry.Delete(all[0].Object.Key()), all[0])
		fleet, _ := g.r.Snapshot().Fleet(24, "web")
		if fleet.Machine("m0099") != nil || fleet.Machine("m0000") == nil {
			t.Errorf("the last word does not count: %s", registrytest.IDs(fleet.Deployed()))
		}
	})
}

// A rejection during a listing keeps what is known, or listed, from being removed.
func TestARejectionDuringAListing(t *testing.T) {
	all := running(t, 100)
	bad := func(i int) registry.Item {
		return registry.Reject(all[i].Object.Key(), "", errors.New("unusable"))
	}
	guarding(t, all, func(g *guarded) {
		g.beside(all[10:], func() {}, bad(0), bad(50))
		g.expect("nine are lacking, one is not to be read", [registry.Classes]int{91}, [registry.Classes]int{})
	})
}

// A change during a listing settles what is held, and what the listing would have held.
func TestAChangeOfWhatIsHeldDuringAListing(t *testing.T) {
	all := running(t, 100)
	guarding(t, all, func(g *guarded) {
		g.lists()
		g.expect("all are lacking", [registry.Classes]int{100}, [registry.Classes]int{100})
		g.beside(nil, func() {
			g.expect("one is changed and one deleted", [registry.Classes]int{99}, [registry.Classes]int{98})
		}, all[0], registry.Delete(all[1].Object.Key()))
		g.expect("and listed", [registry.Classes]int{99}, [registry.Classes]int{98})
		pass(32 * time.Second)
		g.expect("confirmed, and the one has its own time", [registry.Classes]int{0}, [registry.Classes]int{})
	})
}

// Changes come through in every state, and those during a listing prove the source
// alive, but what is from disk keeps its age until all is listed.
func TestAChangeDuringTheFirstListing(t *testing.T) {
	dir := t.TempDir()
	saver := &script{steps: []func(context.Context, Feed, bool) error{list(func() []registry.Item { return fleetOf(t, 5) })}}
	run(t, named{saver, ""}, dir, time.Second, &bytes.Buffer{})
	for state, dir := range map[registry.State]string{registry.Listing: "", registry.Cached: dir} {
		src := named{&script{steps: []func(context.Context, Feed, bool) error{func(ctx context.Context, feed Feed, _ bool) error {
			err := feed.List(ctx, fleetOf(t, 2))
			time.Sleep(5 * time.Second)
			err = errors.Join(err, feed.Change(ctx, []registry.Item{registry.Put(registrytest.Machine(t, "new"))}))
			time.Sleep(time.Minute)
			return errors.Join(err, feed.Listed(ctx, ""), stayAlive(ctx, feed))
		}}}, ""}
		follow(t, src, Config{StateDir: dir}, func(t *testing.T, r *registry.Registry, f *Follower) {
			began := r.LastAlive()
			pass(10 * time.Second)
			fleet, _ := r.Snapshot().Fleet(24, "web")
			if s := r.Status(); s.State != state || fleet == nil || fleet.Machine("new") == nil || r.LastAlive() != began {
				t.Errorf("%s with %+v, heard at %v, want %s and %v", s.State, fleet, r.LastAlive(), state, began)
			}
			pass(time.Minute)
			if s := r.Status(); s.State != registry.Live {
				t.Errorf("%s after the listing", s.State)
			}
		})
	}
	src := newPuppet(fleetOf(t, 5))
	follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, f *Follower) {
		src.strings <- func(ctx context.Context, feed Feed) error {
			for range 30 {
				if err := errors.Join(feed.List(ctx, nil), feed.Change(ctx, nil)); err != nil {
					return err
				}
				time.Sleep(10 * time.Second)
			}
			return errors.Join(feed.List(ctx, fleetOf(t, 5)), feed.Listed(ctx, ""))
		}
		pass(4 * time.Minute)
		if s := r.Status(); s.State != registry.Live {
			t.Errorf("%s during a listing beside which the source proves itself", s.State)
		}
		pass(2 * time.Minute)
	})
}

// What an earlier stream left in the queue is in the registry before a listing is
// compared with it: otherwise the listing would not know that it lacks it.
func TestAListingWaitsForTheQueue(t *testing.T) {
	r := registry.New()
	f := New(r, &script{}, Config{})
	f.ops <- op{items: fleetOf(t, 1)}
	d := &feed{f: f, end: func(error) {}}
	begun := make(chan error)
	go func() { begun <- d.List(t.Context(), nil) }()
	for range 2 {
		f.batch(<-f.ops)
		if len(f.ops) == 0 && r.Count(registry.KindMachine) == 1 {
			break
		}
	}
	for done := false; !done; {
		select {
		case o := <-f.ops:
			f.batch(o)
		case err := <-begun:
			if done = true; err != nil {
				t.Fatal(err)
			}
		}
	}
	if fleet, _ := d.listing.view.Fleet(24, "web"); fleet == nil {
		t.Error("the listing is compared with a registry that lacks what was sent before")
	}
}

// While the guard holds something back nothing is saved: what would be on disk is neither
// what the source says nor what it said.
func TestNothingIsSavedWhileHeld(t *testing.T) {
	dir := t.TempDir()
	src := newPuppet(fleetOf(t, 50))
	follow(t, src, Config{StateDir: dir}, func(t *testing.T, r *registry.Registry, f *Follower) {
		expect := func(when string, want int) {
			t.Helper()
			if n, err := saved(dir); err != nil || n != want {
				t.Errorf("%s %d objects are saved (%v), want %d", when, n, err, want)
			}
		}
		pass(5 * time.Second)
		expect("at first", 50)
		fresh := registry.Put(registrytest.Machine(t, "new"))
		src.list(t, nil, "")
		src.change(t, fresh)
		pass(20 * time.Second)
		if r.Status().State != registry.Held {
			t.Fatalf("%s, want held", r.Status().State)
		}
		expect("while the rest is held", 50)
		src.list(t, append(fleetOf(t, 50), fresh), "")
		pass(5 * time.Second)
		expect("when it is not held any more", 51)
	})
}
