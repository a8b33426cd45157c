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

// largeAnswer is the size in bytes from which reading an answer waits for its network's
// turn. Reading takes some 10 ns a byte; for what UDP carries, waiting would take longer.
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

// good says whether the outcome is an answer or a part of one. A part has TC set even over a
// stream, so that its upstream has no more.
func (o *outcome) good() bool { return o.answer != nil && o.answer.good() }

// final says whether no other upstream could give a better answer.
func (o *outcome) final() bool { return o.good() && !o.answer.partial }

// ask is a question on its way to upstreams. One goroutine uses it.
type ask struct {
	f       *Forwarder
	m       *message
	network netip.Prefix
	watch   *watch

	running  sync.WaitGroup
	outcomes chan outcome  // one slot a try
	doubts   chan struct{} // one slot a try
	untried  []*upstream   // in the order of preference
	tried    []*target
	pending  int
}

// ask asks upstreams, in this order, until one gives a final answer; otherwise it returns a
// part of an answer or the most telling failure. It returns when ctx ends, and leaves no
// query under way.
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
	first := a.tried[0].upstream
	race := time.After(first.raceDelay())
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
		case <-race:
			a.try(ctx, true)
		case <-a.doubts:
			a.try(ctx, true)
		case <-again:
			again, suspicion = nil, time.After(loopDelay)
		case <-suspicion:
			suspicion = time.After(loopDelay) // for tries that come later
			a.probeLoops(ctx)
		case <-ctx.Done():
			return moreTelling(worst, outcome{from: first, err: context.Cause(ctx)})
		}
	}
}

// moreTelling returns the outcome that tells a client more: a part of the answer, else an
// upstream's response code, else a loop, else any other error.
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

// try sends the question to the next upstream that has not had it. False: there is none, or
// the question has had its queries.
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

// retry sends the question again to an upstream that was silent, since a packet may have
// been lost. One that has answered, or sent the question back, would do the same again.
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
	to := a.f.targetOf(a.watch, u)
	a.tried = append(a.tried, to)
	a.pending++
	a.running.Go(func() {
		o := outcome{from: u, err: errInternal}
		a.f.guard.run("asking an upstream", func() { o.answer, o.err = a.query(ctx, to) })
		a.outcomes <- o
	})
}

// query sends one query to one upstream and records how it went.
func (a *ask) query(ctx context.Context, to *target) (*answer, error) {
	u, timeout := to.upstream, a.f.cfg.TryTimeout
	ctx, stop := context.WithTimeoutCause(ctx, timeout, timeoutError{timeout})
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(to.usable, func() { cancel(errLoop) })()
	service := u.inService()
	defer context.AfterFunc(service, func() { cancel(context.Cause(service)) })()
	var once sync.Once
	doubt := func() {
		once.Do(func() {
			u.suspect() // and the prober decides
			a.doubts <- struct{}{}
		})
	}
	u.metrics.requests.Inc()
	start := time.Now()
	b, err := u.exchange(ctx, a.m, doubt)
	took := time.Since(start)
	var answer *answer
	if err == nil {
		answer, err = a.read(b)
	}
	if to.usable.Err() != nil && (err != nil || !answer.good()) {
		err = errLoop // what came is the failure of the question that came back
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

// read reads an answer. For a large one it waits for the network's turn.
func (a *ask) read(b []byte) (*answer, error) {
	if len(b) >= largeAnswer {
		a.f.turns.Enter(a.network)
		defer a.f.turns.Leave(a.network)
	}
	return read(b, a.m, time.Now())
}

// rejectsEDNS says whether a response is that of a server that knows no EDNS. One that does
// sends an OPT and means something else.
func rejectsEDNS(b []byte) bool {
	rcode := b[3] & 0xf
	return (rcode == dns.RcodeFormatError || rcode == dns.RcodeNotImplemented) && (isBare(b) || b[10]|b[11] == 0)
}
