package follow

import (
	"iter"
	"time"

	"dnsd/registry"
)

const (
	// A listing that takes away more than guardMin objects and more than it
	// leaves is more often a mistake (an empty prefix, a wrong table, a state
	// misread for all, a store restored to the wrong day) than the truth: a second
	// listing must confirm it.
	guardMin = 20

	// guardHold is the least time between the first listing that lacks an object
	// and the beginning of another one that confirms the loss. What listings have
	// taken away counts towards the losses of the next one for as long, so that
	// many small steps are no way around the guard.
	guardHold = 30 * time.Second
)

// loss is what a listing takes away from answers: old is deleted, or replaced by
// a version that answers less.
type loss struct {
	old   registry.Object   // the version known, which stays while the loss is held
	put   *registry.Machine // what takes its place; nil: nothing does
	since time.Time         // of a held loss: when a listing without doubt first had it; zero: none has
}

// passed is a loss that was let through without a second opinion.
type passed struct {
	class registry.Class
	at    time.Time
}

// guard holds back the losses of listings that take most of what answers hold,
// or that are in doubt. A held loss goes through when a listing that began at
// least guardHold after the first one still has it, each object by its own time;
// it is forgotten when a listing does not have it, or names the object unusably,
// and when a change settles it. The apply loop owns the guard.
type guard struct {
	held   map[registry.Key]loss
	counts [registry.Classes]int // of held
	due    time.Time             // when the first of held may have its second opinion; zero: none is, or only listings in doubt lacked them

	passed map[registry.Key]passed
	newest time.Time // when the last of passed was let through
}

// judge decides on all losses of a complete listing, which began at a given
// time: afterwards those in g.held are held back, and all others are to be made.
// It returns those that need no confirmation, to be noted when they are made.
// sizes is how much answers held before the listing.
func (g *guard) judge(losses map[registry.Key]loss, sizes [registry.Classes]int, began, now time.Time, doubted bool) (pass []registry.Key) {
	const all = registry.Classes // the sum of the classes
	var gone, left [registry.Classes + 1]int
	copy(left[:], sizes[:])
	for key, p := range g.passed {
		if now.Sub(p.at) >= guardHold {
			delete(g.passed, key)
			continue
		}
		gone[p.class]++
	}
	held := map[registry.Key]loss{}
	var fresh []registry.Key
	for key, l := range losses {
		c := registry.ClassOf(l.old)
		left[c]--
		l.since = g.held[key].since
		switch waits := !l.since.IsZero(); {
		case waits && !doubted && began.Sub(l.since) >= guardHold: // confirmed
			continue
		case waits || doubted:
			held[key] = l
		default:
			fresh = append(fresh, key)
		}
		gone[c]++
	}
	for c := range registry.Classes {
		gone[all] += gone[c]
		left[all] += left[c]
	}
	swept := func(c int) bool { return gone[c] > guardMin && gone[c] > left[c] }
	for _, key := range fresh {
		l := losses[key]
		c := registry.ClassOf(l.old)
		if !swept(int(c)) && !swept(all) {
			pass = append(pass, key)
			continue
		}
		l.since = now
		held[key] = l
	}
	g.replace(held)
	return pass
}

// replace makes held what is held.
func (g *guard) replace(held map[registry.Key]loss) {
	g.held, g.counts, g.due = held, [registry.Classes]int{}, time.Time{}
	for _, l := range held {
		g.counts[registry.ClassOf(l.old)]++
		if due := l.since.Add(guardHold); !l.since.IsZero() && (g.due.IsZero() || due.Before(g.due)) {
			g.due = due
		}
	}
}

// note remembers losses that have been let through without a second opinion.
func (g *guard) note(pass []registry.Key, losses map[registry.Key]loss, now time.Time) {
	if len(pass) > 0 && g.passed == nil {
		g.passed = make(map[registry.Key]passed, len(pass))
	}
	for _, key := range pass {
		g.passed[key] = passed{registry.ClassOf(losses[key].old), now}
		g.newest = now
	}
}

// expire forgets the passed losses when none of them counts any longer.
func (g *guard) expire(now time.Time) {
	if now.Sub(g.newest) >= guardHold {
		g.passed = nil
	}
}

// back forgets the passed losses that objects undo. Of several versions of an
// object the last counts.
func (g *guard) back(objects iter.Seq[registry.Object]) {
	if len(g.passed) == 0 {
		return
	}
	last := map[registry.Key]registry.Class{}
	for o := range objects {
		if key := o.Key(); g.passed[key] != (passed{}) {
			last[key] = registry.ClassOf(o)
		}
	}
	for key, c := range last {
		if c <= g.passed[key].class {
			delete(g.passed, key)
		}
	}
}

// decided drops the held loss of an object that a change decides on.
func (g *guard) decided(item *registry.Item) {
	if len(g.held) > 0 {
		g.drop(item.About())
	}
}

// spare drops the held losses of objects that the source has named and that
// cannot be used: they exist.
func (g *guard) spare(named keeper) {
	for key, l := range g.held {
		if named.has(l.old) {
			g.drop(key)
		}
	}
}

func (g *guard) drop(key registry.Key) {
	if l, ok := g.held[key]; ok {
		g.counts[registry.ClassOf(l.old)]--
		delete(g.held, key)
	}
	if len(g.held) == 0 {
		g.due = time.Time{}
	}
}

// take returns the held losses as changes, and forgets them and the passed ones:
// an operator has confirmed both.
func (g *guard) take() []registry.Item {
	items := make([]registry.Item, 0, len(g.held))
	for key, l := range g.held {
		if l.put != nil {
			items = append(items, registry.Put(l.put))
		} else {
			items = append(items, registry.Delete(key))
		}
	}
	g.replace(nil)
	g.passed = nil
	return items
}

// wantsListing reports whether a second opinion is due.
func (g *guard) wantsListing(now time.Time) bool { return !g.due.IsZero() && !now.Before(g.due) }
