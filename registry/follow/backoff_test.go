package follow

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"dnsd/registry"
)

// A source that breaks off is followed again after a pause that grows; one of
// this host that has answered meanwhile is followed again at once, however often
// that happens.
func TestPauses(t *testing.T) {
	broken := errors.New("broken")
	refuses := func(context.Context, Feed, bool) error { return broken }
	answers := func(ctx context.Context, feed Feed, _ bool) error {
		return errors.Join(feed.List(ctx, nil), feed.Listed(ctx, ""), broken)
	}
	resumes := func(ctx context.Context, feed Feed, resume bool) error {
		if !resume {
			return answers(ctx, feed, resume)
		}
		return errors.Join(feed.Change(ctx, nil), broken)
	}
	for _, test := range []struct {
		name        string
		step        func(context.Context, Feed, bool) error
		own         bool
		least, most int // calls in ten minutes
	}{
		// Pauses of 15 s on average, of 2.5 s, or of a quarter of a second.
		{"that refuses", refuses, false, 20, 100},
		{"that refuses, of this host", refuses, true, 150, 500},
		{"that answers", answers, false, 20, 100},
		{"that answers, of this host", answers, true, 1500, 5000},
		{"that resumes, of this host", resumes, true, 1500, 5000},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &script{steps: []func(context.Context, Feed, bool) error{test.step}}
				f := New(registry.New(), src, Config{OwnHost: test.own})
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				f.Run(ctx)
				if n := src.called(); n < test.least || n > test.most {
					t.Errorf("followed %d times in ten minutes, want %d to %d", n, test.least, test.most)
				}
			})
		})
	}
}

// Followers whose sources break off at one moment do not come back at one moment.
func TestPausesDiffer(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 5 {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			calls := 0
			src := &script{steps: []func(context.Context, Feed, bool) error{func(context.Context, Feed, bool) error {
				if calls++; calls == 4 {
					seen[time.Since(began)] = true
				}
				return errors.New("broken")
			}}}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			New(registry.New(), src, Config{}).Run(ctx)
		})
	}
	if len(seen) < 5 {
		t.Errorf("of five followers some come back at one moment: %v", seen)
	}
}
