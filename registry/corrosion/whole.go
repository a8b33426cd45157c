package corrosion

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"dnsd/registry"
)

// An agent whose database was wiped, or restored from a backup, lists what it
// has so far, as if that were all. It is whole again when it has every version
// that it had when it was last followed: then what it lacks was deleted.

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

	// standstillAnew is the same where nothing is known of what it once had, and
	// it has nothing, or gaps: perhaps nothing was ever written, and versions may
	// be missing for ever because nobody has them any more. A new agent is let in
	// within seconds.
	standstillAnew = 10 * time.Second

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
	look, wait, standstill, standstillAnew, settle, waitMost, giveUp, remember time.Duration
}

var defaultPace = pace{lookEvery, waitEvery, standstill, standstillAnew, settle, waitMost, giveUpAfter, rememberEvery}

// errAgain says that everything has to be listed again, by new subscriptions,
// on the connection that there is.
var errAgain = errors.New("listing again")

// Why a listing may lack what is there.
const (
	doubt    = "the corrosion agent does not have all that it had"
	doubtNew = "the corrosion agent's database is a new one, which has to catch up"
)

// view is what the metrics and /readyz tell of the agent.
type view struct {
	known   *knowledge
	gaps    uint64
	lacking uint64
	health  *health
	learned time.Time // when it last learned anything of another agent
	trouble string
}

