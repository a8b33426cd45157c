package resolver

import (
	"encoding/binary"
	"net"

	"golang.org/x/sys/unix"
)

// maxSockets bounds the sockets of one address; none has so many cores that more help.
const maxSockets = 1024

// receiveBuffer is what is asked for each UDP socket, in bytes. The kernel counts
// some 800 a packet, so that its usual 208 KiB hold 270 of them: 3 ms at
// 100,000 a second, less than a pause of the scheduler. 4 MiB hold 50 ms.
const receiveBuffer = 4 << 20

// prepareUDP sets what has to be set before the socket is bound. All sockets of
// an address but the first join the first one's port.
func prepareUDP(fd int, first, wildcard bool) error {
	if !first {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return err
		}
	}
	// Beyond net.core.rmem_max only CAP_NET_ADMIN gets it; then as much as there is.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer); err != nil {
			return err
		}
	}
	if !wildcard {
		return nil
	}
	// A socket of IPv6 tells the address asked of IPv4 packets too, as ::ffff:….
	if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
		return err
	} else if domain == unix.AF_INET6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

// shareUDP lets other sockets of this process bind c's port.
func shareUDP(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return control(raw, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
}

// replyControl turns the control message of a request into that of its
// response, in place: the address that was asked is the one that answers. The
// interface is left to routing, but for link-local addresses, which mean
// nothing without it. Empty in, empty out.
func replyControl(oob []byte) []byte {
	if len(oob) < unix.SizeofCmsghdr {
		return nil
	}
	h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	switch {
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		if data[0] != 0xfe || data[1]&0xc0 != 0x80 {
			binary.NativeEndian.PutUint32(data[16:], 0) // struct in6_pktinfo: address, interface
		}
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		binary.NativeEndian.PutUint32(data, 0) // struct in_pktinfo: interface, address to send from, …
	default:
		return nil
	}
	return oob[:len(oob)-len(rest)]
}
