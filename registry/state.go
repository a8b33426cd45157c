package registry

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// The last known state is a registry file (so that a person can read it, and
// `dnsd check` too) followed by one line that vouches for it:
//
//	#dnsd-state 1 <RFC 3339 time> sha256:<of all before> <source>
//
// The state before it is kept beside it, for the day the newest is damaged.
const (
	stateName    = "registry.state"
	previousName = "registry.state.previous"
	statePrefix  = "#dnsd-state 1 "

	// saveEvery is how often a changing registry is written: a start from a
	// minute-old state is good, a disk written at every change is not.
	saveEvery = time.Minute
)

// saver writes the state beside the apply loop, which must not wait for a disk.
type saver struct {
	f       *Follower
	views   chan *View
	failed  atomic.Bool // the last attempt did; whoever reads it may clear it
	offered time.Time   // owned by the apply loop
}

func newSaver(f *Follower) *saver { return &saver{f: f, views: make(chan *View, 1)} }

// worthSaving reports whether the registry is something to start from: changed,
// known from the source, and not what the guard found to be a sweep. (What a
// listing in doubt lacks is saved as it is served, with the rest.)
func (f *Follower) worthSaving() bool {
	return f.dirty && f.guard.due.IsZero() && f.status.State != Listing && f.status.State != Cached
}

// offer asks for the registry to be saved as it is now, and reports whether it
// will be: not if it was less than saveEvery ago or the last is still under way.
func (s *saver) offer() bool {
	if s.f.cfg.StateDir == "" || !s.offered.IsZero() && time.Since(s.offered) < saveEvery {
		return false
	}
	select {
	case s.views <- s.f.reg.View():
		s.offered = time.Now()
		return true
	default:
		return false
	}
}

func (s *saver) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case v := <-s.views:
			s.save(v)
		}
	}
}

// save writes the state and logs a failure: a full disk must not stop answers.
func (s *saver) save(v *View) {
	f, now := s.f, time.Now()
	if err := writeState(f.cfg.StateDir, v, identity(f.src), now); err != nil {
		s.failed.Store(true)
		f.stats.saveErrors.Add(1)
		f.log.Error("the last known state cannot be written", "err", err)
		return
	}
	f.stats.saved.Store(now.UnixNano())
}

// last saves at shutdown, when nothing else runs any more, what has not been
// saved: changes, a view that was offered and not taken, a failed attempt.
func (s *saver) last() {
	if s.f.cfg.StateDir == "" {
		return
	}
	s.f.dirty = s.f.dirty || s.failed.Load() || len(s.views) > 0
	if s.f.worthSaving() {
		s.save(s.f.reg.View())
	}
}

// writeState replaces the state in dir so that at every moment, power failures
// included, a whole one is there: a temporary file, fsynced, then renamed, with
// the old one linked under its second name and the directory fsynced.
func writeState(dir string, v *View, source string, now time.Time) (err error) {
	tmp, err := os.CreateTemp(dir, stateName+".*.tmp")
	if err != nil {
		return fmt.Errorf("writing state: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing state: %w", errors.Join(err, os.Remove(tmp.Name())))
		}
	}()
	sum := sha256.New()
	buf := bufio.NewWriterSize(tmp, 1<<20)
	err = Export(io.MultiWriter(buf, sum), v)
	if err == nil {
		_, err = fmt.Fprintf(buf, "%s%s sha256:%x %s\n", statePrefix, now.UTC().Format(time.RFC3339), sum.Sum(nil), source)
	}
	if err = errors.Join(err, buf.Flush(), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	state, previous := filepath.Join(dir, stateName), filepath.Join(dir, previousName)
	if err = keepPrevious(state, previous); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), state); err != nil {
		return err
	}
	return syncDir(dir)
}

// keepPrevious makes previous a second name of state, replacing what it named.
func keepPrevious(state, previous string) error {
	link := previous + ".tmp"
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch err := os.Link(state, link); {
	case errors.Is(err, fs.ErrNotExist): // the first state
		return nil
	case err != nil:
		return err
	}
	return os.Rename(link, previous)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// loadState applies the last known state. A damaged one is reported and passed
// over for the one before it; having none is no error. What a process that was
// killed while it wrote has left behind is removed.
func (f *Follower) loadState() {
	if f.cfg.StateDir == "" {
		return
	}
	for _, pattern := range []string{stateName + ".*.tmp", previousName + ".tmp"} {
		left, _ := filepath.Glob(filepath.Join(f.cfg.StateDir, pattern))
		for _, path := range left {
			if err := os.Remove(path); err != nil {
				f.log.Warn("what is left of a state half written cannot be removed", "err", err)
			}
		}
	}
	for _, name := range []string{stateName, previousName} {
		path := filepath.Join(f.cfg.StateDir, name)
		items, saved, err := readState(path, identity(f.src))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			f.log.Error("the last known state cannot be used", "file", path, "err", err)
			continue
		}
		f.reg.Apply(items)
		if now := time.Now(); saved.After(now) { // by a clock that was wrong then, or is now
			saved = now
		}
		f.reg.heard(saved)
		f.status.State, f.status.SyncedAt = Cached, saved
		f.reg.SetStatus(f.status)
		f.log.Info("the last known state is loaded; answers are marked stale until the source has listed",
			"file", path, "objects", len(items), "saved", saved)
		return
	}
}

// identity is what tells sources with other contents apart. One that can be
// reached in several ways says so itself: by which members of a cluster it was
// last known must not matter on the day when one of them is replaced.
func identity(src Source) string {
	if s, ok := src.(interface{ Identity() string }); ok {
		return s.Identity()
	}
	return src.String()
}

// readState reads a state file that was saved from the given source.
func readState(path, source string) ([]Item, time.Time, error) {
	data, err := ReadFile(path, MaxFile)
	if err != nil {
		return nil, time.Time{}, err
	}
	data, trailer := splitTrailer(data)
	fields := strings.SplitN(strings.TrimPrefix(trailer, statePrefix), " ", 3)
	if !strings.HasPrefix(trailer, statePrefix) || len(fields) != 3 {
		return nil, time.Time{}, errors.New("its last line is not that of a state file: it was cut short")
	}
	sum := sha256.Sum256(data)
	if fields[1] != "sha256:"+hex.EncodeToString(sum[:]) {
		return nil, time.Time{}, errors.New("its checksum does not match: it is damaged")
	}
	if fields[2] != source {
		return nil, time.Time{}, fmt.Errorf("it was saved from another source, %s", fields[2])
	}
	saved, err := time.Parse(time.RFC3339, fields[0])
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("its time cannot be read: %w", err)
	}
	items, err := ParseFile(data)
	return items, saved, err
}

// splitTrailer cuts the last line off.
func splitTrailer(data []byte) (body []byte, trailer string) {
	end := bytes.TrimSuffix(data, []byte("\n"))
	if len(end) == len(data) {
		return data, ""
	}
	i := bytes.LastIndexByte(end, '\n') + 1
	return data[:i], string(end[i:])
}
