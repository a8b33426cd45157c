package follow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dnsd/registry"
	"dnsd/registry/registrytest"
)

// script is a source that does what the test says: each call of Follow runs the
// next step, and the last step again and again.
type script struct {
	mu    sync.Mutex
	calls []bool // resume, for each call
	steps []func(ctx context.Context, feed Feed, resume bool) error
}

func (s *script) String() string { return "script://" }

func (s *script) Follow(ctx context.Context, feed Feed, resume bool) error {
	s.mu.Lock()
	step := s.steps[min(len(s.calls), len(s.steps)-1)]
	s.calls = append(s.calls, resume)
	s.mu.Unlock()
	return step(ctx, feed, resume)
}

func (s *script) called() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

// world is what a scripted source lists; a test may change it at any time.
type world struct {
	mu    sync.Mutex
	items []registry.Item
}

func (w *world) set(items []registry.Item) { w.mu.Lock(); defer w.mu.Unlock(); w.items = items }
func (w *world) get() []registry.Item      { w.mu.Lock(); defer w.mu.Unlock(); return w.items }

// list returns a step that lists what get returns, and then stays alive with a
// proof of life every ten seconds.
func list(get func() []registry.Item) func(context.Context, Feed, bool) error {
	return func(ctx context.Context, feed Feed, _ bool) error {
		if err := errors.Join(feed.List(ctx, get()), feed.Listed(ctx, "")); err != nil {
			return err
		}
		return stayAlive(ctx, feed)
	}
}

func stayAlive(ctx context.Context, feed Feed) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Second):
			if err := feed.Change(ctx, nil); err != nil {
				return err
			}
		}
	}
}

// follow runs a follower, after edits to it, in a bubble and calls check with it.
func follow(t *testing.T, src Source, cfg Config, check func(t *testing.T, r *registry.Registry, f *Follower), edits ...func(*Follower)) {
	synctest.Test(t, func(t *testing.T) {
		r := registry.New()
		f := New(r, src, cfg)
		for _, edit := range edits {
			edit(f)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Run(ctx) }()
		synctest.Wait()
		check(t, r, f)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

// pass lets the bubble's clock run for d.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func fleetOf(t testing.TB, n int) []registry.Item {
	items := make([]registry.Item, 0, n)
	for i := range n {
		items = append(items, registry.Put(registrytest.Machine(t, fmt.Sprintf("m%04d", i))))
	}
	return items
}

func TestFollowListsThenChanges(t *testing.T) {
	var changed chan []registry.Item
	ended := false
	src := &script{steps: []func(context.Context, Feed, bool) error{func(ctx context.Context, feed Feed, _ bool) error {
		if err := errors.Join(feed.List(ctx, fleetOf(t, 2)), feed.List(ctx, fleetOf(t, 3)), feed.Listed(ctx, "")); err != nil {
			return err
		}
		for {
			select {
			case <-ctx.Done():
				time.Sleep(time.Second)
				ended = true
				return ctx.Err()
			case items := <-changed:
				if err := feed.Change(ctx, items); err != nil {
					return err
				}
			}
		}
	}}}
	synctest.Test(t, func(t *testing.T) {
		changed = make(chan []registry.Item) // of this bubble
		r := registry.New()
		if r.Status().Synced() {
			t.Error("synced before the first listing")
		}
		notReady := r.Status().Changed()
		f := New(r, src, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Run(ctx) }()
		synctest.Wait()
		if !registrytest.Closed(notReady) || r.Status().State != registry.Live || r.Count(registry.KindMachine) != 3 {
			t.Fatalf("after the listing: %+v with %d machines", r.Status(), r.Count(registry.KindMachine))
		}
		began := time.Now()
		changed <- []registry.Item{registry.Delete(registrytest.Machine(t, "m0001").Key()), registry.Put(registrytest.Machine(t, "m0000", registrytest.InState("stopped")))}
		synctest.Wait()
		if r.Count(registry.KindMachine) != 2 || time.Since(began) != 0 {
			t.Errorf("%d machines %v after the change, want 2 at once", r.Count(registry.KindMachine), time.Since(began))
		}
		cancel()
		if err := <-done; err != nil || !ended {
			t.Errorf("Run returned %v, after the source had: %t", err, ended)
		}
	})
}

// A stream that breaks, a listing cut short: nothing leaves the registry.
func TestNothingIsLostWhenAStreamBreaks(t *testing.T) {
	all := fleetOf(t, 5)
	src := &script{steps: []func(context.Context, Feed, bool) error{
		func(ctx context.Context, feed Feed, _ bool) error {
			return errors.Join(feed.List(ctx, all), feed.Listed(ctx, ""), errors.New("connection reset"))
		},
		func(ctx context.Context, feed Feed, _ bool) error { // cut short
			return errors.Join(feed.List(ctx, all[:1]), errors.New("end of file"))
		},
		func(ctx context.Context, feed Feed, _ bool) error { <-ctx.Done(); return ctx.Err() },
	}}
	follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, _ *Follower) {
		pass(50 * time.Second)
		if r.Count(registry.KindMachine) != 5 || r.Status().State != registry.Live {
			t.Errorf("%d machines in state %s, want 5 live", r.Count(registry.KindMachine), r.Status().State)
		}
		if want := []bool{false, true, true}; fmt.Sprint(src.calls) != fmt.Sprint(want) {
			t.Errorf("resume was %v, want %v", src.calls, want)
		}
		stale := r.Status().Changed()
		pass(15 * time.Second)
		if r.Status().State != registry.Stale || !registrytest.Closed(stale) || r.Count(registry.KindMachine) != 5 {
			t.Errorf("after a minute of silence: %s with %d machines", r.Status().State, r.Count(registry.KindMachine))
		}
		if !strings.Contains(r.Status().Problem, "end of file") {
			t.Errorf("problem %q does not say what broke", r.Status().Problem)
		}
	})
}

