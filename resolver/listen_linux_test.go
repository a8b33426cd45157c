package resolver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// wantError checks that err says what would mend it.
func wantError(t *testing.T, err error, is error, texts ...string) {
	t.Helper()
	if !errors.Is(err, is) {
		t.Errorf("error is %v, want %v", err, is)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error lacks %q: %v", text, err)
		}
	}
}

func TestListenWithoutTheAddress(t *testing.T) {
	var err error
	elsewhere(t, nil, func() { err = newResolver(t, listenOn("[fdaa::3]:53", "192.0.2.7:53")).Listen() })
	wantError(t, err, syscall.EADDRNOTAVAIL, "[fdaa::3]:53 (udp)", "ip -6 addr add fdaa::3/128 dev lo",
		"192.0.2.7:53", "ip -4 addr add 192.0.2.7/32 dev lo")
}

func TestListenWithoutPrivilege(t *testing.T) {
	var err error
	onThread(t, func() string {
		// A network of its own has the usual first unprivileged port, 1024.
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil && unix.Geteuid() == 0 {
			return "skip: no privilege to make a network namespace"
		}
		var none [2]unix.CapUserData
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
			return "dropping privileges: " + err.Error()
		}
		err = newResolver(t, listenOn("[::]:53")).Listen()
		return ""
	})
	wantError(t, err, syscall.EACCES, "setcap cap_net_bind_service=+ep /", "root", "net.ipv4.ip_unprivileged_port_start=53")
}

// TestListenInUse: a second dnsd must not share the first one's packets, nor a
// server of UDP or TCP alone be half replaced.
func TestListenInUse(t *testing.T) {
	_, addr, _ := start(t)
	err := newResolver(t, listenOn(addr.String())).Listen()
	wantError(t, err, syscall.EADDRINUSE, addr.String()+" (udp)", "ss -lunp 'sport = :")

	tl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tl.Close()
	addr = tl.Addr().(*net.TCPAddr).AddrPort()
	err = newResolver(t, listenOn(addr.String())).Listen()
	wantError(t, err, syscall.EADDRINUSE, "(tcp)", "ss -ltnp 'sport = :")
	if uc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr)); err != nil {
		t.Errorf("UDP stays bound after a failure: %v", err)
	} else {
		uc.Close()
	}
}

// TestListenAllOrNothing: what fails is named in full, and what did not fail is
// free again.
func TestListenAllOrNothing(t *testing.T) {
	_, free, stop := start(t, listenOn("127.0.0.3:0"))
	stop()
	taken, taken2 := run(t, newResolver(t)), run(t, newResolver(t))
	err := newResolver(t, listenOn(free.String(), taken.String(), taken2.String())).Listen()
	wantError(t, err, syscall.EADDRINUSE, taken.String(), taken2.String())
	if err != nil && strings.Contains(err.Error(), free.String()) {
		t.Errorf("error names %s: %v", free, err)
	}
	run(t, newResolver(t, listenOn(free.String())))
}

func TestListenNowhere(t *testing.T) {
	if err := newResolver(t, listenOn()).Listen(); err == nil {
		t.Error("no error")
	}
}

func TestListenOnSeveral(t *testing.T) {
	r := newResolver(t, listenOn("127.0.0.1:0", "[::1]:0", "127.0.0.2:0"), func(c *Config) { c.MaxLanes = 7 })
	run(t, r)
	if len(r.Addresses()) != 3 || len(r.lanes) != 3 || r.lanes[2].most != 2 {
		t.Fatalf("addresses are %v, with %d lanes at most of 7", r.Addresses(), r.lanes[2].most)
	}
	for _, addr := range r.Addresses() {
		for _, proto := range []Proto{UDP, TCP} {
			if m := unpack(t, ask(t, proto, addr, query(t, "my-app.internal.", dns.TypeAAAA))); len(m.Answer) != 3 {
				t.Errorf("%s: %v", addr, m)
			}
		}
	}
}

