package udpbatch

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlSize is room for a control message with an address, that of an
// in6_pktinfo being the larger of the two, and one with a time, each with its
// header and aligned.
const controlSize = 40 + 32

// mmsghdr is struct mmsghdr of recvmmsg(2): a message and its length.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [unsafe.Sizeof(uintptr(0)) - 4]byte
}

// batch is the system calls of a Conn with the headers that the kernel reads
// and writes. The headers point into the Conn and into each other; nothing of
// them is allocated after newBatch.
type batch struct {
	c    *Conn
	raw  syscall.RawConn
	hdrs [Size]mmsghdr
	iovs [Size]unix.Iovec
	name [Size]unix.RawSockaddrInet6 // the senders; an IPv4 one fits as well

	out     [Size]mmsghdr // of replies; they share name with hdrs
	outIovs [Size]unix.Iovec
	outSlot [Size]int // which slot each reply is of

	// What the calls within the poller's callbacks were told and found. The
	// callbacks are made once: a closure per call would be garbage per batch.
	n, sent, queued int
	err             error
	onRead          func(fd uintptr) bool
	onWrite         func(fd uintptr)

	recvmmsg, sendmmsg func(fd uintptr, hdrs *mmsghdr, n int) (int, syscall.Errno) // tests put theirs here
}

// newBatch returns nil for a connection that no system call can be made on, and
// where the calls are forbidden.
func newBatch(c *Conn, raw syscall.RawConn) *batch {
	if raw == nil || !permitted(raw) {
		return nil
	}
	b := &batch{c: c, raw: raw, recvmmsg: recvmmsg, sendmmsg: sendmmsg}
	for i := range Size {
		s := &c.slots[i]
		b.iovs[i].Base = &s.in[0]
		b.iovs[i].SetLen(len(s.in))
		h := &b.hdrs[i].hdr
		h.Iov = &b.iovs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&b.name[i]))
		b.reset(i)
		o := &b.out[i].hdr
		o.Iov = &b.outIovs[i]
		o.SetIovlen(1)
	}
	b.onRead, b.onWrite = b.receive, b.write
	return b
}

// receive takes what is there. It returns false, to be called again when there
// is more, while there is nothing.
func (b *batch) receive(fd uintptr) bool {
	for {
		n, errno := b.recvmmsg(fd, &b.hdrs[0], Size)
		switch errno {
		case 0:
			b.n, b.err = n, nil
			return true
		case unix.EINTR: // no new edge would wake the poller for what is there already
		case unix.EAGAIN:
			return false
		default:
			b.err = errno
			return true
		}
	}
}

// reset gives slot i's header back the room that the last packet took.
func (b *batch) reset(i int) {
	h := &b.hdrs[i].hdr
	h.Namelen = unix.SizeofSockaddrInet6
	h.Control = &b.c.slots[i].control[0]
	h.SetControllen(controlSize)
}

func (b *batch) read() (int, error) {
	b.begin()
	if err := b.raw.Read(b.onRead); err != nil {
		return 0, err
	}
	return b.received()
}

// poll is read without waiting.
func (b *batch) poll() (int, error) {
	b.begin()
	if err := b.raw.Control(func(fd uintptr) { b.receive(fd) }); err != nil {
		return 0, err
	}
	return b.received()
}

// begin makes the headers ready for the next packets.
func (b *batch) begin() {
	for i := range b.n {
		b.reset(i)
	}
	b.n, b.err = 0, nil
}

// received brings what receive has found to the slots.
func (b *batch) received() (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	for i := range b.n {
		s := &b.c.slots[i]
		s.n = int(b.hdrs[i].n)
		s.oobn = int(b.hdrs[i].hdr.Controllen)
		s.reply, s.with = nil, nil
	}
	return b.n, nil
}

// from returns the sender of the packet in slot i.
func (b *batch) from(i int) netip.AddrPort {
	name := &b.name[i]
	if name.Family == unix.AF_INET {
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), port(&four.Port))
	}
	addr := netip.AddrFrom16(name.Addr)
	if name.Scope_id != 0 {
		addr = addr.WithZone(strconv.Itoa(int(name.Scope_id)))
	}
	return netip.AddrPortFrom(addr, port(&name.Port))
}

