package truth

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// History is all that was ever true of a world, version by version. A version
// may be seen from the moment that it begins to be written; when it is
// acknowledged, how long an older one may still be seen is up to who asks. Safe
// for concurrent use.
type History struct {
	mu       sync.Mutex
	versions []version
	settled  []time.Time // when each version was acknowledged; zero: not yet
}

// version is one state of the world. It is not changed.
type version struct {
	world   World
	begun   time.Time
	changed []Object // what it has that the version before has not, and the other way round
}

// NewHistory returns a history that begins with a world that is acknowledged.
func NewHistory(w World) *History {
	h := new(History)
	h.Settle(h.Begin(w))
	return h
}

// Begin adds a version that may be seen from now on, and returns its number.
func (h *History) Begin(w World) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := version{world: w, begun: time.Now()}
	if n := len(h.versions); n > 0 {
		v.changed = difference(h.versions[n-1].world, w)
	}
	h.versions, h.settled = append(h.versions, v), append(h.settled, time.Time{})
	return len(h.versions) - 1
}

// difference returns the objects that only one of two worlds has.
func difference(a, b World) (only []Object) {
	for key, o := range a {
		if b[key] != o {
			only = append(only, o)
		}
	}
	for key, o := range b {
		if a[key] != o {
			only = append(only, o)
		}
	}
	return only
}

// Settle notes that a version is acknowledged.
func (h *History) Settle(v int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.settled[v] = time.Now()
}

// Newest returns the last version and its number.
func (h *History) Newest() (int, World) {
	all := h.all()
	return len(all) - 1, all[len(all)-1].world
}

// At returns a version.
func (h *History) At(v int) World { return h.all()[v].world }

// Begun returns when a version began to be written.
func (h *History) Begun(v int) time.Time { return h.all()[v].begun }

// Settled returns the newest version that was acknowledged at a time.
func (h *History) Settled(at time.Time) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	for v := len(h.settled) - 1; v > 0; v-- {
		if s := h.settled[v]; !s.IsZero() && !s.After(at) {
			return v
		}
	}
	return 0
}

func (h *History) all() []version {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.versions
}

// touches reports whether a version can have changed the answer to q.
func (v *version) touches(q *Question) bool {
	return slices.ContainsFunc(v.changed, func(o Object) bool { return !q.adds(o).none() })
}

// First returns the oldest version, low at the least and begun by then, in which
// q is answered so; false: in none.
func (h *History) First(q *Question, said string, low int, by time.Time) (int, bool) {
	all := h.all()
	for v := low; v < len(all) && !all[v].begun.After(by); v++ {
		if (v == low || all[v].touches(q)) && q.Answer(all[v].world) == said {
			return v, true
		}
	}
	return low, false
}

// Answers returns what q was answered in the versions from low on that had begun
// by a time, without repetitions.
func (h *History) Answers(q *Question, low int, by time.Time) (said []string) {
	all := h.all()
	for v := low; v < len(all) && !all[v].begun.After(by); v++ {
		if v == low || all[v].touches(q) {
			said = append(said, q.Answer(all[v].world))
		}
	}
	return slices.Compact(said)
}

// Mixes reports whether q is answered so in a world in which each object is as
// in one of the versions from low on that had begun by a time, not all of them in
// the same. Such is the registry of a dnsd that holds back the removals of a
// listing.
func (h *History) Mixes(q *Question, said string, low int, by time.Time) bool {
	all := h.all()
	last := low
	for last+1 < len(all) && !all[last+1].begun.After(by) {
		last++
	}
	// What each key may add: keys that stay as they are have one choice.
	choices := map[string][]part{}
	add := func(key string, p part) {
		if !slices.Contains(choices[key], p) {
			choices[key] = append(choices[key], p)
		}
	}
	for key, o := range all[low].world {
		add(key, q.adds(o))
	}
	for v := low + 1; v <= last; v++ {
		for _, o := range all[v].changed {
			for _, w := range []World{all[v-1].world, all[v].world} {
				var p part
				if now := w[o.Key()]; now != nil {
					p = q.adds(now)
				}
				add(o.Key(), p)
			}
		}
	}
	return q.mixes(said, slices.Collect(maps.Values(choices)))
}

// mixes reports whether one choice for each key makes the answer.
func (q *Question) mixes(said string, keys [][]part) bool {
	may := func(ok func(part) bool) bool { // each key has a choice that is ok
		return !slices.ContainsFunc(keys, func(choices []part) bool { return !slices.ContainsFunc(choices, ok) })
	}
	switch said {
	case "NXDOMAIN":
		return !q.there && may(func(p part) bool { return !p.exists })
	case "NODATA":
		empty := func(p part) bool { return p.exists && p.text == "" }
		return may(func(p part) bool { return p.text == "" }) &&
			(q.there || slices.ContainsFunc(keys, func(c []part) bool { return slices.ContainsFunc(c, empty) }))
	}
	// Every entry comes from a key, and every key gives one at most.
	givers := map[string][]int{}
	for entry := range strings.SplitSeq(said, cmp.Or(q.sep, "\x00")) {
		givers[entry] = nil
	}
	for i, choices := range keys {
		fits := false
		for _, p := range choices {
			_, there := givers[p.text]
			if there {
				givers[p.text] = append(givers[p.text], i)
			}
			fits = fits || there || p.text == ""
		}
		if !fits {
			return false
		}
	}
	given := make([]int, len(keys)) // entries that are of no other key
	for _, from := range givers {
		if len(from) == 0 {
			return false
		}
		if len(from) == 1 {
			given[from[0]]++
		}
	}
	return slices.Max(given) <= 1
}
