package registry

import (
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
	items []Item
}

func (w *world) set(items []Item) { w.mu.Lock(); defer w.mu.Unlock(); w.items = items }
func (w *world) get() []Item      { w.mu.Lock(); defer w.mu.Unlock(); return w.items }

// list returns a step that lists what get returns, and then stays alive with a
// proof of life every ten seconds.
func list(get func() []Item) func(context.Context, Feed, bool) error {
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
func follow(t *testing.T, src Source, cfg FollowerConfig, check func(t *testing.T, r *Registry, f *Follower), edits ...func(*Follower)) {
	synctest.Test(t, func(t *testing.T) {
		r := New()
		f := NewFollower(r, src, cfg)
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

func fleetOf(t testing.TB, n int) []Item {
	items := make([]Item, 0, n)
	for i := range n {
		items = append(items, Put(machine(t, fmt.Sprintf("m%04d", i))))
	}
	return items
}

func TestFollowListsThenChanges(t *testing.T) {
	var changed chan []Item
	src := &script{steps: []func(context.Context, Feed, bool) error{func(ctx context.Context, feed Feed, _ bool) error {
		if err := errors.Join(feed.List(ctx, fleetOf(t, 2)), feed.List(ctx, fleetOf(t, 3)), feed.Listed(ctx, "")); err != nil {
			return err
		}
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case items := <-changed:
				if err := feed.Change(ctx, items); err != nil {
					return err
				}
			}
		}
	}}}
	synctest.Test(t, func(t *testing.T) {
		changed = make(chan []Item) // of this bubble
		r := New()
		if r.Status().Synced() {
			t.Error("synced before the first listing")
		}
		notReady := r.Status().Changed()
		f := NewFollower(r, src, FollowerConfig{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Run(ctx) }()
		synctest.Wait()
		if !closed(notReady) || r.Status().State != Live || r.Count(KindMachine) != 3 {
			t.Fatalf("after the listing: %+v with %d machines", r.Status(), r.Count(KindMachine))
		}
		began := time.Now()
		changed <- []Item{Delete(machine(t, "m0001").Key()), Put(machine(t, "m0000", inState("stopped")))}
		synctest.Wait()
		if r.Count(KindMachine) != 2 || time.Since(began) != 0 {
			t.Errorf("%d machines %v after the change, want 2 at once", r.Count(KindMachine), time.Since(began))
		}
		cancel()
		<-done
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
	follow(t, src, FollowerConfig{}, func(t *testing.T, r *Registry, _ *Follower) {
		pass(50 * time.Second)
		if r.Count(KindMachine) != 5 || r.Status().State != Live {
			t.Errorf("%d machines in state %s, want 5 live", r.Count(KindMachine), r.Status().State)
		}
		if want := []bool{false, true, true}; fmt.Sprint(src.calls) != fmt.Sprint(want) {
			t.Errorf("resume was %v, want %v", src.calls, want)
		}
		stale := r.Status().Changed()
		pass(15 * time.Second)
		if r.Status().State != Stale || !closed(stale) || r.Count(KindMachine) != 5 {
			t.Errorf("after a minute of silence: %s with %d machines", r.Status().State, r.Count(KindMachine))
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
	follow(t, src, FollowerConfig{StaleAfter: time.Minute}, func(t *testing.T, r *Registry, _ *Follower) {
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

func TestListsAgainEveryQuarterOfAnHour(t *testing.T) {
	all := fleetOf(t, 50)
	src := &script{steps: []func(context.Context, Feed, bool) error{list(func() []Item { return all })}}
	follow(t, src, FollowerConfig{}, func(t *testing.T, r *Registry, _ *Follower) {
		_, watch := r.View().Fleets(network(t, "fdaa:0:18::/48"))
		pass(11 * time.Minute)
		if src.called() != 1 {
			t.Fatalf("%d listings within 11 minutes", src.called())
		}
		pass(8 * time.Minute)
		if src.called() != 2 || src.calls[1] {
			t.Errorf("listings after 19 minutes: resume=%v, want a second one that does not resume", src.calls)
		}
		if closed(watch) {
			t.Error("a listing of what is known already woke the watchers")
		}
	})
}

// A listing that was due and broke off is still due: the stream is not resumed.
func TestAListingThatBrokeOffIsStillDue(t *testing.T) {
	all := fleetOf(t, 5)
	src := &script{steps: []func(context.Context, Feed, bool) error{
		list(func() []Item { return all }),
		func(ctx context.Context, feed Feed, _ bool) error {
			return errors.Join(feed.List(ctx, all[:2]), errors.New("broken off"))
		},
		list(func() []Item { return all[:4] }),
		func(context.Context, Feed, bool) error { return errors.New("not reached") },
	}}
	follow(t, src, FollowerConfig{}, func(t *testing.T, r *Registry, f *Follower) {
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
	follow(t, src, FollowerConfig{}, func(t *testing.T, r *Registry, _ *Follower) {
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
	bad := Reject(machine(t, "m0001").Key(), "line 7, column 3", errors.New("state is missing"))
	nameless := Reject(Key{Kind: KindMachine}, "line 9, column 1", errors.New("id is missing"))
	elsewhere := Reject(Key{Kind: KindMachine, Name: "web", ID: "m0002", AnyNetwork: true}, "line 11, column 1", errors.New("network is missing"))
	lost := Reject(Key{Kind: KindMachine, Name: "db", AnyNetwork: true}, "line 13, column 1", errors.New("machines is no list"))
	var now world
	var log strings.Builder
	src := &script{steps: []func(context.Context, Feed, bool) error{list(now.get)}}
	now.set(append(fleetOf(t, 4), Put(machine(t, "d1", inApp("db"))), Put(machine(t, "d2", inApp("db")))))
	follow(t, src, FollowerConfig{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, r *Registry, f *Follower) {
		for range 3 {
			now.set([]Item{Put(machine(t, "m0003")), bad, nameless, elsewhere, lost})
			f.owed.Store(true)
			pass(time.Second)
		}
		if f, _ := r.View().Fleet(network(t, "fdaa:0:18::/48"), "web"); ids(f.Deployed()) != "[m0001 m0002 m0003]" {
			t.Errorf("left are %s, want the listed one and the two that could not be read", ids(f.Deployed()))
		}
		if f, _ := r.View().Fleet(network(t, "fdaa:0:18::/48"), "db"); f == nil || ids(f.Deployed()) != "[d1 d2]" {
			t.Error("an app whose machines could not be read has lost some")
		}
		if n := f.stats.rejected[KindMachine].Load(); n != 12 {
			t.Errorf("%d rejections counted, want 12", n)
		}
	})
	if n := strings.Count(log.String(), "cannot be used"); n != 4 {
		t.Errorf("%d rejections logged, want each of four once:\n%s", n, log.String())
	}
}

// An object is known by whatever of it can be read.
func TestWhatARejectedObjectKeeps(t *testing.T) {
	peer := func(name, addr string) Item {
		p, err := NewPeer(PeerSpec{Name: name, PrivateIP: addr})
		if err != nil {
			t.Fatal(err)
		}
		return Put(p)
	}
	known := []Item{Put(machine(t, "m1")), Put(machine(t, "m2")), Put(machine(t, "d1", inApp("db"))), Put(machine(t, "d2", inApp("db"))),
		peer("p1", "fdaa:0:18::1"), peer("p2", "fdaa:0:18::2"), Put(&App{Name: "empty", Network: 24}), Put(&App{Name: "other", Network: 24})}
	for name, c := range map[string]struct {
		key  Key
		left string
	}{
		"a machine by its id, app unreadable": {Key{Kind: KindMachine, Network: 24, ID: "m1"}, "[web/m1]"},
		"a machine by its id, elsewhere":      {Key{Kind: KindMachine, Network: 25, ID: "m1"}, "[]"},
		"a machine by its id, moving":         {Key{Kind: KindMachine, Network: 24, Name: "db", ID: "m1"}, "[web/m1]"},
		"a machine anywhere":                  {Key{Kind: KindMachine, AnyNetwork: true, ID: "d2"}, "[db/d2]"},
		"an app's machines":                   {Key{Kind: KindMachine, Network: 24, Name: "db"}, "[db/d1 db/d2]"},
		"a peer by its name":                  {Key{Kind: KindPeer, Network: 24, Name: "p1"}, "[p1/]"},
		"a peer by its address":               {Key{Kind: KindPeer, Network: 24, ID: "fdaa:0:18::2"}, "[p2/]"},
		"a peer by either":                    {Key{Kind: KindPeer, Network: 24, Name: "p1", ID: "fdaa:0:18::2"}, "[p1/ p2/]"},
		"an app by its name":                  {Key{Kind: KindApp, Network: 24, Name: "other"}, "[other/]"},
		"nothing by nothing":                  {Key{Kind: KindApp, AnyNetwork: true}, "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			var now world
			now.set(known)
			src := &script{steps: []func(context.Context, Feed, bool) error{list(now.get)}}
			follow(t, src, FollowerConfig{}, func(t *testing.T, r *Registry, f *Follower) {
				now.set([]Item{Reject(c.key, "", errors.New("unusable"))})
				f.owed.Store(true)
				pass(time.Second)
				var left []string
				for key := range objects(r) {
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
	var items []Item
	for i := range 1000 {
		items = append(items, Reject(machine(t, fmt.Sprint("m", i)).Key(), "", errors.New("network is missing")))
	}
	follow(t, &script{steps: []func(context.Context, Feed, bool) error{list(func() []Item { return items })}},
		FollowerConfig{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, r *Registry, f *Follower) {
			if n := f.stats.rejected[KindMachine].Load(); n != 1000 {
				t.Errorf("%d counted, want 1000", n)
			}
		})
	if n := strings.Count(log.String(), "\n"); n > maxLogged+5 || !strings.Contains(log.String(), "objects=980") {
		t.Errorf("%d lines, want %d and one that sums up the rest:\n%s", n, maxLogged, log.String())
	}
}

// While the registry is busy changes pile up, and one transaction takes them.
func TestBatches(t *testing.T) {
	r := New()
	f := NewFollower(r, &script{}, FollowerConfig{})
	done := make(chan error, 1)
	for i := range 600 {
		f.ops <- op{items: []Item{Put(machine(t, fmt.Sprintf("m%04d", i)))}}
	}
	f.ops <- op{done: done}
	f.batch(<-f.ops)
	if r.Count(KindMachine) != batchItems || len(done) > 0 {
		t.Errorf("the first batch had %d changes, want %d", r.Count(KindMachine), batchItems)
	}
	f.batch(<-f.ops)
	if r.Count(KindMachine) != 600 || len(done) != 1 {
		t.Errorf("after the second batch there are %d machines, want 600", r.Count(KindMachine))
	}
}

// Of an object listed twice the last one counts, also where it is the known one.
func TestListedTwice(t *testing.T) {
	peer := func(addr string) Item {
		p, err := NewPeer(PeerSpec{Name: "p", PrivateIP: addr})
		if err != nil {
			t.Fatal(err)
		}
		return Put(p)
	}
	var now world
	known := []Item{Put(machine(t, "m1")), peer("fdaa:0:18::1"), Put(&App{Name: "empty", Network: 24})}
	other := []Item{Put(machine(t, "m1", inState("stopped"))), peer("fdaa:0:18::2"), Put(&App{Name: "Empty", Network: 24})}
	now.set(known)
	src := &script{steps: []func(context.Context, Feed, bool) error{list(now.get)}}
	follow(t, src, FollowerConfig{}, func(t *testing.T, r *Registry, f *Follower) {
		want := objects(r)
		now.set(append(slices.Clone(other), known...))
		f.owed.Store(true)
		pass(time.Second)
		if got := objects(r); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("holds %v, want %v", got, want)
		}
		now.set(append(slices.Clone(known), other...))
		f.owed.Store(true)
		pass(time.Second)
		if got := objects(r); fmt.Sprint(got) == fmt.Sprint(want) || len(got) != len(want) {
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
	follow(t, src, FollowerConfig{}, func(t *testing.T, r *Registry, _ *Follower) {
		pass(2 * time.Second)
		if r.Status().Problem != "connection refused" {
			t.Errorf("problem %q before the source is heard", r.Status().Problem)
		}
		pass(6 * time.Second)
		if s := r.Status(); s.State != Live || s.Problem != "" {
			t.Errorf("%s with the problem %q", s.State, s.Problem)
		}
	})
}

// A change that arrives while a listing is under way is newer than the listing.
func TestChangeDuringAListingWins(t *testing.T) {
	src := &script{steps: []func(context.Context, Feed, bool) error{func(ctx context.Context, feed Feed, _ bool) error {
		_ = feed.List(ctx, fleetOf(t, 3))
		_ = feed.Change(ctx, []Item{Delete(machine(t, "m0001").Key())})
		_ = feed.Listed(ctx, "")
		return stayAlive(ctx, feed)
	}}}
	follow(t, src, FollowerConfig{}, func(t *testing.T, r *Registry, _ *Follower) {
		if r.Count(KindMachine) != 2 {
			t.Errorf("%d machines, want 2", r.Count(KindMachine))
		}
	})
}