// wholeness is what is known of the agent over time. It is owned by the
// goroutine that is in Follow, apart from view and unsaved.
type wholeness struct {
	pace   pace
	memory *memory
	loaded bool

	known  *knowledge // what the agent had when it was last whole; nil: nothing is known
	seen   *knowledge // what it had before the listing that is under way
	doubt  string     // why its listing may lack what is there; empty: it is whole
	since  waiting    // what was seen since it was last connected to
	others bool       // it has seen other agents
	saved  time.Time
	mute   bool // it was said that it does not tell what it knows

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
		w.since.note(k, lacking)
		w.seen = k
		if lacking == 0 && w.replaced(k) {
			w.doubt = doubtNew
		}
		s.show(k, lacking, nil)
		if lacking == 0 {
			return !first || w.doubt != "", nil
		}
		if first {
			s.log.Warn("the corrosion agent may not have all that there is; waiting for it", "versions missing", lacking)
		}
		if now := time.Now(); now.Sub(w.since.nearer) >= w.patience() || now.Sub(w.since.began) >= w.pace.waitMost {
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
func (w *wholeness) patience() time.Duration {
	if w.known == nil {
		return w.pace.standstillAnew
	}
	return w.pace.standstill
}

// note takes in a look at the agent.
func (s *waiting) note(k *knowledge, lacking uint64) {
	now, learned := time.Now(), k.learned()
	if s.began.IsZero() {
		*s = waiting{began: now, least: lacking, nearer: now, learned: learned}
	}
	if lacking < s.least {
		s.least, s.nearer = lacking, now
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
	return now.Sub(w.since.moved) >= w.pace.settle && k.gaps() <= w.known.gaps()
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

// cutOff reports whether the agent sees none of the others that it once saw.
func (w *wholeness) cutOff(k *knowledge) bool { return w.others && k.Members == 0 }

// show publishes what the agent was seen to be.
func (s *Source) show(k *knowledge, lacking uint64, h *health) {
	w := &s.whole
	old := w.view.Load()
	if old != nil && old.known.Self != k.Self {
		w.others = false // a new database sees nobody in its first minute
	}
	w.others = w.others || k.Members > 0
	v := &view{known: k, gaps: k.gaps(), lacking: lacking, health: h}
	if k.Sites == nil && h != nil { // of a mute agent
		v.gaps = h.Gaps
	}
	if old != nil {
		v.learned = old.learned
		if old.known.learned() == k.learned() {
			if h == nil {
				v.health = old.health
			}
		} else {
			v.learned = time.Now()
		}
	}
	switch {
	case lacking > 0 && len(k.Sites) == 0 && w.known == nil:
		v.trouble = "the corrosion agent's database is empty"
	case lacking > 0 && k.Members == 0 && w.doubt != "": // until then it may only be late to see them
		v.trouble = fmt.Sprintf("the corrosion agent lacks %d versions of the cluster's data, and sees no other agent to get them from", lacking)
	case lacking > 0:
		v.trouble = fmt.Sprintf("the corrosion agent lacks %d versions of the cluster's data", lacking)
	case w.cutOff(k):
		v.trouble = "the corrosion agent sees no other agent: changes of other hosts don't arrive"
	}
	w.view.Store(v)
}

// Trouble returns what is wrong with the agent though it answers; nil for
// nothing. Safe for concurrent use.
func (s *Source) Trouble() error {
	if v := s.whole.view.Load(); v != nil && v.trouble != "" {
		return errors.New(v.trouble)
	}
	return nil
}

// watch looks at the agent until ctx ends.
func (s *Source) watch(ctx context.Context, a *agent, out chan<- message) error {
	every := s.whole.pace.look
	if s.whole.doubt != "" {
		every = min(every, 5*s.whole.pace.wait)
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	learned, unsavable := uint64(0), false
	if v := s.whole.view.Load(); v != nil {
		learned = v.known.learned()
	}
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		m := message{what: looked}
		var err error
		if m.known, err = a.knowledge(ctx, s.proveTimeout); err != nil && !errors.Is(err, errMute) {
			continue // prove notices an agent that does not answer
		}
		// Without anything learned the agent has nothing to say, and an error of
		// its own to log.
		if err != nil || m.known.learned() != learned {
			if m.health, err = a.health(ctx, s.proveTimeout); err != nil {
				continue
			}
		}
		if m.known != nil {
			learned = m.known.learned()
		}
		select {
		case out <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
		if k := s.whole.unsaved.Swap(nil); k != nil {
			err := s.whole.memory.save(k)
			if err != nil && !unsavable {
				s.log.Warn("what the corrosion agent knows cannot be saved", "err", err)
			}
			unsavable = err != nil
		}
	}
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
	w.since.note(m.known, lacking)
	s.show(m.known, lacking, m.health)
	w.seen = m.known
	switch {
	case !s.listed:
	case w.doubt != "":
		if lacking == 0 && (!w.replaced(m.known) || w.settled(m.known)) {
			w.doubt = ""
			return fmt.Errorf("%w: the agent has all that it had", errAgain)
		}
		if lacking > 0 && time.Since(w.since.nearer) >= w.pace.giveUp && m.known.Members > 0 {
			s.log.Warn("the corrosion agent does not get what it lacks from any other; what it has is taken for all there is", "versions missing", lacking)
			w.doubt = ""
			return fmt.Errorf("%w: nobody has what the agent lacks", errAgain)
		}
	case lacking > 0:
		return fmt.Errorf("the corrosion agent has lost %d versions of its data while it was followed", lacking)
	default:
		w.remember(m.known)
	}
	return nil
}

// remember takes note of what an agent had before a listing that is applied, or
// while its stream was followed.
func (w *wholeness) remember(k *knowledge) {
	if k == nil || w.doubt != "" {
		return
	}
	if w.known != nil && k.Members < w.known.Members { // that there were more is remembered
		more := *k
		more.Members = w.known.Members
		k = &more
	}
	w.known = k
	if now := time.Now(); w.memory != nil && now.Sub(w.saved) >= w.pace.remember {
		w.saved = now
		w.unsaved.Store(k)
	}
}

// proven reports whether a sign of life of the agent is one of the cluster. One
// that is cut off proves only itself.
func (s *Source) proven() bool {
	v := s.whole.view.Load()
	return v == nil || !s.whole.cutOff(v.known)
}

var _ interface{ Trouble() error } = (*Source)(nil)
var _ registry.Source = (*Source)(nil)
