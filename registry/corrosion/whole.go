package corrosion

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// An agent whose database was wiped, or restored from a backup, lists what it
// has so far, as if that were all. It is whole again when it has every version
// that it had when it was last followed: then what it lacks was deleted. So what
// it has is asked at every connect and then now and then:
//
//   - An agent that lacks nothing is whole, and listed or resumed. One whose
//     database is a new one, which may lack what came after it was last asked, is
//     listed in doubt until it has settled; so is one of which nothing is known
//     and that was seen to be filled.
//   - One that lacks versions is waited for while it gets nearer to having them.
//     When it stands still it is listed in doubt: what it has counts, and what it
//     lacks stays.
//   - A doubt ends with another listing, when the agent lacks nothing any more,
//     or when it sees others and still gets no nearer.
//   - One that is followed and loses versions ends the stream: it is waited for
//     as after any other connect.

const (
	// lookEvery is how often the agent is asked what it knows. In a cluster of
	// 10,000 sites the answer costs either side some 15 ms.
	lookEvery = 30 * time.Second

	// waitEvery is how often while the names wait for it.
	waitEvery = time.Second

	// standstill is how long an agent that is not whole is waited for when it
	// comes no nearer to it: longer than it takes one that was killed and comes
	// back under a new identity to be let in by the others, which took 36 and 48 s.
	standstill = 2 * time.Minute

	// standstillAnew is the same where nothing is known of what it once had and it
	// has gaps, which may be for ever, because nobody has those versions any more.
	// It is longer than the 15 s between two synchronisations.
	standstillAnew = 20 * time.Second

	// standstillEmpty is the same where it has nothing at all: perhaps nothing was
	// ever written, or the host is a new one under an old address, whose agent has
	// yet to be let in. Names of the cluster don't exist for as long.
	standstillEmpty = time.Minute

	// settle is how long after it first learned anything a new database is given
	// to catch up, even if it has all that it had: that was known up to lookEvery
	// before, and what came after is not in it. The agent synchronises with some
	// of the others every 15 s at most.
	settle = 20 * time.Second

	// waitMost is how long it is waited for while it gets nearer. New names
	// don't show meanwhile. 60,000 rows in 3,500 versions took 14 s.
	waitMost = 10 * time.Minute

	// giveUpAfter is how long a doubt lasts when the agent sees others and still
	// comes no nearer: it synchronises with some of them every 15 s at most, so
	// that nobody has what it lacks.
	giveUpAfter = 10 * time.Minute

	// rememberEvery is how often the knowledge is written to disk.
	rememberEvery = 10 * time.Minute
)

// pace holds the times above; shorter in tests.
type pace struct {
	look, wait, standstill, standstillAnew, standstillEmpty, settle, waitMost, giveUp, remember time.Duration
}

var defaultPace = pace{lookEvery, waitEvery, standstill, standstillAnew, standstillEmpty, settle, waitMost, giveUpAfter, rememberEvery}

// errAgain says that everything has to be listed again, by new subscriptions,
// on the connection that there is.
var errAgain = errors.New("listing again")

// Why a listing may lack what is there.
const (
	doubt    = "the corrosion agent does not have all that it had"
	doubtNew = "the corrosion agent's database is a new one, which has to catch up"
)

// wholeness is what is known of the agent over time. It is owned by the
// goroutine that is in Follow, apart from view and unsaved.
type wholeness struct {
	pace   pace
	memory *memory
	loaded bool

	known *knowledge // what the agent had when it was last whole; nil: nothing is known
	seen  *knowledge // what it had before the listing that is under way
	doubt string     // why its listing may lack what is there; empty: it is whole
	since waiting    // what was seen since it was last connected to
	met   bool       // it has seen other agents
	saved time.Time
	mute  bool // it was said that it does not tell what it knows

	view    atomic.Pointer[view]
	unsaved atomic.Pointer[knowledge]
}

// lacking returns how many versions keep the agent from being whole, as far as
// is known.
func (w *wholeness) lacking(k *knowledge) uint64 {
	switch {
	case w.known == nil && len(k.Sites) == 0:
		return 1
	case w.known == nil:
		return k.gaps()
	case w.known.alone(): // nobody could give them back: what it has is all there is
		return 0
	}
	return k.lacks(w.known)
}

