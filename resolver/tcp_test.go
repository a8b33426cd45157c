package resolver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"dnsd/resolver/forward"
)

// dialFrom connects from a loopback address.
func dialFrom(t *testing.T, from string, addr netip.AddrPort) net.Conn {
	t.Helper()
	c, err := net.DialTCP("tcp", &net.TCPAddr{IP: net.ParseIP(from)}, net.TCPAddrFromAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// works asks a question on c and reports whether it is answered.
func works(t *testing.T, c net.Conn) bool {
	t.Helper()
	req := query(t, "my-app.internal.", dns.TypeAAAA)
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(req))), req...)); err != nil {
		return false
	}
	resp, err := receive(TCP, c)
	return err == nil && len(unpack(t, resp).Answer) == 3
}

// closed reports whether the server has closed c without a word.
func closed(t *testing.T, c net.Conn) bool {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	if errors.Is(err, errTimeout(err)) {
		t.Fatal("the connection is open and silent")
	}
	return n == 0 && err != nil
}

func errTimeout(err error) error {
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		return err
	}
	return io.ErrNoProgress // none that err is
}

// TestOneWritePerMessage: a client that reads each message with a single read
// gets it whole, length and all. Were they two writes some of these reads would
// return the length alone.
func TestOneWritePerMessage(t *testing.T) {
	g := newGate(t)
	_, addr, _ := start(t, withForwarder(&g.fakeForwarder))
	c := dial(t, TCP, addr)
	defer c.Close()
	b := make([]byte, 1<<16)
	for i := range 200 {
		name := []string{"my-app.internal.", "otherhost."}[i%2] // at once, deferred
		send(t, TCP, c, query(t, name, dns.TypeAAAA))
		n, err := c.Read(b)
		if err != nil || n != 2+int(binary.BigEndian.Uint16(b)) {
			t.Fatalf("one read returns %d bytes, %v, of a message of %d", n, err, binary.BigEndian.Uint16(b))
		}
	}
}

func TestPipelining(t *testing.T) {
	_, addr, _ := start(t)
	c := dial(t, TCP, addr)
	defer c.Close()
	var all []byte
	const n = 500
	for i := range n {
		req := query(t, fmt.Sprintf("n%03d.internal.", i), dns.TypeAAAA, withID(uint16(i)))
		all = append(binary.BigEndian.AppendUint16(all, uint16(len(req))), req...)
	}
	if _, err := c.Write(all); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		resp, err := receive(TCP, c)
		if err != nil {
			t.Fatal(err)
		}
		if m := unpack(t, resp); int(m.Id) != i || m.Question[0].Name != fmt.Sprintf("n%03d.internal.", i) {
			t.Fatalf("response %d is\n%v", i, m)
		}
	}
}

// TestManyWaitingOnOneConnection: more questions than may wait at a time are all
// answered, the later ones when there is room.
func TestManyWaitingOnOneConnection(t *testing.T) {
	g := newGate(t)
	_, addr, _ := start(t, func(c *Config) { c.Forward = g })
	c := dial(t, TCP, addr)
	defer c.Close()
	const n = 3 * maxPipelined
	for i := range n {
		send(t, TCP, c, query(t, fmt.Sprintf("waiting%02d.", i), dns.TypeA, withID(uint16(i))))
	}
	eventually(t, "as many as may are waiting", func() bool { return g.waiting.Load() == maxPipelined })
	if !works(t, dialFrom(t, "127.0.0.1", addr)) || g.waiting.Load() != maxPipelined {
		t.Errorf("%d questions of one connection are waiting, want %d", g.waiting.Load(), maxPipelined)
	}
	close(g.open)
	seen := make(map[uint16]bool)
	for range n {
		resp, err := receive(TCP, c)
		if err != nil {
			t.Fatal(err)
		}
		seen[unpack(t, resp).Id] = true
	}
	if len(seen) != n {
		t.Errorf("%d answered, want %d", len(seen), n)
	}
}

// TestUnreadForwardedAnswers: one that its client does not take is in the way of
// its network's next questions, and of nothing once it is read.
func TestUnreadForwardedAnswers(t *testing.T) {
	const size = 50_000
	reply := &forward.Reply{EDE: []EDE{{Text: strings.Repeat("x", size)}}}
	f := &fakeForwarder{resolve: func(context.Context, *forward.Query) *forward.Reply { return reply }}
	r := newResolver(t, withForwarder(f))
	r.messageTime = time.Hour
	c := dialFrom(t, "127.0.0.1", run(t, r))
	const n = 3 * maxPipelined
	for range n {
		send(t, TCP, c, query(t, "example.com.", dns.TypeA, edns(1232)))
	}
	// And one more, which is not looked at further before one of them is out.
	eventually(t, "as many as may are in the way", func() bool { return f.places.Load() == maxPipelined+1 })
	for range n {
		if resp, err := receive(TCP, c); err != nil || len(resp) < size || unpack(t, resp).Rcode != 0 {
			t.Fatalf("%d bytes, %v", len(resp), err)
		}
	}
	eventually(t, "nothing is in the way", func() bool { return f.places.Load() == 0 })
	for range n {
		send(t, TCP, c, query(t, "example.com.", dns.TypeA, edns(1232)))
	}
	eventually(t, "they are in the way again", func() bool { return f.places.Load() == maxPipelined+1 })
	c.Close()
	eventually(t, "nothing is in the way once the client has gone", func() bool { return f.places.Load() == 0 })
}

