// Package file feeds a registry from one file in the form that
// machinejson.Parse reads.
//
// The file may be replaced by rename, written in place, deleted and created
// again, or reached through symbolic links that are swapped, as Kubernetes does
// with the volumes of config maps; its directory may come and go. Renaming a
// complete file into place is best: one that is written in place can be read half
// done, and only the quiet times and checks below keep that half from being taken
// for the whole.
package file

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"dnsd/registry"
	"dnsd/registry/follow"
	"dnsd/registry/machinejson"
)

const (
	// DefaultPoll is how often the file is looked at without notification, as on a
	// network file system, which notifies only of this host's own writes. Linux'
	// NFS client keeps a file's attributes for at least 3 s (acregmin), so
	// looking more often would see nothing new. Each look also proves the source
	// alive, twenty times within the default --stale-after.
	DefaultPoll = 3 * time.Second

	// pollBlind is the longest time between looks where a directory cannot be
	// watched (fs.inotify.max_user_instances is 128 by default, for all containers
	// of a user), so that a change is still seen within 1 s.
	pollBlind = 500 * time.Millisecond

	// A look waits until nothing has happened for quiet, so that it finds one
	// whole write and not its first part, but no longer than busy: a directory
	// in which something always happens must not hide the file.
	quiet = 50 * time.Millisecond
	busy  = 250 * time.Millisecond

	// again is the pause after a look that found the file missing, broken or
	// changing. That is most often a write under way, so it is reported only when
	// the next look finds the same. Less than the 1 s promised.
	again = 500 * time.Millisecond

	// changesFor is how long a file may keep changing before that is reported:
	// longer than it takes to write a large one.
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
	known   bool      // the feed was given a whole file before
	failing time.Time // since when the file has been unusable; zero: it is usable
	steady  time.Time // when an unusable file was last found as it was before
	logged  string    // the reason that was logged last; empty: none since the file was usable
	repeats int       // how often that reason was found again since
	seen    look
}

// look is what the last look at the file found.
type look struct {
	stamp   stamp
	since   time.Time // when just this stamp was found first
	readAt  time.Time // when the content was last read
	sum     uint64    // hash of the content that was last parsed; 0: none
	verdict error     // why it could not be used; nil: it is what the feed was given last
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
// proves nothing; each reason is logged once, and Trouble returns it. Follow does
// not return for it, even at the start: the repair is seen within a second, and
// the follower's growing pauses would delay that.
func (s *Source) Follow(ctx context.Context, feed follow.Feed, _ bool) error {
	w := newWatch(s.path, s.log)
	defer w.close()
	return s.follow(ctx, feed, w)
}

func (s *Source) follow(ctx context.Context, feed follow.Feed, w *watch) error {
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
	first := wait // when a burst of events began, since began
	timer := time.NewTimer(wait)
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
		now := time.Since(began)
		first = min(first, now)
		next := min(now+quiet, first+busy)
		if !s.failing.IsZero() {
			next = max(next, again) // a long write is not to be parsed at each of its steps
		}
		timer.Reset(min(next, wait) - now)
	}
}

// look reads the file if it may have changed, and tells the feed. It returns how
// long the next look can wait, and an error only when ctx has ended.
func (s *Source) look(ctx context.Context, feed follow.Feed, forced bool) (time.Duration, error) {
	now := time.Now()
	found, err := stampOf(s.path)
	if found != s.seen.stamp {
		s.seen.stamp, s.seen.since = found, now
	}
	if err != nil {
		return s.fail(plain(err), forced), nil
	}
	// The content must be what it was when it was read long enough after it was changed.
	proven := s.failing.IsZero() && s.seen.readAt.Sub(s.seen.since) >= granule
	if proven && !forced {
		return s.poll, feed.Change(ctx, nil)
	}
	s.seen.readAt = now
	data, err := read(s.path)
	if err != nil {
		return s.fail(plain(err), forced), nil
	}
	if sum := maphash.Bytes(s.seed, data); s.seen.sum != sum || forced {
		err := list(ctx, feed, data)
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		s.seen.sum, s.seen.verdict = sum, err
		s.log.Debug("registry file read", "path", s.path, "bytes", len(data), "took", time.Since(now))
	}
	if s.seen.verdict != nil {
		return s.fail(s.seen.verdict, forced), nil
	}
	s.well(forced)
	return s.poll, feed.Change(ctx, nil)
}

// list tells the feed what the file holds. Where ctx has not ended, the error is the
// file's, and the feed has no new listing.
func list(ctx context.Context, feed follow.Feed, data []byte) error {
	err := machinejson.EachBatch(data, func(items []registry.Item) error { return feed.List(ctx, items) })
	if err != nil {
		return err
	}
	return feed.Listed(ctx, "")
}

var errChanging = errors.New("the file keeps changing while it is read: write a new one and rename it into place")

// fail notes that the file cannot be used and returns how long the next look can
// wait. The reason is logged unless a write may be under way, and always after
// Reload.
func (s *Source) fail(err error, forced bool) time.Duration {
	now := time.Now()
	if s.failing.IsZero() {
		s.failing, s.steady = now, now
	}
	wait := s.poll
	if now.Sub(s.seen.since) >= again {
		s.steady = now
	} else {
		wait = min(again, s.poll)
		if !forced {
			if now.Sub(s.steady) < changesFor {
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
	s.known, s.failing, s.logged = true, time.Time{}, ""
	s.trouble.Store(nil)
}
