// Package file feeds a registry from one file in the form that
// machinejson.Parse reads.
//
// The file may be replaced by rename, written in place, deleted and created
// again, or reached through symbolic links that are swapped, as Kubernetes does
// with the volumes of config maps; the directory it lies in may come and go.
// Renaming a complete file into place is the best of these: a reader can catch a
// file that is written in place half done, and only the quiet times and checks
// below keep such a half from being taken for the whole.
package file

import (
	"context"
	"errors"
	"hash/maphash"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"dnsd/registry"
	"dnsd/registry/follow"
	"dnsd/registry/machinejson"
)

const (
	// DefaultPoll is how often the file is looked at without notification: on a
	// network file system, which notifies only of this host's own writes. Linux'
	// NFS client keeps a file's attributes for at least 3 s (acregmin), so
	// looking more often would see nothing new. Each look is also what proves
	// the source alive, twenty times within the default --stale-after.
	DefaultPoll = 3 * time.Second

	// pollBlind stands in for DefaultPoll where a directory cannot be watched
	// (fs.inotify.max_user_instances is 128 by default, for all containers of a
	// user), to keep the promise that a change is seen within 1 s.
	pollBlind = 500 * time.Millisecond

	// A look waits until nothing has happened for quiet, so that it finds one
	// whole write and not its first part, but no longer than busy: a directory
	// in which something always happens must not hide the file.
	quiet = 50 * time.Millisecond
	busy  = 250 * time.Millisecond

	// again is the pause after a look that found the file missing, broken or
	// changing. Most often that is a write seen half way, so it is complained
	// of only when the next look finds the very same. Within the 1 s promised.
	again = 500 * time.Millisecond

	// changesFor is how long a file may keep changing before that is complained
	// of: longer than it takes to write a large one.
	changesFor = 10 * time.Second

	// granule is the coarsest time stamp of the file systems in use (FAT: 2 s).
	// Two writes within one can leave the same size and time, so unchanged
	// attributes prove unchanged content only once the file has been read this
	// long after they were first seen.
	granule = 2 * time.Second
)

// Config says which file, and how it is watched.
type Config struct {
	Path string
	Poll time.Duration // between looks without notification, each of which proves the source alive; zero: 3 s
}

// Source is a follow.Source over a file.
type Source struct {
	path    string
	poll    time.Duration
	log     *slog.Logger
	seed    maphash.Seed
	reload  chan struct{}
	trouble atomic.Pointer[error]

	// Owned by Follow; calls of it never overlap.
	logged  string    // the reason that was logged last; empty: the file is well
	repeats int       // how often it has been met since
	known   bool      // the feed was given a whole file before
	failing time.Time // since when the file has been unusable; zero: it is well
	seen    look
}

// look is what the last look at the file found.
type look struct {
	info   fs.FileInfo // nil: it could not be stat'ed, or no look yet
	err    string      // why not
	since  time.Time   // when just this was found first
	readAt time.Time   // when the content was last read
	good   bool        // it could be used

	parsed  bool   // there was a content
	sum     uint64 // hash of the last one
	verdict error  // what the parser said of it; nil: it is what the feed was given last
}

// New returns a source that reads the file named by cfg. The file need not exist.
func New(cfg Config, log *slog.Logger) *Source {
	if cfg.Poll <= 0 {
		cfg.Poll = DefaultPoll
	}
	path := cfg.Path
	if abs, err := filepath.Abs(path); err == nil { // fails only without a working directory
		path = abs
	}
	return &Source{path: path, poll: cfg.Poll, log: log, seed: maphash.MakeSeed(), reload: make(chan struct{}, 1)}
}

// String implements follow.Source: "file:/etc/dnsd/registry.json".
func (s *Source) String() string { return "file:" + s.path }

// Reload asks for the file to be read and listed again though it seems
// unchanged, as SIGHUP does, and for a log line that says how that went. It does
// not wait. Safe for concurrent use.
func (s *Source) Reload() {
	select {
	case s.reload <- struct{}{}:
	default: // one is pending
	}
}

// Trouble returns why the file cannot be used at present, nil when it can. Safe
// for concurrent use.
func (s *Source) Trouble() error {
	if err := s.trouble.Load(); err != nil {
		return *err
	}
	return nil
}

// Follow implements follow.Source: it lists the file, and lists it again
// whenever its content changes.
//
// A file that is missing, cannot be read or does not parse changes nothing and
// proves nothing; it is logged once for each reason, and Trouble tells it. This
// is so from the start: Follow does not return for it, because the follower's
// growing pauses would then lie between the repair and its effect, while Follow
// sees the repair within a second. A host whose file is not there yet therefore
// starts, says so, answers outside names, and is ready as soon as the file is.
func (s *Source) Follow(ctx context.Context, feed follow.Feed, _ bool) error {
	w := newWatch(s.path, s.log)
	defer w.close()
	s.seen = look{}
	forced := false
	for {
		w.update() // before the look, so that no change falls between the two
		wait, err := s.look(ctx, feed, forced)
		if err != nil {
			return err
		}
		if w.blind {
			wait = min(wait, pollBlind)
		}
		if forced, err = s.await(ctx, w, wait); err != nil {
			return err
		}
	}
}

