package forward

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// maxTries is how many queries one question may cost its upstreams.
const maxTries = 3

var (
	errNoUpstream = errors.New("no upstream is configured for this name")
	errAllDown    = errors.New("no upstream answers")
	errOvertaken  = errors.New("another upstream was faster")
)

// timeoutError says that there was no answer for as long as one was waited for.
type timeoutError struct{ after time.Duration }

func (e timeoutError) Error() string { return fmt.Sprintf("no answer within %s", e.after) }

// outcome is how one try ended: an answer or an error.
type outcome struct {
	from *upstream
	m    *dns.Msg
	err  error
}

// final says whether the outcome is an answer that no other upstream could
// better. The others may be the fault of the upstream asked.
func (o *outcome) final() bool { return o.good() && !o.m.Truncated }

// good says whether the outcome is an answer, be it a part of one: what has
// TC set here had it over a stream as well, and is all that its upstream has.
func (o *outcome) good() bool {
	if o.err != nil || o.m == nil {
		return false
	}
	switch o.m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError, dns.RcodeYXDomain:
		return true
	}
	return false
}

// ask is one question on its way to upstreams.
type ask struct {
	f     *Forwarder
	m     *message
	watch *watch

	tries    sync.WaitGroup
	outcomes chan outcome // one slot a try
	untried  []*upstream  // in the order of preference
	tried    []*upstream
	pending  int
}

// ask asks a route's upstreams until one gives a final answer, and otherwise
// returns the part of an answer or the most telling failure. It returns when ctx ends, and has by then no
// query under way.
func (f *Forwarder) ask(ctx context.Context, route []*upstream, m *message, w *watch) outcome {
	a := &ask{f: f, m: m, watch: w, outcomes: make(chan outcome, maxTries), untried: preferred(route)}
	ctx, cancel := context.WithCancelCause(ctx)
	defer a.tries.Wait()
	defer cancel(errOvertaken)
	if len(route) == 0 {
		return outcome{err: errNoUpstream}
	}
	if !a.try(ctx, false) {
		return outcome{err: errAllDown}
	}
	return a.wait(ctx)
}

// wait sees the question through: it starts a second query when the first is
// slow, the next when one fails, and the loop probe when there is reason to.
func (a *ask) wait(ctx context.Context) outcome {
	var worst outcome
	race := time.NewTimer(a.tried[0].patience())
	defer race.Stop()
	again := a.watch.again
	var loopTimer <-chan time.Time
	for {
		select {
		case o := <-a.outcomes:
			a.pending--
			if o.final() {
				return o
			}
			if a.watch.hasLooped() { // and the failure is only its echo
				return outcome{err: a.watch.loopError()}
			}
			worst = moreTelling(worst, o)
			if !a.try(ctx, false) && (worst.good() || !a.retry(ctx, o)) && a.pending == 0 {
				return worst
			}
		case <-race.C:
			a.try(ctx, true)
		case <-again:
			again, loopTimer = nil, time.After(loopDelay)
		case <-loopTimer:
			a.probeLoop(ctx)
		case <-a.watch.looped:
			return outcome{err: a.watch.loopError()}
		case <-ctx.Done():
			if worst.err == nil && worst.m == nil {
				u := a.tried[0]
				worst = outcome{from: u, err: fmt.Errorf("upstream %s: %w", u.label, context.Cause(ctx))}
			}
			return worst
		}
	}
}

// moreTelling returns what a client learns more from: a part of the answer
// rather than a failure, and a response code of an upstream rather than the news
// that another is silent.
func moreTelling(a, b outcome) outcome {
	if b.good() && !a.good() {
		return b
	}
	if a.m != nil || (a.err != nil && b.err != nil) {
		return a
	}
	return b
}

// try sends the question to the next upstream that has not had it, if there is
// one and the question may still cost a query.
func (a *ask) try(ctx context.Context, raced bool) bool {
	if len(a.untried) == 0 || len(a.tried) == maxTries {
		return false
	}
	u := a.untried[0]
	a.untried = a.untried[1:]
	if raced {
		u.metrics.raced.Inc()
	}
	a.start(ctx, u)
	return true
}

// retry sends the question again to an upstream that was silent: a packet may
// have been lost. One that has answered would only answer the same.
func (a *ask) retry(ctx context.Context, o outcome) bool {
	if o.err == nil || len(a.tried) == maxTries || o.from.isDown() || ctx.Err() != nil {
		return false
	}
	a.start(ctx, o.from)
	return true
}

func (a *ask) start(ctx context.Context, u *upstream) {
	a.tried = append(a.tried, u)
	a.pending++
	a.tries.Go(func() { a.outcomes <- a.f.query(ctx, u, a.m) })
}

// query sends one query to one upstream and keeps the upstream's books.
func (f *Forwarder) query(ctx context.Context, u *upstream, m *message) (o outcome) {
	ctx, cancel := context.WithTimeoutCause(ctx, f.cfg.TryTimeout, timeoutError{f.cfg.TryTimeout})
	defer cancel()
	defer func() { // an answer we cannot read must not end the process
		if p := recover(); p != nil {
			f.log.Error("panic while asking an upstream", "upstream", u.label, "panic", p, "stack", string(debug.Stack()))
			o = outcome{from: u, err: fmt.Errorf("upstream %s: internal error", u.label)}
		}
	}()
	u.metrics.requests.Inc()
	start := time.Now()
	answer, err := u.net.exchange(ctx, m)
	took := time.Since(start)
	if err == nil {
		u.answered(took, answer.Rcode)
		u.metrics.duration.Observe(took.Seconds())
		u.metrics.responses.WithLabelValues(rcodeName(answer.Rcode)).Inc()
		return outcome{from: u, m: answer}
	}
	if !errors.Is(err, context.Canceled) { // unless dnsd itself is shutting down
		u.unanswered(took, err)
		u.metrics.failures.WithLabelValues(reasonOf(err)).Inc()
	}
	return outcome{from: u, err: fmt.Errorf("upstream %s: %w", u.label, err)}
}

// reasonOf puts an error into the closed set of the failures metric.
func reasonOf(err error) string {
	var timeout timeoutError
	switch {
	case errors.Is(err, errOvertaken):
		return "overtaken"
	case errors.As(err, &timeout), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, errMalformed):
		return "malformed"
	case isLocal(err):
		return "local"
	}
	return "network"
}
