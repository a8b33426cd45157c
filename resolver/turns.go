package resolver

import (
	"net/netip"
	"runtime"
	"sync"
	"time"
)

// turns bounds what is computed at a time outside the UDP sockets' loops: the
// requests over TCP, and the questions over UDP whose answers take long. At most
// half of the processors do that, so that the loops keep theirs. Networks
// that wait take turns, and the questions of each are computed one at a time, as they came: one
// network's thousands of questions delay another's by a single turn. Safe for
// concurrent use.
type turns struct {
	most, mostEach int // how many may wait before book fails, in all and of a network

	mu      sync.Mutex
	free    int
	waiting int
	lines   map[netip.Prefix]*line
	next    []*line // those that wait and do not compute, in the order of their turns
}

// line is one network's part of turns: what computes and what waits.
type line struct {
	computing bool
	waiting   []chan struct{}
}

const (
	// turnTime is how long a turn lasts when others wait: what a network adds to
	// another's waiting time at the most, and long enough to be worth the switch.
	turnTime = time.Millisecond
	// Who waits is a goroutine with its question, some 5 KiB. More of one network
	// than this would wait longer than any client does.
	mostInLine  = 128
	mostInLines = 4096
)

// slowProcessors is how many questions are computed at a time outside of the UDP
// sockets' loops.
func slowProcessors() int { return max(runtime.GOMAXPROCS(0)/2, 1) }

func newTurns(atOnce int) *turns {
	return &turns{most: mostInLines, mostEach: mostInLine, free: atOnce, lines: make(map[netip.Prefix]*line)}
}

// enter waits for network's turn, which ends with leave.
func (t *turns) enter(network netip.Prefix) {
	t.mu.Lock()
	l := t.line(network)
	if t.starts(l) {
		t.mu.Unlock()
		return
	}
	turn := t.wait(l, false)
	t.mu.Unlock()
	<-turn
}

// book returns a channel that is closed when network's turn begins, which ends
// with leave; or false where too many wait already.
func (t *turns) book(network netip.Prefix) (turn <-chan struct{}, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.line(network)
	if t.starts(l) {
		return begun, true
	}
	if len(l.waiting) >= t.mostEach || t.waiting >= t.most {
		t.drop(network, l)
		return nil, false
	}
	return t.wait(l, false), true
}

// begun is the channel of a turn that has begun.
var begun = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// leave ends network's turn.
func (t *turns) leave(network netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lines[network]
	l.computing = false
	t.free++
	if len(l.waiting) > 0 {
		t.next = append(t.next, l)
	}
	t.drop(network, l)
	t.call()
}

// yield lets other networks have their turn, if any waits, before network's goes
// on with the same question.
func (t *turns) yield(network netip.Prefix) {
	t.mu.Lock()
	if len(t.next) == 0 {
		t.mu.Unlock()
		return
	}
	l := t.lines[network]
	l.computing = false
	t.free++
	turn := t.wait(l, true)
	t.mu.Unlock()
	<-turn
}

// pauser returns a Question.Pause for one turn of network, which has begun.
func (t *turns) pauser(network netip.Prefix) func() {
	began := time.Now()
	return func() {
		if time.Since(began) >= turnTime {
			t.yield(network)
			began = time.Now()
		}
	}
}

// line returns a network's line. Needs mu, as do those below.
func (t *turns) line(network netip.Prefix) *line {
	l := t.lines[network]
	if l == nil {
		l = &line{}
		t.lines[network] = l
	}
	return l
}

// drop forgets a line that is of no use any more.
func (t *turns) drop(network netip.Prefix, l *line) {
	if !l.computing && len(l.waiting) == 0 {
		delete(t.lines, network)
	}
}

// starts begins a turn of l if that can be now.
func (t *turns) starts(l *line) bool {
	if t.free == 0 || l.computing {
		return false
	}
	t.free--
	l.computing = true
	return true
}

// wait books a turn of l, behind those that wait or before them.
func (t *turns) wait(l *line, first bool) <-chan struct{} {
	turn := make(chan struct{})
	if len(l.waiting) == 0 && !l.computing || first {
		t.next = append(t.next, l)
	}
	if first {
		l.waiting = append([]chan struct{}{turn}, l.waiting...)
	} else {
		l.waiting = append(l.waiting, turn)
	}
	t.waiting++
	t.call()
	return turn
}

// call begins the turns that can begin.
func (t *turns) call() {
	for t.free > 0 && len(t.next) > 0 {
		l := t.next[0]
		t.next = t.next[1:]
		t.starts(l)
		close(l.waiting[0])
		l.waiting = l.waiting[1:]
		t.waiting--
	}
}