// await waits until it is time for the next look: after wait at most, soon after
// something has happened in a directory, at once on Reload, which it reports.
func (s *Source) await(ctx context.Context, w *watch, wait time.Duration) (forced bool, err error) {
	began := time.Now()
	due := began.Add(wait)
	var first time.Time // when the burst of events began
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-s.reload:
			return true, nil
		case <-timer.C:
			return false, nil
		case <-w.events:
		case err := <-w.errors: // most likely lost events: look, as for any event
			s.log.Debug("watching the registry file", "err", err)
		}
		now := time.Now()
		if first.IsZero() {
			first = now
		}
		next := earlier(now.Add(quiet), first.Add(busy))
		if !s.failing.IsZero() && next.Before(began.Add(again)) {
			next = began.Add(again) // a long write is not to be parsed at each of its steps
		}
		timer.Reset(time.Until(earlier(next, due)))
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// look reads the file if it may have changed, and tells the feed. It returns how
// long the next look can wait, and an error only when ctx has ended.
func (s *Source) look(ctx context.Context, feed follow.Feed, forced bool) (time.Duration, error) {
	now := time.Now()
	info, err := os.Stat(s.path)
	s.seen.note(info, err, now)
	if err != nil {
		return s.fail(plain(err), forced), nil
	}
	if s.seen.proven() && !forced {
		return s.poll, feed.Change(ctx, nil)
	}
	s.seen.readAt = now
	data, err := read(s.path)
	if err != nil {
		return s.fail(plain(err), forced), nil
	}
	sum := maphash.Bytes(s.seed, data)
	if !s.seen.parsed || s.seen.sum != sum || forced {
		n, err := list(ctx, feed, data)
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		s.seen.parsed, s.seen.sum, s.seen.verdict = true, sum, err
		s.log.Debug("registry file read", "path", s.path, "items", n, "took", time.Since(now))
	}
	if s.seen.verdict != nil {
		return s.fail(s.seen.verdict, forced), nil
	}
	s.well(forced)
	return s.poll, feed.Change(ctx, nil)
}

// list tells the feed what the file holds and returns how many items that are.
// Where ctx has not ended, the error is the file's, and the feed knows of nothing.
func list(ctx context.Context, feed follow.Feed, data []byte) (n int, err error) {
	err = machinejson.EachBatch(data, func(items []registry.Item) error {
		n += len(items)
		return feed.List(ctx, items)
	})
	if err != nil {
		return n, err
	}
	return n, feed.Listed(ctx, "")
}

// note takes the attributes that were found now.
func (l *look) note(info fs.FileInfo, err error, now time.Time) {
	text := ""
	if err != nil {
		info, text = nil, err.Error()
	}
	if l.since.IsZero() || l.err != text || !same(l.info, info) {
		l.since = now
	}
	l.info, l.err = info, text
}

// proven reports whether the content must be what it was when last read.
func (l *look) proven() bool { return l.good && l.readAt.Sub(l.since) >= granule }

// same reports whether a file seems untouched.
func same(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && changed(a).Equal(changed(b))
}

var errChanging = errors.New("the file keeps changing while it is read: write a new one and rename it into place")

// fail notes that the file cannot be used and returns how long the next look can
// wait. It is logged when it may be more than a write that is under way, or when
// someone has asked.
func (s *Source) fail(err error, forced bool) time.Duration {
	now := time.Now()
	s.seen.good = false
	if s.failing.IsZero() {
		s.failing = now
	}
	wait := s.poll
	if now.Sub(s.seen.since) < again {
		wait = min(again, s.poll)
		if !forced {
			if now.Sub(s.failing) < changesFor {
				return wait
			}
			err = errChanging
		}
	}
	s.trouble.Store(&err)
	s.repeats++
	if s.logged != err.Error() || forced {
		s.logged, s.repeats = err.Error(), 0
		msg := "the registry file cannot be used; what was read from it before stays"
		if !s.known {
			msg = "the registry file cannot be used, and nothing was read from it before"
		}
		s.log.Error(msg, "path", s.path, "reason", err)
	}
	return wait
}

// well notes that the file can be used.
func (s *Source) well(forced bool) {
	if s.logged != "" {
		s.log.Info("the registry file can be used again", "path", s.path, "after", time.Since(s.failing).Round(time.Millisecond), "repeats", s.repeats)
	} else if forced {
		s.log.Info("the registry file is read again", "path", s.path)
	}
	s.seen.good, s.known = true, true
	s.failing, s.logged, s.repeats = time.Time{}, "", 0
	s.trouble.Store(nil)
}
