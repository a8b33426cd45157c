package resolver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dnsd/resolver/internal/udpbatch"
)

// packetConn is the part of *net.UDPConn that a socket's owner uses.
type packetConn interface {
	udpbatch.PacketConn
	SetReadDeadline(t time.Time) error
}

// socket is one UDP socket. The goroutine that runs serve owns it; goroutines of
// deferred questions only send.
type socket struct {
	// Set once.
	r      *Resolver
	conn   packetConn
	closer io.Closer
	stats  *stats
	log    *slog.Logger

	stopping  atomic.Bool
	deferred  sync.WaitGroup
	readFails once
	sendFails once
}

// serve answers what the socket receives until stop, and waits for the questions
// it has deferred. It returns an error when the socket cannot be read any more.
func (s *socket) serve(ctx context.Context) error {
	defer s.deferred.Wait()
	b, err := udpbatch.New(s.conn, s.r.cfg.MaxUDPSize)
	if err != nil {
		return fmt.Errorf("preparing to receive from UDP: %w", err)
	}
	b.SendFailed = s.sendFailed
	w := newWorker(s.r, UDP, s.stats)
	w.keeper = newKeeper(share(len(s.r.sockets)), s.r.cfg.Version)
	var fails trouble
	for {
		n, err := b.Read()
		if err == nil {
			fails.over()
			s.handle(ctx, w, b, n)
			continue
		}
		if s.stopping.Load() {
			return nil
		}
		s.stats.readErrs.Add(1)
		s.readFails.log(s.log, slog.LevelError, "cannot receive; trying again", "err", err)
		if errors.Is(err, net.ErrClosed) || !fails.wait(ctx) {
			return fmt.Errorf("receiving from UDP: %w", err)
		}
	}
}

// handle answers a batch of n packets. It never waits. Its responses count as
// having taken as long as the batch did: reading the clock for each would cost
// as much as some answers do.
func (s *socket) handle(ctx context.Context, w *worker, b *udpbatch.Conn, n int) {
	start := time.Now()
	var answered [2]uint64 // here, forwarded
	for i := range n {
		control := replyControl(b.Control(i))
		b.SetControl(i, len(control))
		resp, later := w.respond(b.Packet(i), b.From(i), b.Out(i))
		if later != nil {
			s.resolve(ctx, later, slices.Clone(control), b.From(i), start)
			continue
		}
		if w.count(resp); resp != nil {
			answered[w.origin()]++
		}
		b.Reply(i, resp)
	}
	b.Send(n)
	took := time.Since(start)
	for origin, n := range answered {
		s.stats.took(origin, took, n)
	}
}

// resolve answers a question that has to be resolved upstream, elsewhere.
func (s *socket) resolve(ctx context.Context, later *Deferred, control []byte, from netip.AddrPort, start time.Time) {
	s.deferred.Go(func() {
		defer later.Done()
		resp := later.Resolve(ctx, make([]byte, 0, later.limit()))
		later.count(resp)
		s.stats.took(later.origin(), time.Since(start), 1)
		if _, _, err := s.conn.WriteMsgUDPAddrPort(resp, control, from); err != nil {
			s.sendFailed(from, err)
		}
	})
}

// sendFailed notes a response that could not be sent. A client that cannot be
// reached is its own trouble: it costs a count and the socket goes on.
func (s *socket) sendFailed(to netip.AddrPort, err error) {
	s.stats.writeErrs.Add(1)
	s.sendFails.log(s.log, slog.LevelWarn, "cannot send a response", "client", to.Addr(), "err", err)
}

// stop ends serve after the packet in hand.
func (s *socket) stop() {
	s.stopping.Store(true)
	// Only a closed socket refuses, and serve ends on that as well.
	_ = s.conn.SetReadDeadline(time.Unix(1, 0))
}
