package resolver

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"dnsd/resolver/internal/wire"
)

const (
	// defaultMessageTime is how long a request may take from its first bytes to its
	// last, and a response until the client has read it: generous for 64 KiB on any
	// network that dnsd serves.
	defaultMessageTime = 5 * time.Second
	// defaultStrangerTime is how long a client that dnsd does not serve may take to
	// begin a request, to complete it, and to read its REFUSED.
	defaultStrangerTime = time.Second
	// maxPipelined is how many questions of one connection wait for the
	// forwarder at a time; further ones are not read until one is answered.
	maxPipelined = 32
	// readBuffer takes some sixty pipelined questions a read.
	readBuffer = 4 << 10
	// sendBuffer, which Linux doubles for its own needs, holds two of the longest
	// responses. The kernel's default grows to megabytes for a client that asks and
	// does not read.
	sendBuffer = 128 << 10
	// lengthLen is TCP's length before each message (RFC 1035, section 4.2.2).
	lengthLen = 2
)

// tcpBuffers holds buffers for one message with its length. A connection has one only
// while it answers a message.
var tcpBuffers = sync.Pool{New: func() any {
	b := make([]byte, lengthLen+wire.MaxMessage)
	return &b
}}

// acceptor takes the TCP connections of one address.
type acceptor struct {
	// Set once.
	r        *Resolver
	listener *net.TCPListener
	stats    *stats
	log      *slog.Logger

	turns    turnCounter
	stopping atomic.Bool
	fails    limitedLog
	conns    sync.WaitGroup
}

// serve accepts connections until stop, and waits for them to end. It returns an
// error when none can be accepted any more.
func (a *acceptor) serve(ctx context.Context) error {
	defer a.conns.Wait()
	defer a.listener.Close()
	var fails trouble
	for {
		nc, err := a.listener.AcceptTCP()
		a.turns.turn()
		if err == nil {
			fails = 0
			a.start(ctx, nc)
			continue
		}
		if a.stopping.Load() {
			return nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) { // wake
			_ = a.listener.SetDeadline(time.Time{}) // which only a closed one refuses
			continue
		}
		a.stats.readErrs.Add(1)
		a.fails.log(a.log, slog.LevelError, "cannot accept a connection; trying again", "err", err)
		if shortOf(err) {
			fails = min(fails, maxTrouble-1) // never a reason to give up: UDP goes on meanwhile
		}
		if errors.Is(err, net.ErrClosed) || !fails.wait(ctx) {
			return fmt.Errorf("accepting TCP connections: %w", err)
		}
	}
}

// shortOf reports whether err says that the host is short of a resource, which may pass.
func shortOf(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

func (a *acceptor) start(ctx context.Context, nc *net.TCPConn) {
	from, ok := nc.RemoteAddr().(*net.TCPAddr)
	if !ok {
		nc.Close()
		return
	}
	addr := from.AddrPort().Addr()
	c := &conn{r: a.r, nc: nc, from: from.AddrPort(), client: clientOf(addr), network: networkOf(addr),
		stranger: !a.r.allowed(addr.Unmap().WithZone("")), stats: a.stats, slots: make(chan struct{}, maxPipelined)}
	_ = nc.SetWriteBuffer(sendBuffer) // if it fails, the connection takes more memory
	c.used.Store(time.Now().UnixNano())
	if !a.r.conns.add(c) {
		nc.Close()
		return
	}
	a.conns.Go(func() {
		defer a.r.conns.remove(c)
		defer c.end()
		c.serve(ctx)
	})
}

// wake makes serve turn.
func (a *acceptor) wake() { _ = a.listener.SetDeadline(time.Unix(1, 0)) }

// stop ends serve once the open connections have ended.
func (a *acceptor) stop() {
	a.stopping.Store(true)
	a.listener.Close()
}

// conn is one TCP connection. The goroutine that runs serve reads; it and the
// goroutines of deferred questions write, one at a time.
type conn struct {
	// Set once.
	r        *Resolver
	nc       *net.TCPConn
	from     netip.AddrPort
	client   netip.Prefix // see clientOf
	network  netip.Prefix // see networkOf
	stranger bool         // not a client that dnsd serves
	stats    *stats
	slots    chan struct{} // one for each deferred question

	busy    atomic.Int32 // requests read and not yet answered
	used    atomic.Int64 // when it was made or the last response written; Unix time in nanoseconds
	drained atomic.Int64 // when it stops reading because dnsd ends, in the same unit; 0: dnsd goes on

	deferred sync.WaitGroup
	writing  sync.Mutex // held for one write, at most Resolver.messageTime
}

// idle reports whether all requests read are answered, and since when. A request
// that has arrived in part is not read.
func (c *conn) idle() (since int64, idle bool) { return c.used.Load(), c.busy.Load() == 0 }

// serve reads requests and answers them, in the order in which answers are ready
// (RFC 7766, section 6.2.1.1), until the client is silent for too long, breaks
// off or misbehaves.
func (c *conn) serve(ctx context.Context) {
	defer c.deferred.Wait()
	w := newWorker(c.r, TCP, c.stats)
	in := bufio.NewReaderSize(c.nc, readBuffer)
	var msg []byte
	for {
		var err error
		if msg, err = c.read(in, msg); err != nil {
			return // not worth logging: clients close, vanish and fall silent
		}
		c.busy.Add(1)
		if !c.handle(ctx, w, msg) {
			return
		}
		if cap(msg) > readBuffer {
			msg = nil // a large request is rare: don't keep its buffer
		}
	}
}

// read returns the next message, in buf where it fits.
func (c *conn) read(in *bufio.Reader, buf []byte) ([]byte, error) {
	if err := c.readBy(c.r.cfg.TCPIdle); err != nil {
		return nil, err
	}
	var length [lengthLen]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return nil, err
	}
	if err := c.readBy(c.r.messageTime); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n > cap(buf) {
		buf = make([]byte, n)
	}
	_, err := io.ReadFull(in, buf[:n])
	return buf[:n], err
}

