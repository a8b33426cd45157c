package resolver

import "sync/atomic"

// turnCounter counts how often a loop has turned.
type turnCounter struct {
	n    atomic.Uint64
	seen uint64 // by Turned
}

func (t *turnCounter) turn() { t.n.Add(1) }

// since reports whether the loop has turned since the last call.
func (t *turnCounter) since() bool {
	last := t.seen
	t.seen = t.n.Load()
	return t.seen != last
}

// Turned reports whether each loop that receives questions has turned since the last
// call, and wakes those that wait for packets, so that they have by the next one. A
// loop that is not in order does not turn. Calls must follow one after the other.
func (r *Resolver) Turned() bool {
	all := true
	for _, s := range r.sockets {
		all = s.turns.since() && all
		s.wake()
	}
	for _, a := range r.acceptors {
		all = a.turns.since() && all
		a.wake()
	}
	return all
}
