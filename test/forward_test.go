package test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// In these tests one network abuses forwarding, and another must get all its answers.

// halfDead is an upstream that answers all names but those that begin with "dead".
var halfDead = dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
	if strings.HasPrefix(q.Question[0].Name, "dead") {
		return
	}
	resp := new(dns.Msg).SetReply(q)
	resp.Answer = append(resp.Answer, &dns.A{
		Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
		A:   net.IPv4(192, 0, 2, 99),
	})
	w.WriteMsg(resp)
})

// serveAt has halfDead answer over UDP until the test ends.
func serveAt(t testing.TB, l *lab.Lab, at string) {
	t.Helper()
	conn, err := l.ListenUDP(at)
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: halfDead}
	up, down := make(chan struct{}), make(chan struct{})
	server.NotifyStartedFunc = func() { close(up) }
	go func() { defer close(down); server.ActivateAndServe() }()
	<-up
	t.Cleanup(func() { server.Shutdown(); <-down })
}

// stream is a client that sends questions without waiting for answers, and counts the
// right ones.
type stream struct {
	conn    net.Conn
	name    string // with a number behind it
	sent    int
	mu      sync.Mutex
	right   map[uint16]bool
	wrong   []string
	reading chan struct{}
}

func newStream(t testing.TB, c lab.Client, name string) *stream {
	t.Helper()
	conn, err := c.Lab.Dial("udp", c.From, c.To)
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{conn: conn, name: name, right: make(map[uint16]bool), reading: make(chan struct{})}
	go s.read()
	t.Cleanup(func() {
		conn.Close()
		<-s.reading
	})
	return s
}

func (s *stream) read() {
	defer close(s.reading)
	buf := make([]byte, 65535)
	for {
		n, err := s.conn.Read(buf)
		if err != nil {
			return
		}
		m := new(dns.Msg)
		err = m.Unpack(buf[:n])
		s.mu.Lock()
		if err == nil && m.Rcode == dns.RcodeSuccess && len(m.Answer) == 1 {
			s.right[m.Id] = true
		} else {
			s.wrong = append(s.wrong, fmt.Sprintf("%s %q", dns.RcodeToString[m.Rcode], texts(m)))
		}
		s.mu.Unlock()
	}
}

// ask sends n questions at an even pace over a while.
func (s *stream) ask(t testing.TB, n int, while time.Duration) {
	t.Helper()
	for start, i := time.Now(), 0; i < n; i++ {
		time.Sleep(time.Until(start.Add(while * time.Duration(i) / time.Duration(n))))
		m := question(fmt.Sprintf("%s%d.example", s.name, s.sent), dns.TypeA, true)
		m.Id = uint16(s.sent)
		s.sent++
		b, err := m.Pack()
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := s.conn.Write(b); err != nil {
			t.Error(err)
			return
		}
	}
}

// missed waits for the answers and says what is wrong with them, empty for nothing.
func (s *stream) missed() (wrong []string) {
	lab.Until(lab.Patience/2, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.right)+len(s.wrong) >= s.sent
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.right) < s.sent {
		wrong = append(wrong, fmt.Sprintf("%d of %d answered, %d wrongly: %.5q", len(s.right), s.sent, len(s.wrong), s.wrong))
	}
	return wrong
}

