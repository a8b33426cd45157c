package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// errNeedsTCP says that the answer is too large for UDP, and that asking over TCP failed.
var errNeedsTCP = errors.New("the answer needs TCP")

// maxMismatched is how many answers to something else a query over UDP reads. So many are
// an attempt to forge its answer or to keep dnsd busy, and neither works over TCP.
const maxMismatched = 64

// past is a deadline that ends a pending read at once.
var past = time.Unix(1, 0)

// asker asks an upstream over UDP, and over TCP for what UDP cannot carry; with TLS, over
// TLS only.
type asker struct {
	addr    netip.AddrPort
	metrics *upstreamMetrics
	streams *streams
	useUDP  bool
}

func (s *asker) exchange(ctx context.Context, m *message, doubt func()) ([]byte, error) {
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

// udp sends the message from a socket of its own, whose port the kernel picks at random,
// and waits for its answer; others are counted and ignored. If it returns neither answer
// nor error, the answer needs TCP.
func (s *asker) udp(ctx context.Context, m *message, doubt func()) ([]byte, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(s.addr))
	if err != nil {
		return nil, fmt.Errorf("udp: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })()

	buf := make([]byte, udpSize+1)
	id := newID()
	if _, err := conn.Write(m.append(buf[:0], id)); err != nil {
		return nil, failed(ctx, fmt.Errorf("udp: %w", err))
	}
	for mismatched := 0; mismatched < maxMismatched; {
		n, err := conn.Read(buf)
		if err != nil {
			err = readError(fmt.Errorf("udp: %w", err))
			if ctx.Err() != nil || doubt == nil || !errors.Is(err, errReported) {
				return nil, failed(ctx, err)
			}
			doubt()
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
		return append(make([]byte, 0, n), buf[:n]...), nil // it may be kept for long
	}
	return nil, nil
}

// errReported marks an error that an ICMP message reports: nobody is there. It can be forged
// by guessing the port of a query.
var errReported = errors.New("reported by the network")

// readError marks an error of reading if it comes from an ICMP message, as do these on Linux
// (icmp_err_convert, icmpv6_err_convert).
func readError(err error) error {
	if isAny(err, syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN,
		syscall.ENOPROTOOPT, syscall.EACCES) {
		return fmt.Errorf("%w: %w", errReported, err)
	}
	return err
}

// failed returns why an exchange ended: the cause of ctx's end, or else err.
func failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