func TestStaleUntilHeardAgain(t *testing.T) {
	src := &script{steps: []func(context.Context, Feed, bool) error{func(ctx context.Context, feed Feed, _ bool) error {
		_ = errors.Join(feed.List(ctx, fleetOf(t, 1)), feed.Listed(ctx, ""))
		select {
		case <-time.After(90 * time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
		_ = feed.Change(ctx, nil)
		<-ctx.Done()
		return ctx.Err()
	}}}
	follow(t, src, Config{StaleAfter: time.Minute}, func(t *testing.T, r *registry.Registry, _ *Follower) {
		pass(59 * time.Second)
		if r.Status().Stale() {
			t.Error("stale before its time")
		}
		pass(3 * time.Second)
		if !r.Status().Stale() {
			t.Error("not stale after a minute of silence")
		}
		pass(29 * time.Second)
		if r.Status().Stale() || time.Since(r.LastAlive()) > 2*time.Second {
			t.Error("still stale after a sign of life")
		}
	})
}

// What is listed and well is not listed again by the clock.
func TestListsOnce(t *testing.T) {
	src := &script{steps: []func(context.Context, Feed, bool) error{list(func() []registry.Item { return fleetOf(t, 50) })}}
	follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, f *Follower) {
		pass(24 * time.Hour)
		if n := f.stats.listings.Load(); n != 1 || src.called() != 1 {
			t.Errorf("%d listings within a day, followed %d times", n, src.called())
		}
	})
}

// A listing of what is known already wakes nobody.
func TestAListingOfTheSame(t *testing.T) {
	src := &script{steps: []func(context.Context, Feed, bool) error{list(func() []registry.Item { return fleetOf(t, 50) })}}
	follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, f *Follower) {
		_, watch := r.Snapshot().Fleets(registrytest.Network(t, "fdaa:0:18::/48"))
		f.owed.Store(true)
		pass(2 * time.Second)
		if src.called() != 2 || src.calls[1] {
			t.Errorf("resume was %v, want a second listing", src.calls)
		}
		if registrytest.Closed(watch) {
			t.Error("a listing of what is known already woke the watchers")
		}
	})
}

// A listing that was due and broke off is still due: the stream is not resumed.
func TestAListingThatBrokeOffIsStillDue(t *testing.T) {
	all := fleetOf(t, 5)
	src := &script{steps: []func(context.Context, Feed, bool) error{
		list(func() []registry.Item { return all }),
		func(ctx context.Context, feed Feed, _ bool) error {
			return errors.Join(feed.List(ctx, all[:2]), errors.New("broken off"))
		},
		list(func() []registry.Item { return all[:4] }),
		func(context.Context, Feed, bool) error { return errors.New("not reached") },
	}}
	follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, f *Follower) {
		f.owed.Store(true)
		pass(2 * time.Second)
		if want := []bool{false, false, false}; fmt.Sprint(src.calls) != fmt.Sprint(want) {
			t.Errorf("resume was %v, want %v", src.calls, want)
		}
	})
}

