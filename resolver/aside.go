package resolver

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
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
	steer func([]origin) error // set once, as is log; nil: nobody can be set aside
	log   *slog.Logger

	said limitedLog

	mu    sync.Mutex
	until map[origin]time.Time // guarded by mu; what the program knows
}

// origin is what the program tells networks apart by: of a private network the 32
// bits of its id; of any other client over IPv4 its address. Clients over IPv6
// outside of the private networks have none.
type origin struct {
	v4 bool
	id uint32
}

func originOf(a netip.Addr) (o origin, ok bool) {
	if a = a.Unmap(); a.Is4() {
		b := a.As4()
		return origin{v4: true, id: binary.BigEndian.Uint32(b[:])}, true
	}
	b := a.As16()
	return origin{id: binary.BigEndian.Uint32(b[2:])}, ula.Contains(a.WithZone(""))
}

func newAside(steer func([]origin) error, log *slog.Logger) *aside {
	return &aside{steer: steer, log: log, until: make(map[origin]time.Time)}
}

// put sets a client's network aside, or keeps it there.
func (s *aside) put(client netip.Addr, now time.Time) {
	o, ok := originOf(client)
	if !ok || s.steer == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.until[o]
	if !known && len(s.until) == mostAside {
		return
	}
	s.until[o] = now.Add(asideFor)
	if known {
		return
	}
	s.said.log(s.log, slog.LevelWarn, "a network asks more than can be answered: its questions wait in a queue of their own, and not all are answered",
		"network", sharer(client))
	s.tell()
}

// sweep lets those back that have not asked too much for a while.
func (s *aside) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.until)
	for o, until := range s.until {
		if now.After(until) {
			delete(s.until, o)
		}
	}
	if len(s.until) < before {
		s.tell()
	}
}

// tell tells the program. Needs mu.
func (s *aside) tell() {
	origins := make([]origin, 0, len(s.until))
	for o := range s.until {
		origins = append(origins, o)
	}
	if err := s.steer(origins); err != nil {
		s.log.Error("the kernel cannot be told which networks to set aside", "err", err)
	}
}

// count returns how many networks are set aside.
func (s *aside) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.until)
}
