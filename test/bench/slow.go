package main

import (
	"net"
	"sync"
	"time"
)

// slowUpstream answers every question after slowDelay with one AAAA record, any
// number of them at once: what limits is the server that waits for it.
type slowUpstream struct {
	conn *net.UDPConn
	wg   sync.WaitGroup
}

// startSlow starts the upstream at addr. The caller closes it.
func startSlow(addr string) (*slowUpstream, error) {
	udp, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenUDP("udp", udp)
	if err != nil {
		return nil, err
	}
	u := &slowUpstream{conn: conn}
	_ = conn.SetReadBuffer(4 << 20) // it must not be the one that loses questions
	u.wg.Go(u.serve)
	return u, nil
}

func (u *slowUpstream) close() {
	u.conn.Close()
	u.wg.Wait()
}

func (u *slowUpstream) serve() {
	buf := make([]byte, 4096)
	for {
		n, from, err := u.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return // closed
		}
		resp := slowAnswer(buf[:n])
		if resp == nil {
			continue
		}
		time.AfterFunc(slowDelay, func() { _, _ = u.conn.WriteToUDPAddrPort(resp, from) })
	}
}

// slowAnswer answers a question with one AAAA record with a TTL of a day, and
// with an empty OPT where the question has one. It returns nil for what is no
// question.
func slowAnswer(q []byte) []byte {
	end := 12
	for end < len(q) && q[end] != 0 {
		end += int(q[end]) + 1
	}
	end += 5 // the root, type, class
	if end > len(q) || q[5] != 1 {
		return nil
	}
	out := append([]byte(nil), q[:end]...)
	out[2], out[3] = 0x80|q[2]&1, 0x80 // QR, RD as asked, RA
	out[6], out[7], out[8], out[9], out[10], out[11] = 0, 1, 0, 0, 0, 0
	// The question's name, AAAA, IN, 86400 s, 16 bytes: 2001:db8::1.
	out = append(out, 0xc0, 12, 0, 28, 0, 1, 0, 1, 0x51, 0x80, 0, 16, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
	if q[11] != 0 {
		out[11] = 1
		out = append(out, 0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0) // OPT, 1232 bytes
	}
	return out
}
