package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"dnsd/registry"
)

// paced asks at a fixed rate, whatever is answered: a client that doesn't wait,
// which is how a flood and the victim of one both behave.
type paced struct {
	addr      string
	network   registry.Network        // 0: of no network, for a server on loopback
	rate      int                     // questions a second
	questions func(buf []byte) []byte // appends the next question; its id is overwritten
}

// outcome is what became of the questions of a paced client.
type outcome struct {
	sent    int
	rcodes  [16]int
	latency []time.Duration // of the answers with NOERROR, sorted
}

// cycle returns questions in turns.
func cycle(qs []packed) func([]byte) []byte {
	next := -1
	return func(buf []byte) []byte {
		next = (next + 1) % len(qs)
		return append(buf, qs[next].wire...)
	}
}

// run asks until ctx ends, and then waits up to 6 s for what is outstanding,
// which is longer than dnsd tries.
func (p *paced) run(ctx context.Context) (outcome, error) {
	const patience = 6 * time.Second
	to, err := net.ResolveUDPAddr("udp", p.addr)
	if err != nil {
		return outcome{}, err
	}
	var from *net.UDPAddr
	if p.network != 0 {
		from = &net.UDPAddr{IP: clientAddr(p.network).AsSlice()}
	}
	c, err := net.DialUDP("udp", from, to)
	if err != nil {
		return outcome{}, fmt.Errorf("a client of %s: %w", p.network, err)
	}
	defer c.Close()

	var o outcome
	var mu sync.Mutex // guards asked
	var asked [1 << 16]time.Time
	received := make(chan error, 1)
	go func() { received <- o.receive(c, &mu, &asked) }()
	sendErr := p.send(ctx, c, &o.sent, &mu, &asked)
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if p.idle(&mu, &asked, patience) {
		_ = c.SetReadDeadline(time.Now())
	}
	err = errors.Join(sendErr, <-received)
	slices.Sort(o.latency)
	return o, err
}

// send sends at the rate, in steps of a millisecond.
func (p *paced) send(ctx context.Context, c *net.UDPConn, sent *int, mu *sync.Mutex, asked *[1 << 16]time.Time) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	var buf []byte
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for due := int(time.Since(began).Seconds() * float64(p.rate)); *sent < due; *sent++ {
			id := uint16(*sent)
			buf = p.questions(buf[:0])
			binary.BigEndian.PutUint16(buf, id)
			mu.Lock()
			asked[id] = time.Now()
			mu.Unlock()
			if _, err := c.Write(buf); err != nil {
				return fmt.Errorf("sending: %w", err)
			}
		}
	}
}

// receive counts answers until the socket's deadline.
func (o *outcome) receive(c *net.UDPConn, mu *sync.Mutex, asked *[1 << 16]time.Time) error {
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receiving: %w", err)
		}
		if n < 12 {
			return fmt.Errorf("an answer of %d bytes", n)
		}
		id := binary.BigEndian.Uint16(buf)
		mu.Lock()
		at := asked[id]
		asked[id] = time.Time{}
		mu.Unlock()
		if at.IsZero() {
			continue
		}
		o.rcodes[buf[3]&15]++
		if buf[3]&15 == 0 {
			o.latency = append(o.latency, time.Since(at))
		}
	}
}

// idle waits until every question is answered, and reports whether that was so
// in time.
func (p *paced) idle(mu *sync.Mutex, asked *[1 << 16]time.Time, patience time.Duration) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		open := false
		mu.Lock()
		for i := range asked {
			open = open || !asked[i].IsZero()
		}
		mu.Unlock()
		if !open {
			return true
		}
	}
	return false
}
