// Package turns lets networks take turns at what costs much of the processors.
package turns

import (
	"net/netip"
	"runtime"
	"sync"
)

// Queue bounds what is computed at a time. Networks that wait take turns, and what
// each of them waits for is served as it came: one network's hundreds of long
// computations delay another's by a single one.
type Queue struct {
	mu      sync.Mutex
	free    int
	waiting map[netip.Prefix][]chan struct{}
	next    []netip.Prefix // the keys of waiting, whose turn comes first first
}

// Half is half of the processors: the rest is for the sockets of UDP, which carries
// nearly everything.
func Half() int { return max(runtime.GOMAXPROCS(0)/2, 1) }

// New returns a queue of which atOnce have their turn at a time.
func New(atOnce int) *Queue {
	return &Queue{free: atOnce, waiting: make(map[netip.Prefix][]chan struct{})}
}

// Enter waits for network's turn, which ends with Leave. It is never long: who
// has a turn only computes.
func (q *Queue) Enter(network netip.Prefix) {
	q.mu.Lock()
	if q.free > 0 {
		q.free--
		q.mu.Unlock()
		return
	}
	turn := make(chan struct{})
	if len(q.waiting[network]) == 0 {
		q.next = append(q.next, network)
	}
	q.waiting[network] = append(q.waiting[network], turn)
	q.mu.Unlock()
	<-turn
}

// Leave hands the turn on.
func (q *Queue) Leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.next) == 0 {
		q.free++
		return
	}
	network := q.next[0]
	q.next = q.next[1:]
	line := q.waiting[network]
	close(line[0])
	if line = line[1:]; len(line) > 0 {
		q.waiting[network] = line
		q.next = append(q.next, network)
	} else {
		delete(q.waiting, network)
	}
}

// Waiting returns how many wait.
func (q *Queue) Waiting() (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, line := range q.waiting {
		n += len(line)
	}
	return n
}
