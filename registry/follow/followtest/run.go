package followtest

import (
	"cmp"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"dnsd/registry/follow"
)

// Run is a source that follows.
type Run struct {
	t      *testing.T
	cancel context.CancelFunc
	ended  chan struct{}

	mu   sync.Mutex
	errs []error
}

// Follow has source tell r, once, until the test ends or Stop.
func Follow(t *testing.T, source follow.Source, r *Recorder, resume bool) *Run {
	return start(t, source, r, resume, 0)
}

// Insist has source tell r again and again, as a follower does, with pauses in
// between; all but the first time it may resume.
func Insist(t *testing.T, source follow.Source, r *Recorder, pause time.Duration) *Run {
	return start(t, source, r, false, pause)
}

func start(t *testing.T, source follow.Source, r *Recorder, resume bool, pause time.Duration) *Run {
	ctx, cancel := context.WithCancel(context.Background())
	run := &Run{t: t, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(run.ended)
		for again := true; again; resume = true {
			err := r.Follow(ctx, source, resume)
			if err == nil {
				t.Error("Follow returned nil")
				err = errors.New("nil")
			}
			run.mu.Lock()
			run.errs = append(run.errs, err)
			run.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			again = pause > 0 && ctx.Err() == nil
		}
	}()
	t.Cleanup(func() {
		run.Stop()
		r.See(func(s *Seen) {
			for _, fault := range s.Faults {
				t.Error(fault)
			}
			s.Faults = nil
		})
	})
	return run
}

// Stop ends the source and waits for it.
func (r *Run) Stop() {
	r.t.Helper()
	r.cancel()
	Eventually(r.t, "Follow to return, whose context has ended", func() bool { return !r.Running() })
}

// Running reports whether the source follows.
func (r *Run) Running() bool {
	select {
	case <-r.ended:
		return false
	default:
		return true
	}
}

// Failed returns what Follow has returned so far, a line each.
func (r *Run) Failed() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var s []string
	for _, err := range r.errs {
		s = append(s, err.Error())
	}
	return strings.Join(s, "\n")
}

// Fails waits for Follow to return by itself, with an error that says want.
func (r *Run) Fails(want string) {
	r.t.Helper()
	Eventually(r.t, "Follow to return by itself", func() bool { return r.Failed() != "" })
	if got := r.Failed(); !strings.Contains(got, want) {
		r.t.Fatalf("Follow: %s; want an error with %q", got, want)
	}
}

// patience bounds every wait for what must come. The machine may be busy. It is
// shorter where the suite itself is tested, and where DNSD_TEST_PATIENCE says so, for
// tests that are run to fail (test/mutate).
var patience = cmp.Or(patienceOf(os.Getenv("DNSD_TEST_PATIENCE")), 45*time.Second)

func patienceOf(s string) time.Duration {
	d, _ := time.ParseDuration(s)
	return d
}

// Eventually waits until ok. What more says is part of the failure otherwise.
func Eventually(t testing.TB, what string, ok func() bool, more ...func() string) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			for _, say := range more {
				what += "\n" + say()
			}
			t.Fatalf("waited %s for: %s", patience, what)
		}
	}
}
