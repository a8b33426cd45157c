package resolver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// filesOf returns r's sockets as another process is given them.
func filesOf(t testing.TB, r *Resolver) (files []*os.File) {
	t.Helper()
	for _, s := range r.Sockets() {
		raw, err := s.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := control(raw, func(fd int) error {
			copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			files = append(files, os.NewFile(uintptr(copied), s.Name))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// startAfter serves a resolver with the sockets of old.
func startAfter(t testing.TB, old *Resolver, change ...func(*Config)) (r *Resolver, addr netip.AddrPort, stop func()) {
	t.Helper()
	return start(t, append(change, func(c *Config) { c.Given = filesOf(t, old) })...)
}

// answered asks one question, which must be answered rightly. Questions of ask would
// have to be answered in their order.
func answered(t testing.TB, proto Proto, addr netip.AddrPort) {
	t.Helper()
	c := dial(t, proto, addr)
	defer c.Close()
	send(t, proto, c, query(t, "my-app.internal.", dns.TypeAAAA))
	if resp, err := receive(proto, c); err != nil || len(unpack(t, resp).Answer) != 3 {
		t.Fatalf("%s: %x, %v", addr, resp, err)
	}
}

// TestGivenSockets: a resolver answers from another one's sockets, beside it and
// after it, and no question is lost.
func TestGivenSockets(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"} {
		old, addr, stopOld := start(t, listenOn(listen))
		r, taken, _ := startAfter(t, old, listenOn(listen), func(c *Config) { c.Sockets = 5 })
		if taken != addr || len(r.sockets) != len(old.sockets) {
			t.Fatalf("%s: %s with %d sockets is taken over as %s with %d", listen, addr, len(old.sockets), taken, len(r.sockets))
		}
		if asked := addr.Addr(); asked.IsUnspecified() {
			addr = netip.AddrPortFrom(netip.MustParseAddr("127.8.9.10"), addr.Port()) // which has to answer
		}
		asks := func() {
			for _, proto := range []Proto{UDP, TCP} {
				for range 50 {
					answered(t, proto, addr)
				}
			}
		}
		asks() // beside it
		stopOld()
		asks() // after it
		if n := r.stats[0].readErrs.Load() + r.stats[1].readErrs.Load(); n != 0 {
			t.Errorf("%s: %d errors", listen, n)
		}
	}
}

// TestPlainGivenSockets: sockets that systemd has bound have none of the options that
// dnsd sets, and TCP's alone or UDP's alone may be given.
func TestPlainGivenSockets(t *testing.T) {
	for _, given := range []string{"udp tcp", "udp", "tcp"} {
		tl, err := net.Listen("tcp", "[::]:0")
		if err != nil {
			t.Fatal(err)
		}
		defer tl.Close()
		addr := tl.Addr().(*net.TCPAddr).AddrPort()
		uc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		if err != nil {
			t.Fatal(err)
		}
		defer uc.Close()
		var files []*os.File
		for proto, c := range map[string]interface{ File() (*os.File, error) }{"udp": uc, "tcp": tl.(*net.TCPListener)} {
			f, err := c.File()
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(given, proto) {
				files = append(files, f)
			} else {
				f.Close()
			}
		}
		uc.Close()
		tl.Close()
		_, taken, stop := start(t, listenOn(addr.String()), func(c *Config) { c.Given = files })
		for _, at := range []string{"127.8.9.10", "::1"} {
			for _, proto := range []Proto{UDP, TCP} {
				to := netip.AddrPortFrom(netip.MustParseAddr(at), taken.Port())
				if m := unpack(t, ask(t, proto, to, query(t, "my-app.internal.", dns.TypeAAAA))); len(m.Answer) != 3 {
					t.Errorf("given %s: %s: %v", given, to, m)
				}
			}
		}
		stop()
	}
}

// TestGivenSocketsOfNoAddress: what is not configured is closed and said; what is no
// socket for DNS harms nothing.
func TestGivenSocketsOfNoAddress(t *testing.T) {
	old, addr, stopOld := start(t, listenOn("127.0.0.3:0"))
	pipe, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	unixListener, err := net.Listen("unix", t.TempDir()+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer unixListener.Close()
	unixFile, err := unixListener.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	_, other, _ := start(t, func(c *Config) {
		c.Given, c.Log = append(filesOf(t, old), pipe, unixFile), logTo(&log)
	})
	stopOld()
	if n := strings.Count(log.String(), "belongs to no --listen address"); n != len(old.sockets)+1 {
		t.Errorf("%d sockets are closed, want %d:\n%s", n, len(old.sockets)+1, &log)
	}
	if n := strings.Count(log.String(), "cannot be used"); n != 2 {
		t.Errorf("%d files cannot be used, want 2:\n%s", n, &log)
	}
	if uc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr)); err != nil {
		t.Errorf("%s stays bound: %v", addr, err)
	} else {
		uc.Close()
	}
	if m := unpack(t, ask(t, UDP, other, query(t, "my-app.internal.", dns.TypeAAAA))); len(m.Answer) != 3 {
		t.Error(m)
	}
}

// TestDrainIsPolite: a client that goes on sending over a connection that dnsd ends
// reads every response and then the end, never a reset, and one whose connection the
// kernel has accepted before is answered.
func TestDrainIsPolite(t *testing.T) {
	zone := internalZone()
	zone.answers["slow"] = func(*Question) *Answer { // so that there is always one that waits
		time.Sleep(200 * time.Microsecond)
		return &Answer{NoStore: true}
	}
	r, addr, stop := start(t, func(c *Config) { c.Zones = []Zone{zone} })
	c := dial(t, TCP, addr)
	defer c.Close()
	var sending sync.WaitGroup
	ended, window := make(chan struct{}), make(chan struct{}, 50)
	sending.Go(func() {
		q := query(t, "slow.internal.", dns.TypeAAAA)
		q = append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)
		for {
			select {
			case <-ended:
				return
			case window <- struct{}{}:
			}
			if _, err := c.Write(q); err != nil {
				t.Errorf("sending: %v", err)
				return
			}
		}
	})
	var stopped sync.WaitGroup
	for n := 0; ; n++ {
		if n == 20 {
			stopped.Go(stop)
		}
		if _, err := receive(TCP, c); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Errorf("after %d responses: %v", n, err)
			break
		}
		<-window
	}
	close(ended)
	sending.Wait()
	c.Close()
	stopped.Wait()
	if n := len(r.conns.open); n != 0 {
		t.Errorf("%d connections are left", n)
	}

	tl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tl.Close()
	defer dial(t, TCP, tl.Addr().(*net.TCPAddr).AddrPort()).Close()
	nc, err := tl.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	late := &conn{r: r, nc: nc.(*net.TCPConn)}
	if !r.conns.add(late) || late.drained.Load() == 0 {
		t.Error("a connection that the kernel has accepted is not answered any more")
	}
}

