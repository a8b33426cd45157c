package forward

import (
	"context"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

// Loops. An upstream that forwards to dnsd sends a question back to where it
// came from, and there the two would wait for each other until both give up.
//
// What proves a loop must survive the upstream, and little does: a resolver sends
// queries of its own making, with its own id, port, flags and EDNS options, often
// from another address than it listens on, and some change the case of the
// name. An address proves nothing either, since on one host a genuine client and
// the upstream share it. The name does survive every resolver and forwarder, or
// they could not do their work; and forwarders choose an upstream by a domain and
// all below it.
//
// So a question that arrives while it is itself on its way to an upstream is no more
// than a suspicion: two clients may well ask the same. If it is still unanswered loopDelay later, dnsd asks the upstreams that have it for a name
// below it, of 64 random bits. The upstream takes that for a new question and sends
// it where it sends the name. When it arrives here, the loop is proven, for nobody
// else can know that name: a client that guesses would have to guess all of it.
// Then the tries at that upstream end, and the question goes on to the
// next one. When none is left, everybody who waits is answered SERVFAIL
// with an EDE that says so, and the cache of failures keeps that for 5 s.
//
// It finds loops over several hops, of single domains, and whatever the flags
// on the returned question. It misses what never returns: an upstream that asks
// with RD=0 (which is refused anyway and so ends the loop by itself), or one that
// sends back a single name and not what is below. Then the question fails
// after Config.Timeout.

const (
	// loopDelay is longer than a loop takes, and than most genuine answers.
	loopDelay = 100 * time.Millisecond

	// probeLabel is the length of a probe's own label.
	probeLabel = 13 // 64 bits, five a letter

	// maxLoopProbes is how many wait at a time. A loop comes back within
	// milliseconds, so that loopProbeTime is plenty.
	maxLoopProbes = 32
	loopProbeTime = 500 * time.Millisecond

	// loopMemory is how long a probe is recognized at least: upstreams may repeat it.
	loopMemory = 10 * time.Second
)

// errLoop says that an upstream cannot answer a question; it may answer others.
var errLoop = errors.New("forwarding loop: an upstream sends this question back to dnsd")

// watch is a question that is on its way to upstreams, in one flight or in
// several that differ in DO, CD or network. All but again is guarded by Forwarder.mu.
type watch struct {
	flights int
	again   chan struct{} // closed when the question arrives a second time
	targets map[*upstream]*target
}

// target is an upstream that a watched question was sent to.
type target struct {
	upstream   *upstream       // set once
	probed     bool            // a probe was sent to it; guarded by Forwarder.mu
	usable     context.Context // ends when the probe has come back; set once, as is setLooping
	setLooping context.CancelFunc
}

// loopProbe is a probe that was sent.
type loopProbe struct {
	target *target
	name   []byte // of the question that it was sent for
}

// loopProbes are the probes of the last while. All of it is guarded by Forwarder.mu.
type loopProbes struct {
	young, old map[string]loopProbe // by name in wire form
	since      time.Time            // when young was begun
	waiting    int
}

func (p *loopProbes) add(name string, probe loopProbe) {
	if now := time.Now(); now.Sub(p.since) > loopMemory {
		p.young, p.old, p.since = make(map[string]loopProbe), p.young, now
	}
	p.young[name] = probe
}

func (p *loopProbes) find(name []byte) (probe loopProbe, ok bool) {
	if probe, ok = p.young[string(name)]; !ok {
		probe, ok = p.old[string(name)]
	}
	return probe, ok
}

func newWatch() *watch {
	return &watch{again: make(chan struct{}), targets: make(map[*upstream]*target)}
}

// at returns an upstream as the question's target. The caller holds Forwarder.mu.
func (w *watch) at(u *upstream) *target {
	a := w.targets[u]
	if a == nil {
		a = &target{upstream: u}
		a.usable, a.setLooping = context.WithCancel(context.Background())
		w.targets[u] = a
	}
	return a
}

// watchFor returns the watch of a question, counting a new flight. The caller holds f.mu.
func (f *Forwarder) watchFor(q question) *watch {
	w := f.watches[q]
	if w == nil {
		w = newWatch()
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
	select {
	case <-w.again:
	default:
		close(w.again)
	}
}

// unwatch ends a flight's interest in its question. The caller holds f.mu.
func (f *Forwarder) unwatch(q question, w *watch) {
	if w.flights--; w.flights == 0 {
		delete(f.watches, q)
	}
}

// usable returns a context that ends when an upstream turns out to send the question
// back.
func (f *Forwarder) usable(w *watch, u *upstream) context.Context {
	f.mu.Lock()
	defer f.mu.Unlock()
	return w.at(u).usable
}

// probeLoops sends a probe to every upstream that has the question and has had no
// probe. What the probe's answer is does not matter, only whether it arrives here.
func (a *ask) probeLoops(ctx context.Context) {
	for _, u := range a.tried {
		m := a.f.loopProbe(a.m, a.watch, u)
		if m == nil {
			continue
		}
		a.running.Go(func() {
			defer a.f.loopProbeEnds()
			a.f.guard.run("probing for a loop", func() {
				ctx, cancel := context.WithTimeout(ctx, loopProbeTime)
				defer cancel()
				_, _ = u.exchange(ctx, m, nil)
			})
		})
	}
}

// loopProbe returns a new probe for a question at an upstream. Nil: it has had one,
// or none can be sent now.
func (f *Forwarder) loopProbe(m *message, w *watch, to *upstream) *message {
	q := Query{Name: probeName(m), Type: m.qtype, Class: m.class}
	if m.qtype == dns.TypeDS {
		q.Type = dns.TypeA // which is asked for where the name itself is, as is what lies below
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	a := w.at(to)
	if q.Name == nil || f.probes.waiting == maxLoopProbes || a.probed {
		return nil
	}
	f.probes.waiting++
	f.probes.add(string(q.Name), loopProbe{a, m.name})
	a.probed = true
	return newMessage(&q, true)
}

func (f *Forwarder) loopProbeEnds() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probes.waiting--
}

var probeLetters = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// probeName returns a new name below that of a question, or beside it for DS, whose
// place is at the parent's (RFC 4035, section 3.1.4.1). Nil: there can be none.
func probeName(m *message) []byte {
	below := m.name
	if m.qtype == dns.TypeDS {
		below = below[1+int(below[0]):]
	}
	if len(below) == 0 || len(below)+1+probeLabel > wire.MaxName {
		return nil
	}
	// The top-level generator is ChaCha8, seeded by the system.
	label := probeLetters.AppendEncode([]byte{probeLabel}, binary.BigEndian.AppendUint64(nil, rand.Uint64()))
	return append(label, below...)
}

// returned returns the reply to a question that is a loop probe come back, and ends
// the tries at the upstream that it was sent to. Nil: it is none.
func (f *Forwarder) returned(q *Query) *Reply {
	if q.Name[0] != probeLabel {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	probe, ok := f.probes.find(q.Name)
	if !ok {
		return nil
	}
	f.loopFound(probe)
	return failureOf(errLoop)
}

// loopFound ends the tries at an upstream of a question that it sends back. The
// caller holds f.mu.
func (f *Forwarder) loopFound(p loopProbe) {
	if p.target.usable.Err() != nil {
		return
	}
	p.target.setLooping()
	p.target.upstream.loopsAt(p.name)
	f.metrics.loops.Inc()
	if !f.loopSeen {
		f.loopSeen = true
		f.log.Error("forwarding loop: an upstream sends questions back to dnsd; others are asked instead, or the answer is SERVFAIL; further ones are only counted",
			"upstream", p.target.upstream.label)
	}
}
