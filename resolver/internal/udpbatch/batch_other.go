//go:build !linux

package udpbatch

import (
	"net/netip"
	"syscall"
)

const controlSize = 64

// batch is not to be had here: every Conn moves one packet a call.
type batch struct{}

func newBatch(*Conn, syscall.RawConn) *batch { return nil }

func (*batch) read() (int, error)      { return 0, nil }
func (*batch) poll() (int, error)      { return 0, nil }
func (*batch) send(int)                {}
func (*batch) waiting() int            { return 0 }
func (*batch) from(int) netip.AddrPort { return netip.AddrPort{} }

// Sender sends packets one by one. Safe for concurrent use. On this system it
// may wait.
type Sender struct {
	udp PacketConn
	raw syscall.RawConn
}

// NewSender returns a Sender for udp.
func NewSender(udp PacketConn) *Sender { return &Sender{udp: udp} }

// Send sends b with control messages.
func (s *Sender) Send(b, control []byte, to netip.AddrPort) error {
	_, _, err := s.udp.WriteMsgUDPAddrPort(b, control, to)
	return err
}

// Drops returns false: only Linux says.
func Drops(syscall.Conn) (uint32, bool) { return 0, false }
