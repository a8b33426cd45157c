package follow

import (
	"context"
	"time"

	"dnsd/registry"
	"dnsd/registry/contain"
	"dnsd/registry/state"
)

// Load applies the last known state, if there is one, and returns when readers see
// it. A disk that does not answer is waited for up to loadPatience, or until ctx
// ends; what it says later is not used. Calls after the first do nothing. It must not
// be called while Run is under way.
func (f *Follower) Load(ctx context.Context) { f.load.Do(func() { f.loadState(ctx) }) }

func (f *Follower) loadState(ctx context.Context) {
	if f.cfg.StateDir == "" {
		return
	}
	loaded, late := make(chan *state.Contents), make(chan struct{})
	dir := f.saver.dir
	go func() {
		last := f.saver.load(dir) // which need not be f.saver.dir any more
		select {
		case loaded <- last:
		case <-late:
			dir.Close()
		}
	}()
	patience := time.NewTimer(loadPatience)
	defer patience.Stop()
	select {
	case last := <-loaded:
		if last != nil {
			f.startFrom(last)
		}
		return
	case <-patience.C:
		f.stats.saveErrors.Add(1)
		f.log.Error("the state directory does not answer: dnsd starts without the last known state", "dir", f.cfg.StateDir)
	case <-ctx.Done():
	}
	close(late)
	f.saver.dir = f.stateDir() // the other one is in use for as long as the disk takes
}

// Kept reports whether a process that starts now finds a last known state: one was
// loaded or saved by this process, and nothing is known to be wrong with its directory.
// Only such a process can hold back again what this one holds back. Safe for concurrent use.
func (f *Follower) Kept() bool {
	return (f.saver.restored.Load() || f.stats.saved.Load() != 0) && f.reg.Status().Unsaved == ""
}

func (f *Follower) stateDir() *state.Dir {
	dir := state.New(f.cfg.StateDir, identity(f.src))
	dir.Unlocked = func(why error) {
		f.log.Warn("the state directory cannot be locked: see that no other dnsd is given it", "dir", f.cfg.StateDir, "err", why)
	}
	return dir
}

// startFrom makes the last known state what the registry holds.
func (f *Follower) startFrom(last *state.Contents) {
	f.saver.restored.Store(true)
	last.Restore(f.reg)
	f.saver.dir.Continue(f.reg.Snapshot())
	// It gets a monotonic reading, so that a clock that is set from now on does not
	// change its age. One in the future is by a clock that was wrong then, or is now.
	now := time.Now()
	saved := now.Add(-max(0, now.Sub(last.Saved)))
	f.reg.Heard(saved)
	f.status.State, f.status.SyncedAt = registry.Cached, saved
	f.reg.SetStatus(f.status)
	if last.Cut > 0 {
		f.log.Warn("the end of the last known state cannot be used: what was saved before it is", "file", last.Path, "bytes", last.Cut, "why", last.Why)
	}
	f.log.Info("the last known state is loaded; answers are marked stale until the source has listed",
		"file", last.Path, "objects", last.Objects(), "saved", saved)
}

// readLast reads the last known state in dir, nil where there is none. One that cannot
// be used is reported and passed over for the one before it.
func (f *Follower) readLast(dir *state.Dir) (last *state.Contents) {
	f.panics.Note(contain.Run(func() error {
		last = dir.Load(func(path string, err error) {
			f.panics.Note(err)
			f.log.Error("the last known state cannot be used", "file", path, "err", err)
		})
		return nil
	}))
	return last
}

// An Identifier is a source that says by what it is told from sources with other
// contents; others are by String. One that can be reached in several ways is one: by
// which members of a cluster it was last known must not matter on the day when one
// of them is replaced.
type Identifier interface{ Identity() string }

func identity(src Source) string {
	if s, ok := src.(Identifier); ok {
		return s.Identity()
	}
	return src.String()
}
