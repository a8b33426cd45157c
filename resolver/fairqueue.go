package resolver

import (
	"net/netip"
	"runtime"
	"sync"
)

// fairQueue bounds the requests over TCP that are computed at a time, so that UDP
// keeps its part of the processors whatever TCP clients ask for. Networks that
// wait take turns, and the requests of each are served as they came: one network's
// hundreds of connections delay another's by a single answer.
type fairQueue struct {
	mu      sync.Mutex
	free    int
	waiting map[netip.Prefix][]chan struct{}
	next    []netip.Prefix // the keys of waiting, whose turn comes first first
}

// tcpProcessors is half of what there is: the rest is for the sockets of UDP,
// which carries nearly everything.
func tcpProcessors() int { return max(runtime.GOMAXPROCS(0)/2, 1) }

func newFairQueue(atOnce int) *fairQueue {
	return &fairQueue{free: atOnce, waiting: make(map[netip.Prefix][]chan struct{})}
}

// enter waits for network's turn, which ends with leave. It is never long: who
// has a turn only computes.
func (q *fairQueue) enter(network netip.Prefix) {
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

// leave hands the turn on.
func (q *fairQueue) leave() {
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
