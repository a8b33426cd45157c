package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"dnsd/registry/contain"
	"dnsd/registry/follow"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// withheldFor is how long changes wait for a listing after which the registry
	// knows what it has missed. What it holds until then, from disk or from before
	// a gap, is of one moment, and would not be with the newest changes in it. Most
	// listings are done by then. Those of large registries are not, and changes
	// matter more.
	withheldFor = time.Second

	// busyFor is for how long there is always another response to read when it is
	// suspected that many more are under way: then the cluster is asked how
	// far it is, at most once in that time.
	busyFor = time.Second

	// confirmEvery is for how long the notes of a watch are trusted after the cluster,
	// and not only one member, has answered. A read costs etcd some 40 µs: ten
	// thousand hosts behind proxies cost it a twenty-fifth of a processor.
	confirmEvery = 10 * time.Second

	// reopenEvery is the pause between tries to get a broken stream back while a
	// listing is under way. A member restarts in a second or two.
	reopenEvery = 250 * time.Millisecond
)

// session is one call of Follow: a watch, and beside it a listing and proofs where they
// are due. One goroutine owns it and makes all calls of the feed; the others fetch what
// it is told by messages.
type session struct {
	s    *Source
	c    *client
	feed follow.Feed
	at   position

	// Revisions: what the feed has reached (progress that is not trusted included),
	// and the greatest one known.
	reached, head int64

	listing *listing // under way; nil: none
	unknown bool     // the feed was given something that may not be applied

	messages chan message
	wg       sync.WaitGroup // of those who send them
	cancel   context.CancelCauseFunc
	due      *time.Timer // the next proof
	since    time.Time   // when a response was last waited for
	asked    time.Time   // when the cluster was last asked for its revision
	asking   bool        // it is being asked
	answered time.Time   // when the cluster last answered that
	pulse    *pulse      // of the stream
	created  bool        // the server has confirmed it
}

// listing is what is known of one under way.
type listing struct {
	rev   int64     // that the stream must have reached when it is complete; rises where it is compacted away
	gap   bool      // the stream begins with it: what was before is not known
	whole bool      // all pages are there
	began time.Time // zero: its pages are not read yet
	seen  witnesses
	keys  tally
	born  []born // meanwhile
}

// message is what a goroutine of the session has fetched; one field is set.
type message struct {
	chunk *chunk
	proof *proof
	head  int64
}

// begin has do run beside the session, whose end it is if that fails.
func (f *session) begin(do func() error) {
	f.wg.Go(func() {
		if err := contain.Run(do); err != nil {
			f.cancel(err)
		}
	})
}

