package corrosion

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dnsd/registry/follow"
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

// cutOff reports whether the agent sees none of the others that it once saw. It
// remembers those that are gone for two days.
func (w *wholeness) cutOff(k *knowledge) bool { return k.Members == 0 && (k.Down > 0 || w.met) }

// show publishes what the agent was seen to be.
func (s *Source) show(k *knowledge, lacking uint64, h *health) {
	w := &s.whole
	old := w.view.Load()
	if old != nil && old.known.Self != k.Self {
		w.met = false // a new database sees nobody in its first minute
	}
	w.met = w.met || k.Members > 0
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

// proven reports whether a sign of life of the agent is one of the cluster. One
// that is cut off proves only itself.
func (s *Source) proven() bool {
	v := s.whole.view.Load()
	return v == nil || !s.whole.cutOff(v.known)
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

var _ interface{ Trouble() error } = (*Source)(nil)
var _ follow.Source = (*Source)(nil)
