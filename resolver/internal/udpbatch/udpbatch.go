// Package udpbatch receives and sends UDP packets many at a time.
//
// A DNS answer costs less to compute than to receive and send: most of it is
// the kernel's work, and part of that is paid per system call. On Linux a Conn
// takes up to [Size] packets with one recvmmsg(2) and sends their replies with
// one sendmmsg(2), into and from memory that it owns and never allocates again.
// Waiting for packets is left to Go's poller; nothing waits to send. Where the
// calls are not there (another system) or forbidden (a seccomp filter), the same
// Conn moves one packet a call.
//
// The words used here: a slot is the place of one packet of a batch: its bytes,
// its sender, its control messages and the reply's bytes. Control messages are
// what the kernel says of a packet beside its bytes: the address that it was sent
// to, from which the reply then leaves, and when it came.
package udpbatch

import (
	"errors"
	"net/netip"
)

const (
	// Size is the most packets of a batch. Beyond some dozens the cost of the
	// call is spread thin enough, while the first packet waits for the last.
	Size = 64

	// InSize is the most bytes of a packet that are received. A DNS request
	// has one question and an OPT, a few hundred bytes at the very most; the
	// rest of a longer packet is cut off, which leaves it malformed.
	InSize = 4096
)

// ErrFull says that a packet was not sent because the socket's send buffer is
// full: what was sent before it still waits in the kernel, for a neighbour, a
// queue or a device.
var ErrFull = errors.New("the socket's send buffer is full")

// PacketConn is what moves one packet a call: *net.UDPConn, whose documentation
// is the contract. Only a connection that is a syscall.Conn too can be batched.
type PacketConn interface {
	ReadMsgUDPAddrPort(b, control []byte) (n, controln, flags int, from netip.AddrPort, err error)
	WriteMsgUDPAddrPort(b, control []byte, to netip.AddrPort) (n, controln int, err error)
}

// Conn is a UDP socket with the memory of one batch. It belongs to one
// goroutine; only its socket, One and Batched may be used from others.
type Conn struct {
	udp   PacketConn
	One   *Sender // sends by itself; safe for concurrent use
	slots [Size]slot
	out   []byte // the replies' storage, outSize a slot
	outSz int

	batch *batch // the system calls and their headers; nil: one packet a call

	// Failed is called, if set, for each reply that was not sent: with ErrFull where
	// there was no room for it, otherwise because the kernel refused its destination,
	// which costs that reply alone. It may send the reply elsewhere and keeps nothing.
	Failed func(reply, control []byte, to netip.AddrPort, err error)
}

// slot is the place of one packet.
type slot struct {
	in      [InSize]byte
	control [controlSize]byte
	n, oobn int
	from    netip.AddrPort // of the plain path; the batched one reads the header
	reply   []byte
	with    []byte // the reply's control messages, within control
}

// New returns a Conn for udp, whose replies have at most outSize bytes.
func New(udp PacketConn, outSize int) *Conn {
	c := &Conn{udp: udp, One: NewSender(udp), out: make([]byte, Size*outSize), outSz: outSize}
	c.batch = newBatch(c, c.One.raw)
	return c
}

// Batched reports whether packets move many a call. Safe for concurrent use.
func (c *Conn) Batched() bool { return c.batch != nil }

// Read waits for packets and returns how many there are; their slots are 0 to
// n-1. Replies of the batch before are forgotten. The error is that of the
// socket: a deadline, or that it is closed.
func (c *Conn) Read() (n int, err error) {
	if c.batch != nil {
		return c.batch.read()
	}
	s := &c.slots[0]
	s.reply, s.with = nil, nil
	s.n, s.oobn, _, s.from, err = c.udp.ReadMsgUDPAddrPort(s.in[:], s.control[:])
	if err != nil {
		return 0, err
	}
	return 1, nil
}

// Poll is Read without waiting: n is 0 where nothing is there. It ignores
// deadlines. Without the batch calls it finds nothing.
func (c *Conn) Poll() (n int, err error) {
	if c.batch == nil {
		return 0, nil
	}
	return c.batch.poll()
}

// Waiting returns how many packets wait to be read, or a number that is greater; 0
// where the system does not say.
func (c *Conn) Waiting() int {
	if c.batch == nil {
		return 0
	}
	return c.batch.waiting()
}

// Packet returns the bytes in slot i, valid until the next Read.
func (c *Conn) Packet(i int) []byte { return c.slots[i].in[:c.slots[i].n] }

// From returns the sender of the packet in slot i.
func (c *Conn) From(i int) netip.AddrPort {
	if c.batch != nil {
		return c.batch.from(i)
	}
	return c.slots[i].from
}

// Control returns the control messages of the packet in slot i, valid until the
// next Read; the caller may change them in place.
func (c *Conn) Control(i int) []byte { return c.slots[i].control[:c.slots[i].oobn] }

// Out returns empty storage for the reply of slot i.
func (c *Conn) Out(i int) []byte { return c.out[i*c.outSz : i*c.outSz : (i+1)*c.outSz] }

// Reply sets the reply of slot i, which goes to the packet's sender with the
// next Send; nil sends none. It leaves with the given part of Control(i), or
// without control messages. Neither must be changed before Send.
func (c *Conn) Reply(i int, reply, control []byte) {
	c.slots[i].reply, c.slots[i].with = reply, control
}

// Send sends the replies of slots 0 to n-1 that were set. It never waits.
func (c *Conn) Send(n int) {
	if c.batch != nil {
		c.batch.send(n)
		return
	}
	if s := &c.slots[0]; n > 0 && s.reply != nil {
		if err := c.One.Send(s.reply, s.with, s.from); err != nil {
			c.failed(0, err)
		}
	}
}

func (c *Conn) failed(i int, err error) {
	if c.Failed != nil {
		c.Failed(c.slots[i].reply, c.slots[i].with, c.From(i), err)
	}
}
