package etcd

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// A stream is not listed again by the clock: ten thousand hosts that list a hundred
// thousand objects every quarter of an hour cost etcd 2.7 cores for ever. It is
// proven instead. A source knows how many keys there must be at the revision that it
// is at: those of the listing, one more for each creation since and one less for each
// deletion. Now and then it has etcd count those of one part, at that revision, with the
// witnesses; the parts take turns. A difference is a change that the stream has lost,
// and everything is listed, beside the stream.
//
// How it fails: an update that was lost, without a creation or a deletion, is noticed
// only if its key is among the witnesses, and a creation and a deletion that were
// both lost in one part make up for each other. Either lasts until that object is
// written again or all are listed. No etcd of the versions that dnsd trusts (see
// quirks) is known to lose either.

// proving says when parts are proven.
type proving struct {
	least  time.Duration // between two proofs, at least
	perKey time.Duration // and for each key of the part
	soon   float64       // the share of that in which the first one after a resume comes
}

// A key costs etcd 0.12 µs to count, and so a host costs it six millionths of a
// processor for this, however many keys there are; ten thousand hosts a
// sixteenth of one. 100,000 keys are proven in 35 min, a million in 6 h.
var defaultProving = proving{least: 15 * time.Minute, perKey: 20 * time.Millisecond, soon: 0.1}

// after returns the time from one proof to the next, with jitter of a half each way, so
// that hosts that began together do not count together.
func (p proving) after(part *part, share float64) time.Duration {
	every := max(p.least, time.Duration(part.keys)*p.perKey)
	every = time.Duration(float64(every) * share)
	return every/2 + rand.N(every)
}

// plan sets when the next part is proven; share is of the usual time.
func (f *session) plan(share float64) {
	if n := len(f.at.keys); n > 0 {
		f.s.part = (f.s.part + 1) % n
		f.s.due = time.Now().Add(f.s.proving.after(&f.at.keys[f.s.part], share))
		f.due.Reset(time.Until(f.s.due))
	}
}

// resumePlan has a proof come soon after a resume, which is when a stream may
// lose something, and no later than it was due.
func (f *session) resumePlan() {
	due := f.s.due
	if f.plan(f.s.proving.soon); due.After(time.Now()) && due.Before(f.s.due) {
		f.s.due = due
		f.due.Reset(time.Until(due))
	}
}

// proof is what became of one.
type proof struct {
	head int64
	err  error
}

// prove begins a proof of the next part as of now.
func (f *session) prove(ctx context.Context) {
	if f.listing != nil {
		return // which plans the next
	}
	at := f.at
	of := at.keys[f.s.part]
	if of.end == "" {
		of.end = f.s.end()
	}
	f.begin(func() error {
		head, err := f.s.verify(ctx, f.c, &at, &of)
		return f.send(ctx, message{proof: &proof{head, err}})
	})
}

// proven acts on a proof. It returns an error if the stream is of another history.
func (f *session) proven(ctx context.Context, p *proof) error {
	s := f.s
	var lost *lostError
	switch {
	case f.listing != nil: // begun meanwhile
		return nil
	case p.err == nil:
		s.stats.proven.Add(1)
		f.plan(1)
		return f.knows(ctx, p.head)
	case errors.As(p.err, &lost):
		s.stats.lost.Add(1)
		s.log.Error("etcd's stream has lost a change; everything is listed", "source", s, "reason", lost)
		return f.list(ctx, p.head)
	case errors.Is(p.err, errCompacted): // the registry is behind what is kept
	case errors.Is(p.err, errHistory):
		return p.err
	}
	s.stats.unproven.Add(1)
	s.log.Debug("what is known of etcd could not be proven", "source", s, "err", p.err)
	f.plan(s.proving.soon)
	return nil
}