// TestAnswersAfterHalfClose: a client may close its side once it has asked.
func TestAnswersAfterHalfClose(t *testing.T) {
	g := newGate(t)
	_, addr, _ := start(t, func(c *Config) { c.Forward = g })
	c := dial(t, TCP, addr).(*net.TCPConn)
	defer c.Close()
	send(t, TCP, c, query(t, "waiting01.", dns.TypeA))
	send(t, TCP, c, query(t, "my-app.internal.", dns.TypeAAAA))
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the question is waiting", func() bool { return g.waiting.Load() == 1 })
	close(g.open)
	for range 2 {
		if _, err := receive(TCP, c); err != nil {
			t.Fatal(err)
		}
	}
	if !closed(t, c) {
		t.Error("the connection stays open")
	}
}

func TestByteByByte(t *testing.T) {
	_, addr, _ := start(t)
	c := dial(t, TCP, addr)
	defer c.Close()
	req := query(t, "my-app.internal.", dns.TypeAAAA)
	for _, b := range append(binary.BigEndian.AppendUint16(nil, uint16(len(req))), req...) {
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if resp, err := receive(TCP, c); err != nil || len(unpack(t, resp).Answer) != 3 {
		t.Errorf("response %x, %v", resp, err)
	}
}

// TestBadClients: each costs itself its connection and nobody else anything.
func TestBadClients(t *testing.T) {
	for name, behave := range map[string]func(net.Conn){
		"silent":             func(net.Conn) {},
		"half-a-length":      func(c net.Conn) { c.Write([]byte{0}) },
		"half-a-message":     func(c net.Conn) { c.Write([]byte{0, 100, 1, 2, 3}) },
		"length-is-a-lie":    func(c net.Conn) { c.Write(append([]byte{0xff, 0xff}, make([]byte, 100)...)) },
		"length-but-no-more": func(c net.Conn) { c.Write([]byte{0xff, 0xff}) },
		"http":               func(c net.Conn) { io.WriteString(c, "GET / HTTP/1.1\r\nHost: dnsd\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newResolver(t, func(c *Config) { c.TCPIdle = 50 * time.Millisecond })
			r.messageTime = 50 * time.Millisecond
			addr := run(t, r)
			c := dial(t, TCP, addr)
			defer c.Close()
			behave(c)
			if !works(t, dialFrom(t, "127.0.0.1", addr)) {
				t.Error("another client gets no answer")
			}
			if !closed(t, c) {
				t.Error("the connection is not closed")
			}
			if !works(t, dialFrom(t, "127.0.0.1", addr)) {
				t.Error("afterwards another client gets no answer")
			}
		})
	}
}

// TestSlowReader: a client that does not take its responses loses its connection.
func TestSlowReader(t *testing.T) {
	r := newResolver(t)
	r.messageTime = 100 * time.Millisecond
	addr := run(t, r)
	c := dial(t, TCP, addr)
	defer c.Close()
	var all []byte
	req := query(t, "huge.internal.", dns.TypeAAAA)
	for range 500 { // 32 MB of answers: more than both ends' buffers
		all = append(binary.BigEndian.AppendUint16(all, uint16(len(req))), req...)
	}
	c.Write(all) // may fail when the server hangs up
	eventually(t, "the response could not be written", func() bool {
		return works(t, dialFrom(t, "127.0.0.1", addr)) && gathered(t, r, "dnsd_write_errors_total", "proto", "tcp") == 1
	})
	n, err := io.Copy(io.Discard, c)
	if n > 500*60_000 || errors.Is(err, errTimeout(err)) {
		t.Errorf("the connection gave %d bytes, %v", n, err)
	}
}

// TestSilentMessages: what gets no answer leaves the connection as it is.
func TestSilentMessages(t *testing.T) {
	_, addr, _ := start(t)
	c := dialFrom(t, "127.0.0.1", addr)
	for _, msg := range [][]byte{{}, {1, 2, 3}, raw(0x8000, [4]uint16{1}, rawQuestion)} {
		send(t, TCP, c, msg)
	}
	if !works(t, c) {
		t.Error("no answer after messages that have none")
	}
}

func TestConnectionsOfOneClient(t *testing.T) {
	r, addr, _ := start(t, func(c *Config) { c.MaxTCPConns = 8 * perClientShare })
	use := func(c net.Conn) {
		t.Helper()
		if !works(t, c) {
			t.Fatal("no answer")
		}
		// The server writes down that it is idle after the client has the answer.
		eventually(t, "all connections are idle", r.conns.quiet)
	}
	var conns []net.Conn
	for range 8 {
		c := dialFrom(t, "127.0.0.1", addr)
		use(c)
		conns = append(conns, c)
	}
	other := dialFrom(t, "127.0.0.2", addr)
	use(other)
	use(conns[0]) // conns[1] is now idle longest
	if !works(t, dialFrom(t, "127.0.0.1", addr)) {
		t.Error("a ninth connection gets no answer")
	}
	if !closed(t, conns[1]) || !works(t, conns[0]) || !works(t, conns[2]) || !works(t, other) {
		t.Error("not the one that was idle longest had to go")
	}
	if n := gathered(t, r, "dnsd_tcp_connections"); n != 9 {
		t.Errorf("dnsd_tcp_connections is %v, want 9", n)
	}
	if n := gathered(t, r, "dnsd_tcp_connections_evicted_total"); n != 1 {
		t.Errorf("dnsd_tcp_connections_evicted_total is %v, want 1", n)
	}
}

// TestConnectionsOfOneNetwork: where all that it may hold are busy, and only
// there, a new one is turned away.
func TestConnectionsOfOneNetwork(t *testing.T) {
	g := newGate(t)
	r, addr, _ := start(t, func(c *Config) { c.Forward, c.MaxTCPConns = g, 6 })
	var busy []net.Conn
	for i := range 3 {
		c := dialFrom(t, fmt.Sprintf("127.0.0.%d", 10+i), addr)
		send(t, TCP, c, query(t, "waiting01.", dns.TypeA))
		busy = append(busy, c)
	}
	eventually(t, "three questions are waiting", func() bool { return g.waiting.Load() == 3 })
	if c := dialFrom(t, "127.0.0.20", addr); !closed(t, c) {
		t.Error("a fourth connection was taken")
	}
	if n := gathered(t, r, "dnsd_tcp_connections_refused_total"); n != 1 {
		t.Errorf("dnsd_tcp_connections_refused_total is %v, want 1", n)
	}
	close(g.open)
	for _, c := range busy {
		if _, err := receive(TCP, c); err != nil {
			t.Errorf("a busy connection lost its answer: %v", err)
		}
	}
	eventually(t, "a new connection is taken", func() bool { return works(t, dialFrom(t, "127.0.0.20", addr)) })
}

// quiet reports whether all connections are idle.
func (t *connTable) quiet() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.open {
		if _, idle := c.idle(); !idle {
			return false
		}
	}
	return true
}

