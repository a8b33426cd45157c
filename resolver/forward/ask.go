package forward

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// maxTries is how many queries one question may cost its upstreams.
const maxTries = 3

// largeAnswer is from how many bytes on reading an answer waits for its network's
// turn. It takes some 10 ns a byte; what UDP carries takes less than waiting does.
const largeAnswer = 4096

var (
	errNoUpstream = errors.New("no upstream is configured for this name")
	errAllDown    = errors.New("no upstream answers")
	errOvertaken  = errors.New("another upstream was faster")
)

// outcome is how one try ended: an answer or an error.
type outcome struct {
	from   *upstream
	answer *answer
	err    error
}

// good says whether the outcome is an answer, or part of one: a response that has TC
// set here had it over a stream as well, so that its upstream has no more.
func (o *outcome) good() bool { return o.answer != nil && o.answer.good() }

// final says whether the outcome is an answer that no other upstream could
// improve on. Any other outcome may be the fault of this upstream.
func (o *outcome) final() bool { return o.good() && !o.answer.partial }

// ask is one question on its way to upstreams. One goroutine uses it.
type ask struct {
	f       *Forwarder
	m       *message
	network netip.Prefix
	watch   *watch

	running  sync.WaitGroup
	outcomes chan outcome  // one slot a try
	doubts   chan struct{} // one slot a try
	untried  []*upstream   // in the order of preference
	tried    []*upstream
	pending  int
}

// ask asks upstreams, in this order, until one gives a final answer, and otherwise
// returns the part of an answer or the most telling failure. It returns when ctx ends,
// and leaves no query under way.
func (f *Forwarder) ask(ctx context.Context, upstreams []*upstream, m *message, network netip.Prefix, w *watch) outcome {
	a := &ask{
		f: f, m: m, network: network, watch: w, untried: upstreams,
		outcomes: make(chan outcome, maxTries), doubts: make(chan struct{}, maxTries),
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer a.running.Wait()
	defer cancel(errOvertaken)
	if !a.try(ctx, false) {
		return outcome{err: errAllDown}
	}
	return a.wait(ctx)
}

// wait waits for outcomes: it starts a second query when the first is slow or in
// doubt, the next when one fails, and loop probes when a loop is suspected.
func (a *ask) wait(ctx context.Context) outcome {
	var worst outcome
	race := time.NewTimer(a.tried[0].raceDelay())
	defer race.Stop()
	again := a.watch.again
	var suspicion <-chan time.Time
	for {
		select {
		case o := <-a.outcomes:
			a.pending--
			if o.final() {
				return o
			}
			worst = moreTelling(worst, o)
			if !a.try(ctx, false) && (worst.good() || !a.retry(ctx, o)) && a.pending == 0 {
				return worst
			}
		case <-race.C:
			a.try(ctx, true)
		case <-a.doubts:
			a.try(ctx, true)
		case <-again:
			again, suspicion = nil, time.After(loopDelay)
		case <-suspicion:
			suspicion = time.After(loopDelay) // for the tries that are still to come
			a.probeLoops(ctx)
		case <-ctx.Done():
			if worst.err == nil && worst.answer == nil {
				worst = outcome{from: a.tried[0], err: context.Cause(ctx)}
			}
			return worst
		}
	}
}

// moreTelling returns the outcome that tells a client more: a part of the answer, then
// an upstream's response code, then a loop, then any other error.
func moreTelling(a, b outcome) outcome {
	telling := func(o outcome) int {
		switch {
		case o.good():
			return 4
		case o.answer != nil:
			return 3
		case errors.Is(o.err, errLoop):
			return 2
		case o.err != nil:
			return 1
		}
		return 0
	}
	if telling(b) > telling(a) {
		return b
	}
	return a
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
// have been lost. One that has answered, or sent it back, would only do the same.
func (a *ask) retry(ctx context.Context, o outcome) bool {
	if o.err == nil || len(a.tried) == maxTries || o.from.isDown() || ctx.Err() != nil {
		return false
	}
	if r := reasonOf(o.err); r != reasonTimeout && r != reasonNetwork {
		return false
	}
	a.start(ctx, o.from)
	return true
}

func (a *ask) start(ctx context.Context, u *upstream) {
	a.tried = append(a.tried, u)
	a.pending++
	a.running.Go(func() {
		o := outcome{from: u, err: errInternal}
		a.f.guard.run("asking an upstream", func() { o.answer, o.err = a.query(ctx, u) })
		a.outcomes <- o
	})
}

// query sends one query to one upstream and records how it went.
func (a *ask) query(ctx context.Context, u *upstream) (*answer, error) {
	timeout := a.f.cfg.TryTimeout
	ctx, stop := context.WithTimeoutCause(ctx, timeout, timeoutError{timeout})
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	usable := a.f.usable(a.watch, u)
	defer context.AfterFunc(usable, func() { cancel(errLoop) })()
	unhook := func() bool { return true }
	defer func() { unhook() }()
	doubted := false
	doubt := func(err error) {
		if doubted {
			return
		}
		doubted = true
		// Only the prober decides that nobody is there. When it does, there is
		// nothing to wait for.
		unhook = context.AfterFunc(u.inService(), func() { cancel(err) })
		u.suspect()
		a.doubts <- struct{}{}
	}
	u.metrics.requests.Inc()
	start := time.Now()
	b, err := u.exchange(ctx, a.m, doubt)
	took := time.Since(start)
	var answer *answer
	if err == nil {
		answer, err = a.read(b)
	}
	if usable.Err() != nil && (err != nil || !answer.good()) {
		err = errLoop // what came is the looped question's own failure
	}
	if err == nil {
		u.answered(took, answer.good(), usualWeight)
		u.metrics.duration.Observe(took.Seconds())
		u.metrics.responses.WithLabelValues(rcodeName(int(answer.Rcode))).Inc()
		return answer, nil
	}
	a.f.log.Debug("a query to an upstream failed", "upstream", u.label, "err", err)
	reason := reasonOf(err)
	if reason == reasonNone { // dnsd itself is shutting down
		return nil, err
	}
	u.metrics.failures.WithLabelValues(reason).Inc()
	if reason != reasonLoop {
		u.unanswered(took, err)
	}
	return nil, err
}

// read reads an answer. Large ones take their network's turn.
func (a *ask) read(b []byte) (*answer, error) {
	if len(b) >= largeAnswer {
		a.f.turns.Enter(a.network)
		defer a.f.turns.Leave(a.network)
	}
	return read(b, a.m, time.Now())
}

// rejectsEDNS says whether a response is what a server says that knows no EDNS. One
// that does sends an OPT and means something else.
func rejectsEDNS(b []byte) bool {
	rcode := b[3] & 0xf
	return (rcode == dns.RcodeFormatError || rcode == dns.RcodeNotImplemented) && (isBare(b) || b[10]|b[11] == 0)
}
