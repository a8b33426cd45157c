package registry

import "time"

const (
	// A listing that would remove more than guardMin objects and more than half
	// of all is more often a mistake (an empty prefix, a wrong table, a store
	// restored to the wrong day) than the truth: the guard asks twice.
	guardMin  = 20
	guardHold = 30 * time.Second // how long a second opinion must wait
)

// guard holds back sweeping removals. The apply loop owns it.
type guard struct {
	held  map[Key]struct{}
	since time.Time // when the first of held was held; zero: only listings in doubt lacked them
	asked time.Time // when a second listing was last asked for
}

func (g *guard) empty() bool { return len(g.held) == 0 }
func (g *guard) len() int    { return len(g.held) }

// judge decides on the removals of a complete listing, out of total objects
// known, and returns those that may be made now. It remembers the others: all,
// where the listing is in doubt, which neither confirms a removal nor begins its
// time.
func (g *guard) judge(gone []Key, total int, now time.Time, doubted bool) (pass []Key) {
	confirmed := !g.since.IsZero() && now.Sub(g.since) >= guardHold
	var fresh []Key
	for _, key := range gone {
		if _, ok := g.held[key]; ok && confirmed && !doubted {
			pass = append(pass, key)
		} else {
			fresh = append(fresh, key)
		}
	}
	since := g.since
	if since.IsZero() || confirmed {
		since = now
	}
	if doubted {
		since = g.since
	}
	g.held, g.since = nil, time.Time{}
	if !doubted && (len(fresh) <= guardMin || 2*len(fresh) <= total) {
		return append(pass, fresh...)
	}
	g.since, g.asked = since, now
	g.held = make(map[Key]struct{}, len(fresh))
	for _, key := range fresh {
		g.held[key] = struct{}{}
	}
	return pass
}

// forget drops a removal that a change has settled by itself.
func (g *guard) forget(key Key) { delete(g.held, key) }

// take returns the held removals and holds none any more.
func (g *guard) take() []Key {
	keys := make([]Key, 0, len(g.held))
	for key := range g.held {
		keys = append(keys, key)
	}
	g.held, g.since = nil, time.Time{}
	return keys
}

// wantsListing reports, once each guardHold, that the second listing is due.
func (g *guard) wantsListing(now time.Time) bool {
	if g.empty() || g.since.IsZero() || now.Sub(g.asked) < guardHold {
		return false
	}
	g.asked = now
	return true
}
