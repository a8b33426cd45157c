package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// flight is one question on its way upstream, with all who wait for it.
type flight struct {
	watch *watch
	old   *entry        // the kept answer that may stand in, or nil; set once, as is late
	late  time.Time     // from when it does
	done  chan struct{} // closed once reply is set for good
	reply *Reply

	mu     sync.Mutex
	landed bool   // guarded by mu; what the cache is to hold is settled
	stale  *Reply // guarded by mu; old, as it is given since the answer is late
}

// fly resolves a question, together with whoever asks the same meanwhile. The
// first caller does the work, unless there is a stale answer to give when that takes
// long: then the work goes on without it (RFC 8767, section 5), so that the
// answer is kept for the next. release is called when the caller's place
// is free again, which may be after fly has returned.
func (f *Forwarder) fly(ctx context.Context, q *Query, refresh bool, release func()) *Reply {
	k := f.cache.keyOf(q)
	asked := question{string(q.Name), q.Type, q.Class}
	fk := flightKey{question: asked, do: q.DO, cd: q.CD, network: k.network}

	f.mu.Lock()
	if other := f.flights[fk]; other != nil {
		other.watch.seenAgain()
		f.mu.Unlock()
		defer release()
		return f.join(ctx, other)
	}
	e := f.cache.get(k, q.Name)
	if !refresh && e != nil && time.Now().Before(e.fresh) {
		f.mu.Unlock()
		release()
		return &e.Reply // the flight landed between our look and the lock
	}
	own := &flight{
		watch: f.watchFor(asked), done: make(chan struct{}), late: time.Now().Add(f.patience()),
		reply: failure(dns.RcodeServerFailure, dns.ExtendedErrorCodeOther, "internal error"), // stays if we panic
	}
	if e != nil && time.Now().Before(e.usable) {
		own.old = e
	}
	f.flights[fk] = own
	apart := own.old != nil && !refresh && !f.ended
	if apart {
		f.apart.Add(1) // under mu, and so before Run waits
	}
	f.mu.Unlock()

	land := func() {
		f.mu.Lock()
		delete(f.flights, fk)
		f.unwatch(asked, own.watch)
		f.mu.Unlock()
		close(own.done)
		release()
	}
	if !apart {
		defer land()
		own.reply = f.lead(ctx, q, k, own, refresh)
		return own.reply
	}
	kept := *q // the caller's goes when fly returns
	kept.Name = bytes.Clone(q.Name)
	go func() {
		defer f.apart.Done()
		defer land()
		defer func() { // an answer we cannot read must not end the process
			if p := recover(); p != nil {
				f.log.Error("panic while resolving", "panic", p, "stack", string(debug.Stack()))
			}
		}()
		own.reply = f.lead(f.life, &kept, k, own, false)
	}()
	return f.join(ctx, own)
}

// join waits for a flight, or until a stale answer has to do.
func (f *Forwarder) join(ctx context.Context, fl *flight) *Reply {
	wait := f.cfg.Timeout
	if fl.old != nil {
		wait = min(wait, time.Until(fl.late))
	}
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	select {
	case <-fl.done:
	case <-timeout.C:
		if fl.old == nil {
			return failureOf(timeoutError{wait})
		}
		if r := f.standIn(fl); r != nil {
			return r
		}
		<-fl.done // at once: the flight has just landed
	case <-ctx.Done():
		return failureOf(ctx.Err())
	}
	return fl.reply
}

// standIn returns the stale answer of a flight that is late, and keeps it so that
// others need not wait. Nil: the flight has just landed.
func (f *Forwarder) standIn(fl *flight) *Reply {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.stale == nil && !fl.landed {
		fl.stale = fl.old.stale(timeoutError{f.patience()}.Error())
		f.cache.put(fl.old.key, fl.old.name, fl.stale, lifetime{fresh: failureHold, usable: fl.old.usable}, time.Now())
	}
	return fl.stale
}

// patience is how long an answer is waited for when there is a stale one.
func (f *Forwarder) patience() time.Duration { return min(stalePatience, f.cfg.Timeout) }

// lead asks the upstreams and keeps what they say.
func (f *Forwarder) lead(parent context.Context, q *Query, k key, fl *flight, refresh bool) *Reply {
	ctx, cancel := context.WithTimeoutCause(parent, f.cfg.Timeout, timeoutError{f.cfg.Timeout})
	defer cancel()

	name := bytes.Clone(q.Name)
	o := f.ask(ctx, f.route(name), newMessage(q, true), fl.watch)
	fl.mu.Lock()
	fl.landed = true
	fl.mu.Unlock()
	now := time.Now()
	if o.good() {
		life := clampTTLs(o.m, q, now)
		r, err := newReply(o.m, now)
		if err == nil {
			if life.fresh > 0 && !r.partial {
				f.cache.put(k, name, r, life, now)
			}
			return r
		}
		o = outcome{from: o.from, err: fmt.Errorf("upstream %s: %w", o.from.label, err)}
	}

	r, old := failureReply(&o), fl.old
	life := lifetime{fresh: failureHold}
	if old != nil && !isVerdict(r.EDE) {
		r, life.usable = old.stale(r.EDE[0].Text), old.usable
	}
	if parent.Err() != nil || refresh && (old == nil || now.Before(old.fresh)) {
		return r // this says nothing of the upstreams, or what is kept is better
	}
	if !errors.Is(o.err, errAllDown) { // that costs nothing to find out, and ends any moment
		f.cache.put(k, name, r, life, now)
	}
	return r
}
