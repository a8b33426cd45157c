package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"
)

// flight is one question on its way upstream, with all who wait for it.
type flight struct {
	watch *watch
	done  chan struct{} // closed once reply is set for good
	reply *Reply
}

// fly resolves a question, together with whoever asks the same meanwhile. The
// first caller does the work, so that no goroutine outlives its caller.
func (f *Forwarder) fly(ctx context.Context, q *Query, refresh bool) *Reply {
	k := f.cache.keyOf(q)
	asked := question{string(q.Name), q.Type, q.Class}
	fk := flightKey{question: asked, do: q.DO, cd: q.CD, network: k.network}

	f.mu.Lock()
	if other := f.flights[fk]; other != nil {
		other.watch.seenAgain()
		f.mu.Unlock()
		return f.join(ctx, other)
	}
	if e := f.cache.get(k, q.Name); !refresh && e != nil && time.Now().Before(e.fresh) {
		f.mu.Unlock()
		return &e.Reply // the flight landed between our look and the lock
	}
	own := &flight{
		watch: f.watchFor(asked), done: make(chan struct{}),
		reply: failure(dns.RcodeServerFailure, dns.ExtendedErrorCodeOther, "internal error"), // stays if we panic
	}
	f.flights[fk] = own
	f.mu.Unlock()

	defer func() {
		f.mu.Lock()
		delete(f.flights, fk)
		f.unwatch(asked, own.watch)
		f.mu.Unlock()
		close(own.done)
	}()
	own.reply = f.lead(ctx, q, k, own.watch, refresh)
	return own.reply
}

// join waits for another's flight.
func (f *Forwarder) join(ctx context.Context, other *flight) *Reply {
	timeout := time.NewTimer(f.cfg.Timeout)
	defer timeout.Stop()
	select {
	case <-other.done:
		return other.reply
	case <-timeout.C:
		return failureOf(timeoutError{f.cfg.Timeout})
	case <-ctx.Done():
		return failureOf(ctx.Err())
	}
}

// lead asks the upstreams and keeps what they say.
func (f *Forwarder) lead(parent context.Context, q *Query, k key, w *watch, refresh bool) *Reply {
	old, patience := f.standIn(q, k), f.cfg.Timeout
	if old != nil && !refresh {
		patience = min(patience, stalePatience)
	}
	ctx, cancel := context.WithTimeoutCause(parent, patience, timeoutError{patience})
	defer cancel()

	name := bytes.Clone(q.Name)
	o := f.ask(ctx, f.route(name), newMessage(q, true), w)
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

	r := failureReply(&o)
	if refresh || parent.Err() != nil {
		return r // what is kept is better, or nobody is left to read this
	}
	life := lifetime{fresh: failureHold}
	if old != nil && !isVerdict(r.EDE) {
		f.metrics.stale.Inc()
		r, life.usable = old.stale(r.EDE[0].Text), old.usable
	}
	if !errors.Is(o.err, errAllDown) { // that costs nothing to find out, and ends any moment
		f.cache.put(k, name, r, life, now)
	}
	return r
}

// standIn returns the kept answer that may be given should the upstreams fail, or nil.
func (f *Forwarder) standIn(q *Query, k key) *entry {
	e := f.cache.get(k, q.Name)
	if e == nil || !time.Now().Before(e.usable) {
		return nil
	}
	return e
}
