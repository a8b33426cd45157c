package forward

import (
	"context"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

// An upstream that forwards to dnsd sends a question back to where it came from, and the two
// would wait for each other until both give up.
//
// What proves a loop must survive the upstream. A resolver sends queries of its own, with
// another id, port, flags, EDNS options, case and often address; only the name stays the
// same, and where a name goes is decided by its domain. So when a question arrives that is
// already on its way to upstreams, which may also be another client's, and is still
// unanswered after loopDelay, dnsd asks these upstreams for a name below it, of 64 random
// bits. If that name arrives here, the loop is proven, since nobody else can know it. Then
// the tries at that upstream end, and the question goes to the next one. If none is left,
// the answer is SERVFAIL with an EDE that says so, which is kept like any failure.
//
// This finds loops over several hops, of single domains, and with any flags. It misses an
// upstream that asks with RD=0, which is refused and so is no loop, and one that sends back
// a single name but not those below it: then the question fails after Config.Timeout.

const (
	// loopDelay is longer than a loop takes, and than most genuine answers.
	loopDelay = 100 * time.Millisecond

	// probeLabel is the length of a probe's own label.
	probeLabel = 13 // 64 bits, five a letter

	// maxLoopProbes is how many wait at a time. Loops take milliseconds, so that
	// loopProbeTime is plenty.
	maxLoopProbes = 32
	loopProbeTime = 500 * time.Millisecond

	// loopMemory is how long a probe is recognized at least: upstreams may repeat it.
	loopMemory = 10 * time.Second
)

var errLoop = errors.New("forwarding loop: an upstream sends this question back to dnsd")

// watch is a question on its way to upstreams, in one flight or in several that differ in
// DO, CD or network.
type watch struct {
	again     chan struct{}         // closed when the question arrives a second time
	seenAgain func()                // closes it
	flights   int                   // guarded by Forwarder.mu
	targets   map[*upstream]*target // guarded by Forwarder.mu
}

// target is an upstream that a watched question was sent to.
type target struct {
	upstream   *upstream       // set once, as are usable and setLooping
	usable     context.Context // ends when the probe has come back
	setLooping context.CancelFunc
	probed     bool // guarded by Forwarder.mu; a probe was sent to it
}

// loopProbe is a probe that was sent.
type loopProbe struct {
	target *target
	name   []byte // of the question
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
	again := make(chan struct{})
	return &watch{again: again, seenAgain: sync.OnceFunc(func() { close(again) }), targets: make(map[*upstream]*target)}
}

// watchFor returns the watch of a question, for one more flight. The caller holds f.mu.
func (f *Forwarder) watchFor(q question) *watch {
	w := f.watches[q]
	if w == nil {
		w = newWatch()
		f.watches[q] = w
	} else {
		w.seenAgain()
	}
	w.flights++
	return w
}

// unwatch ends what watchFor began. The caller holds f.mu.
func (f *Forwarder) unwatch(q question, w *watch) {
	if w.flights--; w.flights == 0 {
		delete(f.watches, q)
	}
}

// targetOf returns an upstream as a target of the watched question.
func (f *Forwarder) targetOf(w *watch, u *upstream) *target {
	f.mu.Lock()
	defer f.mu.Unlock()
	to := w.targets[u]
	if to == nil {
		to = &target{upstream: u}
		to.usable, to.setLooping = context.WithCancel(context.Background())
		w.targets[u] = to
	}
	return to
}

// probeLoops sends a probe to every upstream that has the question and has had no probe.
// Only whether it arrives here matters, and not its answer.
func (a *ask) probeLoops(ctx context.Context) {
	for _, to := range a.tried {
		m := a.f.loopProbe(a.m, to)
		if m == nil {
			continue
		}
		a.running.Go(func() {
			a.f.guard.run("probing for a loop", func() {
				ctx, cancel := context.WithTimeout(ctx, loopProbeTime)
				defer cancel()
				_, _ = to.upstream.exchange(ctx, m, nil)
			})
			a.f.mu.Lock()
			defer a.f.mu.Unlock()
			a.f.probes.waiting--
		})
	}
}

// loopProbe returns a new probe for a question at an upstream. Nil: it has had one, or none
// can be sent now.
func (f *Forwarder) loopProbe(m *message, to *target) *message {
	q := Query{Name: probeName(m), Type: m.qtype, Class: m.class}
	if m.qtype == dns.TypeDS {
		q.Type = dns.TypeA // which goes where the name itself does
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if q.Name == nil || f.probes.waiting == maxLoopProbes || to.probed {
		return nil
	}
	f.probes.waiting++
	f.probes.add(string(q.Name), loopProbe{to, m.name})
	to.probed = true
	return newMessage(&q, true)
}

var probeLetters = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// probeName returns a new name below that of a question, or beside it for DS, which is asked
// of the parent zone (RFC 4035, section 3.1.4.1). Nil: there can be none.
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

// returned returns the reply to a question that is a loop probe come back, and ends the
// tries at the upstream that it was sent to. Nil: it is none.
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
	reply, to := failureOf(errLoop), probe.target
	if to.usable.Err() != nil {
		return reply
	}
	to.setLooping()
	to.upstream.loopsAt(probe.name)
	f.metrics.loops.Inc()
	if !f.loopSeen {
		f.loopSeen = true
		f.log.Error("forwarding loop: an upstream sends questions back to dnsd; others are asked instead, or the answer is SERVFAIL; further loops are only counted",
			"upstream", to.upstream.label)
	}
	return reply
}
