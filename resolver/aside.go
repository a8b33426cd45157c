package resolver

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
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
// What a socket has not read yet the kernel queues as it came, and when the queue is
// full it drops what comes, whoever it is from: under a flood that is everybody.
// So the program that shares out packets among the address's sockets (see steer)
// is told which networks flood, and sends theirs to the side socket, which has a
// queue of its own and is read less often. Safe for concurrent use.
type aside struct {
	steer func([]netip.Prefix) error // set once, as is log; nil: nobody can be set aside
	log   *slog.Logger

	said limitedLog

	mu    sync.Mutex
	until map[netip.Prefix]time.Time // guarded by mu; what the program knows, see sharer
}

func newAside(steer func([]netip.Prefix) error, log *slog.Logger) *aside {
	return &aside{steer: steer, log: log, until: make(map[netip.Prefix]time.Time)}
}

// put sets a client's network aside, or keeps it there. A client over IPv6 outside
// of the private networks is never set aside: the program looks at one word of an
// address, and that does not tell such clients apart.
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
	s.said.log(s.log, slog.LevelWarn, "a network asks more than can be answered: its questions wait in a queue of their own, and not all are answered",
		"network", network)
	s.tell()
}

// sweep takes back the networks that have not asked too much for a while. It tells the
// program even where there are none: a process that has handed over its sockets may
// have told it something else meanwhile.
func (s *aside) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.until, func(_ netip.Prefix, until time.Time) bool { return now.After(until) })
	if s.steer != nil {
		s.tell()
	}
}

// tell tells the program. Needs mu.
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
