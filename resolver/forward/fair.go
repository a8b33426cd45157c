package forward

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// renewalShare is the part of the free places that a network's renewals may take, so that
// no client is refused because of them.
const renewalShare = 8

// limiter bounds the questions that are admitted. None queues for a place: one that gets
// none is refused at once, and its client can ask another server.
//
// A network may take a place while it holds fewer than are free (the dynamic thresholds of
// shared-memory switches). So n busy networks end up with 1/(n+1) of the places each, and
// as many are left for the next network.
type limiter struct {
	mu    sync.Mutex
	max   int                  // guarded by mu
	total int                  // guarded by mu
	held  map[netip.Prefix]int // guarded by mu; none is zero
}

func newLimiter(max int) *limiter {
	return &limiter{max: max, held: make(map[netip.Prefix]int)}
}

// place is held by an admitted question. Each goroutine that works for the question has a
// part in it; the place is free again when all have left.
type place struct {
	limiter *limiter
	network netip.Prefix
	parts   atomic.Int32
}

// take takes a place, with one part in it. Nil: the network may take none.
func (l *limiter) take(network netip.Prefix) *place { return l.takeOf(network, 1) }

// takeOf takes a place if the network holds fewer than 1/share of those that are free.
func (l *limiter) takeOf(network netip.Prefix, share int) *place {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[network] >= (l.max-l.total)/share {
		return nil
	}
	l.held[network]++
	l.total++
	p := &place{limiter: l, network: network}
	p.parts.Store(1)
	return p
}

// share adds a part. The caller must have one.
func (p *place) share() { p.parts.Add(1) }

// leave ends a part.
func (p *place) leave() {
	if p.parts.Add(-1) > 0 {
		return
	}
	l := p.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.held[p.network]--; l.held[p.network] == 0 {
		delete(l.held, p.network)
	}
}

// resize sets how many places there are. Those that are taken stay taken.
func (l *limiter) resize(max int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.max = max
}

// size returns how many places there are.
func (l *limiter) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.max
}

// inflight returns how many places are taken.
func (l *limiter) inflight() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}
