package registry

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
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
		name  string
		step  func(context.Context, Feed, bool) error
		own   bool
		grows bool
	}{
		{"that refuses", refuses, false, true},
		{"that refuses, of this host", refuses, true, true},
		{"that answers", answers, false, true},
		{"that answers, of this host", answers, true, false},
		{"that resumes, of this host", resumes, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &script{steps: []func(context.Context, Feed, bool) error{test.step}}
				f := NewFollower(New(), src, FollowerConfig{OwnHost: test.own})
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				f.Run(ctx)
				// Pauses of a quarter of a second on average, or of fifteen.
				if n := src.called(); n < 1000 != test.grows {
					t.Errorf("followed %d times in ten minutes", n)
				}
			})
		})
	}
}
