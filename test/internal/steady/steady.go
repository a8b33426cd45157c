// Package steady asks a server at a steady rate and checks every answer, as clients do
// that want to notice nothing: over UDP without asking again, over TCP in one
// connection with many questions under way, and over TCP with a connection for each.
package steady

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// A Question is what is asked, and its only right answer.
type Question struct {
	Name  string
	Type  uint16
	Rcode int
	Data  []string // of the answer, sorted: addresses, or the text of TXT
}

// Client asks. Its fields are set before Run.
type Client struct {
	Dial      func(network string) (net.Conn, error)
	Questions []Question
	UDP, TCP  int           // questions a second
	Fresh     int           // connections a second, each for one question
	Patience  time.Duration // for an answer; default 5 s
}

// Result is what became of the questions.
type Result struct {
	Asked, Lost, ServFail, Wrong int
	Resets                       int // connections that did not end, but broke
	Longest                      time.Duration
	Why                          []string // of some that were not answered rightly
}

// Good reports whether every question was answered rightly.
func (r *Result) Good() bool {
	return r.Asked > 0 && r.Lost == 0 && r.ServFail == 0 && r.Wrong == 0 && r.Resets == 0
}

// String returns the counts, and reasons in lines of their own.
func (r *Result) String() string {
	s := fmt.Sprintf("asked %d, lost %d, SERVFAIL %d, wrong %d, resets %d, longest wait %s",
		r.Asked, r.Lost, r.ServFail, r.Wrong, r.Resets, r.Longest.Round(time.Millisecond/10))
	for _, why := range r.Why {
		s += "\n\t" + why
	}
	return s
}

// run is one Run of a Client.
type run struct {
	*Client
	next atomic.Uint32

	mu sync.Mutex
	Result
}

// Run asks until ctx ends, and waits for the answers.
func (c *Client) Run(ctx context.Context) *Result {
	if c.Patience == 0 {
		c.Patience = 5 * time.Second
	}
	r := &run{Client: c}
	// So many that questions come to all sockets of the server, and that each has room
	// for the answers of a second that come at once: some hundred.
	sockets := max(8, c.UDP/50)
	var all sync.WaitGroup
	for range sockets {
		if c.UDP > 0 {
			all.Go(func() { r.udp(ctx, time.Second*time.Duration(sockets)/time.Duration(c.UDP)) })
		}
	}
	if c.TCP > 0 {
		all.Go(func() { r.tcp(ctx, time.Second/time.Duration(c.TCP)) })
	}
	if c.Fresh > 0 {
		all.Go(func() { r.fresh(ctx, time.Second/time.Duration(c.Fresh)) })
	}
	all.Wait()
	return &r.Result
}

// asked is a question under way.
type asked struct {
	*Question
	wire []byte
	at   time.Time
}

// ask returns the next question, with an id.
func (r *run) ask(id uint16) *asked {
	q := &r.Questions[int(r.next.Add(1))%len(r.Questions)]
	m := new(dns.Msg).SetQuestion(q.Name, q.Type)
	m.Id = id
	m.SetEdns0(1232, false)
	wire, err := m.Pack()
	if err != nil {
		panic(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Asked++
	return &asked{q, wire, time.Now()}
}

// answer checks an answer.
func (r *run) answer(q *asked, wire []byte) {
	var m dns.Msg
	err := m.Unpack(wire)
	var data []string
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.AAAA:
			data = append(data, rr.AAAA.String())
		case *dns.A:
			data = append(data, rr.A.String())
		case *dns.TXT:
			data = append(data, strings.Join(rr.Txt, ""))
		}
	}
	slices.Sort(data)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Longest = max(r.Longest, time.Since(q.at))
	switch {
	case err == nil && m.Rcode == q.Rcode && slices.Equal(data, q.Data):
		return
	case m.Rcode == dns.RcodeServerFailure:
		r.ServFail++
	default:
		r.Wrong++
	}
	r.because(fmt.Sprintf("%s: %s %v, %v", q.Name, dns.RcodeToString[m.Rcode], data, err))
}

// because notes a reason. Needs mu.
func (r *run) because(why string) {
	if len(r.Why) < 10 {
		r.Why = append(r.Why, time.Now().Format("15:04:05.000 ")+why)
	}
}

func (r *run) lost(q *asked, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Lost++
	r.because(fmt.Sprintf("%s, asked at %s: %s", q.Name, q.at.Format("15:04:05.000"), why))
}

func (r *run) reset(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Resets++
	r.because(err.Error())
}

