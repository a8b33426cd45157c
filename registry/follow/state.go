package follow

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
	"time"

	"dnsd/registry"
	"dnsd/registry/contain"
	"dnsd/registry/machinejson"
	"dnsd/registry/regular"
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
)

// writeState replaces the state in dir so that at every moment, power failures
// included, a whole one is there: a temporary file, fsynced, then renamed, with
// the old one linked under its second name and the directory fsynced.
//
// A state larger than regular.MaxRegistry is an error, since it would not be read again.
func writeState(dir string, v *registry.Snapshot, source string, now time.Time) error {
	return writeBounded(dir, v, source, now, regular.MaxRegistry)
}

func writeBounded(dir string, v *registry.Snapshot, source string, now time.Time, most int64) (err error) {
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
	err = machinejson.Export(io.MultiWriter(buf, sum), v)
	if err == nil {
		_, err = fmt.Fprintf(buf, "%s%s sha256:%x %s\n", statePrefix, now.UTC().Format(time.RFC3339), sum.Sum(nil), source)
	}
	err = errors.Join(err, buf.Flush())
	if info, errStat := tmp.Stat(); err == nil && errStat == nil && info.Size() > most {
		err = regular.TooLarge(most)
	}
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
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

// lastState is what a state file holds.
type lastState struct {
	path  string
	items []registry.Item
	saved time.Time
}

// Load applies the last known state, if there is one, and returns when readers see
// it. A disk that does not answer is waited for up to a minute, or until ctx ends;
// what it says later is not used. Calls after the first do nothing. It must not be
// called while Run is under way.
func (f *Follower) Load(ctx context.Context) { f.load.Do(func() { f.loadState(ctx) }) }

func (f *Follower) loadState(ctx context.Context) {
	if f.cfg.StateDir == "" {
		return
	}
	read := make(chan *lastState, 1)
	go func() { read <- f.saver.load() }()
	select {
	case last := <-read:
		if last != nil {
			f.startFrom(last)
		}
	case <-time.After(loadPatience):
		f.stats.saveErrors.Add(1)
		f.log.Error("the state directory does not answer: dnsd starts without the last known state", "dir", f.cfg.StateDir)
	case <-ctx.Done():
	}
}

// startFrom makes the last known state what the registry holds.
func (f *Follower) startFrom(last *lastState) {
	f.reg.Apply(last.items)
	// It gets a monotonic reading, so that a clock that is set from now on does not
	// change its age. One in the future is by a clock that was wrong then, or is now.
	now := time.Now()
	saved := now.Add(-max(0, now.Sub(last.saved)))
	f.reg.Heard(saved)
	f.status.State, f.status.SyncedAt = registry.Cached, saved
	f.reg.SetStatus(f.status)
	f.log.Info("the last known state is loaded; answers are marked stale until the source has listed",
		"file", last.path, "objects", len(last.items), "saved", saved)
}

// readLast reads the last known state, nil where there is none. A damaged one is
// reported and passed over for the one before it. What a process that was killed
// while it wrote has left behind is removed.
func (f *Follower) readLast() *lastState {
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
		last := &lastState{path: path}
		err := contain.Run(func() (err error) {
			last.items, last.saved, err = readState(path, identity(f.src))
			return err
		})
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		f.panics.Note(err)
		if err != nil {
			f.log.Error("the last known state cannot be used", "file", path, "err", err)
			continue
		}
		return last
	}
	return nil
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

// readState reads a state file that was saved from the given source.
func readState(path, source string) ([]registry.Item, time.Time, error) {
	data, err := regular.Read(path, regular.MaxRegistry)
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
	items, err := machinejson.Parse(data)
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
