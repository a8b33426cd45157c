package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"dnsd/resolver/internal/udpbatch"
)

// packetConn is the part of *net.UDPConn that a socket's owner uses.
type packetConn interface {
	udpbatch.PacketConn
	SetReadDeadline(t time.Time) error
	Close() error
}

// socket is one UDP socket. The goroutine that runs serve owns it; goroutines of
// deferred questions only send, and hand back what they have computed.
type socket struct {
	// Set once.
	r     *Resolver
	conn  packetConn
	batch *udpbatch.Conn // of conn
	lanes *lanes         // of the listen address, as is aside
	aside *aside
	side  bool // it receives from networks set aside only
	stats *stats
	log   *slog.Logger

	// Owned by serve.
	waiting backlog
	stamps  bool // packets carry the time of their receipt

	turns     turnCounter
	stopping  atomic.Bool
	deferred  sync.WaitGroup
	computed  chan computed // for the keeper, which only serve may touch
	readFails limitedLog
	sendFails limitedLog
}

// maxComputed is how many answers computed elsewhere may wait for the next batch, when
// they are kept. Those beyond are sent, but not kept.
const maxComputed = 256

// computed is an answer to keep that was computed elsewhere.
type computed struct {
	to     *deferred
	answer *kept
}

func newSocket(r *Resolver, conn packetConn, lanes *lanes, aside *aside, s *stats, log *slog.Logger) *socket {
	return &socket{r: r, conn: conn, batch: udpbatch.New(conn, r.cfg.MaxUDPSize), lanes: lanes, aside: aside,
		stats: s, log: log.With("proto", "udp"), computed: make(chan computed, maxComputed)}
}

// serve answers what the socket receives until stop, and waits for the questions
// it has deferred. It returns an error when the socket cannot be read any more.
func (s *socket) serve(ctx context.Context) error {
	defer s.deferred.Wait()
	b := s.batch
	b.Failed = s.notSent
	w := newWorker(s.r, UDP, s.stats)
	w.keeper = newKeeper(s.r.keptBytes(s), s.r.cfg.Epoch)
	w.pause, w.cold = nil, s.r.coldAnswers
	var fails trouble
	for {
		n, err := b.Read()
		s.turns.turn()
		if err == nil {
			fails = 0
			s.handle(ctx, w, b, n)
			if s.side && s.waiting.full%sideBatches == sideBatches-1 {
				time.Sleep(sidePause)
			}
			continue
		}
		if s.stopping.Load() {
			s.lastBatches(ctx, w, b)
			return nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) { // wake
			if s.conn.SetReadDeadline(time.Time{}); s.stopping.Load() {
				s.stop() // whose deadline that may have been
			}
			continue
		}
		s.stats.readErrs.Add(1)
		s.readFails.log(s.log, slog.LevelError, "cannot receive; trying again", "err", err)
		if errors.Is(err, net.ErrClosed) || !fails.wait(ctx) {
			return fmt.Errorf("receiving from UDP: %w", err)
		}
	}
}

// The side socket rests after some batches in a row that left more behind, so that
// floods get about half of a processor, and the other loops never wait for it.
const (
	sideBatches = 4
	sidePause   = time.Millisecond
)

// lastBatches answers what the socket had received when it was stopped.
func (s *socket) lastBatches(ctx context.Context, w *worker, b *udpbatch.Conn) {
	for end := time.Now().Add(lastWords); time.Now().Before(end); {
		n, err := b.Poll()
		if n == 0 || err != nil {
			return
		}
		s.handle(ctx, w, b, n)
	}
}

// handle answers a batch of n packets. It never waits. Its responses count as
// having taken as long as the batch did: reading the clock for each would cost
// as much as some answers do.
func (s *socket) handle(ctx context.Context, w *worker, b *udpbatch.Conn, n int) {
	start := time.Now()
	s.keepComputed(w.keeper)
	var over [udpbatch.Size]bool
	s.passOver(b, n, start, &over)
	var answered [2]uint64 // here, forwarded
	for i := range n {
		if over[i] {
			continue
		}
		from, control := b.From(i), replyControl(b.Control(i))
		resp, later := w.respond(b.Packet(i), from, b.Out(i))
		if later != nil {
			s.defers(ctx, later, control, from, start)
			continue
		}
		if w.count(resp); resp != nil {
			answered[w.origin()]++
		}
		if resp != nil && s.lanes.alone(from.Addr()) {
			s.notSent(resp, control, from, udpbatch.ErrFull)
			resp = nil
		}
		b.Reply(i, resp, control)
	}
	b.Send(n)
	took := time.Since(start)
	for origin, n := range answered {
		s.stats.took(origin, took, n)
	}
}