func TestBackOffGrowsAndStaysBelowHalfAMinute(t *testing.T) {
	var at []time.Time
	src := &script{steps: []func(context.Context, Feed, bool) error{func(context.Context, Feed, bool) error {
		at = append(at, time.Now())
		return errors.New("connection refused")
	}}}
	follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, _ *Follower) {
		pass(time.Hour)
		if r.Status().Synced() {
			t.Error("synced with a source that never answered")
		}
	})
	if len(at) < 120 || len(at) > 500 {
		t.Errorf("%d attempts in an hour, want some 240 (every 15 s on average)", len(at))
	}
	for i := 1; i < len(at); i++ {
		if pause := at[i].Sub(at[i-1]); pause > min(backoffMin<<(i-1), backoffMax) && i < 20 || pause > backoffMax {
			t.Errorf("pause %d lasted %v", i, pause)
		}
	}
}

// One bad object costs no other, keeps its old version, and is logged once.
func TestRejectedObjectKeepsItsVersion(t *testing.T) {
	bad := registry.Reject(registrytest.Machine(t, "m0001").Key(), "line 7, column 3", errors.New("state is missing"))
	nameless := registry.Reject(registry.Key{Kind: registry.KindMachine}, "line 9, column 1", errors.New("id is missing"))
	another := registry.Reject(nameless.Key, "line 10, column 1", nameless.Err)
	elsewhere := registry.Reject(registry.Key{Kind: registry.KindMachine, Name: "web", ID: "m0002", AnyNetwork: true}, "line 11, column 1", errors.New("network is missing"))
	lost := registry.Reject(registry.Key{Kind: registry.KindMachine, Name: "db", AnyNetwork: true}, "line 13, column 1", errors.New("machines is no list"))
	var now world
	var log strings.Builder
	src := &script{steps: []func(context.Context, Feed, bool) error{list(now.get)}}
	now.set(append(fleetOf(t, 4), registry.Put(registrytest.Machine(t, "d1", registrytest.InApp("db"))), registry.Put(registrytest.Machine(t, "d2", registrytest.InApp("db")))))
	follow(t, src, Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, r *registry.Registry, f *Follower) {
		for range 3 {
			now.set([]registry.Item{registry.Put(registrytest.Machine(t, "m0003")), bad, nameless, another, elsewhere, lost})
			f.owed.Store(true)
			pass(time.Second)
		}
		if f, _ := r.Snapshot().Fleet(registrytest.Network(t, "fdaa:0:18::/48"), "web"); registrytest.IDs(f.Deployed()) != "[m0001 m0002 m0003]" {
			t.Errorf("left are %s, want the listed one and the two that could not be read", registrytest.IDs(f.Deployed()))
		}
		if f, _ := r.Snapshot().Fleet(registrytest.Network(t, "fdaa:0:18::/48"), "db"); f == nil || registrytest.IDs(f.Deployed()) != "[d1 d2]" {
			t.Error("an app whose machines could not be read has lost some")
		}
		if n := f.stats.rejected[registry.KindMachine].Load(); n != 15 {
			t.Errorf("%d rejections counted, want 15", n)
		}
	})
	if n, nameless := strings.Count(log.String(), "cannot be used"), strings.Count(log.String(), "does not say which it is"); n != 5 || nameless != 2 {
		t.Errorf("%d rejections logged, want each of five once, and two that do not say of what:\n%s", n, log.String())
	}
}