// udp asks over one socket.
func (r *run) udp(ctx context.Context, every time.Duration) {
	conn, err := r.Dial("udp")
	if err != nil {
		r.reset(err)
		return
	}
	defer conn.Close()
	var mu sync.Mutex
	open := map[uint16]*asked{}
	var receiving sync.WaitGroup
	receiving.Go(func() {
		buf := make([]byte, 65535)
		for {
			n, err := conn.Read(buf)
			if errors.Is(err, net.ErrClosed) || err != nil && err.(net.Error).Timeout() {
				return
			}
			if err != nil || n < 2 { // nobody was there: the question is lost
				continue
			}
			id := binary.BigEndian.Uint16(buf)
			mu.Lock()
			q := open[id]
			delete(open, id)
			mu.Unlock()
			if q != nil {
				r.answer(q, buf[:n])
			}
		}
	})
	r.pace(ctx, every, func(id uint16) {
		q := r.ask(id)
		mu.Lock()
		open[id] = q
		mu.Unlock()
		conn.Write(q.wire)
	})
	waitUntil(r.Patience, func() bool { mu.Lock(); defer mu.Unlock(); return len(open) == 0 })
	conn.SetReadDeadline(time.Now())
	receiving.Wait()
	for _, q := range open {
		r.lost(q, "no answer over UDP")
	}
}

// pace calls ask at a rate until ctx ends.
func (r *run) pace(ctx context.Context, every time.Duration, ask func(id uint16)) {
	began := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		if wait := time.Until(began.Add(time.Duration(n) * every)); wait > 0 {
			time.Sleep(wait)
		}
		ask(uint16(n))
	}
}

func waitUntil(patience time.Duration, ok func() bool) bool {
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

func frame(msg []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...)
}

func readFrame(c net.Conn) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(c, msg)
	return msg, err
}

// stream is one pipelined connection after the other.
type stream struct {
	r    *run
	mu   sync.Mutex
	conn net.Conn // nil: it is being made
	open map[uint16]*asked
}

// tcp asks over a connection. When the server ends it, the next one takes what is not
// answered (RFC 7766, section 6.2.4).
func (r *run) tcp(ctx context.Context, every time.Duration) {
	s := &stream{r: r, open: map[uint16]*asked{}}
	ended := make(chan struct{})
	var receiving sync.WaitGroup
	receiving.Go(func() { s.receive(ended) })
	r.pace(ctx, every, func(id uint16) {
		q := r.ask(id)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open[id] = q
		if s.conn != nil {
			s.conn.Write(frame(q.wire)) // or receive finds out
		}
	})
	waitUntil(r.Patience, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.open) == 0 })
	close(ended)
	s.mu.Lock()
	if s.conn != nil {
		s.conn.Close()
	}
	s.mu.Unlock()
	receiving.Wait()
	for _, q := range s.open {
		r.lost(q, "no answer over TCP")
	}
}

func (s *stream) receive(ended chan struct{}) {
	for {
		conn, err := s.r.Dial("tcp")
		select {
		case <-ended:
			if err == nil {
				conn.Close()
			}
			return
		default:
		}
		if err != nil { // those under way wait for as long as anybody does
			time.Sleep(time.Millisecond)
			continue
		}
		s.mu.Lock()
		s.conn = conn
		for _, q := range s.open {
			conn.Write(frame(q.wire))
		}
		s.mu.Unlock()
		err = s.read(conn)
		s.mu.Lock()
		s.conn = nil
		s.mu.Unlock()
		conn.Close()
		select {
		case <-ended:
			return
		default:
		}
		if !errors.Is(err, io.EOF) {
			s.r.reset(err)
		}
	}
}

func (s *stream) read(conn net.Conn) error {
	for {
		msg, err := readFrame(conn)
		if err != nil {
			return err
		}
		id := binary.BigEndian.Uint16(msg)
		s.mu.Lock()
		q := s.open[id]
		delete(s.open, id)
		s.mu.Unlock()
		if q != nil {
			s.r.answer(q, msg)
		}
	}
}

// fresh asks over a connection for each question.
func (r *run) fresh(ctx context.Context, every time.Duration) {
	var all sync.WaitGroup
	r.pace(ctx, every, func(id uint16) {
		q := r.ask(id)
		all.Go(func() {
			conn, err := r.Dial("tcp")
			if err != nil {
				r.lost(q, err.Error())
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(r.Patience))
			conn.Write(frame(q.wire))
			if msg, err := readFrame(conn); err != nil {
				r.lost(q, err.Error())
			} else {
				r.answer(q, msg)
			}
		})
	})
	all.Wait()
}
