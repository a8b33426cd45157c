package corrosion

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// An agent whose database was wiped, or restored from a backup, lists what it
// has so far as if that were all. It is whole again when it has every version
// that it had when it was last followed: what it lacks then was deleted. So the
// agent is asked which versions it has at every connect and at intervals after it:
//
//   - An agent that lacks none is listed or resumed. If its database is a new one,
//     it may lack what came after it was last asked, and is listed in doubt until
//     it has settled. So is one of which nothing is known and that was seen to be
//     filled.
//   - An agent that lacks versions is waited for while it receives them. When it
//     makes no more progress it is listed in doubt: what is new shows, and what it
//     lacks stays.
//   - A doubt ends with another listing, when the agent lacks nothing any more,
//     or when it sees others and still makes no progress.
//   - The stream of an agent that loses versions while it is followed ends, and the
//     agent is waited for as after any other connect.

// pace holds how often an agent is asked what it has, and how long it is waited
// for. Shorter in tests.
type pace struct {
	look            time.Duration // between two questions
	wait            time.Duration // the same while it is waited for
	standstill      time.Duration // without progress before it is listed in doubt
	standstillAnew  time.Duration // the same if nothing is known of what it had, and it has gaps
	standstillEmpty time.Duration // the same if it has nothing at all
	settle          time.Duration // for a new database to catch up after it first learned anything
	waitMost        time.Duration // in all, with progress
	giveUp          time.Duration // without progress, while it sees others, before a doubt ends
	remember        time.Duration // between two writes of the knowledge to disk
}

var defaultPace = pace{
	// In a cluster of 10,000 sites an answer costs either side some 15 ms.
	look: 30 * time.Second,
	wait: time.Second,

	// Longer than an agent that was killed and comes back under a new identity
	// needs to be let in by the others, which took 36 and 48 s.
	standstill: 2 * time.Minute,

	// Longer than the 15 s between two synchronizations. A gap may stay for ever,
	// because nobody has those versions any more.
	standstillAnew: 20 * time.Second,

	// Perhaps nothing was ever written, or the host is a new one under an old
	// address, whose agent has yet to be let in. No name of the cluster exists
	// meanwhile.
	standstillEmpty: time.Minute,

	// A new database may have all that the old one had when it was last asked, and
	// not what came in the look after that. The agent synchronizes with some of the
	// others every 15 s at most.
	settle: 20 * time.Second,

	// New names don't show meanwhile. 60,000 rows in 3,500 versions took 14 s.
	waitMost: 10 * time.Minute,

	// The agent synchronizes with some of the others every 15 s at most: nobody
	// has what it lacks after as long.
	giveUp:   10 * time.Minute,
	remember: 10 * time.Minute,
}

// errAgain says that everything has to be listed again, by new subscriptions on
// the same connection.
var errAgain = errors.New("listing again")

// Why a listing may lack what is there.
const (
	doubt    = "the corrosion agent does not have all that it had"
	doubtNew = "the corrosion agent's database is a new one, which has to catch up"
)

// wholeness is what is known of the agent over time. It belongs to the goroutine
// that is in Follow, apart from view and unsaved.
type wholeness struct {
	pace   pace
	memory *memory
	loaded bool

	known *knowledge // what the agent had when it was last whole; nil: nothing is known
	seen  *knowledge // what it had before the listing that is under way
	doubt string     // why its listing may lack what is there; empty: it is whole
	since waiting    // what was seen since the last connect
	met   bool       // it has seen other agents
	saved time.Time
	mute  bool // it was logged that the internal tables cannot be read

	view    atomic.Pointer[view]
	unsaved atomic.Pointer[knowledge] // for watch to write to disk
}

// lacking returns how many versions the agent lacks to be whole, as far as is
// known; 1 if it has none and it is not known which it should have.
func (w *wholeness) lacking(k *knowledge) uint64 {
	switch {
	case w.known == nil && len(k.Sites) == 0:
		return 1
	case w.known == nil:
		return k.gaps()
	case w.known.alone(): // no other agent has any of its versions
		return 0
	}
	return k.lacks(w.known)
}

// replaced reports whether the agent has another database than it had: one that
// was wiped or restored is a new site.
func (w *wholeness) replaced(k *knowledge) bool {
	return w.known != nil && !w.known.alone() && k.Self != w.known.Self
}

// waiting is what was seen of an agent that may not be whole.
type waiting struct {
	began   time.Time
	least   uint64    // the fewest versions that it lacked
	nearer  time.Time // when it last made progress
	sites   int       // how many it knew then
	learned uint64    // knowledge.learned when the wait began
	moved   time.Time // when that was first seen to have grown; zero: never
}

