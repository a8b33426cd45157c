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

	"github.com/miekg/dns"
)

// Connections over TCP and TLS.
const (
	// streamMaxAge makes every connection new now and then, so that an upstream
	// behind a balancer or a moved address is not held on to for ever.
	streamMaxAge = 5 * time.Minute
	// streamIdle is how long a connection without answers stays: longer than
	// any try waits, and what RFC 7766, section 6.2.3, calls a few seconds.
	streamIdle = 10 * time.Second
	// streamMaxPending leaves most ids free, so that a random one is found at
	// once; more questions get a connection of their own.
	streamMaxPending = 16384
	// streamAttempts bounds what an upstream that closes after every answer,
	// whatever else it was asked, can make us do.
	streamAttempts = 3
)

// errStreamGone says that a connection ended while an answer was waited for.
var errStreamGone = errors.New("connection closed by the upstream")

// streams keeps the connections to one upstream: one that takes questions, and
// older ones that only wait for their last answers.
type streams struct {
	dial    func(ctx context.Context) (net.Conn, error) // set once
	timeout time.Duration                               // set once; for connecting, and for a write
	metrics *upstreamMetrics
	group   *sync.WaitGroup // counts the readers, which Run waits for

	mu     sync.Mutex
	cur    *stream              // guarded by mu; nil: the next question opens one
	live   map[*stream]struct{} // guarded by mu
	closed bool                 // guarded by mu
}

// dialer returns how to connect to an upstream. Over TLS the certificate must
// hold its name.
func dialer(u Upstream, cfg *Config) func(context.Context) (net.Conn, error) {
	address := u.Addr.String()
	if !u.TLS {
		return func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	d := &tls.Dialer{Config: &tls.Config{
		ServerName: u.Name, RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12,
		NextProtos:         []string{"dot"}, // RFC 7858, section 3.1, as registered
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}}
	return func(ctx context.Context) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", address)
	}
}

// exchange sends the message over the connection at hand. When that turns out
// to have been closed by the upstream in the meantime, as it may at any time, a
// new one is tried (RFC 7766, section 6.2.4).
func (p *streams) exchange(ctx context.Context, m *message) (*dns.Msg, error) {
	for attempt := 1; ; attempt++ {
		s, reused, err := p.take()
		if err != nil {
			return nil, err
		}
		if reused {
			p.metrics.reused.Inc()
		}
		answer, err := s.exchange(ctx, m)
		if reused && attempt < streamAttempts && errors.Is(err, errStreamGone) && ctx.Err() == nil {
			continue
		}
		return answer, err
	}
}

// take returns the connection for the next question and whether it was there
// before; if not, it is being opened.
func (p *streams) take() (s *stream, reused bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, false, net.ErrClosed
	}
	if s := p.cur; s != nil && s.reserve() {
		return s, true, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.timeout)
	s = &stream{
		pool: p, born: time.Now(), ready: make(chan struct{}), gone: make(chan struct{}),
		stopDial: cancel, pending: make(map[uint16]*waiter), reserved: 1,
	}
	p.cur = s
	p.live[s] = struct{}{}
	p.group.Go(func() { s.run(ctx) })
	return s, false, nil
}

// drop forgets a connection that has ended or takes no more questions.
func (p *streams) drop(s *stream, ended bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur == s {
		p.cur = nil
	}
	if ended {
		delete(p.live, s)
	}
}

// close ends all connections; no new ones can be opened.
func (p *streams) close() {
	p.mu.Lock()
	p.closed = true
	var live []*stream
	for s := range p.live {
		live = append(live, s)
	}
	p.mu.Unlock()
	for _, s := range live {
		s.end(net.ErrClosed)
	}
}

// stream is one connection, read by a goroutine of its own.
type stream struct {
	pool     *streams
	born     time.Time
	ready    chan struct{} // closed once conn is set, or not to be hoped for
	gone     chan struct{} // closed with err set
	stopDial context.CancelFunc

	wmu sync.Mutex // held while writing one message

	mu       sync.Mutex
	conn     net.Conn           // guarded by mu until ready; then only read
	err      error              // guarded by mu; why the stream ended
	pending  map[uint16]*waiter // guarded by mu
	reserved int                // guarded by mu; questions being asked
	retired  bool               // guarded by mu; takes no more questions, as an ended one
	heard    time.Time          // guarded by mu; the last answer
}

