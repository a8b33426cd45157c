package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// errNeedsTCP says that there was an answer, but not how to get all of it.
var errNeedsTCP = errors.New("the answer needs TCP")

// maxMismatched is how many answers to something else a query over UDP reads. A
// server sends none but by mistake; so many are somebody's attempt to be taken for
// it, or to keep us busy, and neither works over TCP.
const maxMismatched = 64

// past is a deadline that ends a pending read at once.
var past = time.Unix(1, 0)

// asker asks an upstream over UDP, and over TCP what UDP cannot carry; or, with
// TLS, over that alone.
type asker struct {
	addr    netip.AddrPort
	metrics *upstreamMetrics
	streams *streams
	useUDP  bool
	buffers sync.Pool // of *[udpSize + 1]byte
}

func newAsker(addr netip.AddrPort, m *upstreamMetrics, s *streams, useUDP bool) *asker {
	return &asker{
		addr: addr, metrics: m, streams: s, useUDP: useUDP,
		buffers: sync.Pool{New: func() any { return new([udpSize + 1]byte) }},
	}
}

func (s *asker) exchange(ctx context.Context, m *message, doubt func(error)) ([]byte, error) {
	if !s.useUDP {
		return s.streams.exchange(ctx, m)
	}
	answer, err := s.udp(ctx, m, doubt)
	if err != nil || answer != nil {
		return answer, err
	}
	answer, err = s.streams.exchange(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNeedsTCP, err)
	}
	return answer, nil
}

// udp sends the message from a socket of its own, whose port the kernel picks at
// random, and waits for its answer; others are counted and ignored. Neither
// answer nor error: the answer needs TCP.
func (s *asker) udp(ctx context.Context, m *message, doubt func(error)) ([]byte, error) {
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
		return nil, failed(ctx, fmt.Errorf("udp: %w", err))
	}
	for mismatched := 0; mismatched < maxMismatched; {
		n, err := conn.Read(buf[:])
		if err != nil {
			err = readError(fmt.Errorf("udp: %w", err))
			if ctx.Err() != nil || doubt == nil || !errors.As(err, new(refusedError)) {
				return nil, failed(ctx, err)
			}
			doubt(err)
			continue
		}
		if !m.answeredBy(buf[:n], id) {
			s.metrics.mismatched.Inc()
			mismatched++
			continue
		}
		if truncated(buf[:n]) || n > udpSize {
			return nil, nil
		}
		return append(make([]byte, 0, n), buf[:n]...), nil
	}
	return nil, nil
}

// refusedError is the network's word that nobody is there: an ICMP message. It
// may be forged by whoever guesses the port of a query.
type refusedError struct{ err error }

func (e refusedError) Error() string { return e.err.Error() }
func (e refusedError) Unwrap() error { return e.err }

// readError finds out whether reading failed because of a message of the network's:
// what Linux makes of ICMP in both families (icmp_err_convert, icmpv6_err_convert).
func readError(err error) error {
	if isAny(err, syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN,
		syscall.ENOPROTOOPT, syscall.EACCES) {
		return refusedError{err}
	}
	return err
}

// failed returns the reason why an exchange ended: ctx's, if that it was.
func failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
