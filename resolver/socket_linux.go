package resolver

import (
	"encoding/binary"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxSockets bounds the sockets of one address; none has so many cores that more help.
const maxSockets = 1024

const (
	// receiveBuffer is what is asked for the UDP sockets of an address together, in
	// bytes, for what comes while nobody reads them: when dnsd restarts, or gets no
	// processor. The kernel holds twice as much and counts 832 bytes for a question of
	// the same host, some 2,300 for one from a network card: 40,000 or 14,000 of them, at
	// 6,000 a second more than the 2 s for which the usual clients wait.
	receiveBuffer = 16 << 20
	// leastReceiveBuffer is for each of many sockets, among which questions are never
	// shared out evenly.
	leastReceiveBuffer = 4 << 20
)

// growQueue makes the receive buffer of a socket hold what is asked for n sockets
// together, or as much of that as the kernel grants, and never less than before: a
// socket unit may have asked for more. It returns how much it grants, as asked.
func growQueue(c syscall.Conn, n int) (granted, asked int, err error) {
	asked = max(receiveBuffer/n, leastReceiveBuffer)
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	size := func(fd int) (err error) {
		granted, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
		granted /= 2 // what the kernel adds for its own accounting (socket(7))
		return err
	}
	err = control(raw, func(fd int) error {
		if err := size(fd); err != nil || granted >= asked {
			return err
		}
		// Beyond net.core.rmem_max this takes CAP_NET_ADMIN; without it, that is the most.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, asked) != nil && granted < mostReceiveBuffer(asked) {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, asked); err != nil {
				return err
			}
		}
		return size(fd)
	})
	return granted, asked, err
}

// mostReceiveBuffer returns how much of what is asked for the kernel grants without a
// privilege, which another socket finds out: it would make one smaller that has more.
func mostReceiveBuffer(asked int) (granted int) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return asked
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, asked); err != nil {
		return 0
	}
	granted, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	return granted / 2
}

// prepareUDP sets what has to be set before the socket is bound. All sockets of
// an address but the first join the first one's port.
func prepareUDP(fd int, first, wildcard bool) error {
	if !first {
		if err := reusePort(fd); err != nil {
			return err
		}
	}
	if !wildcard {
		return nil
	}
	return tellAddress(fd)
}

// tellAddress makes the kernel report the address that each packet was sent to.
func tellAddress(fd int) error {
	// An IPv6 socket reports it of IPv4 packets too, as ::ffff:….
	if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
		return err
	} else if domain == unix.AF_INET6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

// prepareSide sets what has to be set before the side socket is bound. Its queue has
// the usual length: a longer one would only make floods wait longer.
func prepareSide(fd int, wildcard bool) error {
	if err := reusePort(fd); err != nil || !wildcard {
		return err
	}
	return tellAddress(fd)
}

// reusePort lets the socket share its port with others of this process. A socket
// that only sends needs no more.
func reusePort(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }

// shareUDP lets other sockets of this process bind c's port.
func shareUDP(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return control(raw, reusePort)
}

// steer shares out the packets of c's port: those of networks set aside (see sharer)
// go to the socket that was bound as number n, counted from 0, all others to the n
// before it, whatever else shares the port. It needs no privilege: it is a classic BPF program that the
// kernel runs to choose among sockets with SO_REUSEPORT (socket(7)).
func steer(c *net.UDPConn, n int, aside []netip.Prefix) error {
	filter := steering(n, aside)
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return control(raw, func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
			&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	})
}

// steering returns the program. Among several sockets it chooses by a hash of the
// client's address and port, since the kernel's own hash of a packet is not always
// there (loopback).
func steering(n int, aside []netip.Prefix) []unix.SockFilter {
	load := func(size uint16, at int32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_ABS | size, K: uint32(at)}
	}
	op := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	const ip = -0x100000 // SKF_NET_OFF of linux/filter.h: where the IP header begins
	xor, tax := op(unix.BPF_ALU|unix.BPF_XOR|unix.BPF_X, 0), op(unix.BPF_MISC|unix.BPF_TAX, 0)

	// choose returns what is done with packets of one version, of whose source the
	// word at offset id tells networks apart: to the side socket, or hashed, from
	// the words at hashed.
	choose := func(v4 bool, source, id int32, hashed ...int32) (p []unix.SockFilter) {
		p = append(p, load(unix.BPF_W, source+id))
		for _, network := range aside {
			if a := network.Addr(); a.Is4() == v4 {
				p = append(p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: binary.BigEndian.Uint32(a.AsSlice()[id:]), Jf: 1},
					op(unix.BPF_RET|unix.BPF_K, uint32(n)))
			}
		}
		if n == 1 {
			return append(p, op(unix.BPF_RET|unix.BPF_K, 0))
		}
		for _, at := range hashed {
			p = append(p, tax, load(unix.BPF_W, at), xor)
		}
		return append(p,
			op(unix.BPF_ALU|unix.BPF_MUL|unix.BPF_K, 0x9e3779b1), // Knuth's multiplicative hash
			op(unix.BPF_ALU|unix.BPF_RSH|unix.BPF_K, 16),
			op(unix.BPF_ALU|unix.BPF_MOD|unix.BPF_K, uint32(n)),
			op(unix.BPF_RET|unix.BPF_A, 0))
	}
	// IPv6: the network id in bytes 2 to 5 of the source; its machine and its last
	// word; the ports, where no extension header is before them. IPv4: the source;
	// the ports, where the header has no options.
	v6, v4 := choose(false, ip+8, 2, ip+12, ip+20, ip+40), choose(true, ip+12, 0, ip+20)
	program := []unix.SockFilter{
		load(unix.BPF_B, ip), // the version, and of IPv4 the header's length
		op(unix.BPF_ALU|unix.BPF_RSH|unix.BPF_K, 4),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 4, Jf: 1},
		op(unix.BPF_JMP|unix.BPF_JA, uint32(len(v6))),
	}
	return append(append(program, v6...), v4...)
}

// stamp makes the kernel report when each packet was received, or stops that.
func stamp(c syscall.Conn, on bool) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	v := 0
	if on {
		v = 1
	}
	return control(raw, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, v) })
}

// receivedAt returns when a packet was received, given its control messages, and
// false where they do not say.
func receivedAt(oob []byte) (time.Time, bool) {
	for len(oob) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return time.Time{}, false
		}
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_TIMESTAMPNS && len(data) >= 16 { // struct timespec of 64-bit systems
			return time.Unix(int64(binary.NativeEndian.Uint64(data)), int64(binary.NativeEndian.Uint64(data[8:]))), true
		}
		oob = rest
	}
	return time.Time{}, false
}

// replyControl returns what the response to a request is sent with, given the
// request's control messages, which it changes: the address that was asked is the
// one that answers. The interface is left to routing, except for link-local addresses,
// which mean nothing without it. Nil where the messages do not have the address.
func replyControl(oob []byte) []byte {
	for len(oob) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return nil
		}
		whole := oob[:len(oob)-len(rest)]
		oob = rest
		switch {
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			if data[0] != 0xfe || data[1]&0xc0 != 0x80 {
				binary.NativeEndian.PutUint32(data[16:], 0) // struct in6_pktinfo: address, interface
			}
			return whole
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			binary.NativeEndian.PutUint32(data, 0) // struct in_pktinfo: interface, address to send from, …
			return whole
		}
	}
	return nil
}
