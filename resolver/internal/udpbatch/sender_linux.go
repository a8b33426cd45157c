package udpbatch

import (
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sender sends packets one by one and never waits. Safe for concurrent use.
type Sender struct {
	udp PacketConn
	raw syscall.RawConn // nil: a connection that no system call can be made on
}

// NewSender returns a Sender for udp.
func NewSender(udp PacketConn) *Sender {
	s := &Sender{udp: udp}
	if conn, ok := udp.(syscall.Conn); ok {
		s.raw, _ = conn.SyscallConn() // fails for nil alone
	}
	return s
}

// Send sends b with control messages. The error is ErrFull where there is no room
// for it now.
func (s *Sender) Send(b, control []byte, to netip.AddrPort) error {
	if s.raw == nil {
		_, _, err := s.udp.WriteMsgUDPAddrPort(b, control, to)
		return err
	}
	dest := sockaddr(to)
	var err error
	cerr := s.raw.Control(func(fd uintptr) {
		for {
			_, err = unix.SendmsgN(int(fd), b, control, dest, unix.MSG_DONTWAIT)
			if err != unix.EINTR {
				return
			}
		}
	})
	switch {
	case cerr != nil:
		return cerr
	case err == unix.EAGAIN:
		return ErrFull
	}
	return err
}

func sockaddr(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16(), ZoneId: zoneID(to.Addr().Zone())}
}

// zoneID returns the index of the interface that a zone names by its index, as
// the batch does, or by its name, as package net does.
func zoneID(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if id, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(id)
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	return 0
}