func TestLeastLanes(t *testing.T) {
	r := newResolver(t, listenOn("127.0.0.1:0", "127.0.0.1:0"), func(c *Config) { c.MaxLanes = 1 })
	if run(t, r); r.lanes[0].most != 1 {
		t.Errorf("%d lanes at most of an address, want 1", r.lanes[0].most)
	}
}

// TestNetwork: which address families a socket of an address takes.
func TestNetwork(t *testing.T) {
	for _, tt := range []struct {
		want, addr string
		others     []string
	}{
		{"udp4", "127.0.0.1:53", nil}, {"udp4", "[::ffff:127.0.0.1]:53", nil}, {"udp4", "0.0.0.0:53", nil}, {"udp6", "[::1]:53", nil},
		{"udp", "[::]:53", nil}, {"udp", "[::]:53", []string{"127.0.0.1:53", "0.0.0.0:54"}}, {"udp6", "[::]:53", []string{"0.0.0.0:54", "0.0.0.0:53"}},
		{"udp6", "[::1]:53", []string{"0.0.0.0:53"}},
	} {
		r := newResolver(t, listenOn(append(tt.others, tt.addr)...))
		if got := r.network("udp", netip.MustParseAddrPort(tt.addr)); got != tt.want {
			t.Errorf("%s beside %v is %s, want %s", tt.addr, tt.others, got, tt.want)
		}
	}
}

// TestBothWildcards: [::] leaves IPv4 to 0.0.0.0 where both are wanted.
func TestBothWildcards(t *testing.T) {
	r := newResolver(t, listenOn("0.0.0.0:53", "[::]:53"))
	var err error
	elsewhere(t, nil, func() { err = r.Listen() })
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range r.sockets {
		s.conn.Close()
	}
	for _, a := range r.acceptors {
		a.stop()
	}
}

// queueOf returns the size of a socket's receive buffer as it is asked for, in bytes.
func queueOf(t *testing.T, c syscall.Conn) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = control(raw, func(fd int) (err error) {
			n, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
			return err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return n / 2
}

// TestQueues: the kernel holds as much for an address as it is asked to, with one
// socket or with many, given or not; without the privilege to ask for that, as much as
// it grants, which is said, and never less than a socket had before.
func TestQueues(t *testing.T) {
	onThread(t, func() string {
		if !mayForce() {
			return "skip: no privilege for long queues"
		}
		queues := func(n int, given *Resolver) (r *Resolver, said string) {
			var log bytes.Buffer
			r = newResolver(t, func(c *Config) {
				if c.Sockets, c.Log = n, logTo(&log); given != nil {
					c.Listen, c.Given = given.Addresses(), filesOf(t, given)
				}
			})
			if err := r.Listen(); err != nil {
				panic(err)
			}
			t.Cleanup(func() { closeAll(r) })
			return r, log.String()
		}
		for n, want := range map[int]int{1: 16 << 20, 2: 8 << 20, 5: 4 << 20} {
			r, said := queues(n, nil)
			for i, s := range r.sockets[:n] {
				if got := queueOf(t, s.conn.(syscall.Conn)); got != want {
					t.Errorf("socket %d of %d has a queue of %d bytes, want %d", i, n, got, want)
				}
			}
			if strings.Contains(said, "rmem_max") {
				t.Error(said)
			}
		}
		long, _ := queues(1, nil)
		short := newResolver(t)
		if err := short.Listen(); err != nil {
			return err.Error()
		}
		t.Cleanup(func() { closeAll(short) })
		for _, s := range short.sockets {
			s.conn.(*net.UDPConn).SetReadBuffer(4096)
		}
		grown, _ := queues(1, short)
		if got := queueOf(t, grown.sockets[0].conn.(syscall.Conn)); got < leastReceiveBuffer {
			t.Errorf("a given socket has a queue of %d bytes", got)
		}

		if err := dropCapabilities(); err != nil {
			return err.Error()
		}
		if mayForce() {
			return "the thread keeps its privilege"
		}
		most := mostReceiveBuffer(receiveBuffer)
		r, said := queues(1, nil)
		if got := queueOf(t, r.sockets[0].conn.(syscall.Conn)); got != most {
			t.Errorf("without the privilege a queue has %d bytes, want %d", got, most)
		}
		if most < receiveBuffer != strings.Contains(said, "rmem_max") {
			t.Errorf("granted are %d bytes, and it says %q", most, said)
		}
		if r, _ = queues(1, long); queueOf(t, r.sockets[0].conn.(syscall.Conn)) != receiveBuffer {
			t.Error("without the privilege a longer queue becomes shorter")
		}
		return ""
	})
}

func mayForce() bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20) == nil
}

