package follow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/registrytest"
)

// reached has the source say how far it is.
func (p *puppet) reached(t *testing.T, at, head int64) {
	t.Helper()
	p.pull(t, func(ctx context.Context, feed Feed) error { return feed.Reached(ctx, at, head) })
}

// A registry that is behind for more than a moment says so until it has caught up, and one
// that was stale until it has what the source had when it was heard again.
func TestCatchingUp(t *testing.T) {
	log := &bytes.Buffer{}
	src := newPuppet(fleetOf(t, 5))
	follow(t, src, Config{Log: registrytest.TextLog(log)}, func(t *testing.T, r *registry.Registry, f *Follower) {
		g := &guarded{src, t, r, f}
		expect := func(what string, want registry.State, revisions, seconds float64) {
			t.Helper()
			s := r.Status()
			if s.State != want || s.Stale() != (want == registry.CatchingUp) || (s.Behind != "") != (want == registry.CatchingUp) {
				t.Errorf("%s: %s (%s), want %s", what, s.State, s.Behind, want)
			}
			if n, age := g.metric("dnsd_registry_lag_revisions", ""), g.metric("dnsd_registry_lag_seconds", ""); n != revisions || age != seconds {
				t.Errorf("%s: %v revisions and %v s behind, want %v and %v", what, n, age, revisions, seconds)
			}
		}
		expect("nothing is said of revisions", registry.Live, 0, 0)
		src.reached(t, 100, 100)
		pass(time.Minute)
		expect("nothing is missing", registry.Live, 0, 0)
		src.reached(t, 100, 500)
		expect("a moment behind", registry.Live, 400, 0)
		pass(2 * time.Second)
		src.reached(t, 300, 600)
		expect("two seconds", registry.Live, 300, 2)
		pass(time.Second)
		expect("three seconds", registry.CatchingUp, 300, 3)
		if s := r.Status().Behind; !strings.Contains(s, "300 revisions") || !strings.Contains(s, "3s") {
			t.Errorf("it says %q", s)
		}
		src.reached(t, 599, 700)
		expect("what was known first is there", registry.CatchingUp, 101, 1)
		src.reached(t, 600, 700)
		expect("and what was known when it fell behind", registry.Live, 100, 0)
		src.reached(t, 700, 700)
		expect("and all", registry.Live, 0, 0)
	})
	if n, m := strings.Count(log.String(), "is behind its source"), strings.Count(log.String(), "the registry has caught up"); n != 1 || m != 1 {
		t.Errorf("logged %d and %d times:\n%s", n, m, log)
	}
}

// No registry that was silent is live before it has what its source had when it was
// heard again, however soon that is.
func TestStaleCatchesUpFirst(t *testing.T) {
	var states []registry.State
	src := &script{steps: []func(context.Context, Feed, bool) error{
		func(ctx context.Context, feed Feed, _ bool) error {
			err := errors.Join(feed.Reached(ctx, 0, 100), feed.List(ctx, fleetOf(t, 5)), feed.Reached(ctx, 100, 100), feed.Listed(ctx, ""))
			return errors.Join(err, errors.New("broken"))
		},
		func(ctx context.Context, feed Feed, _ bool) error {
			time.Sleep(2 * time.Minute)
			return errors.New("refused")
		},
		func(ctx context.Context, feed Feed, _ bool) error {
			err := errors.Join(feed.Reached(ctx, 100, 1000), feed.Change(ctx, nil))
			for at := int64(200); at < 1000; at += 100 {
				time.Sleep(time.Millisecond)
				err = errors.Join(err, feed.Change(ctx, fleetOf(t, 5)), feed.Reached(ctx, at, 1000+at))
			}
			return errors.Join(err, feed.Reached(ctx, 1000, 1900), stayAlive(ctx, feed))
		},
	}}
	follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, f *Follower) {
		for range 200_000 {
			pass(time.Millisecond)
			if s := r.Status().State; len(states) == 0 || states[len(states)-1] != s {
				states = append(states, s)
			}
		}
	})
	// It is behind once more at the end, when what was said last has not come.
	if want := "[live stale catching-up live catching-up]"; fmt.Sprint(states) != want {
		t.Errorf("it was %v, want %s", states, want)
	}
}

// Where changes are missing that only a listing brings, nothing is reached before that is
// complete; then all is that came beside it.
func TestAGapIsReachedWithItsListing(t *testing.T) {
	src := newPuppet(fleetOf(t, 5))
	follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, f *Follower) {
		src.reached(t, 100, 100)
		src.pull(t, func(ctx context.Context, feed Feed) error {
			err := errors.Join(feed.Reached(ctx, 0, 500), feed.List(ctx, fleetOf(t, 5)), feed.Reached(ctx, 500, 500))
			time.Sleep(10 * time.Second)
			if s := r.Status(); s.State != registry.CatchingUp {
				t.Errorf("%s during the listing", s.State)
			}
			return errors.Join(err, feed.Listed(ctx, ""))
		})
		pass(11 * time.Second)
		if s := r.Status(); s.State != registry.Live {
			t.Errorf("%s after it: %s", s.State, s.Behind)
		}
		// Another history begins lower.
		src.reached(t, 0, 7)
		src.list(t, fleetOf(t, 5), "")
		src.reached(t, 7, 7)
		pass(10 * time.Second)
		if s := r.Status(); s.State != registry.Live {
			t.Errorf("%s in another history: %s", s.State, s.Behind)
		}
	})
}

// The age of what is missing is known to a tenth of a second, and without end in
// memory.
func TestLagIsBounded(t *testing.T) {
	var l lag
	now := time.Unix(1_000_000, 0)
	l.knows(1, now, true)
	l.reached(1, now)
	for i := range int64(20_000) {
		l.knows(2+i, now.Add(time.Duration(i)*10*time.Millisecond), false)
	}
	end := now.Add(200 * time.Second)
	if n, age := l.behind(end); n != 20_000 || age != 200*time.Second || len(l.missing) > maxMarks+1 {
		t.Errorf("%d revisions, %v behind, %d marks", n, age, len(l.missing))
	}
	for _, at := range []int64{5000, 15_000, 20_000} {
		l.reached(at, end)
		known := now.Add(time.Duration(at-2) * 10 * time.Millisecond)
		if n, age := l.behind(end); n != 20_001-at || end.Sub(known)-age < -time.Second || end.Sub(known)-age > time.Second {
			t.Errorf("at %d: %d revisions, %v behind, want %v", at, n, age, end.Sub(known))
		}
	}
	l.reached(20_001, end)
	if n, age := l.behind(end); n != 0 || age != 0 {
		t.Errorf("%d revisions, %v behind", n, age)
	}
}