// await waits until the agent is whole, or has been waited for long enough. It sets
// doubt, and reports whether new subscriptions are needed, because the records of
// the old ones may be incomplete.
func (s *Source) await(ctx context.Context, a *agent) (suspect bool, err error) {
	w := &s.whole
	if !w.loaded {
		w.loaded = true
		if w.known, err = w.memory.load(); err != nil {
			s.log.Warn("the saved knowledge of the corrosion agent cannot be read; starting without it", "err", err)
		}
	}
	w.doubt, w.since = "", waiting{}
	for {
		k, err := a.knowledge(ctx)
		if errors.Is(err, errMute) {
			return false, s.muted(ctx, a, err)
		}
		if err != nil {
			return false, err
		}
		lacking := w.lacking(k)
		first := w.since.began.IsZero()
		w.note(k, lacking)
		w.seen = k
		if lacking == 0 && (w.replaced(k) || w.known == nil && !first && !k.alone()) {
			w.doubt = doubtNew
		}
		s.show(k, lacking, nil)
		if lacking == 0 {
			return !first || w.doubt != "", nil
		}
		if first {
			s.log.Warn("the corrosion agent's data may be incomplete; waiting for it", "versions missing", lacking)
		}
		if now := time.Now(); now.Sub(w.since.nearer) >= w.patience(k) || now.Sub(w.since.began) >= w.pace.waitMost {
			if w.known != nil {
				w.doubt = doubt
			}
			return true, nil
		}
		if err := sleep(ctx, w.pace.wait); err != nil {
			return false, err
		}
	}
}

// patience is how long an agent that makes no progress is waited for.
func (w *wholeness) patience(k *knowledge) time.Duration {
	switch {
	case w.known != nil:
		return w.pace.standstill
	case len(k.Sites) == 0:
		return w.pace.standstillEmpty
	}
	return w.pace.standstillAnew
}

// note records what the agent was seen to have. If it is not known what it should
// have, learning of a further site is progress, though more versions are missing then.
func (w *wholeness) note(k *knowledge, lacking uint64) {
	s, now, learned := &w.since, time.Now(), k.learned()
	if s.began.IsZero() {
		*s = waiting{began: now, least: lacking, nearer: now, sites: len(k.Sites), learned: learned}
	}
	if lacking < s.least || w.known == nil && len(k.Sites) > s.sites {
		s.least, s.nearer, s.sites = lacking, now, len(k.Sites)
	}
	if s.moved.IsZero() && learned > s.learned {
		s.moved = now
	}
}

// settled reports whether an agent with a new database, which has all that the old
// one was known to have, has had the time to get what came after.
func (w *wholeness) settled(k *knowledge) bool {
	now := time.Now()
	if w.since.moved.IsZero() { // nothing may have come
		return now.Sub(w.since.nearer) >= w.pace.standstill
	}
	return now.Sub(w.since.moved) >= w.pace.settle && (w.known == nil || k.gaps() <= w.known.gaps())
}

// muted judges an agent whose internal tables cannot be read by its health: it is
// in doubt as long as it has gaps.
func (s *Source) muted(ctx context.Context, a *agent, why error) error {
	if !s.whole.mute {
		s.whole.mute = true
		s.log.Warn("the corrosion agent does not tell which versions it has; an incomplete one is noticed only by its gaps", "err", why)
	}
	h, err := a.health(ctx)
	if h != nil {
		s.show(nil, 0, h)
		if h.Gaps > 0 {
			s.whole.doubt = doubt
		}
	}
	return err
}

// looked acts on what the agent was seen to have while it is followed.
func (s *Source) looked(m *message) error {
	w := &s.whole
	if m.known == nil { // its internal tables cannot be read
		if m.health == nil {
			return nil
		}
		s.show(nil, 0, m.health)
		if w.doubt != "" && m.health.Gaps == 0 {
			w.doubt = ""
			return fmt.Errorf("%w: the agent has no gaps any more", errAgain)
		}
		return nil
	}
	lacking := w.lacking(m.known)
	w.note(m.known, lacking)
	s.show(m.known, lacking, m.health)
	w.seen = m.known
	switch {
	case !s.listed:
		return nil
	case w.doubt == "" && lacking > 0:
		return fmt.Errorf("the corrosion agent has lost %d versions of its data while it was followed", lacking)
	case w.doubt != "" && lacking == 0 && (w.doubt != doubtNew && !w.replaced(m.known) || w.settled(m.known)):
		w.doubt = ""
		return fmt.Errorf("%w: the agent has all that it had", errAgain)
	case w.doubt != "" && lacking > 0 && time.Since(w.since.nearer) >= w.pace.giveUp && m.known.Members > 0:
		s.log.Warn("the corrosion agent gets the versions it lacks from no other; its data is taken as complete", "versions missing", lacking)
		w.doubt = ""
		return fmt.Errorf("%w: nobody has what the agent lacks", errAgain)
	}
	w.remember(m.known)
	return nil
}

// remember keeps what the agent had before a listing that is applied, or while it
// was followed. In doubt it is kept if it is no less than what is known, as the
// database may be lost once more.
func (w *wholeness) remember(k *knowledge) {
	if k == nil || w.doubt != "" && (w.lacking(k) > 0 || w.replaced(k)) {
		return
	}
	if w.known != nil && k.Members < w.known.Members { // the most that were seen is kept
		more := *k
		more.Members = w.known.Members
		k = &more
	}
	w.known = k
	if now := time.Now(); w.memory != nil && w.doubt == "" && now.Sub(w.saved) >= w.pace.remember {
		w.saved = now
		w.unsaved.Store(k)
	}
}
