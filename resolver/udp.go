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

	"dnsd/resolver/internal/wire"
)

// packetConn is the part of *net.UDPConn that a socket's owner uses. oob holds
// what the kernel says of, or is told about, a packet beside its bytes.
type packetConn interface {
	ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, from netip.AddrPort, err error)
	WriteMsgUDPAddrPort(b, oob []byte, to netip.AddrPort) (n, oobn int, err error)
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
	w := newWorker(s.r, UDP, s.stats)
	in := make([]byte, wire.MaxMessage)
	oob := make([]byte, controlSize)
	out := make([]byte, 0, s.r.cfg.MaxUDPSize)
	var fails trouble
	for {
		n, oobn, _, from, err := s.conn.ReadMsgUDPAddrPort(in, oob)
		if err == nil {
			fails.over()
			s.handle(ctx, w, in[:n], oob[:oobn], from, out)
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

// handle answers one packet. It never waits.
func (s *socket) handle(ctx context.Context, w *worker, req, oob []byte, from netip.AddrPort, out []byte) {
	start := time.Now()
	oob = replyControl(oob)
	resp, later := w.respond(req, from, out)
	if later == nil {
		w.count(resp, start)
		s.send(resp, oob, from)
		return
	}
	if !s.r.admit.enter(later.Network()) {
		resp := later.Shed(out)
		later.count(resp, start)
		s.send(resp, oob, from)
		return
	}
	oob = slices.Clone(oob)
	s.deferred.Go(func() {
		resp := later.Resolve(ctx, make([]byte, 0, later.limit()))
		s.r.admit.leave(later.Network())
		later.count(resp, start)
		s.send(resp, oob, from)
	})
}

// send sends a response, nil being none. A client that cannot be reached is its
// own trouble: it costs a count and the socket goes on.
func (s *socket) send(resp, oob []byte, to netip.AddrPort) {
	if resp == nil {
		return
	}
	if _, _, err := s.conn.WriteMsgUDPAddrPort(resp, oob, to); err != nil {
		s.stats.writeErrs.Add(1)
		s.sendFails.log(s.log, slog.LevelWarn, "cannot send a response", "client", to.Addr(), "err", err)
	}
}

// stop ends serve after the packet in hand.
func (s *socket) stop() {
	s.stopping.Store(true)
	// Only a closed socket refuses, and serve ends on that as well.
	_ = s.conn.SetReadDeadline(time.Unix(1, 0))
}
