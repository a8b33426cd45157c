package resolver

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"dnsd/resolver/internal/udpbatch"
)

const (
	// laneKept is for how long a network's responses go by its lane alone after the
	// lane was last full. The kernel holds packets for a neighbour that does not
	// answer for 3 s, and those for a slow link until its queue is sent.
	laneKept = 30 * time.Second
	// laneIdle is how long an unused lane stays open.
	laneIdle = time.Minute
)

// lanes are sockets of one listen address that only send, each for one network.
//
// The kernel charges every packet that waits (for a neighbour's address, in a
// device's queue, for a driver) to the send buffer of its socket, and a socket whose
// buffer is full can send to nobody. So a response that a shared socket has no room
// for goes out by its network's lane, and a network that has filled its lane uses no
// other socket for a while. Its waiting packets then fill only its own buffer, and
// what does not fit into that is dropped.
//
// Lanes share the listen address's port; steer keeps received packets away from
// them. All methods are safe for concurrent use.
type lanes struct {
	open func() (*net.UDPConn, error) // set once, as are most and log
	most int                          // beyond that, a network takes over another's lane
	log  *slog.Logger

	full  atomic.Int32  // lanes in all whose full is set
	drops atomic.Uint64 // responses dropped for lack of room

	clogs, opens limitedLog

	mu    sync.Mutex
	all   map[netip.Prefix]*lane // guarded by mu; keys are of sharer
	spare *lane                  // guarded by mu; kept for when descriptors run out; nil: in use
}

// lane is one socket. Its times are guarded by lanes.mu.
type lane struct {
	conn *net.UDPConn
	send sender
	used time.Time // when it last sent
	full time.Time // when it was last full; zero: not lately
}

// sender sends a packet without waiting: *udpbatch.Sender.
type sender interface {
	Send(b, control []byte, to netip.AddrPort) error
}

// newLanes returns lanes that begin with spare; nil where this system has none.
func newLanes(spare *net.UDPConn, open func() (*net.UDPConn, error), most int, log *slog.Logger) *lanes {
	l := &lanes{open: open, most: most, log: log, all: make(map[netip.Prefix]*lane)}
	if spare == nil {
		l.most = 0
	} else {
		l.spare = newLane(spare)
	}
	return l
}

func newLane(c *net.UDPConn) *lane { return &lane{conn: c, send: udpbatch.NewSender(c)} }

// sharer returns the clients that share a lane, and are set aside together: those of
// a private network, or any other client by itself.
func sharer(a netip.Addr) netip.Prefix {
	if n := networkOf(a); n.IsValid() {
		return n
	}
	return clientOf(a)
}

// alone reports whether responses to a client must go by its network's lane.
func (l *lanes) alone(client netip.Addr) bool {
	if l.full.Load() == 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.all[sharer(client)]
	return own != nil && !own.full.IsZero()
}

// send sends a response by the lane of its client's network. The error is
// udpbatch.ErrFull, counted, where there is no room for it; or the kernel's, of a
// destination that it refuses.
func (l *lanes) send(resp, control []byte, to netip.AddrPort) error {
	own := l.lane(sharer(to.Addr()))
	if own == nil {
		l.drops.Add(1)
		l.opens.log(l.log, slog.LevelWarn, "responses are dropped: they wait in the kernel, and every socket that could send them is full")
		return udpbatch.ErrFull
	}
	err := own.send.Send(resp, control, to)
	if !errors.Is(err, udpbatch.ErrFull) {
		return err
	}
	l.drops.Add(1)
	l.mu.Lock()
	if own.full.IsZero() {
		l.full.Add(1)
	}
	own.full = time.Now()
	l.mu.Unlock()
	l.clogs.log(l.log, slog.LevelWarn, "responses to a network wait in the kernel and are dropped: its machines do not answer neighbour discovery, its gateway is dead or its link is slow; other networks are not affected",
		"network", sharer(to.Addr()))
	return err
}

// lane returns the lane of a network, nil where it can have none.
func (l *lanes) lane(network netip.Prefix) *lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.all[network]
	if own == nil {
		if own = l.take(); own == nil {
			return nil
		}
		l.all[network] = own
	}
	own.used = time.Now()
	return own
}

// take returns a lane for a network that has none: the spare one, a new one, or the
// one that was used longest ago of those that are not full. Needs mu.
func (l *lanes) take() *lane {
	if own := l.spare; own != nil {
		l.spare = nil
		return own
	}
	if len(l.all) < l.most {
		if conn, err := l.open(); err == nil {
			return newLane(conn)
		}
	}
	var oldest *lane
	var of netip.Prefix
	for n, own := range l.all {
		if own.full.IsZero() && (oldest == nil || own.used.Before(oldest.used)) {
			oldest, of = own, n
		}
	}
	delete(l.all, of)
	return oldest
}

// sweep lets networks use the shared sockets again that have not filled their lanes
// for laneKept, and closes lanes that have not been used for laneIdle.
func (l *lanes) sweep(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, own := range l.all {
		if !own.full.IsZero() && now.Sub(own.full) >= laneKept {
			own.full = time.Time{}
			l.full.Add(-1)
		}
		if own.full.IsZero() && now.Sub(own.used) >= laneIdle {
			delete(l.all, n)
			if l.spare != nil {
				own.conn.Close()
			} else {
				l.spare = own
			}
		}
	}
}

// close ends all lanes.
func (l *lanes) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, own := range l.all {
		own.conn.Close()
	}
	if l.spare != nil {
		l.spare.conn.Close()
	}
	clear(l.all)
	l.spare, l.most = nil, 0
}

// count returns how many networks have a lane.
func (l *lanes) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.all)
}