// TestShortOf: what passes when others give something back, and what does not.
func TestShortOf(t *testing.T) {
	for err, want := range map[error]bool{syscall.EMFILE: true, syscall.ENFILE: true, syscall.ENOBUFS: true, syscall.ENOMEM: true,
		syscall.ECONNABORTED: false, syscall.EINVAL: false, net.ErrClosed: false} {
		if got := shortOf(fmt.Errorf("accept: %w", err)); got != want {
			t.Errorf("%v: %t, want %t", err, got, want)
		}
	}
}

// TestLargeMessages: the longest request and the longest response.
func TestLargeMessages(t *testing.T) {
	_, addr, _ := start(t)
	c := dialFrom(t, "127.0.0.1", addr)
	pad := &dns.EDNS0_LOCAL{Code: 65001, Data: make([]byte, 65_000)}
	req := query(t, "huge.internal.", dns.TypeAAAA, edns(1232), option(pad))
	send(t, TCP, c, req)
	resp, err := receive(TCP, c)
	if err != nil || len(unpack(t, resp).Answer) != 2337 || bytes.Contains(resp, make([]byte, 1000)) {
		t.Errorf("%d bytes, %v", len(resp), err)
	}
	if !works(t, c) {
		t.Error("no answer afterwards")
	}
}

// TestAcceptFails: an acceptor whose listener is gone says so, and ends.
func TestAcceptFails(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	var text strings.Builder
	a := &acceptor{r: newResolver(t), listener: l, stats: &stats{proto: TCP}, log: logTo(&text)}
	if err := a.serve(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serve returned %v, want the listener's error", err)
	}
	if n := a.stats.readErrs.Load(); n != 1 || strings.Count(text.String(), "\n") != 1 || !strings.Contains(text.String(), "cannot accept") {
		t.Errorf("%d errors are counted; the log says\n%s", n, &text)
	}
}

// TestDrainedConnection: a drain ends reading, also where a request comes meanwhile.
func TestDrainedConnection(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	nc, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := &conn{r: newResolver(t, func(c *Config) { c.TCPIdle = time.Hour }), nc: nc}
	c.drain(time.Now())
	read := make(chan error)
	go func() {
		_, err := c.read(bufio.NewReader(nc), nil)
		read <- err
	}()
	select {
	case err := <-read:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("reading ended with %v", err)
		}
	case <-time.After(patience):
		t.Error("it reads on")
		nc.Close()
		<-read
	}
}
