package forward

import (
	"net/netip"
	"sync"
)

// refreshShare is the part of the free places that refreshes may take together.
const refreshShare = 8

// limiter bounds the questions that wait for upstreams, and how many of them are
// one network's. Nothing queues: a question gets its place at once or never, so
// that the client can turn to another server.
//
// A network may take a place while it holds fewer than are free (the dynamic
// thresholds of shared-memory switches). One busy network so ends at
// half of the places, two at a third each, n at 1/(n+1): whatever the busy ones
// do, as much as any of them holds is left for whoever comes next.
type limiter struct {
	max int // set once

	mu         sync.Mutex
	total      int                  // guarded by mu
	held       map[netip.Prefix]int // guarded by mu; no zeros
	refreshing int                  // guarded by mu; part of total
}

func newLimiter(max int) *limiter {
	return &limiter{max: max, held: make(map[netip.Prefix]int)}
}

// room says whether take would succeed, so that a refusal can cost nothing.
func (l *limiter) room(network netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[network] < l.max-l.total
}

// take takes a place for a network's question. After true, give must follow.
func (l *limiter) take(network netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.held[network]
	if n >= l.max-l.total {
		return false
	}
	l.held[network] = n + 1
	l.total++
	return true
}

func (l *limiter) give(network netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.held[network]--; l.held[network] == 0 {
		delete(l.held, network)
	}
}

// takeRefresh takes a place for dnsd's own renewal of an answer, which must
// never be what a client is refused for.
func (l *limiter) takeRefresh() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refreshing >= (l.max-l.total)/refreshShare {
		return false
	}
	l.refreshing++
	l.total++
	return true
}

func (l *limiter) giveRefresh() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refreshing--
	l.total--
}

// inflight returns how many places are taken.
func (l *limiter) inflight() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}
