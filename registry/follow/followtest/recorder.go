// Package followtest holds what tests of sources share: a feed that keeps what a
// source tells, and the contract of follow.Source as tests that every source
// passes.
package followtest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"dnsd/registry"
	"dnsd/registry/follow"
)

// Call is a method of a feed.
type Call string

// The methods of a feed.
const (
	List    Call = "list"
	Listed  Call = "listed"
	Change  Call = "change"
	Reached Call = "reached"
)

// Recorder is a follow.Feed that keeps what it is told as the follower would. The
// zero value is ready to use. Its fields are set before a source follows.
type Recorder struct {
	// Before is called before a call is taken. While it does not return, the
	// registry is behind. If ctx has ended by then, the call is not taken.
	Before func(ctx context.Context, call Call, items []registry.Item)
	// Applied is shown what is known after each listing.
	Applied func(*Seen)
	// Reaches is told what Reached was called with.
	Reaches func(at, head int64)
	// Became is told each object that has changed; nil is for one that has gone.
	Became func(key registry.Key, o registry.Object)

	busy  atomic.Bool // a call is under way
	state atomic.Int32

	mu   sync.Mutex
	seen Seen

	listing          bool
	named            map[registry.Key]bool
	decided          map[registry.Key]bool // by changes since the listing began
	puts             []registry.Object
	bad              []registry.Key
	unmeasured, told bool // Follow resumes and has not called Reached; it has called something else
}

// The states of a Recorder: unused by Follow, in Follow without a listing so far,
// in Follow otherwise, and after it.
const (
	unused = iota
	unlisted
	following
	over
)

// Seen is what came of the calls so far.
type Seen struct {
	Objects  map[registry.Key]registry.Object // what a registry would hold
	Rejects  []registry.Item
	Listings int      // that were completed
	Pages    int      // calls of List in the last listing
	Doubts   []string // of the listings
	Held     int      // what the last listing lacked and was not sure about
	Changes  [][]registry.Item
	Proofs   int      // calls of Change without items
	At, Head int64    // of the last call of Reached
	Calls    []Call   // in order, runs of one as one
	Faults   []string // how the contract of Feed was broken
}

// Machines returns "id state" of every machine, sorted.
func (s *Seen) Machines() []string {
	var out []string
	for _, o := range s.Objects {
		if m, ok := o.(*registry.Machine); ok {
			out = append(out, m.ID+" "+m.State)
		}
	}
	slices.Sort(out)
	return out
}

// See lets look read what was seen. It must keep nothing of it.
func (r *Recorder) See(look func(*Seen)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	look(&r.seen)
}

// Seen returns a copy of what was seen.
func (r *Recorder) Seen() (seen Seen) {
	r.See(func(s *Seen) {
		seen = *s
		seen.Objects = maps.Clone(s.Objects)
	})
	return seen
}

// Get returns what look makes of what was seen.
func (r *Recorder) Get(look func(*Seen) int) (n int) {
	r.See(func(s *Seen) { n = look(s) })
	return n
}

// Known returns the object that a registry would hold under key; nil: none.
func (r *Recorder) Known(key registry.Key) (o registry.Object) {
	r.See(func(s *Seen) { o = s.Objects[key] })
	return o
}

// Listings and Proofs return the numbers in Seen.
func (r *Recorder) Listings() int { return r.Get(func(s *Seen) int { return s.Listings }) }
func (r *Recorder) Proofs() int   { return r.Get(func(s *Seen) int { return s.Proofs }) }

// Follow has source tell r, as a follower does: what a listing before was cut
// short of is dropped.
func (r *Recorder) Follow(ctx context.Context, source follow.Source, resume bool) error {
	r.mu.Lock()
	r.listing, r.unmeasured, r.told = false, resume, false
	r.mu.Unlock()
	r.state.Store(unlisted)
	if resume {
		r.state.Store(following)
	}
	defer r.state.Store(over)
	return source.Follow(ctx, r, resume)
}

// enter begins a call; leave, which is nil if the call is not to be taken, ends it.
func (r *Recorder) enter(ctx context.Context, call Call, items []registry.Item) (leave func(), err error) {
	alone := r.busy.CompareAndSwap(false, true)
	if r.Before != nil {
		r.Before(ctx, call, items)
	}
	r.mu.Lock()
	s := &r.seen
	switch state := r.state.Load(); {
	case !alone:
		s.fault("%s was called during another call", call)
	case state == over:
		s.fault("%s was called after Follow had returned", call)
	case state == unlisted && call == Change && len(items) > 0:
		s.fault("a change came before the listing")
	case state == unlisted && (call == List || call == Listed):
		r.state.CompareAndSwap(unlisted, following)
	}
	leave = func() { r.mu.Unlock(); r.busy.Store(false) }
	if err := context.Cause(ctx); err != nil {
		leave()
		return nil, err
	}
	if call == Reached {
		return leave, nil
	}
	r.told = true
	if n := len(s.Calls); n == 0 || s.Calls[n-1] != call {
		s.Calls = append(s.Calls, call)
	}
	if s.Objects == nil {
		s.Objects = map[registry.Key]registry.Object{}
	}
	if call != Change && !r.listing {
		r.listing, r.named, r.decided, r.puts, r.bad, s.Pages = true, map[registry.Key]bool{}, map[registry.Key]bool{}, nil, nil, 0
	}
	return leave, nil
}

