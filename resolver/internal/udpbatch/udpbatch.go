// Package udpbatch receives and sends UDP packets many at a time.
//
// A DNS answer costs less to compute than to receive and send: most of it is
// the kernel's work, and part of that is paid per system call. On Linux a Conn
// takes up to [Size] packets with one recvmmsg(2) and sends their replies with
// one sendmmsg(2), into and from memory that it owns and never allocates again.
// Waiting is left to Go's poller. Where the calls are not there (another system)
// or forbidden (a seccomp filter), the same Conn moves one packet a call.
//
// The words used here: a slot is the place of one packet of a batch: its bytes,
// its sender, its control message and the reply's bytes. A control message is
// what the kernel says of a packet beside its bytes; here only the address that
// the packet was sent to, from which the reply then leaves.
package udpbatch

import (
	"errors"
	"net"
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

// PacketConn is what moves one packet a call: *net.UDPConn, whose documentation
// is the contract. Only a connection that is a syscall.Conn too can be batched.
type PacketConn interface {
	ReadMsgUDPAddrPort(b, control []byte) (n, controln, flags int, from netip.AddrPort, err error)
	WriteMsgUDPAddrPort(b, control []byte, to netip.AddrPort) (n, controln int, err error)
}

// Conn is a UDP socket with the memory of one batch. It belongs to one
// goroutine; only the socket below it may be used from others.
type Conn struct {
	udp   PacketConn
	slots [Size]slot
	out   []byte // the replies' storage, outSize a slot
	outSz int

	batch *batch // the system calls and their headers; nil: one packet a call

	// SendFailed is called, if set, for each reply that the kernel refuses.
	// A destination that cannot be reached costs its own reply alone.
	SendFailed func(to netip.AddrPort, err error)
}

// slot is the place of one packet.
type slot struct {
	in      [InSize]byte
	control [controlSize]byte
	n, oobn int
	from    netip.AddrPort // of the plain path; the batched one reads the header
	reply   []byte
}

// New returns a Conn for udp, whose replies have at most outSize bytes.
func New(udp PacketConn, outSize int) (*Conn, error) {
	c := &Conn{udp: udp, out: make([]byte, Size*outSize), outSz: outSize}
	var err error
	c.batch, err = newBatch(c)
	return c, err
}

// Batched reports whether packets move many a call.
func (c *Conn) Batched() bool { return c.batch != nil }

// Read waits for packets and returns how many there are; their slots are 0 to
// n-1. Replies of the batch before are forgotten. The error is that of the
// socket: a deadline, or that it is closed.
func (c *Conn) Read() (n int, err error) {
	if c.batch != nil {
		n, err = c.batch.read()
		if !unsupported(err) {
			return n, err
		}
		c.batch = nil // for good: a filter does not go away
	}
	s := &c.slots[0]
	s.reply = nil
	s.n, s.oobn, _, s.from, err = c.udp.ReadMsgUDPAddrPort(s.in[:], s.control[:])
	if err != nil {
		return 0, err
	}
	return 1, nil
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

// Control returns the control message of the packet in slot i, valid until the
// next Read; the caller may change it in place. See SetControl.
func (c *Conn) Control(i int) []byte { return c.slots[i].control[:c.slots[i].oobn] }

// SetControl says with which control message the reply of slot i leaves: the
// first n bytes of Control(i).
func (c *Conn) SetControl(i, n int) { c.slots[i].oobn = n }

// Out returns empty storage for the reply of slot i.
func (c *Conn) Out(i int) []byte { return c.out[i*c.outSz : i*c.outSz : (i+1)*c.outSz] }

// Reply sets the reply of slot i, which goes to the packet's sender with the
// next Send; nil sends none. It must not be changed before that.
func (c *Conn) Reply(i int, b []byte) { c.slots[i].reply = b }

// Send sends the replies of slots 0 to n-1 that were set.
func (c *Conn) Send(n int) {
	if c.batch != nil {
		if !unsupported(c.batch.send(n)) {
			return
		}
		for i := range n { // the headers know the senders, the plain path does not
			c.slots[i].from = c.batch.from(i)
		}
		c.batch = nil
	}
	for i := range n {
		s := &c.slots[i]
		if s.reply == nil {
			continue
		}
		if err := c.sendOne(i, s.from); err != nil {
			c.failed(s.from, err)
		}
		s.reply = nil
	}
}

// sendOne sends the reply of slot i by itself.
func (c *Conn) sendOne(i int, to netip.AddrPort) error {
	s := &c.slots[i]
	_, _, err := c.udp.WriteMsgUDPAddrPort(s.reply, s.control[:s.oobn], to)
	return err
}

func (c *Conn) failed(to netip.AddrPort, err error) {
	if c.SendFailed != nil && !errors.Is(err, net.ErrClosed) {
		c.SendFailed(to, err)
	}
}
