package forward

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Connections over TCP and TLS.
const (
	// streamMaxAge bounds how long an upstream behind a balancer or a moved address is
	// kept.
	streamMaxAge = 5 * time.Minute
	// streamIdle is how long a connection without answers stays: longer than any try
	// waits, and what RFC 7766, section 6.2.3, calls a few seconds.
	streamIdle = 10 * time.Second
	// streamMaxPending leaves most ids free, so that a random one is found at once;
	// further questions get another connection.
	streamMaxPending = 16384
	// streamQueue is how many questions wait to be written; further ones wait for a
	// place among them.
	streamQueue = 64
	// streamMaxStray is how many messages that answer nothing a connection may bring in
	// addition to one for each question, which may be a late answer.
	streamMaxStray = 64
	// maxStreams bounds the connections to one upstream. One is used at a time;
	// the others only wait for their last answers.
	maxStreams = 8
	// streamAttempts bounds the work for an upstream that closes after every answer.
	streamAttempts = 3
)

var (
	// errStreamGone says that a connection ended while an answer was waited for.
	errStreamGone  = errors.New("connection closed by the upstream")
	errManyStreams = errors.New("too many connections to the upstream")
	errStrays      = errors.New("the upstream sends what nobody asked for")
)

// streams keeps the connections to one upstream: one that takes questions, and older ones
// that only wait for their last answers.
type streams struct {
	dial    func(ctx context.Context) (net.Conn, error) // set once
	timeout time.Duration                               // set once; for connecting, and for a write
	metrics *upstreamMetrics
	group   *sync.WaitGroup // counts the connections, which Run waits for
	guard   *guard

	mu     sync.Mutex
	cur    *stream              // guarded by mu; nil: the next question opens one
	live   map[*stream]struct{} // guarded by mu
	closed bool                 // guarded by mu
}

// dialer returns the function that connects to an upstream.
func dialer(u Upstream, cfg *Config) func(context.Context) (net.Conn, error) {
	var d interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	} = new(net.Dialer)
	if u.TLS {
		d = &tls.Dialer{Config: &tls.Config{
			ServerName: u.Name, RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12,
			NextProtos:         []string{"dot"}, // RFC 7858, section 3.1, as registered
			ClientSessionCache: tls.NewLRUClientSessionCache(1),
		}}
	}
	return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", u.Addr.String()) }
}

// exchange sends the message over the current connection. If the upstream has closed that
// meanwhile, as it may, a new one is tried (RFC 7766, section 6.2.4).
func (p *streams) exchange(ctx context.Context, m *message) ([]byte, error) {
	for attempt := 1; ; attempt++ {
		w := &waiter{m: m, answer: make(chan []byte, 1)}
		s, reused, err := p.take(w)
		if err != nil {
			return nil, err
		}
		if reused {
			p.metrics.reused.Inc()
		}
		answer, err := s.exchange(ctx, w)
		if reused && attempt < streamAttempts && errors.Is(err, errStreamGone) && ctx.Err() == nil {
			continue
		}
		return answer, err
	}
}

// take registers a question at a connection, and says whether that was there before; if not,
// it is being opened.
func (p *streams) take(w *waiter) (s *stream, reused bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, false, net.ErrClosed
	}
	if s := p.cur; s != nil && s.register(w) {
		return s, true, nil
	}
	if len(p.live) >= maxStreams {
		return nil, false, errManyStreams
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.timeout)
	s = &stream{
		pool: p, born: time.Now(), out: make(chan *waiter, streamQueue), gone: make(chan struct{}),
		stopDial: cancel, pending: make(map[uint16]*waiter), strays: streamMaxStray,
	}
	s.register(w)
	p.cur = s
	p.live[s] = struct{}{}
	p.group.Go(func() { p.guard.run("keeping a connection", func() { s.run(ctx) }) })
	return s, false, nil
}

// close ends all connections; no new ones can be opened.
func (p *streams) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for s := range p.live {
		s.end(net.ErrClosed)
	}
}

// stream is one connection, with a goroutine that reads and one that writes. Only these wait
// for its peer beyond a question's deadline.
type stream struct {
	pool     *streams
	born     time.Time
	out      chan *waiter  // to be written
	gone     chan struct{} // closed when the stream has ended
	err      error         // why; set before gone is closed
	stopDial context.CancelFunc

	mu      sync.Mutex
	conn    net.Conn           // guarded by mu; nil: not connected yet
	pending map[uint16]*waiter // guarded by mu
	retired bool               // guarded by mu; takes no more questions
	heard   time.Time          // guarded by mu; the last answer, or when it was connected
	strays  int                // guarded by mu; how many more messages may answer nothing
}

