package resolver

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// mostAside bounds the program that the kernel runs for each packet.
	mostAside = 32
	// asideFor is how long a network stays set aside after it was last found to
	// ask too much.
	asideFor = 10 * time.Second
)

// aside sets networks aside that ask more than a listen address can answer.
//
// The kernel queues packets for a socket in the order in which they come, and drops
// those that find the queue full: during a flood that hits every network. So the
// program that distributes packets among the address's sockets (see steer)
// is told which networks flood, and sends their packets to the side socket, which has
// a queue of its own and is read less often. Safe for concurrent use.
type aside struct {
	steer func([]netip.Prefix) error // set once, as is log; nil: this system cannot set networks aside
	log   *slog.Logger

	warned limitedLog

	// learns says that the side socket was another process's, which has told the program
	// whom this one does not know: those from whom the side socket receives. It does
	// so from Listen to the first sweep.
	learns atomic.Bool

	mu    sync.Mutex
	until map[netip.Prefix]time.Time // guarded by mu; keys are of sharer, and what the program was told
}

func newAside(steer func([]netip.Prefix) error, log *slog.Logger) *aside {
	return &aside{steer: steer, log: log, until: make(map[netip.Prefix]time.Time)}
}

// put sets a client's network aside, or keeps it there. An IPv6 client outside
// of the private networks is never set aside: the program looks at one 32-bit word of
// an address, which does not tell such clients apart.
func (s *aside) put(client netip.Addr, now time.Time) {
	network := sharer(client)
	if a := network.Addr(); s.steer == nil || !a.Is4() && !ula.Contains(a) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.until[network]
	if !known && len(s.until) == mostAside {
		return
	}
	s.until[network] = now.Add(asideFor)
	if known {
		return
	}
	s.warned.log(s.log, slog.LevelWarn, "a network asks more than can be answered: its questions wait in a queue of their own, and not all are answered",
		"network", network)
	s.tell()
}

// seen is told from whom the side socket receives. Where the process before has found
// that they ask too much, they stay aside until the first sweep, and longer if this
// process finds it as well: it may have been that one's fault, for want of a processor.
func (s *aside) seen(client netip.Addr, now time.Time) {
	if !s.learns.Load() {
		return
	}
	network := sharer(client)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.until[network]; !known && len(s.until) < mostAside {
		s.until[network] = now
		s.log.Info("a network stays in a queue of its own: the process before has found that it asks more than can be answered", "network", network)
	}
}

// sweep ends it for networks that have not asked too much for asideFor. It tells the
// program even where there are none: a process that has handed over its sockets may
// have told it something else meanwhile.
func (s *aside) sweep(now time.Time) {
	s.learns.Store(false)
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.until, func(_ netip.Prefix, until time.Time) bool { return now.After(until) })
	if s.steer != nil {
		s.tell()
	}
}

// tell gives the program the networks. Needs mu.
func (s *aside) tell() {
	if err := s.steer(slices.Collect(maps.Keys(s.until))); err != nil {
		s.log.Error("the kernel cannot be told which networks to set aside", "err", err)
	}
}

// count returns how many networks are set aside.
func (s *aside) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.until)
}