// tooOld is the shortest time-out of the usual clients (c-ares: 2 s;
// musl asks again after 2.5 s; glibc, Go and dig wait 5 s). A client whose question is
// older has asked again or given up.
const tooOld = 2 * time.Second

// passOver marks in over the questions of a batch that are not to be answered:
// those that are too many, and those that are too old.
func (s *socket) passOver(b *udpbatch.Conn, n int, now time.Time, over *[udpbatch.Size]bool) {
	most := burst
	if s.side {
		most = sideBurst
		for i := range n {
			s.aside.seen(b.From(i).Addr(), now)
		}
	}
	passed, greediest := s.waiting.excess(b, n, most, now, over)
	s.stats.dropped[dropFlood].Add(uint64(passed))
	if greediest >= 0 {
		s.aside.put(b.From(greediest).Addr(), now)
	}
	if wants := s.waiting.wantsStamps(now); wants != s.stamps {
		s.stamps = wants
		if conn, ok := s.conn.(syscall.Conn); ok {
			_ = stamp(conn, wants) // without it no question is known to be old
		}
	}
	if !s.stamps {
		return
	}
	for i := range n {
		if received, ok := receivedAt(b.Control(i)); ok && now.Sub(received) > tooOld && !over[i] {
			over[i] = true
			s.stats.dropped[dropOld].Add(1)
		}
	}
}

// defers has a question answered by a goroutine of its own. One whose answer takes long
// is dropped if too many of its network wait already.
func (s *socket) defers(ctx context.Context, later *deferred, control []byte, from netip.AddrPort, start time.Time) {
	if later.zone == nil {
		s.resolve(ctx, later, slices.Clone(control), from, start)
	} else if turn, ok := s.r.turns.Book(networkOf(from.Addr())); ok {
		s.compute(later, turn, slices.Clone(control), from, start)
	} else {
		s.stats.dropped[dropSlow].Add(1)
	}
}

// resolve answers a question by asking upstreams.
func (s *socket) resolve(ctx context.Context, later *deferred, control []byte, from netip.AddrPort, start time.Time) {
	s.deferred.Go(func() {
		defer later.done()
		resp := later.resolve(ctx, make([]byte, 0, later.limit()))
		later.countAlone(resp, start)
		s.send(resp, control, from)
	})
}

// compute answers a question whose answer takes long, once its network has its turn.
func (s *socket) compute(later *deferred, turn <-chan struct{}, control []byte, from netip.AddrPort, start time.Time) {
	s.deferred.Go(func() {
		network := networkOf(from.Addr())
		<-turn
		resp, keep := later.compute(s.r.turns.Pauser(network), make([]byte, 0, later.limit()))
		s.r.turns.Leave(network)
		later.countAlone(resp, start)
		s.send(resp, control, from)
		if keep != nil {
			select {
			case s.computed <- computed{later, keep}:
			default:
			}
		}
	})
}

// keepComputed keeps what was computed since the last batch.
func (s *socket) keepComputed(k *keeper) {
	for {
		select {
		case c := <-s.computed:
			// The view's number may have changed meanwhile, so the key is made anew.
			k.put(k.keyOf(k.numberOf(c.to.view), &c.to.req), c.answer)
		default:
			return
		}
	}
}

// send sends a response by itself. Safe for concurrent use.
func (s *socket) send(resp, control []byte, to netip.AddrPort) {
	err := udpbatch.ErrFull
	if !s.lanes.alone(to.Addr()) {
		err = s.batch.One.Send(resp, control, to)
	}
	s.notSent(resp, control, to, err)
}

// notSent is told how sending a response went. If there was no room for it, it goes
// out by a lane; any other error is counted. Safe for concurrent use.
func (s *socket) notSent(resp, control []byte, to netip.AddrPort, err error) {
	if errors.Is(err, udpbatch.ErrFull) {
		err = s.lanes.send(resp, control, to)
	}
	if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, udpbatch.ErrFull) { // the last is counted by the lanes
		return
	}
	s.stats.writeErrs.Add(1)
	s.sendFails.log(s.log, slog.LevelWarn, "cannot send a response", "client", to.Addr(), "err", err)
}

// stop ends serve after the packet in hand.
func (s *socket) stop() {
	s.stopping.Store(true)
	s.wake()
}

// wake makes serve turn. Only a closed socket refuses, and serve ends on that as well.
func (s *socket) wake() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) }
