package lab

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// Client asks one server address from one source address.
type Client struct {
	Lab  *Lab
	From netip.Addr
	To   netip.AddrPort
}

// patience is Patience, until answers fail to come again and again: then the
// server is broken, and a table of hundreds of questions shall say so soon.
func (c Client) patience() time.Duration {
	const enough = 3
	if c.Lab.unanswered.Load() >= enough {
		return Patience / 40
	}
	return Patience
}

// Open opens a socket: "udp" or "tcp". Whatever it does must be done within
// Patience; the caller closes it.
func (c Client) Open(proto string) (net.Conn, error) {
	conn, err := c.Lab.Dial(proto, c.From, c.To)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(c.patience())); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// Exchange sends one message over a socket of its own and returns the first
// that comes back. The UDP socket is connected, so a response from another
// address than the one asked never arrives.
func (c Client) Exchange(proto string, req []byte) ([]byte, error) {
	conn, err := c.Open(proto)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if proto == "udp" {
		if _, err := conn.Write(req); err != nil {
			return nil, err
		}
		buf := make([]byte, 65535)
		n, err := conn.Read(buf)
		if err != nil {
			c.Lab.unanswered.Add(1)
			return nil, fmt.Errorf("no response over udp from %s to %s: %w", c.To, c.From, err)
		}
		return buf[:n], nil
	}
	if _, err := conn.Write(Frame(req)); err != nil {
		return nil, err
	}
	resp, err := ReadFrame(conn)
	if err != nil {
		c.Lab.unanswered.Add(1)
		return nil, fmt.Errorf("no response over tcp from %s to %s: %w", c.To, c.From, err)
	}
	return resp, nil
}

// Frame puts the length in front of a message (RFC 1035, section 4.2.2).
func Frame(msg []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...)
}

// ReadFrame reads one message with its length.
func ReadFrame(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}
