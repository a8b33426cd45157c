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
	"dnsd/registry/state"
)

const (
	// saveEvery is how often a changing registry is saved, so that a process that is
	// killed loses a few seconds of changes. What is written is what has changed.
	saveEvery = 2 * time.Second

	// retryEvery is how often what failed is tried again, which may write everything.
	retryEvery = time.Minute

	// loadPatience is how long a start waits for the last known state: many times
	// what a million machines take (2 s on two busy cores). A disk that does not
	// answer at all must not keep dnsd from serving, nor a source from being followed.
	loadPatience = 30 * time.Second

	// stuckAfter is when an attempt to write is taken for one that hangs.
	stuckAfter = time.Minute

	// busyPatience is how long another process may write to the directory before
	// that is trouble: many times what a dnsd takes to end that has handed over.
	busyPatience = time.Minute

	// lastPatience is how long a shutdown waits for what is being saved: many times
	// what appending a few seconds of changes takes, and with the rest of the end less
	// than a second. The state before stays whole, whatever is cut off.
	lastPatience = 500 * time.Millisecond
)

// saver writes the state beside the apply loop, which must not wait for a disk.
// Whatever the disk does costs the saving and nothing else.
type saver struct {
	f   *Follower
	dir *state.Dir

	// What is done to the disk; set once, to something else only by tests.
	load  func(dir *state.Dir) *state.Contents
	probe func(dir string) error
	write func(v *registry.Snapshot, now time.Time) error

	restored atomic.Bool // this process has begun with a last known state

	snapshots chan *registry.Snapshot
	failed    atomic.Bool // the last attempt did; whoever reads it may clear it
	offered   time.Time   // owned by the apply loop

	trouble atomic.Pointer[string] // why nothing can be saved; nil: it can
	since   atomic.Int64           // when the attempt under way began, Unix nanoseconds; 0: there is none

	probed bool      // the trouble was found by a probe; owned by the saver's goroutine
	busy   time.Time // since when another process has kept this one from writing; zero: it has not; owned by the saver's goroutine
	stuck  bool      // that the attempt under way does not end has been logged; owned by the apply loop
}

func newSaver(f *Follower) *saver {
	s := &saver{f: f, dir: f.stateDir(), load: f.readLast, probe: state.Try, snapshots: make(chan *registry.Snapshot, 1)}
	s.write = func(v *registry.Snapshot, now time.Time) error { return s.dir.Save(v, now) }
	return s
}

// worthSaving reports whether the registry is something to start from: changed,
// known from the source, and not what the guard found to be a sweep. (What a
// listing in doubt lacks is saved as it is served, with the rest.)
func (f *Follower) worthSaving() bool {
	return f.dirty && f.guard.due.IsZero() && f.status.State != registry.Listing && f.status.State != registry.Cached
}

// offer asks for the registry to be saved as it is now, and reports whether it
// will be: not too soon after the last time, and not while that is still under way.
func (s *saver) offer() bool {
	pause := saveEvery
	if s.trouble.Load() != nil {
		pause = retryEvery
	}
	if s.f.cfg.StateDir == "" || !s.offered.IsZero() && time.Since(s.offered) < pause {
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
	s.dir.Meanwhile = s.newer
	defer s.dir.Close()
	defer context.AfterFunc(ctx, s.dir.End)()
	s.try()
	again := time.NewTicker(retryEvery)
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

// newer returns the snapshot that has been offered, nil for none.
func (s *saver) newer() *registry.Snapshot {
	select {
	case v := <-s.snapshots:
		return v
	default:
		return nil
	}
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
	err := contain.Run(func() error { return s.write(v, now) })
	if !errors.Is(err, state.ErrBusy) {
		s.busy = time.Time{}
	} else if s.busy.IsZero() {
		s.busy = now
	}
	if err != nil && !s.busy.IsZero() && now.Sub(s.busy) < busyPatience {
		s.failed.Store(true)
		return
	}
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

var errNoDirectory = errors.New("there is no such directory: create it")

// fail counts an attempt that failed, and logs it where the reason is new.
func (s *saver) fail(err error) {
	s.f.stats.saveErrors.Add(1)
	if errors.Is(err, fs.ErrNotExist) {
		err = errNoDirectory
	}
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