// readBy sets when reading fails: after d, or at the end of a drain.
func (c *conn) readBy(d time.Duration) error {
	for {
		by, until := c.deadline(d), c.drained.Load()
		if until != 0 {
			by = time.Unix(0, until)
		}
		if err := c.nc.SetReadDeadline(by); err != nil {
			return err
		}
		if c.drained.Load() == until { // asked after the deadline is set: drain does it the other way round
			return nil
		}
	}
}

// deadline returns when something that may take d has taken too long.
func (c *conn) deadline(d time.Duration) time.Time {
	if c.stranger {
		d = min(d, c.r.strangerTime)
	}
	return time.Now().Add(d)
}

// handle answers one request, which was counted busy. It reports whether the
// connection goes on.
func (c *conn) handle(ctx context.Context, w *worker, req []byte) bool {
	start := time.Now()
	c.r.turns.Enter(c.network)
	w.pause = c.r.turns.Pauser(c.network)
	buf := tcpBuffers.Get().(*[]byte) // not while waiting
	defer tcpBuffers.Put(buf)
	resp, later := w.respond(req, c.from, (*buf)[lengthLen:lengthLen]) // never panics
	c.r.turns.Leave(c.network)
	if later == nil {
		w.countAlone(resp, start)
		// A stranger is refused once, and then disconnected.
		return c.write(*buf, resp) && !c.stranger
	}
	c.slots <- struct{}{} // freed when that response is written, or given up
	c.deferred.Go(func() {
		defer later.done() // no earlier: unread responses are its network's
		// There may be thousands of these: a buffer for the usual answer has to do.
		buf := make([]byte, lengthLen, lengthLen+minUDPSize)
		resp := later.resolve(ctx, buf[lengthLen:])
		later.countAlone(resp, start)
		c.write(buf, resp)
		<-c.slots
	})
	return true
}

// write sends a response, nil being none, with its length in one write: some
// clients read each message with a single read. resp stands in buf behind room for the length.
// It ends the request: the connection is idle again. A client that does not
// read its response in time loses the connection; write then reports false.
func (c *conn) write(buf, resp []byte) bool {
	defer c.busy.Add(-1)
	defer func() { c.used.Store(time.Now().UnixNano()) }()
	if resp == nil {
		return true
	}
	buf = append(buf[:lengthLen], resp...) // moves nothing where resp is there already
	binary.BigEndian.PutUint16(buf, uint16(len(resp)))
	c.writing.Lock()
	defer c.writing.Unlock()
	err := c.nc.SetWriteDeadline(c.deadline(c.r.messageTime))
	if err == nil {
		_, err = c.nc.Write(buf)
	}
	if err != nil {
		c.stats.writeErrs.Add(1)
		c.close()
	}
	return err == nil
}

// drain ends serve once the requests are answered that have come by then.
func (c *conn) drain(by time.Time) {
	c.drained.Store(by.UnixNano())
	// Only a closed connection refuses, and serve ends on that as well.
	_ = c.nc.SetReadDeadline(by)
}

// lastLook is how long a client may take to close a connection that dnsd ends.
const lastLook = 500 * time.Millisecond

// end closes the connection. Where it is drained, the client is told first that no
// more responses come, and what it sends until it knows is read: closing would answer
// that with a reset, and a client that gets one does not see the responses before it.
func (c *conn) end() {
	defer c.close()
	if c.drained.Load() == 0 || c.nc.CloseWrite() != nil || c.nc.SetReadDeadline(time.Now().Add(lastLook)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c.nc) // however it ends
}

// close ends the connection at once. May be called more than once.
func (c *conn) close() { c.nc.Close() }
