// Package turns lets networks take turns at computations that take long.
package turns

import (
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Queue bounds how much is computed at a time. Networks that wait take turns, and the
// questions of each are computed one at a time, in the order of their arrival: one
// network's thousands of questions delay another's by a single turn. Safe for
// concurrent use.
type Queue struct {
	most, mostEach int // how many may wait before Book fails, in all and of a network

	mu      sync.Mutex
	free    int
	waiting int
	lines   map[netip.Prefix]*line
	next    []*line // those that wait and do not compute, in order of turns
}

// line is one network's part of a queue: what computes and what waits.
type line struct {
	computing bool
	waiting   []chan struct{}
}

const (
	// turnTime is how long a turn lasts when others wait: what a network adds to
	// another's waiting time at the most, and long enough to be worth the switch.
	turnTime = time.Millisecond
	// Each that waits is a goroutine with its question, some 5 KiB. More than this of
	// one network would wait longer than any client does.
	mostInLine  = 128
	mostInLines = 4096
)

// Half is half of the processors: the rest is for the sockets of UDP, which carries
// nearly everything and must never wait for one.
func Half() int { return max(runtime.GOMAXPROCS(0)/2, 1) }

// New returns a queue of which atOnce networks have their turn at a time.
func New(atOnce int) *Queue { return newQueue(atOnce, mostInLines, mostInLine) }

func newQueue(atOnce, most, mostEach int) *Queue {
	return &Queue{most: most, mostEach: mostEach, free: atOnce, lines: make(map[netip.Prefix]*line)}
}

// Enter waits for network's turn, which ends with Leave.
func (q *Queue) Enter(network netip.Prefix) {
	q.mu.Lock()
	l := q.line(network)
	if q.starts(l) {
		q.mu.Unlock()
		return
	}
	turn := q.wait(l, false)
	q.mu.Unlock()
	<-turn
}

// Book returns a channel that is closed when network's turn begins, which ends
// with Leave; or false where too many wait already.
func (q *Queue) Book(network netip.Prefix) (turn <-chan struct{}, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.line(network)
	if q.starts(l) {
		return begun, true
	}
	if len(l.waiting) >= q.mostEach || q.waiting >= q.most {
		q.drop(network, l)
		return nil, false
	}
	return q.wait(l, false), true
}

// begun is the channel of a turn that has begun.
var begun = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Leave ends network's turn.
func (q *Queue) Leave(network netip.Prefix) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[network]
	l.computing = false
	q.free++
	if len(l.waiting) > 0 {
		q.next = append(q.next, l)
	}
	q.drop(network, l)
	q.call()
}

// Yield lets other networks have their turn, if any waits, before network's goes
// on with the same question.
func (q *Queue) Yield(network netip.Prefix) {
	q.mu.Lock()
	if len(q.next) == 0 {
		q.mu.Unlock()
		return
	}
	l := q.lines[network]
	l.computing = false
	q.free++
	turn := q.wait(l, true)
	q.mu.Unlock()
	<-turn
}

// Pauser returns a function to call now and then in one turn of network, which has
// begun: it yields once the turn has lasted.
func (q *Queue) Pauser(network netip.Prefix) func() {
	began := time.Now()
	return func() {
		if time.Since(began) >= turnTime {
			q.Yield(network)
			began = time.Now()
		}
	}
}

// Waiting returns how many wait.
func (q *Queue) Waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting
}

// line returns a network's line. Needs mu, as do those below.
func (q *Queue) line(network netip.Prefix) *line {
	l := q.lines[network]
	if l == nil {
		l = &line{}
		q.lines[network] = l
	}
	return l
}

// drop deletes a line that is not used any more.
func (q *Queue) drop(network netip.Prefix, l *line) {
	if !l.computing && len(l.waiting) == 0 {
		delete(q.lines, network)
	}
}

// starts begins a turn of l if that can be now.
func (q *Queue) starts(l *line) bool {
	if q.free == 0 || l.computing {
		return false
	}
	q.free--
	l.computing = true
	return true
}

// wait books a turn of l, behind those that wait or before them.
func (q *Queue) wait(l *line, first bool) <-chan struct{} {
	turn := make(chan struct{})
	if len(l.waiting) == 0 && !l.computing || first {
		q.next = append(q.next, l)
	}
	if first {
		l.waiting = slices.Insert(l.waiting, 0, turn)
	} else {
		l.waiting = append(l.waiting, turn)
	}
	q.waiting++
	q.call()
	return turn
}

// call begins the turns that can begin.
func (q *Queue) call() {
	for q.free > 0 && len(q.next) > 0 {
		l := q.next[0]
		q.next = q.next[1:]
		q.starts(l)
		close(l.waiting[0])
		l.waiting = l.waiting[1:]
		q.waiting--
	}
}
