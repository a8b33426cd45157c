package follow

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"dnsd/registry"
	"dnsd/registry/contain"
)

const (
	// saveEvery is how often a changing registry is written: a start from a
	// minute-old state is good, a disk written at every change is not. What
	// failed is tried again as often.
	saveEvery = time.Minute

	// loadPatience is how long a start waits for the last known state: many times
	// what a million machines take (8 s on two busy cores). A disk that does not
	// answer at all must not keep a source that does from being followed.
	loadPatience = time.Minute

	// stuckAfter is when an attempt to write is taken for one that hangs.
	stuckAfter = time.Minute

	// lastPatience is how long a shutdown waits for what is being saved: a few
	// times what a million machines take (3 s). With 3 s before it for the
	// questions in hand it is less than the patience of the systemd unit in deploy
	// and of Kubernetes; the state before stays whole, whatever is cut off.
	lastPatience = 10 * time.Second
)

// saver writes the state beside the apply loop, which must not wait for a disk.
// Whatever the disk does costs the saving and nothing else.
type saver struct {
	f *Follower

	// What is done to the disk; set once, to something else only by tests.
	load  func() *lastState
	probe func(dir string) error
	write func(dir string, v *registry.Snapshot, source string, now time.Time) error

	snapshots chan *registry.Snapshot
	failed    atomic.Bool // the last attempt did; whoever reads it may clear it
	offered   time.Time   // owned by the apply loop

	trouble atomic.Pointer[string] // why nothing can be saved; nil: it can
	since   atomic.Int64           // when the attempt under way began, Unix nanoseconds; 0: there is none

	probed bool // the trouble was found by a probe; owned by the saver's goroutine
	stuck  bool // that the attempt under way does not end has been logged; owned by the apply loop
}

func newSaver(f *Follower) *saver {
	return &saver{f: f, load: f.readLast, probe: TryStateDir, write: writeState, snapshots: make(chan *registry.Snapshot, 1)}
}

// worthSaving reports whether the registry is something to start from: changed,
// known from the source, and not what the guard found to be a sweep. (What a
// listing in doubt lacks is saved as it is served, with the rest.)
func (f *Follower) worthSaving() bool {
	return f.dirty && f.guard.due.IsZero() && f.status.State != registry.Listing && f.status.State != registry.Cached
}

// offer asks for the registry to be saved as it is now, and reports whether it
// will be: not if it was less than saveEvery ago or the last is still under way.
func (s *saver) offer() bool {
	if s.f.cfg.StateDir == "" || !s.offered.IsZero() && time.Since(s.offered) < saveEvery {
		return false
	}
	select {
	case s.snapshots <- s.f.reg.Snapshot():
		s.offered = time.Now()
		return true
	default:
		return false
	}
}

// run saves what is offered until ctx ends, and, when the apply loop has ended
// too, what is left.
func (s *saver) run(ctx context.Context, idle <-chan struct{}) {
	if s.f.cfg.StateDir == "" {
		return
	}
	s.try()
	again := time.NewTicker(saveEvery)
	defer again.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case v := <-s.snapshots:
			s.save(v)
		case <-again.C:
			if s.probed {
				s.try()
			}
		}
	}
	<-idle
	s.last()
}

// try finds out whether the state could be saved, so that what would keep it from
// that is known before it matters.
func (s *saver) try() {
	s.since.Store(time.Now().UnixNano())
	defer s.since.Store(0)
	if err := s.probe(s.f.cfg.StateDir); err != nil {
		s.fail(err)
		s.probed = true
	} else if s.probed {
		s.well()
	}
}

func (s *saver) save(v *registry.Snapshot) {
	f, now := s.f, time.Now()
	s.since.Store(now.UnixNano())
	defer s.since.Store(0)
	err := contain.Run(func() error { return s.write(f.cfg.StateDir, v, identity(f.src), now) })
	if err != nil {
		f.panics.Note(err)
		s.failed.Store(true)
		s.probed = false
		s.fail(err)
		return
	}
	f.stats.saved.Store(now.UnixNano())
	s.well()
}

// fail counts an attempt that failed, and logs it where the reason is new.
func (s *saver) fail(err error) {
	s.f.stats.saveErrors.Add(1)
	why := "the last known state cannot be written: " + plainReason(err)
	if old := s.trouble.Swap(&why); old == nil || *old != why {
		s.f.log.Error("the last known state cannot be written: dnsd serves without keeping it, and tries again every minute",
			"dir", s.f.cfg.StateDir, "err", err)
	}
}

func (s *saver) well() {
	if s.trouble.Swap(nil) != nil {
		s.f.log.Info("the last known state can be written again", "dir", s.f.cfg.StateDir)
	}
	s.probed = false
}

// problem says why nothing is saved, empty where it is. The apply loop calls it.
func (s *saver) problem(now time.Time) string {
	since := s.since.Load()
	stuck := since != 0 && now.Sub(time.Unix(0, since)) > stuckAfter
	if stuck && !s.stuck {
		s.f.stats.saveErrors.Add(1)
		s.f.log.Error("the state directory does not answer: dnsd serves without keeping the last known state", "dir", s.f.cfg.StateDir)
	}
	s.stuck = stuck
	if stuck {
		return "the last known state cannot be written: its directory does not answer"
	}
	if why := s.trouble.Load(); why != nil {
		return *why
	}
	return ""
}

// plainReason is err without the path, which has a random part and of which the
// reader knows what matters.
func plainReason(err error) string {
	var path *fs.PathError
	var link *os.LinkError
	var system *os.SyscallError
	switch {
	case errors.As(err, &path):
		err = path.Err
	case errors.As(err, &link):
		err = link.Err
	case errors.As(err, &system):
		err = system.Err
	}
	return err.Error()
}

// last saves at shutdown, when nothing else runs any more, what has not been
// saved: changes, a snapshot that was offered and not taken, a failed attempt.
func (s *saver) last() {
	s.f.dirty = s.f.dirty || s.failed.Load() || len(s.snapshots) > 0
	if s.f.worthSaving() {
		s.save(s.f.reg.Snapshot())
	}
}

// TryStateDir reports what would keep a state from being written to a directory.
func TryStateDir(dir string) (err error) {
	probe, err := os.CreateTemp(dir, stateName+".*.tmp")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, probe.Close(), os.Remove(probe.Name())) }()
	// A full disk has room for a name.
	if _, err := probe.Write(make([]byte, 64<<10)); err != nil {
		return err
	}
	return probe.Sync()
}