// port reads a port, which a sockaddr holds in network order.
func port(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }

// permitted reports whether the kernel has both calls and no seccomp filter refuses
// them. It makes each with no messages, which does nothing.
func permitted(raw syscall.RawConn) bool {
	ok := true
	err := raw.Control(func(fd uintptr) {
		for _, call := range []uintptr{unix.SYS_RECVMMSG, unix.SYS_SENDMMSG} {
			_, _, errno := unix.Syscall6(call, fd, 0, 0, unix.MSG_DONTWAIT, 0, 0)
			ok = ok && errno != unix.ENOSYS && errno != unix.EPERM
		}
	})
	return ok && err == nil
}

// send sends the replies of slots 0 to n-1.
func (b *batch) send(n int) {
	b.queue(n)
	for b.sent < b.queued {
		b.err = nil
		if b.raw.Control(b.onWrite) != nil {
			return // closed
		}
		switch b.err {
		case nil:
		case unix.EAGAIN:
			for _, slot := range b.outSlot[b.sent:b.queued] {
				b.c.failed(slot, ErrFull)
			}
			return
		default: // it concerns the first of those that are left
			b.c.failed(b.outSlot[b.sent], b.err)
			b.sent++
		}
	}
}

// queue lines up the headers of the replies that are set.
func (b *batch) queue(n int) {
	b.queued, b.sent = 0, 0
	for i := range n {
		s := &b.c.slots[i]
		if s.reply == nil {
			continue
		}
		o := &b.out[b.queued].hdr
		iov := &b.outIovs[b.queued]
		iov.Base = unsafe.SliceData(s.reply)
		iov.SetLen(len(s.reply))
		o.Name, o.Namelen = (*byte)(unsafe.Pointer(&b.name[i])), b.hdrs[i].hdr.Namelen
		o.Control = unsafe.SliceData(s.with)
		o.SetControllen(len(s.with))
		b.outSlot[b.queued] = i
		b.queued++
	}
}

// write sends as much of what is left as the kernel takes in one call.
func (b *batch) write(fd uintptr) {
	n, errno := b.sendmmsg(fd, &b.out[b.sent], b.queued-b.sent)
	switch errno {
	case 0:
		b.sent += n
	case unix.EINTR: // send calls again
	default:
		b.err = errno
	}
}

// The two calls never wait, so the scheduler is not told of them (RawSyscall6). Told of
// a call after a pause, it wakes the runtime's monitor, a thread of its own, which finds
// nothing to do: at 1,000 questions a second that cost as much as all the rest. A call
// with a full batch keeps the processor for some 100 µs, as computing would.

func recvmmsg(fd uintptr, hdrs *mmsghdr, n int) (int, syscall.Errno) {
	r, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(hdrs)), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
	return int(r), errno
}

func sendmmsg(fd uintptr, hdrs *mmsghdr, n int) (int, syscall.Errno) {
	r, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(hdrs)), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
	return int(r), errno
}

// Drops returns how many packets the kernel has dropped because the receive
// queue of conn was full, since the socket was made (SO_MEMINFO, Linux 4.12).
// The second result is false where the kernel does not say. Safe for concurrent use.
func Drops(conn syscall.Conn) (uint32, bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, false
	}
	info, ok := memInfo(raw)
	return info[memDrops], ok
}

// leastCharged is the least that the kernel counts for a packet, in bytes: its
// descriptor and the smallest head that it allocates.
const leastCharged = 768

// waiting returns how many packets the receive queue may hold.
func (b *batch) waiting() int {
	info, _ := memInfo(b.raw)
	return int(info[memReceived] / leastCharged)
}

// Indices of linux/sock_diag.h into what SO_MEMINFO returns.
const (
	memReceived = 0 // SK_MEMINFO_RMEM_ALLOC: bytes
	memDrops    = 8 // SK_MEMINFO_DROPS
)

// memInfo returns zeroes and false where the kernel does not say.
func memInfo(raw syscall.RawConn) (info [memDrops + 1]uint32, ok bool) {
	size := uint32(unsafe.Sizeof(info))
	err := raw.Control(func(fd uintptr) {
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		ok = errno == 0 && size == uint32(unsafe.Sizeof(info))
	})
	return info, err == nil && ok
}