// dropCapabilities takes all of them from the calling thread.
func dropCapabilities() error {
	var none [2]unix.CapUserData // of version 3
	return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
}

func TestReplyControl(t *testing.T) {
	const iface = unix.SizeofCmsghdr + 16 // where the interface's index is
	for _, tt := range []struct {
		addr string
		want byte
	}{{"fdaa::3", 0}, {"fe80::1", 7}, {"::ffff:192.0.2.1", 0}} {
		in := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: netip.MustParseAddr(tt.addr).As16(), Ifindex: 7})
		out := replyControl(in)
		if len(out) != len(in) || out[iface] != tt.want {
			t.Errorf("%s: control message is %x, want interface %d", tt.addr, out, tt.want)
		}
	}
	four := unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: 7, Spec_dst: [4]byte{127, 0, 0, 1}})
	// Another message of the same level that is as long.
	ttl := append(unix.UnixRights(1, 2, 3, 4), four...)
	other := (*unix.Cmsghdr)(unsafe.Pointer(&ttl[0]))
	other.Level, other.Type = unix.IPPROTO_IP, unix.IP_RECVORIGDSTADDR
	for _, in := range [][]byte{bytes.Clone(four), append(unix.UnixRights(1), four...), ttl} {
		if out := replyControl(in); len(out) != len(four) || out[unix.SizeofCmsghdr] != 0 || out[unix.SizeofCmsghdr+4] != 127 {
			t.Errorf("control message is %x, want the address without the interface", out)
		}
	}
	none := unix.UnixRights(1)[:unix.SizeofCmsghdr] // says that there is more than there is
	for _, oob := range [][]byte{nil, {1, 2, 3}, unix.UnixRights(1), none} {
		if out := replyControl(oob); len(out) != 0 {
			t.Errorf("%x makes %x, want nothing", oob, out)
		}
		if at, ok := receivedAt(oob); ok || !at.IsZero() {
			t.Errorf("%x was received at %v", oob, at)
		}
	}
	stamp := unix.PktInfo4(&unix.Inet4Pktinfo{}) // has no more than 12 bytes
	stamp = append(stamp, unix.UnixRights(1, 2, 3, 4)...)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&stamp[len(four)]))
	h.Level, h.Type = unix.SOL_SOCKET, unix.SCM_TIMESTAMPNS
	data := stamp[len(four)+unix.SizeofCmsghdr:]
	binary.NativeEndian.PutUint64(data, 1e9)
	binary.NativeEndian.PutUint64(data[8:], 5)
	if at, ok := receivedAt(stamp); !ok || !at.Equal(time.Unix(1e9, 5)) {
		t.Errorf("received at %v, %t", at, ok)
	}
}

// TestNumberOfGivenSockets: where it is another one than was asked for, that is said.
func TestNumberOfGivenSockets(t *testing.T) {
	for sockets, said := range map[int]bool{2: false, 5: true} {
		old, _, _ := start(t, listenOn("127.0.0.1:0"))
		var log syncBuffer
		startAfter(t, old, listenOn("127.0.0.1:0"), func(c *Config) { c.Sockets, c.Log = sockets, logTo(&log) })
		if log.contains("another number of sockets than --sockets says") != said {
			t.Errorf("2 sockets where %d are wanted: the log says\n%s", sockets, log.String())
		}
	}
}