// send sends a message to the session's goroutine.
func (f *session) send(ctx context.Context, m message) error {
	select {
	case f.messages <- m:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run follows until the stream breaks, and lists first if that is asked for. It
// returns the reason, never nil, and leaves in the source what a later call can
// go on from.
func (f *session) run(ctx context.Context, list bool) error {
	ctx, f.cancel = context.WithCancelCause(ctx)
	defer f.wg.Wait()
	defer f.cancel(nil)
	f.messages = make(chan message)
	f.due = time.NewTimer(time.Hour)
	defer f.due.Stop()
	f.due.Stop()
	err := f.follow(ctx, list)
	switch {
	case f.unknown || errors.Is(err, errHistory) || f.listing != nil && f.listing.gap:
		f.s.listed = false
	default:
		f.s.at = f.at
	}
	return err
}

func (f *session) follow(ctx context.Context, list bool) error {
	if list {
		if err := f.list(ctx, f.head); err != nil {
			return err
		}
	} else {
		if err := f.tell(ctx); err != nil {
			return err
		}
		f.resumePlan()
	}
	for {
		err := f.watch(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err = fmt.Errorf("watching: %w", err)
		if f.listing == nil || errors.Is(err, errHistory) || f.c.refuses(err) || errors.As(err, new(*contain.Error)) || !f.reopens(ctx) {
			return err
		}
	}
}

// list begins a listing at a revision that the cluster is known to have. Where the
// session has no position, the stream begins there, too.
func (f *session) list(ctx context.Context, rev int64) error {
	f.s.listed = false
	l := &listing{rev: rev, gap: f.at.rev == 0}
	if l.gap {
		if err := f.feed.Reached(ctx, 0, f.head); err != nil {
			return err
		}
		f.at, f.reached = position{rev: rev, event: rev}, rev
	}
	f.at.keys, f.listing = nil, l
	f.head = max(f.head, rev)
	if err := f.tell(ctx); err != nil {
		return err
	}
	if err := f.feed.List(ctx, nil); err != nil {
		return err
	}
	f.fetch(ctx)
	return nil
}

// fetch has the pages of a listing read, once the stream is there: what is compacted
// before that would be missing.
func (f *session) fetch(ctx context.Context) {
	l := f.listing
	if l == nil || !l.began.IsZero() || !f.created {
		return
	}
	l.began = time.Now()
	rev := l.rev
	f.begin(func() error {
		err := f.s.fetch(ctx, f.c, rev, func(c *chunk) error { return f.send(ctx, message{chunk: c}) })
		if err != nil {
			err = fmt.Errorf("listing: %w", err)
		}
		return err
	})
}

// watch opens the stream after the position and tells the feed what comes, until the
// stream breaks. It returns the reason, never nil.
func (f *session) watch(ctx context.Context) error {
	streaming, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	stream, err := f.c.watch.Watch(f.c.outgoing(streaming), anySize)
	if err != nil {
		return f.c.plain(err)
	}
	_ = stream.Send(f.s.create(f.at.rev)) // an error says only that the stream is over; Recv knows why
	p := newPulse()
	f.pulse, f.created = p, false
	f.hurry()
	responses := make(chan *pb.WatchResponse)
	wg.Go(func() {
		cancel(contain.Run(func() error { return f.c.receive(streaming, stream, p, responses) }))
	})
	wg.Go(func() { cancel(contain.Run(func() error { return f.s.ask(streaming, stream, p) })) })
	if err := f.loop(ctx, responses, streaming.Done()); err != nil {
		return err
	}
	return context.Cause(streaming)
}

// loop is the session's one goroutine. It returns nil when the stream is broken.
func (f *session) loop(ctx context.Context, responses <-chan *pb.WatchResponse, broken <-chan struct{}) error {
	keep := time.NewTicker(tokenKept)
	defer keep.Stop()
	for {
		in, enough := responses, (<-chan time.Time)(nil)
		if f.withheld() {
			in, enough = nil, time.After(time.Until(f.listing.began.Add(withheldFor)))
		}
		var err error
		began := time.Now()
		waited := func() {
			if now := time.Now(); now.Sub(began) > time.Millisecond {
				f.since = now
			}
		}
		select {
		case r := <-in:
			waited()
			err = f.response(ctx, r)
		case m := <-f.messages:
			waited()
			err = f.message(ctx, &m)
		case <-f.due.C:
			f.prove(ctx)
		case <-keep.C:
			if f.c.token != "" {
				f.askHead(ctx)
			}
		case <-enough:
		case <-broken:
			return nil
		}
		if err == nil {
			err = f.complete(ctx)
		}
		if err != nil {
			return err
		}
		if time.Since(f.since) > busyFor && time.Since(f.asked) > busyFor {
			f.askHead(ctx)
		}
	}
}

// withheld reports whether changes wait for a listing.
func (f *session) withheld() bool {
	l := f.listing
	return l != nil && l.gap && !l.whole && !l.began.IsZero() && time.Since(l.began) < withheldFor
}

// response tells the feed what a response of the watch says.
func (f *session) response(ctx context.Context, r *pb.WatchResponse) error {
	u, err := f.s.changes(r, f.at)
	if err != nil {
		return err
	}
	if r.Created {
		f.created = true
		f.fetch(ctx)
		return nil
	}
	// A member that has lost the others makes notes, too, and a proxy does not pass on
	// that it is to have a leader. So a note is a sign of life only if the cluster has
	// just answered; a progress request is answered for no watch in particular.
	if len(r.Events) == 0 && r.WatchId != clientv3.InvalidWatchID && time.Since(f.answered) > confirmEvery {
		f.askHead(ctx)
	} else if err := f.feed.Change(ctx, u.items); err != nil {
		f.unknown = true // they may be applied or not
		return err
	}
	f.at, f.reached, f.head = u.at, max(f.reached, u.reached), max(f.head, r.Header.GetRevision())
	for _, b := range u.born {
		if f.listing != nil {
			f.listing.born = append(f.listing.born, b)
		} else if f.at.keys != nil {
			f.at.keys.of(b.key).keys += b.by
		}
	}
	return f.tell(ctx)
}

// message acts on what a goroutine of the session has fetched.
func (f *session) message(ctx context.Context, m *message) error {
	switch {
	case m.chunk != nil:
		return f.chunk(ctx, m.chunk)
	case m.proof != nil:
		return f.proven(ctx, m.proof)
	}
	f.asking = false
	if m.head > 0 {
		f.answered = time.Now()
	}
	return f.knows(ctx, m.head)
}

// chunk passes a part of a page to the feed.
func (f *session) chunk(ctx context.Context, c *chunk) error {
	l := f.listing
	if err := f.feed.List(ctx, c.items); err != nil {
		return err
	}
	if c.page {
		l.keys, l.seen, l.rev, l.whole = l.keys.page(c.from, c.keys, c.rev), c.seen, max(l.rev, c.rev), c.last
	}
	return nil
}

// complete completes the listing when all pages are there and the stream has reached
// their revision.
func (f *session) complete(ctx context.Context) error {
	l := f.listing
	if l == nil || !l.whole || f.reached < l.rev {
		return nil
	}
	f.unknown = true // until it has been applied
	if err := f.feed.Listed(ctx, ""); err != nil {
		return err
	}
	for _, b := range l.born {
		l.keys.add(b)
	}
	f.at.keys, f.at.seen = l.keys, f.at.seen.with(l.seen)
	f.listing, f.unknown, f.s.listed = nil, false, true
	f.plan(1)
	return nil
}

// askHead has the cluster asked for its revision, unless it is being asked.
func (f *session) askHead(ctx context.Context) {
	if f.asking {
		return
	}
	f.asking, f.asked = true, time.Now()
	f.begin(func() error {
		head, _, err := f.c.revision(ctx, f.s.cfg.Prefix)
		if f.c.refuses(err) {
			return err
		}
		return f.send(ctx, message{head: head}) // zero if that failed: the stream knows better what is wrong
	})
}

// knows notes that the cluster has a revision.
func (f *session) knows(ctx context.Context, head int64) error {
	if head <= f.head {
		return nil
	}
	f.head = head
	return f.tell(ctx)
}

// tell tells the feed what is reached and known.
func (f *session) tell(ctx context.Context) error {
	f.hurry()
	return f.feed.Reached(ctx, f.reached, f.head)
}

// hurry has progress asked for soon where it would show that nothing is missing: the
// revisions that are known may be of other keys.
func (f *session) hurry() {
	if f.pulse != nil {
		f.pulse.hurry(f.reached < f.head)
	}
}

// reopens waits until the cluster can be asked again and has the history that is
// followed, for as long as one request may take.
func (f *session) reopens(ctx context.Context) bool {
	at := f.at
	at.seen = at.seen.with(f.listing.seen)
	for end := time.Now().Add(f.c.timeout); time.Now().Before(end); {
		select {
		case <-time.After(reopenEvery):
		case <-ctx.Done():
			return false
		}
		var head int64
		var err error
		if at.seen == (witnesses{}) { // nothing that was fed could be of another history
			if head, _, err = f.c.revision(ctx, f.s.cfg.Prefix); err == nil {
				err = backwards(head, at.rev)
			}
		} else {
			_, err = f.s.verify(ctx, f.c, &at, nil)
		}
		if err == nil || errors.Is(err, errHistory) {
			return err == nil
		}
	}
	return false
}
