package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// errNeedsTCP says that there was an answer, but not how to get all of it.
var errNeedsTCP = errors.New("the answer needs TCP")

// past is a deadline that ends a pending read at once.
var past = time.Unix(1, 0)

// socket asks an upstream over UDP, and over TCP what UDP cannot carry; or, with
// TLS, over that alone.
type socket struct {
	addr    netip.AddrPort
	metrics *upstreamMetrics
	streams *streams
	useUDP  bool
	buffers sync.Pool // of *[udpSize + 1]byte
}

func newSocket(addr netip.AddrPort, m *upstreamMetrics, s *streams, useUDP bool) *socket {
	return &socket{
		addr: addr, metrics: m, streams: s, useUDP: useUDP,
		buffers: sync.Pool{New: func() any { return new([udpSize + 1]byte) }},
	}
}

func (s *socket) exchange(ctx context.Context, m *message) (*dns.Msg, error) {
	if !s.useUDP {
		return s.streams.exchange(ctx, m)
	}
	answer, err := s.udp(ctx, m)
	if err != nil || answer != nil {
		return answer, err
	}
	answer, err = s.streams.exchange(ctx, m)
	if err != nil {
		// err is not wrapped: what answers over UDP is not down because a
		// firewall keeps TCP away from it.
		return nil, fmt.Errorf("%w: %v", errNeedsTCP, err)
	}
	return answer, nil
}

// udp sends the message from a socket of its own, whose port the kernel picks at
// random, and waits for its answer; others are counted and ignored. Neither
// answer nor error: the answer needs TCP.
func (s *socket) udp(ctx context.Context, m *message) (*dns.Msg, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(s.addr))
	if err != nil {
		return nil, fmt.Errorf("udp: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })()

	buf := s.buffers.Get().(*[udpSize + 1]byte)
	defer s.buffers.Put(buf)
	id := newID()
	if _, err := conn.Write(m.append(buf[:0], id)); err != nil {
		return nil, s.failed(ctx, err)
	}
	for {
		n, err := conn.Read(buf[:])
		if err != nil {
			return nil, s.failed(ctx, err)
		}
		if !m.answeredBy(buf[:n], id) {
			s.metrics.mismatched.Inc()
			continue
		}
		if truncated(buf[:n]) || n > udpSize {
			return nil, nil
		}
		return parse(buf[:n])
	}
}

// failed returns the reason why an exchange over UDP ended: ctx's, if that it was.
func (s *socket) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	return fmt.Errorf("udp: %w", err)
}