func (s *Seen) fault(format string, args ...any) {
	s.Faults = append(s.Faults, fmt.Sprintf(format, args...))
}

// List implements follow.Feed.
func (r *Recorder) List(ctx context.Context, items []registry.Item) error {
	leave, err := r.enter(ctx, List, items)
	if err != nil {
		return err
	}
	defer leave()
	if len(items) > 0 {
		r.seen.Pages++
	}
	for _, item := range items {
		switch key := item.About(); {
		case item.Err != nil:
			r.seen.Rejects = append(r.seen.Rejects, item)
			r.bad = append(r.bad, key)
		case item.Object == nil:
			r.seen.fault("%s is deleted in a listing", key)
		default:
			r.named[key] = true
			r.puts = append(r.puts, item.Object)
		}
	}
	return nil
}

// Listed implements follow.Feed.
func (r *Recorder) Listed(ctx context.Context, doubt string) error {
	leave, err := r.enter(ctx, Listed, nil)
	if err != nil {
		return err
	}
	defer leave()
	s := &r.seen
	s.Held = 0
	for _, key := range slices.Collect(maps.Keys(s.Objects)) {
		switch {
		case r.decided[key] || r.named[key] || slices.ContainsFunc(r.bad, func(bad registry.Key) bool { return Covers(bad, key) }):
		case doubt != "":
			s.Held++
		default:
			r.set(key, nil)
		}
	}
	for _, o := range r.puts {
		if !r.decided[o.Key()] {
			r.set(o.Key(), o)
		}
	}
	r.listing = false
	s.Doubts = append(s.Doubts, doubt)
	s.Listings++
	if r.Applied != nil {
		r.Applied(s)
	}
	return nil
}

// Change implements follow.Feed.
func (r *Recorder) Change(ctx context.Context, items []registry.Item) error {
	leave, err := r.enter(ctx, Change, items)
	if err != nil {
		return err
	}
	defer leave()
	if len(items) == 0 {
		r.seen.Proofs++
		return nil
	}
	r.seen.Changes = append(r.seen.Changes, slices.Clone(items))
	r.change(items)
	return nil
}

// Reached implements follow.Feed.
func (r *Recorder) Reached(ctx context.Context, at, head int64) error {
	leave, err := r.enter(ctx, Reached, nil)
	if err != nil {
		return err
	}
	defer leave()
	if at > head {
		r.seen.fault("it has reached revision %d and knows of %d only", at, head)
	}
	if r.unmeasured && r.told {
		r.seen.fault("it resumes and does not say first how far it is behind")
	}
	r.unmeasured = false
	r.seen.At, r.seen.Head = at, head
	if r.Reaches != nil {
		r.Reaches(at, head)
	}
	return nil
}

func (r *Recorder) change(items []registry.Item) {
	for _, item := range items {
		switch key := item.About(); {
		case item.Err != nil:
			r.seen.Rejects = append(r.seen.Rejects, item)
			r.bad = append(r.bad, key)
		case item.Object == nil && (key.AnyNetwork || key.Name == ""):
			r.seen.fault("%s is deleted, which names nothing", key)
		default:
			if r.listing {
				r.decided[key] = true
			}
			r.set(key, item.Object)
		}
	}
}

// set makes o, nil for nothing, what is known under key.
func (r *Recorder) set(key registry.Key, o registry.Object) {
	old := r.seen.Objects[key]
	if o == nil && old == nil || o != nil && old != nil && registry.Equal(o, old) {
		return
	}
	if o == nil {
		delete(r.seen.Objects, key)
	} else {
		r.seen.Objects[key] = o
	}
	if r.Became != nil {
		r.Became(key, o)
	}
}

// Covers reports whether an object that was rejected as bad may be the one under
// key, which then stays. A machine is told by its id.
func Covers(bad, key registry.Key) bool {
	same := bad.Name == key.Name && bad.ID == key.ID
	switch bad.Kind {
	case registry.KindMachine:
		same = bad.ID == key.ID
	case registry.KindPeer: // that has its address for an id
		same = bad.Name == key.Name
	}
	return bad.Kind == key.Kind && same && (bad.AnyNetwork || bad.Network == key.Network)
}
