package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/net/ipv6"
)

// The load generator of the rows in which clients of many networks ask, which
// dnsperf cannot be: it sends from one address a process. It keeps as many
// questions outstanding over as many ports as dnsperf does in the other rows.
const (
	loadPorts  = 16
	loadWindow = 400 / loadPorts // outstanding questions a port
)

// packed is a question as bytes, and what to expect of the answer.
type packed struct {
	wire    []byte // the id is 0
	oob     []byte // control message with the client's address
	rcode   byte
	records int
}

// pack prepares questions for sending from the networks' clients.
func pack(qs []question) ([]packed, error) {
	out := make([]packed, len(qs))
	for i, q := range qs {
		m := q.message()
		m.Id = 0
		wire, err := m.Pack()
		if err != nil {
			return nil, err
		}
		from := clientAddr(q.network)
		cm := ipv6.ControlMessage{Src: from.AsSlice()}
		out[i] = packed{wire: wire, oob: cm.Marshal(), rcode: byte(q.rcode), records: q.records}
	}
	return out, nil
}

// manyNetworks asks the questions, each from a client of its network, in their
// order and over again for the length given, as fast as they are answered. The
// server at addr must be in fdaa::/16. An answer with a response code or number
// of records that is not right ends it with an error.
func manyNetworks(ctx context.Context, addr string, qs []packed, length time.Duration) (tally, error) {
	to, err := net.ResolveUDPAddr("udp6", addr)
	if err != nil {
		return tally{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	began := time.Now()
	var mu sync.Mutex // guards sum and errs
	sum := tally{rcodes: make(map[string]int)}
	var errs []error
	var wg sync.WaitGroup
	for i := range loadPorts {
		wg.Go(func() {
			p, err := newPort(to, qs[len(qs)*i/loadPorts:len(qs)*(i+1)/loadPorts])
			if err == nil {
				err = p.run(ctx)
				p.conn.Close()
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			sum.sent += p.sent
			sum.answered += p.answered
			sum.bytes += float64(p.bytes)
		})
	}
	wg.Wait()
	sum.elapsed = time.Since(began)
	if err := errors.Join(errs...); err != nil {
		return sum, err
	}
	if sum.answered == 0 || sum.sent-sum.answered > sum.sent/100+400 {
		return sum, fmt.Errorf("%d of %d questions were answered", sum.answered, sum.sent)
	}
	sum.bytes /= float64(sum.answered)
	return sum, nil
}

// loadPort is one socket of the generator. It belongs to one goroutine.
type loadPort struct {
	conn *ipv6.PacketConn
	to   net.Addr
	qs   []packed

	next     int            // of qs
	id       uint16         // of the next question
	waiting  [1 << 16]int32 // by id: index of the question, plus one; 0: none
	window   int            // questions outstanding
	out, in  []ipv6.Message
	outBuf   [][]byte
	sent     int
	answered int
	bytes    int
}

func newPort(to net.Addr, qs []packed) (*loadPort, error) {
	conn, err := net.ListenUDP("udp6", &net.UDPAddr{})
	if err != nil {
		return nil, err
	}
	p := &loadPort{conn: ipv6.NewPacketConn(conn), to: to, qs: qs}
	for range loadWindow {
		p.out = append(p.out, ipv6.Message{Addr: to, Buffers: [][]byte{nil}})
		p.outBuf = append(p.outBuf, make([]byte, 0, 512))
		p.in = append(p.in, ipv6.Message{Buffers: [][]byte{make([]byte, 4096)}})
	}
	return p, nil
}

// run asks until ctx ends, and then waits shortly for what is outstanding.
func (p *loadPort) run(ctx context.Context) error {
	for {
		if ctx.Err() == nil {
			if err := p.fill(); err != nil {
				return err
			}
		} else if p.window == 0 {
			return nil
		}
		// What is not answered by then is lost, and its slots are free again.
		if err := p.conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		n, err := p.conn.ReadBatch(p.in, 0)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			p.window = 0
			clear(p.waiting[:])
			continue
		}
		if err != nil {
			return fmt.Errorf("receiving: %w", err)
		}
		for i := range n {
			if err := p.take(p.in[i].Buffers[0][:p.in[i].N]); err != nil {
				return err
			}
		}
	}
}

// fill sends as many questions as the window has room for.
func (p *loadPort) fill() error {
	n := loadWindow - p.window
	for i := range n {
		q := &p.qs[p.next]
		p.outBuf[i] = append(p.outBuf[i][:0], q.wire...)
		binary.BigEndian.PutUint16(p.outBuf[i], p.id)
		p.out[i].Buffers[0], p.out[i].OOB = p.outBuf[i], q.oob
		p.waiting[p.id] = int32(p.next) + 1
		p.id++
		p.next = (p.next + 1) % len(p.qs)
	}
	for done := 0; done < n; {
		m, err := p.conn.WriteBatch(p.out[done:n], 0)
		if err != nil {
			return fmt.Errorf("sending: %w", err)
		}
		done += m
	}
	p.window += n
	p.sent += n
	return nil
}

// take counts an answer and checks its header.
func (p *loadPort) take(b []byte) error {
	if len(b) < 12 {
		return fmt.Errorf("an answer of %d bytes", len(b))
	}
	id := binary.BigEndian.Uint16(b)
	i := p.waiting[id]
	if i == 0 {
		return nil // late: already counted as lost
	}
	p.waiting[id] = 0
	p.window--
	q := &p.qs[i-1]
	rcode, records := b[3]&15, int(binary.BigEndian.Uint16(b[6:]))
	if rcode != q.rcode || q.records >= 0 && records != q.records {
		return fmt.Errorf("an answer with response code %d and %d records, want %d and %d", rcode, records, q.rcode, q.records)
	}
	p.answered++
	p.bytes += len(b)
	return nil
}
