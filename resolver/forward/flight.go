package forward

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

// flight is a question on its way upstream, for everyone who waits for its answer.
type flight struct {
	watch   *watch
	network netip.Prefix  // of the first caller; set once, as are old and late
	old     *entry        // the stale answer, or nil
	late    time.Time     // when it is given
	done    chan struct{} // closed when reply is final
	reply   *Reply

	mu     sync.Mutex
	landed bool   // guarded by mu; the upstreams have answered
	stale  *Reply // guarded by mu; made of old when the answer is late
}

// fly resolves a question, together with everyone who asks the same meanwhile. The first
// caller does the work. Where there is a stale answer a goroutine does it, with a part in
// the question's place, and goes on when the caller has gone with the stale answer, so that
// the late one is kept (RFC 8767, section 5).
func (f *Forwarder) fly(ctx context.Context, q *Query, renewal bool) *Reply {
	k := f.cache.keyOf(q)
	asked := question{string(q.Name), q.Type, q.Class}
	fk := flightKey{question: asked, do: q.DO, cd: q.CD, network: k.network}

	f.mu.Lock()
	if other := f.flights[fk]; other != nil {
		other.watch.seenAgain()
		f.mu.Unlock()
		return f.join(ctx, other)
	}
	e := f.cache.get(k, q.Name)
	if !renewal && e != nil && time.Now().Before(e.fresh) {
		f.mu.Unlock()
		return &e.Reply // it was kept since Immediate looked
	}
	own := &flight{
		watch: f.watchFor(asked), network: q.Network, done: make(chan struct{}), late: time.Now().Add(f.patience()),
		reply: failureOf(errInternal), // stays in case of a panic
	}
	if e != nil && time.Now().Before(e.usable) {
		own.old = e
	}
	f.flights[fk] = own
	f.mu.Unlock()

	land := func() {
		f.mu.Lock()
		delete(f.flights, fk)
		f.unwatch(asked, own.watch)
		f.mu.Unlock()
		close(own.done)
	}
	if own.old != nil && !renewal {
		kept := *q // the caller may reuse q when fly returns
		kept.Name = bytes.Clone(q.Name)
		kept.place.share()
		if f.spawn("resolving", func() {
			defer kept.place.leave()
			defer land()
			own.reply = f.lead(f.life, &kept, k, own)
		}) {
			return f.join(ctx, own)
		}
		kept.place.leave()
	}
	defer land()
	own.reply = f.lead(ctx, q, k, own)
	return own.reply
}

// join waits for a flight, or until its stale answer is due.
func (f *Forwarder) join(ctx context.Context, fl *flight) *Reply {
	wait := f.cfg.Timeout
	if fl.old != nil {
		wait = min(wait, time.Until(fl.late))
	}
	select {
	case <-fl.done:
	case <-time.After(wait):
		if fl.old == nil {
			return failureOf(timeoutError{wait})
		}
		if r := f.standIn(fl); r != nil {
			return r
		}
		<-fl.done // the flight has just landed
	case <-ctx.Done():
		return failureOf(ctx.Err())
	}
	return fl.reply
}

// standIn returns the stale answer of a flight that is late, and keeps it so that others
// need not wait. Nil: the flight has just landed.
func (f *Forwarder) standIn(fl *flight) *Reply {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.stale == nil && !fl.landed {
		fl.stale = fl.old.stale(timeoutError{f.patience()}.Error())
		f.cache.put(fl.old.key, fl.old.name, fl.network, fl.stale, lifetime{fresh: failureHold, usable: fl.old.usable}, time.Now())
	}
	return fl.stale
}

// patience is how long an answer is waited for when there is a stale one.
func (f *Forwarder) patience() time.Duration { return min(stalePatience, f.cfg.Timeout) }

// lead asks the upstreams and keeps what they say.
func (f *Forwarder) lead(parent context.Context, q *Query, k key, fl *flight) *Reply {
	ctx, cancel := context.WithTimeoutCause(parent, f.cfg.Timeout, timeoutError{f.cfg.Timeout})
	defer cancel()

	name := bytes.Clone(q.Name)
	m := newMessage(q, true)
	o := f.resolve(ctx, m, q, fl.watch)
	now := time.Now()
	better := fl.old != nil && now.Before(fl.old.fresh) // in a renewal: the kept answer is better than a failure
	bogus := fl.old != nil && !better && !o.good() && f.isBogus(ctx, q, &o)
	fl.mu.Lock()
	fl.landed = true
	fl.mu.Unlock()
	if o.good() {
		if o.answer.life.fresh > 0 {
			f.cache.put(k, name, q.Network, &o.answer.Reply, o.answer.life, now)
		}
		return &o.answer.Reply
	}

	r, old := failureReply(&o), fl.old
	life := lifetime{fresh: failureHold}
	switch {
	case bogus:
		r = failure(dns.RcodeServerFailure, dns.ExtendedErrorCodeDNSBogus, "the upstream gives these data only unchecked (CD)")
	case old != nil && !isVerdict(r.EDE):
		r, life.usable = old.stale(r.EDE[0].Text), old.usable
	}
	if parent.Err() != nil || better {
		return r // an end of parent says nothing about the upstreams
	}
	if !errors.Is(o.err, errAllDown) && !isLocal(o.err) { // both cost no query, and may end at any moment
		f.cache.put(k, name, q.Network, r, life, now)
	}
	return r
}

// resolve asks the upstreams of a name, the best first.
func (f *Forwarder) resolve(ctx context.Context, m *message, q *Query, w *watch) outcome {
	route := f.route(m.name)
	if len(route) == 0 {
		return outcome{err: errNoUpstream}
	}
	order := preferred(route, m.name)
	f.sample(order, m)
	return f.ask(ctx, order, m, q.Network, w)
}

// isBogus finds out whether an upstream that failed without a reason did so because the data
// failed validation: then it gives them to clients that set CD (RFC 4035, section 3.2.2).
func (f *Forwarder) isBogus(ctx context.Context, q *Query, o *outcome) bool {
	if o.answer == nil || o.answer.Rcode != dns.RcodeServerFailure || q.CD || slices.ContainsFunc(o.answer.EDE, func(e wire.EDE) bool {
		return e.Code != dns.ExtendedErrorCodeOther
	}) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, f.cfg.TryTimeout) // for one query
	defer cancel()
	unchecked := *q
	unchecked.CD = true
	second := f.ask(ctx, []*upstream{o.from}, newMessage(&unchecked, true), q.Network, newWatch())
	return second.good()
}

// sample sends a question to one of the upstreams that are not the first choice, too, if one
// is to be measured. Nobody waits for it.
func (f *Forwarder) sample(order []*upstream, m *message) {
	for i, u := range order {
		if i > 0 && u.wantsSample(m.name) {
			f.spawn("sampling an upstream", func() { u.sample(m) })
			return
		}
	}
}