// An object is known by whatever of it can be read.
func TestWhatARejectedObjectKeeps(t *testing.T) {
	peer := func(name, addr string) registry.Item {
		p, err := registry.NewPeer(registry.PeerSpec{Name: name, PrivateIP: addr})
		if err != nil {
			t.Fatal(err)
		}
		return registry.Put(p)
	}
	known := []registry.Item{registry.Put(registrytest.Machine(t, "m1")), registry.Put(registrytest.Machine(t, "m2")), registry.Put(registrytest.Machine(t, "d1", registrytest.InApp("db"))), registry.Put(registrytest.Machine(t, "d2", registrytest.InApp("db"))),
		peer("p1", "fdaa:0:18::1"), peer("p2", "fdaa:0:18::2"), registry.Put(&registry.App{Name: "empty", Network: 24}), registry.Put(&registry.App{Name: "other", Network: 24})}
	for name, c := range map[string]struct {
		key  registry.Key
		left string
	}{
		"a machine by its id, app unreadable": {registry.Key{Kind: registry.KindMachine, Network: 24, ID: "m1"}, "[web/m1]"},
		"a machine by its id, elsewhere":      {registry.Key{Kind: registry.KindMachine, Network: 25, ID: "m1"}, "[]"},
		"a machine by its id, moving":         {registry.Key{Kind: registry.KindMachine, Network: 24, Name: "db", ID: "m1"}, "[web/m1]"},
		"a machine anywhere":                  {registry.Key{Kind: registry.KindMachine, AnyNetwork: true, ID: "d2"}, "[db/d2]"},
		"an app's machines":                   {registry.Key{Kind: registry.KindMachine, Network: 24, Name: "db"}, "[db/d1 db/d2]"},
		"a peer by its name":                  {registry.Key{Kind: registry.KindPeer, Network: 24, Name: "p1"}, "[p1/]"},
		"a peer by its address":               {registry.Key{Kind: registry.KindPeer, Network: 24, ID: "fdaa:0:18::2"}, "[p2/]"},
		"a peer by either":                    {registry.Key{Kind: registry.KindPeer, Network: 24, Name: "p1", ID: "fdaa:0:18::2"}, "[p1/ p2/]"},
		"an app by its name":                  {registry.Key{Kind: registry.KindApp, Network: 24, Name: "other"}, "[other/]"},
		"nothing by nothing":                  {registry.Key{Kind: registry.KindApp, AnyNetwork: true}, "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			var now world
			now.set(known)
			src := &script{steps: []func(context.Context, Feed, bool) error{list(now.get)}}
			follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, f *Follower) {
				now.set([]registry.Item{registry.Reject(c.key, "", errors.New("unusable"))})
				f.owed.Store(true)
				pass(time.Second)
				var left []string
				for key := range registrytest.Objects(r) {
					left = append(left, key.Name+"/"+key.ID)
				}
				if slices.Sort(left); fmt.Sprint(left) != c.left {
					t.Errorf("left are %v, want %s", left, c.left)
				}
			})
		})
	}
}

// A mistake that rejects a whole app is not a line for each machine.
func TestManyRejectionsAreSummedUp(t *testing.T) {
	var log strings.Builder
	var items []registry.Item
	for i := range 1000 {
		items = append(items, registry.Reject(registrytest.Machine(t, fmt.Sprint("m", i)).Key(), "", errors.New("network is missing")))
	}
	follow(t, &script{steps: []func(context.Context, Feed, bool) error{list(func() []registry.Item { return items })}},
		Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, r *registry.Registry, f *Follower) {
			if n := f.stats.rejected[registry.KindMachine].Load(); n != 1000 {
				t.Errorf("%d counted, want 1000", n)
			}
		})
	if n := strings.Count(log.String(), "\n"); n > maxLogged+5 || !strings.Contains(log.String(), "objects=980") {
		t.Errorf("%d lines, want %d and one that sums up the rest:\n%s", n, maxLogged, log.String())
	}
}

// While the registry is busy changes pile up, and one transaction takes them: more of
// them each time while there are more, up to a bound, and as few as ever afterwards.
func TestBatches(t *testing.T) {
	f := New(registry.New(), &script{}, Config{})
	items := running(t, 1)
	each := make([]registry.Item, 100)
	for i := range each {
		each[i] = items[0]
	}
	fill := func(n int) {
		for range n {
			f.ops <- op{items: each}
		}
	}
	fill(5 + 10 + 20 + 40 + 80 + 160 + 160 + 1)
	done := make(chan error, 1)
	f.ops <- op{done: done}
	var sizes []int
	for len(f.ops) > 0 {
		n := len(f.ops)
		f.batch(<-f.ops)
		sizes = append(sizes, n-len(f.ops))
		if (len(done) > 0) != (len(f.ops) == 0) {
			t.Error("who waits for the end of the queue is told at another time")
		}
	}
	fill(6)
	f.batch(<-f.ops)
	sizes = append(sizes, 6-len(f.ops))
	if want := "[5 10 20 40 80 80 80 80 80 2 5]"; fmt.Sprint(sizes) != want {
		t.Errorf("batches of %v hundreds, want %s", sizes, want)
	}
}