// waiter waits for the answer to a question.
type waiter struct {
	m      *message
	id     uint16
	answer chan []byte // one slot
}

// register gives a question an id that no other of the stream has. False: the stream is to
// take no more questions.
func (s *stream) register(w *waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retired || len(s.pending) == streamMaxPending || time.Since(s.born) > streamMaxAge {
		s.retired = true
		return false
	}
	s.strays++
	for {
		w.id = newID()
		if _, taken := s.pending[w.id]; !taken {
			s.pending[w.id] = w
			return true
		}
	}
}

// release ends what register began.
func (s *stream) release(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending[w.id] == w { // an id that was answered may be another's
		delete(s.pending, w.id)
	}
}

// exchange asks over the stream, at which the question is registered.
func (s *stream) exchange(ctx context.Context, w *waiter) ([]byte, error) {
	defer s.release(w)
	asked := time.Now()
	select {
	case s.out <- w:
	case <-s.gone:
		return nil, s.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case b := <-w.answer:
		return b, nil
	case <-s.gone:
		return nil, s.err
	case <-ctx.Done():
		s.silentSince(asked)
		return nil, context.Cause(ctx)
	}
}

// silentSince retires a stream that has brought nothing since a question that had most of a
// try's time: its peer may be gone.
func (s *stream) silentSince(asked time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil && s.heard.Before(asked) && time.Since(asked) >= s.pool.timeout/2 {
		s.retired = true
	}
}

// run connects while ctx lasts, and then writes questions and hands out answers until the
// stream ends.
func (s *stream) run(ctx context.Context) {
	defer func() {
		s.end(errInternal) // has an effect only after a panic
		s.pool.mu.Lock()
		defer s.pool.mu.Unlock()
		delete(s.pool.live, s)
	}()
	conn, err := s.pool.dial(ctx)
	s.stopDial()
	if err != nil {
		s.end(fmt.Errorf("connecting: %w", err))
		return
	}
	defer conn.Close()
	s.mu.Lock()
	s.conn, s.heard = conn, time.Now()
	s.mu.Unlock()
	select {
	case <-s.gone: // nobody else closes conn
		return
	default:
	}
	var writer sync.WaitGroup
	writer.Go(func() {
		s.pool.guard.run("writing to an upstream", func() {
			defer s.end(errInternal)
			s.end(s.write(conn))
		})
	})
	defer writer.Wait()
	defer s.end(errInternal) // which ends the writer
	s.end(s.read(conn))
}

// write sends questions until the stream ends, and returns why. A message and its
// length go out in one segment (RFC 7766, section 8).
func (s *stream) write(conn net.Conn) error {
	var b []byte
	for {
		select {
		case <-s.gone:
			return nil
		case w := <-s.out:
			s.mu.Lock()
			wanted := s.pending[w.id] == w
			s.mu.Unlock()
			if !wanted {
				continue
			}
			b = binary.BigEndian.AppendUint16(b[:0], uint16(len(w.m.bytes)))
			b = w.m.append(b, w.id)
			_ = conn.SetWriteDeadline(time.Now().Add(s.pool.timeout))
			if _, err := conn.Write(b); err != nil {
				return fmt.Errorf("%w: %w", errStreamGone, err)
			}
		}
	}
}

// read hands out answers until the connection ends or has been idle too long, and
// returns why.
func (s *stream) read(conn net.Conn) error {
	var length [2]byte
	for {
		_ = conn.SetReadDeadline(time.Now().Add(streamIdle))
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return fmt.Errorf("%w: %w", errStreamGone, err)
		}
		b := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, b); err != nil {
			return fmt.Errorf("%w: %w", errStreamGone, err)
		}
		if !s.deliver(b) {
			return fmt.Errorf("%w: %w", errStreamGone, errStrays)
		}
	}
}

// deliver gives an answer to the question that it matches. False: too many match none.
func (s *stream) deliver(b []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(b) >= 12 {
		id := binary.BigEndian.Uint16(b)
		if w := s.pending[id]; w != nil && w.m.answeredBy(b, id) {
			s.heard = time.Now()
			delete(s.pending, id)
			w.answer <- b
			return true
		}
	}
	s.strays--
	s.pool.metrics.mismatched.Inc()
	return s.strays >= 0
}

// end closes the stream for the first reason given.
func (s *stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err, s.retired = err, true
	close(s.gone)
	s.stopDial()
	if s.conn != nil {
		_ = s.conn.Close()
	}
}