// replaced reports whether the agent's database is another one than it was: a
// wiped or restored one writes as a new site.
func (w *wholeness) replaced(k *knowledge) bool {
	return w.known != nil && !w.known.alone() && k.Self != w.known.Self
}

// waiting is what was seen of an agent that may not be whole.
type waiting struct {
	began   time.Time
	least   uint64    // the fewest versions that it lacked
	nearer  time.Time // when that was
	sites   int       // of how many it knew then
	learned uint64    // what it had learned of others at first
	moved   time.Time // when it was seen to have learned more; zero: never
}

// await waits until the agent is whole, or no longer. It sets doubt, and reports
// whether its subscriptions are not to be trusted: their records are of before.
func (s *Source) await(ctx context.Context, a *agent) (suspect bool, err error) {
	w := &s.whole
	if !w.loaded {
		w.loaded = true
		if w.known, err = w.memory.load(); err != nil {
			s.log.Warn("what the corrosion agent once knew cannot be read; it is learned anew", "err", err)
		}
	}
	w.doubt, w.since = "", waiting{}
	for {
		k, err := a.knowledge(ctx, s.proveTimeout)
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
			s.log.Warn("the corrosion agent may not have all that there is; waiting for it", "versions missing", lacking)
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

// patience is how long an agent that comes no nearer to being whole is waited for.
func (w *wholeness) patience(k *knowledge) time.Duration {
	switch {
	case w.known != nil:
		return w.pace.standstill
	case len(k.Sites) == 0:
		return w.pace.standstillEmpty
	}
	return w.pace.standstillAnew
}

// note takes in a look at the agent. Where nothing is known of what it should
// have, to learn of a further site, and so of more that is missing, is to get nearer.
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

// settled reports whether an agent that has all that it had also has what came
// after, though its database is a new one.
func (w *wholeness) settled(k *knowledge) bool {
	now := time.Now()
	if w.since.moved.IsZero() { // nothing may have come
		return now.Sub(w.since.nearer) >= w.pace.standstill
	}
	return now.Sub(w.since.moved) >= w.pace.settle && (w.known == nil || k.gaps() <= w.known.gaps())
}

// muted goes by the health of an agent whose internal tables cannot be read: it
// is in doubt as long as it has gaps.
func (s *Source) muted(ctx context.Context, a *agent, why error) error {
	if !s.whole.mute {
		s.whole.mute = true
		s.log.Warn("a corrosion agent that refetches its database cannot be told from a whole one, except by its gaps", "err", why)
	}
	h, err := a.health(ctx, s.proveTimeout)
	if h != nil {
		s.show(&knowledge{Members: h.Members}, h.Gaps, h)
		if h.Gaps > 0 {
			s.whole.doubt = doubt
		}
	}
	return err
}

// looked takes what a look at the agent has shown.
func (s *Source) looked(m *message) error {
	w := &s.whole
	if m.known == nil { // a mute one
		if m.health == nil {
			return nil
		}
		s.show(&knowledge{Members: m.health.Members}, m.health.Gaps, m.health)
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
	case w.doubt != "":
		if lacking == 0 && (w.doubt != doubtNew && !w.replaced(m.known) || w.settled(m.known)) {
			w.doubt = ""
			return fmt.Errorf("%w: the agent has all that it had", errAgain)
		}
		if lacking > 0 && time.Since(w.since.nearer) >= w.pace.giveUp && m.known.Members > 0 {
			s.log.Warn("the corrosion agent does not get what it lacks from any other; what it has is taken for all there is", "versions missing", lacking)
			w.doubt = ""
			return fmt.Errorf("%w: nobody has what the agent lacks", errAgain)
		}
		w.remember(m.known)
	case lacking > 0:
		return fmt.Errorf("the corrosion agent has lost %d versions of its data while it was followed", lacking)
	default:
		w.remember(m.known)
	}
	return nil
}

// remember takes note of what an agent had before a listing that is applied, or
// while its stream was followed. In doubt it is noted as well where it is no less
// than what is known: the database may be lost once more.
func (w *wholeness) remember(k *knowledge) {
	if k == nil || w.doubt != "" && (w.lacking(k) > 0 || w.replaced(k)) {
		return
	}
	if w.known != nil && k.Members < w.known.Members { // that there were more is remembered
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