// Of an object listed twice the last one counts, also where it is the known one.
func TestListedTwice(t *testing.T) {
	peer := func(addr string) registry.Item {
		p, err := registry.NewPeer(registry.PeerSpec{Name: "p", PrivateIP: addr})
		if err != nil {
			t.Fatal(err)
		}
		return registry.Put(p)
	}
	var now world
	known := []registry.Item{registry.Put(registrytest.Machine(t, "m1")), peer("fdaa:0:18::1"), registry.Put(&registry.App{Name: "empty", Network: 24})}
	other := []registry.Item{registry.Put(registrytest.Machine(t, "m1", registrytest.InState("stopped"))), peer("fdaa:0:18::2"), registry.Put(&registry.App{Name: "Empty", Network: 24})}
	now.set(known)
	src := &script{steps: []func(context.Context, Feed, bool) error{list(now.get)}}
	follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, f *Follower) {
		want := registrytest.Objects(r)
		now.set(append(slices.Clone(other), known...))
		f.owed.Store(true)
		pass(time.Second)
		if got := registrytest.Objects(r); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("holds %v, want %v", got, want)
		}
		now.set(append(slices.Clone(known), other...))
		f.owed.Store(true)
		pass(time.Second)
		if got := registrytest.Objects(r); fmt.Sprint(got) == fmt.Sprint(want) || len(got) != len(want) {
			t.Errorf("holds %v, want the other versions", got)
		}
	})
}

func TestAProblemEndsWhenTheSourceIsHeard(t *testing.T) {
	src := &script{steps: []func(context.Context, Feed, bool) error{
		func(ctx context.Context, feed Feed, _ bool) error {
			return errors.Join(feed.List(ctx, fleetOf(t, 3)), feed.Listed(ctx, ""), errors.New("connection refused"))
		},
		func(ctx context.Context, feed Feed, _ bool) error {
			time.Sleep(5 * time.Second)
			_ = feed.Change(ctx, nil)
			<-ctx.Done()
			return ctx.Err()
		},
	}}
	follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, _ *Follower) {
		pass(2 * time.Second)
		if r.Status().Problem != "connection refused" {
			t.Errorf("problem %q before the source is heard", r.Status().Problem)
		}
		pass(6 * time.Second)
		if s := r.Status(); s.State != registry.Live || s.Problem != "" {
			t.Errorf("%s with the problem %q", s.State, s.Problem)
		}
	})
}

// A change that arrives while a listing is under way is newer than the listing.
func TestChangeDuringAListingWins(t *testing.T) {
	src := &script{steps: []func(context.Context, Feed, bool) error{func(ctx context.Context, feed Feed, _ bool) error {
		_ = feed.List(ctx, fleetOf(t, 3))
		_ = feed.Change(ctx, []registry.Item{registry.Delete(registrytest.Machine(t, "m0001").Key())})
		_ = feed.Listed(ctx, "")
		return stayAlive(ctx, feed)
	}}}
	follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, _ *Follower) {
		if r.Count(registry.KindMachine) != 2 {
			t.Errorf("%d machines, want 2", r.Count(registry.KindMachine))
		}
	})
}

// A deletion has no place in a listing: it is rejected, and what is known stays.
func TestADeletionInAListingIsRejected(t *testing.T) {
	log := &bytes.Buffer{}
	src := newPuppet(fleetOf(t, 3))
	follow(t, src, Config{Log: registrytest.TextLog(log)}, func(t *testing.T, r *registry.Registry, f *Follower) {
		items := fleetOf(t, 3)
		items[1] = registry.Delete(items[1].About())
		src.list(t, items, "")
		if n := f.stats.rejected[registry.KindMachine].Load(); r.Count(registry.KindMachine) != 3 || n != 1 {
			t.Errorf("%d machines, want 3; %d rejected, want 1", r.Count(registry.KindMachine), n)
		}
		if !strings.Contains(log.String(), "it is deleted in the middle of a listing") {
			t.Errorf("the log says:\n%s", log)
		}
	})
}