// limited is dnsd with so many file descriptors.
func limited(files int, bin string, args ...string) *exec.Cmd {
	return lab.Command("/bin/sh", nil, append([]string{"-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, files), bin}, args...)...)
}

// TestUnansweredNamesOfAnother: with 1,024 descriptors, one network has thousands of names
// open that nobody answers, and takes every TCP connection it can get. Another gets
// all its answers meanwhile, and no descriptor is ever missing.
func TestUnansweredNamesOfAnother(t *testing.T) {
	t.Parallel()
	for _, upstreams := range []int{1, 3} { // with three, a question may have three sockets
		t.Run(fmt.Sprint(upstreams), func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			args := []string{"--metrics-listen", lab.Admin, "--listen", "[::]:53", "--registry", "file:" + fixture(t)}
			for i := range upstreams {
				at := fmt.Sprintf("127.0.0.1:%d", 5300+i)
				serveAt(t, l, at)
				args = append(args, "--upstream", at)
			}
			s := l.Launch(t, limited(1024, lab.Binary(t), args...))
			s.Ready(t)
			unansweredNames(t, s)
		})
	}
}

func unansweredNames(t *testing.T, s *lab.Server) {
	most, connections := 0, 0.0
	seconds := lab.Full(4, 6)
	lab.Tries(t, func() []string {
		hoarded := hoard(t, s.Lab)
		a, b := newStream(t, clientOf(s.Lab, "a"), "dead"), newStream(t, clientOf(s.Lab, "b"), "alive")
		var both sync.WaitGroup
		both.Go(func() { a.ask(t, 700*seconds, time.Duration(seconds)*time.Second) })
		both.Go(func() {
			time.Sleep(time.Second) // until there is no more to take
			b.ask(t, 50*(seconds-2), time.Duration(seconds-2)*time.Second)
		})
		for i := range 20 * (seconds - 1) {
			time.Sleep(50 * time.Millisecond)
			if i%20 == 0 {
				connections = max(connections, s.Lab.Metric(t, "dnsd_tcp_connections"))
			}
			if fds, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(s.Pid()), "fd")); err == nil {
				most = max(most, len(fds))
			}
		}
		both.Wait()
		for _, c := range hoarded {
			c.Close()
		}
		return b.missed()
	})
	t.Logf("at most %d descriptors were open", most)
	if log := s.Stderr.String(); strings.Contains(log, "too many open files") || !strings.Contains(log, "open_files=1024") {
		t.Errorf("descriptors were missing, or nothing was said of how few there are:\n%s", log)
	}
	if most < 150 {
		t.Errorf("only %d descriptors were open: this was no attack", most)
	}
	if connections < 10 || connections > 60 { // of some 220 in all, an eighth for a client
		t.Errorf("%v TCP connections were open", connections)
	}
}

// hoard opens far more TCP connections than a client may have.
func hoard(t *testing.T, l *lab.Lab) (conns []net.Conn) {
	t.Helper()
	a := clientOf(l, "a")
	for range 400 {
		c, err := l.Dial("tcp", a.From, a.To)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	return conns
}

// TestOneBoundOnly: --max-inflight alone says how many questions may wait.
func TestOneBoundOnly(t *testing.T) {
	l := newLab(t)
	serveUpstream(t, l, halfDead)
	const files = 20_000
	if err := exec.Command("/bin/sh", "-c", fmt.Sprint("ulimit -n ", files)).Run(); err != nil {
		lab.Skip(t, fmt.Sprintf("a process may not open %d files", files))
	}
	// The race detector would allow dnsd some 8,000 goroutines.
	s := l.Launch(t, limited(files, lab.PlainBinary(t), "--metrics-listen", lab.Admin, "--listen", "[::]:53",
		"--registry", "file:"+fixture(t), "--upstream", upstreamAt, "--max-inflight", "17000"))
	s.Ready(t)
	a := newStream(t, clientOf(l, "a"), "dead")
	var most float64
	if !lab.Until(lab.Patience, func() bool {
		a.ask(t, 2300, time.Second/2) // each waits for some 5 s
		most = max(most, l.Metric(t, "dnsd_forward_inflight"))
		return most > 8192
	}) {
		t.Errorf("at most %v questions wait; one network may have 8500", most)
	}
}

// forger sends ICMP port-unreachables for queries from dnsd to its upstream.
type forger struct {
	fd       int
	upstream netip.AddrPort
}

func newForger(t testing.TB, l *lab.Lab, upstream netip.AddrPort) *forger {
	t.Helper()
	f := &forger{upstream: upstream}
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if upstream.Addr().Is6() {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	var err error
	l.Do(func() { f.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto) })
	if err != nil {
		lab.Skip(t, "no raw socket: "+err.Error())
	}
	t.Cleanup(func() { unix.Close(f.fd) })
	return f
}

// refuse forges a port-unreachable for the query sent from that port. The upstream and
// dnsd have the same address.
func (f *forger) refuse(port uint16) error {
	udp := binary.BigEndian.AppendUint16(nil, port)
	udp = binary.BigEndian.AppendUint16(udp, f.upstream.Port())
	udp = append(udp, 0, 40, 0, 0)
	if f.upstream.Addr().Is6() {
		addr := f.upstream.Addr().As16()
		msg := append([]byte{1, 4, 0, 0, 0, 0, 0, 0}, 0x60, 0, 0, 0, 0, 40, unix.IPPROTO_UDP, 64) // the kernel sums it up
		msg = append(append(append(msg, addr[:]...), addr[:]...), udp...)
		return unix.Sendto(f.fd, msg, 0, &unix.SockaddrInet6{Addr: addr})
	}
	addr := f.upstream.Addr().As4()
	ip := append([]byte{0x45, 0, 0, 60, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}, append(addr[:], addr[:]...)...)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	msg := append(append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, ip...), udp...)
	binary.BigEndian.PutUint16(msg[2:], checksum(msg))
	return unix.Sendto(f.fd, msg, 0, &unix.SockaddrInet4{Addr: addr})
}