// waiter is a question whose answer is waited for.
type waiter struct {
	m      *message
	answer chan []byte // one slot
}

// reserve takes the stream for one question, unless it is not to be used again.
func (s *stream) reserve() bool {
	s.mu.Lock()
	use := !s.retired && s.reserved < streamMaxPending && time.Since(s.born) <= streamMaxAge
	if use {
		s.reserved++
	} else {
		s.retired = true
	}
	unused := s.reserved == 0
	s.mu.Unlock()
	if unused {
		s.end(errStreamGone)
	}
	return use
}

// release ends what reserve began. A retired stream ends with its last question.
func (s *stream) release(id uint16, w *waiter) {
	s.mu.Lock()
	if s.pending[id] == w { // once answered, the id may be another's
		delete(s.pending, id)
	}
	s.reserved--
	last := s.retired && s.reserved == 0
	s.mu.Unlock()
	if last {
		s.end(errStreamGone)
	}
}

// exchange asks over the stream, which the caller has reserved.
func (s *stream) exchange(ctx context.Context, m *message) (*dns.Msg, error) {
	w := &waiter{m: m, answer: make(chan []byte, 1)}
	id := s.register(w)
	defer s.release(id, w)
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	sent := time.Now()
	if err := s.write(m, id); err != nil {
		return nil, err
	}
	select {
	case b := <-w.answer:
		return parse(b)
	case <-s.gone:
		return nil, s.reason()
	case <-ctx.Done():
		s.silentSince(sent)
		return nil, context.Cause(ctx)
	}
}

// register gives a question an id that no other of the stream has.
func (s *stream) register(w *waiter) uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		id := newID()
		if _, taken := s.pending[id]; !taken {
			s.pending[id] = w
			return id
		}
	}
}

// write sends one message, its length and itself in one segment (RFC 7766, section 8).
func (s *stream) write(m *message, id uint16) error {
	select {
	case <-s.gone:
		return s.reason()
	default:
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(m.bytes)), uint16(len(m.bytes)))
	b = m.append(b, id)
	s.wmu.Lock()
	defer s.wmu.Unlock()
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.pool.timeout))
	if _, err := s.conn.Write(b); err != nil {
		s.end(fmt.Errorf("%w: %w", errStreamGone, err))
		return s.reason()
	}
	return nil
}

// silentSince keeps further questions off a stream that has brought nothing
// since a question that had most of a try's time: its peer may be gone.
func (s *stream) silentSince(sent time.Time) {
	s.mu.Lock()
	silent := s.heard.Before(sent) && time.Since(sent) >= s.pool.timeout/2
	if silent {
		s.retired = true
	}
	s.mu.Unlock()
	if silent {
		s.pool.drop(s, false)
	}
}

// run connects while ctx lasts and then hands answers to their questions until
// the stream ends.
func (s *stream) run(ctx context.Context) {
	defer s.pool.drop(s, true)
	conn, err := s.pool.dial(ctx)
	s.stopDial()
	if err != nil {
		s.end(fmt.Errorf("connecting: %w", err))
		close(s.ready)
		return
	}
	defer conn.Close()
	s.mu.Lock()
	s.conn = conn
	ended := s.err != nil
	s.mu.Unlock()
	close(s.ready)
	if !ended {
		s.read(conn)
	}
}

// read hands out answers until the connection ends or has been idle too long.
func (s *stream) read(conn net.Conn) {
	var length [2]byte
	for {
		_ = conn.SetReadDeadline(time.Now().Add(streamIdle))
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			s.end(fmt.Errorf("%w: %w", errStreamGone, err))
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, b); err != nil {
			s.end(fmt.Errorf("%w: %w", errStreamGone, err))
			return
		}
		s.deliver(b)
	}
}

// deliver gives an answer to the question that it matches.
func (s *stream) deliver(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = time.Now()
	if len(b) >= 12 {
		id := binary.BigEndian.Uint16(b)
		if w := s.pending[id]; w != nil && w.m.answeredBy(b, id) {
			delete(s.pending, id)
			w.answer <- b
			return
		}
	}
	s.pool.metrics.mismatched.Inc()
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

func (s *stream) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
