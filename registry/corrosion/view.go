package corrosion

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dnsd/registry/follow"
)

// view is what the metrics and /readyz show of the agent.
type view struct {
	known   *knowledge
	gaps    uint64
	lacking uint64
	health  *health
	learned time.Time // when it last got anything of another agent
	trouble string
}

// cutOff reports whether the agent sees none of the others that it once saw. It
// remembers those that are gone for two days.
func (w *wholeness) cutOff(k *knowledge) bool { return k.Members == 0 && (k.Down > 0 || w.met) }

// show publishes what the agent was seen to have; k is nil if its internal tables
// cannot be read, and h if its health is not known.
func (s *Source) show(k *knowledge, lacking uint64, h *health) {
	w, empty := &s.whole, false
	v := &view{health: h}
	if k != nil {
		empty = len(k.Sites) == 0
		v.gaps = k.gaps()
	} else {
		k, lacking = &knowledge{Members: h.Members}, h.Gaps
		v.gaps = h.Gaps
	}
	v.known, v.lacking = k, lacking
	if old := w.view.Load(); old != nil {
		if old.known.Self != k.Self {
			w.met = false // a new database sees no other in its first minute
		}
		v.learned = old.learned
		switch {
		case old.known.learned() != k.learned():
			v.learned = time.Now()
		case h == nil:
			v.health = old.health
		}
	}
	w.met = w.met || k.Members > 0
	switch {
	case lacking > 0 && empty && w.known == nil:
		v.trouble = "the corrosion agent's database is empty"
	case lacking > 0 && k.Members == 0 && w.doubt != "": // before that it may only see them late
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

// proven reports whether a sign of life of the agent is one of the cluster: an
// agent that is cut off is alive itself, and that is all.
func (s *Source) proven() bool {
	v := s.whole.view.Load()
	return v == nil || !s.whole.cutOff(v.known)
}

// watch asks the agent at intervals what it has, until ctx ends.
func (s *Source) watch(ctx context.Context, a *agent, out chan<- message) error {
	every := s.whole.pace.look
	if s.whole.doubt != "" {
		every = min(every, 5*s.whole.pace.wait)
	}
	learned, unsavable := uint64(0), false
	if v := s.whole.view.Load(); v != nil {
		learned = v.known.learned()
	}
	for {
		if err := sleep(ctx, every); err != nil {
			return err
		}
		m := message{what: looked}
		var err error
		if m.known, err = a.knowledge(ctx); err != nil && !errors.Is(err, errMute) {
			continue // prove notices an agent that does not answer
		}
		// An agent that has learned nothing reports no health, and logs an error.
		if err != nil || m.known.learned() != learned {
			if m.health, err = a.health(ctx); err != nil {
				continue
			}
		}
		if m.known != nil {
			learned = m.known.learned()
		}
		if err := send(ctx, out, m); err != nil {
			return err
		}
		if k := s.whole.unsaved.Swap(nil); k != nil {
			err := s.whole.memory.save(k)
			if err != nil && !unsavable {
				s.log.Warn("the knowledge of the corrosion agent cannot be saved", "err", err)
			}
			unsavable = err != nil
		}
	}
}

var _ follow.Source = (*Source)(nil)