// checksum is the Internet's (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// openPorts returns the local ports of dnsd's sockets that are connected to its upstream.
func openPorts(pid int, upstream netip.AddrPort) (ports []uint16) {
	for _, table := range []string{"udp", "udp6"} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) < 3 || !strings.HasSuffix(f[2], fmt.Sprintf(":%04X", upstream.Port())) {
				continue
			}
			_, local, _ := strings.Cut(f[1], ":")
			if port, err := strconv.ParseUint(local, 16, 16); err == nil {
				ports = append(ports, uint16(port))
			}
		}
	}
	return ports
}

// TestForgedICMP: somebody forges port-unreachables, half of them for guessed ports
// and half for ports that are in use, while one network has hundreds of names
// open that nobody answers. Another gets all its answers.
func TestForgedICMP(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"127.0.0.1:5300", "[::1]:5300"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			upstream := netip.MustParseAddrPort(at)
			serveAt(t, l, at)
			s := l.Serve(t, "--listen", "[::]:53", "--registry", "file:"+fixture(t), "--upstream", at)
			f := newForger(t, l, upstream)

			lab.Tries(t, func() []string {
				before := len(s.Stderr.String())
				wrong := underForgery(t, s, f).missed()
				// Or the upstream, which is this test, had no processor.
				if strings.Contains(s.Stderr.String()[before:], "upstream is down") {
					wrong = append(wrong, "the upstream was taken for down")
				}
				return wrong
			})
		})
	}
}

// underForgery has a ask what nobody answers, b what is answered, while f forges, and
// returns what became of b's questions.
func underForgery(t *testing.T, s *lab.Server, f *forger) (b *stream) {
	while := lab.Full(2*time.Second, 5*time.Second)
	a, b := newStream(t, clientOf(s.Lab, "a"), "dead"), newStream(t, clientOf(s.Lab, "b"), "alive")
	perSecond := func(n int, d time.Duration) int { return int(float64(n) * d.Seconds()) }
	var all sync.WaitGroup
	all.Go(func() { a.ask(t, perSecond(70, while+time.Second), while+time.Second) })
	all.Go(func() {
		time.Sleep(time.Second)
		b.ask(t, perSecond(50, while), while)
	})
	forged := 0
	all.Go(func() {
		var open []uint16
		for start := time.Now(); time.Since(start) < while+time.Second; forged++ {
			time.Sleep(2 * time.Millisecond)
			port := uint16(32768 + rand.IntN(28232))
			if forged%2 == 0 {
				if len(open) == 0 {
					open = openPorts(s.Pid(), f.upstream)
				}
				if len(open) > 0 {
					port, open = open[0], open[1:]
				}
			}
			if err := f.refuse(port); err != nil {
				t.Errorf("forging: %v", err)
				return
			}
		}
	})
	all.Wait()
	t.Logf("%d forged", forged)
	return b
}

// TestClosedUpstreamFailsAtOnce: where nobody listens, questions fail long before any
// time-out, and what they say holds no address.
func TestClosedUpstreamFailsAtOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := &world{Server: l.Serve(t, "--listen", "[::]:53", "--registry", "file:"+fixture(t), "--upstream", upstreamAt, "--upstream-timeout", "1m"), ttl: 5, maxUDP: 1232, upstream: true}
	start := time.Now()
	for i := range 20 {
		resp := w.ask(t, "a", []string{"udp", "tcp"}[i%2], question(fmt.Sprintf("n%d.example", i), dns.TypeA, true))
		if resp.Rcode != dns.RcodeServerFailure || len(texts(resp)) != 1 {
			t.Fatalf("%v", resp)
		}
		for _, text := range texts(resp) {
			if strings.ContainsAny(text, "0123456789") {
				t.Errorf("%q tells an address", text)
			}
		}
	}
	if took := time.Since(start); took > lab.Patience {
		t.Errorf("took %s", took)
	}
}