// TestTurned: a loop that stands still has not turned, and one that is idle has.
func TestTurned(t *testing.T) {
	entered, open := make(chan struct{}, 1), make(chan struct{})
	zone := internalZone()
	zone.answers["gate"] = func(*Question) *Answer {
		entered <- struct{}{}
		<-open
		return &Answer{NoStore: true}
	}
	r, addr, _ := start(t, func(c *Config) { c.Zones, c.Sockets = []Zone{zone}, 2 })
	r.Turned()
	for i := range 3 {
		eventually(t, fmt.Sprint("all have turned, ", i), func() bool { return r.Turned() })
	}
	c := dial(t, UDP, addr)
	defer c.Close()
	send(t, UDP, c, query(t, "gate.internal.", dns.TypeAAAA))
	<-entered
	for range 20 { // the loop has turned before
		time.Sleep(time.Millisecond)
		r.Turned()
	}
	for range 20 {
		time.Sleep(time.Millisecond)
		if r.Turned() {
			t.Fatal("one loop stands still, and all have turned")
		}
	}
	close(open)
	if _, err := receive(UDP, c); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all have turned again", func() bool { return r.Turned() })
	for _, proto := range []Proto{UDP, TCP} { // and still answer
		for range 20 {
			answered(t, proto, addr)
		}
	}
}
