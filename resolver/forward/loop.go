package forward

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Loops. An upstream that forwards to dnsd sends a question back to where it
// came from, and there the two would wait for each other until both give up.
//
// What shows it must survive the upstream, and little does: a resolver sends
// queries of its own making, with its own id, port, flags and EDNS options, often
// from another address than it listens on, and some change the case of the
// name. An address proves nothing either, since on one host a genuine client and
// the upstream share it. Name, type and class do survive, through
// every resolver and forwarder, or it could not do its work.
//
// So a question that arrives while it is itself on its way to an upstream is a
// suspicion and no more: two clients may well ask the same. If it is
// still unanswered loopDelay later, dnsd asks the upstreams that have it for the same name
// with a type of the private range (RFC 6895, section 3.1) drawn at random, which no
// client asks for. The upstream takes that for a new question and sends it
// where it sends the name. When it arrives here, the loop is proven, for
// exactly the names that go round: everybody who waits for the first
// question is answered SERVFAIL with an EDE that names the upstream, and the
// cache of failures keeps that for 5 s.
//
// It finds loops over several hops, of single domains, and whatever the flags
// on the returned question. It misses what never returns: an upstream that
// drops unknown types, or asks with RD=0 (which is refused anyway and so ends the
// loop by itself). Then the question fails after Config.Timeout.

const (
	// loopDelay is longer than a loop takes, and than most genuine answers.
	loopDelay = 100 * time.Millisecond

	privateTypes     = 65280 // first type of the private range
	privateTypeCount = 255

	// maxStrays is how many private types that were not sent may arrive for a
	// name before its probes count for nothing: somebody is guessing, to
	// have another's question fail. An upstream that repeats an old probe is no guesser.
	maxStrays = 8
)

// watch is a question that is on its way to upstreams, in one flight or in
// several that differ in DO, CD or network.
type watch struct {
	flights  int           // guarded by Forwarder.mu
	isAgain  bool          // guarded by Forwarder.mu; again is closed
	culprit  *upstream     // guarded by Forwarder.mu; set before looped is closed
	again    chan struct{} // closed when the question arrives a second time
	looped   chan struct{} // closed when a probe has come back
	isLooped bool          // guarded by Forwarder.mu; looped is closed
}

// probes are the loop probes that are on their way for one name.
type probes struct {
	strays int
	sent   []probe
}

type probe struct {
	qtype uint16
	watch *watch
	to    *upstream
}

// loopError is the reason of a failure for which no upstream is to blame but one.
type loopError struct{ upstream string }

func (e *loopError) Error() string {
	return fmt.Sprintf("forwarding loop: upstream %s sends this question back to dnsd", e.upstream)
}

func (w *watch) hasLooped() bool {
	select {
	case <-w.looped:
		return true
	default:
		return false
	}
}

func (w *watch) loopError() error { return &loopError{w.culprit.label} }

// watchFor returns the watch of a question, counting a new flight. The caller holds f.mu.
func (f *Forwarder) watchFor(q question) *watch {
	w := f.watches[q]
	if w == nil {
		w = &watch{again: make(chan struct{}), looped: make(chan struct{})}
		f.watches[q] = w
	}
	w.flights++
	if w.flights > 1 {
		w.seenAgain()
	}
	return w
}

// seenAgain records that the question has arrived once more. The caller holds Forwarder.mu.
func (w *watch) seenAgain() {
	if !w.isAgain {
		w.isAgain = true
		close(w.again)
	}
}

// unwatch ends a flight's interest in its question. The caller holds f.mu.
func (f *Forwarder) unwatch(q question, w *watch) {
	if w.flights--; w.flights > 0 {
		return
	}
	delete(f.watches, q)
	if p := f.probes[q.name]; p != nil {
		p.sent = slices.DeleteFunc(p.sent, func(p probe) bool { return p.watch == w })
		if len(p.sent) == 0 {
			delete(f.probes, q.name)
		}
	}
}

// probeLoop sends the loop probe to every upstream that has the question. Its
// answers mean nothing; its arrival here does.
func (a *ask) probeLoop(ctx context.Context) {
	for _, u := range a.tried {
		qtype, ok := a.f.addProbe(a.m, a.watch, u)
		if !ok {
			continue
		}
		m := newMessage(&Query{Name: a.m.name, Type: qtype, Class: a.m.class}, true)
		a.tries.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, a.f.cfg.TryTimeout)
			defer cancel()
			_, _ = u.net.exchange(ctx, m)
		})
	}
}

// addProbe draws a type for a probe and remembers it. False: there is one
// already for this question and upstream.
func (f *Forwarder) addProbe(m *message, w *watch, to *upstream) (qtype uint16, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.probes[string(m.name)]
	if p == nil {
		p = &probes{}
		f.probes[string(m.name)] = p
	}
	qtype = uint16(privateTypes + rand.IntN(privateTypeCount))
	for _, sent := range p.sent {
		if (sent.watch == w && sent.to == to) || sent.qtype == qtype {
			return 0, false
		}
	}
	p.sent = append(p.sent, probe{qtype, w, to})
	return qtype, true
}

// returned says whether a question is a loop probe that has come back, and if
// so tells those who wait, and what to answer the probe itself.
func (f *Forwarder) returned(q *Query) *Reply {
	if q.Type < privateTypes || q.Type >= privateTypes+privateTypeCount {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.probes[string(q.Name)]
	if p == nil || p.strays > maxStrays {
		return nil
	}
	for _, sent := range p.sent {
		if sent.qtype == q.Type {
			f.proven(sent)
			return failureOf(&loopError{sent.to.label})
		}
	}
	p.strays++
	return nil
}

// proven ends the flights of a question that goes round. The caller holds f.mu.
func (f *Forwarder) proven(p probe) {
	w := p.watch
	if w.isLooped {
		return
	}
	w.isLooped, w.culprit = true, p.to
	close(w.looped)
	f.metrics.loops.Inc()
	if !f.loopSeen {
		f.loopSeen = true
		f.log.Error("forwarding loop: an upstream sends questions back to dnsd, which answers them SERVFAIL; further ones are only counted",
			"upstream", p.to.label)
	}
}
