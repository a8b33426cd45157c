package udpbatch

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestPartialSends(t *testing.T) {
	c, server, client := pair(t, "127.0.0.1:0")
	calls, left := 0, 0
	c.batch.sendmmsg = func(fd uintptr, hdrs *mmsghdr, n int) (int, syscall.Errno) {
		if left == 0 {
			left = n // the first call of a batch has all of it
		} else if n != left {
			t.Errorf("%d replies are to be sent, want the %d that are left", n, left)
		}
		calls++
		if calls%3 == 0 {
			return -1, unix.EINTR
		}
		n, errno := sendmmsg(fd, hdrs, min(n, 2))
		left -= n
		return n, errno
	}
	for range 7 {
		send(t, client, server, "x")
	}
	for got := 0; got < 7; {
		got += echo(t, c)
	}
	for range 7 {
		if got := receive(t, client); got != "X" {
			t.Fatalf("received %q", got)
		}
	}
}

// A destination that the kernel refuses costs its own reply alone.
func TestRefusedDestination(t *testing.T) {
	for name, errno := range map[string]syscall.Errno{"unreachable": unix.EHOSTUNREACH, "too long": unix.EMSGSIZE, "firewall": unix.EPERM} {
		t.Run(name, func(t *testing.T) {
			c, server, client := pair(t, "127.0.0.1:0")
			refused := 0
			c.Failed = func(_, _ []byte, _ netip.AddrPort, err error) {
				if !errors.Is(err, errno) {
					t.Errorf("reported %v, want %v", err, errno)
				}
				refused++
			}
			left := 1 // how many replies go before the refused one
			c.batch.sendmmsg = func(fd uintptr, hdrs *mmsghdr, _ int) (int, syscall.Errno) {
				if left == 0 && refused == 0 {
					return -1, errno
				}
				n, errno := sendmmsg(fd, hdrs, 1)
				left -= n
				return n, errno
			}
			for _, text := range []string{"a", "b", "c"} {
				send(t, client, server, text)
			}
			for got := 0; got < 3; {
				got += echo(t, c)
			}
			if a, b := receive(t, client), receive(t, client); a != "A" || b != "C" || refused != 1 || !c.Batched() {
				t.Errorf("received %q and %q with %d refused (batched: %t), want A and C, 1, true", a, b, refused, c.Batched())
			}
		})
	}
}

// Where a seccomp filter forbids one of the calls, or the kernel does not have it, the
// Conn moves one packet a call. Each case runs in a process of its own.
func TestForbiddenCalls(t *testing.T) {
	const env = "DNSD_TEST_FORBIDDEN" // number of the call and what it fails with
	if v := os.Getenv(env); v != "" {
		var call, errno uint32
		fmt.Sscan(v, &call, &errno)
		forbid(t, call, errno)
		c, server, client := pair(t, "127.0.0.1:0")
		c.Failed = func(_, _ []byte, to netip.AddrPort, err error) { t.Errorf("sending to %s failed: %v", to, err) }
		for _, text := range []string{"a", "b", "c"} {
			send(t, client, server, text)
		}
		for got := 0; got < 3; {
			got += echo(t, c)
		}
		for _, want := range []string{"A", "B", "C"} {
			if got := receive(t, client); got != want {
				t.Errorf("received %q, want %q", got, want)
			}
		}
		if n, err := c.Poll(); c.Batched() || n != 0 || err != nil {
			t.Errorf("batched: %t, Poll returns %d, %v", c.Batched(), n, err)
		}
		return
	}
	for _, errno := range []syscall.Errno{unix.ENOSYS, unix.EPERM} {
		for name, call := range map[string]int{"recvmmsg": unix.SYS_RECVMMSG, "sendmmsg": unix.SYS_SENDMMSG} {
			cmd := exec.Command(os.Args[0], "-test.run=^TestForbiddenCalls$", "-test.v")
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d", env, call, errno))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s fails with %v: %v\n%s", name, errno, err, out)
			} else if strings.Contains(string(out), "--- SKIP") {
				skip(t, string(out))
			}
		}
	}
}

// forbid has a call fail from now on in this process, in all of its threads.
func forbid(t *testing.T, call, errno uint32) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | errno},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		skip(t, fmt.Sprintf("no seccomp here: %v", err))
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&program))); errno != 0 {
		skip(t, fmt.Sprintf("no seccomp here: %v", errno))
	}
}

// A full send buffer: what there is no room for is handed over, nothing waits.
func TestFullBuffer(t *testing.T) {
	for _, room := range []int{0, 1, 2} {
		c, server, client := pair(t, "127.0.0.1:0")
		left := room
		c.batch.sendmmsg = func(fd uintptr, hdrs *mmsghdr, n int) (int, syscall.Errno) {
			if left == 0 {
				return -1, unix.EAGAIN
			}
			n, errno := sendmmsg(fd, hdrs, min(n, left))
			left -= n
			return n, errno
		}
		var over []string
		c.Failed = func(reply, _ []byte, to netip.AddrPort, err error) {
			if !errors.Is(err, ErrFull) {
				t.Errorf("sending to %s failed: %v", to, err)
			}
			if to != client.LocalAddr().(*net.UDPAddr).AddrPort() {
				t.Errorf("reply to %s, want %s", to, client.LocalAddr())
			}
			over = append(over, string(reply))
		}
		want := []string{"A", "B", "C"}
		for _, text := range []string{"a", "b", "c"} {
			send(t, client, server, text)
		}
		for got := 0; got < 3; {
			got += echo(t, c)
		}
		for _, want := range want[:room] {
			if got := receive(t, client); got != want {
				t.Errorf("room for %d: received %q, want %q", room, got, want)
			}
		}
		if !slices.Equal(over, want[room:]) || !c.Batched() {
			t.Errorf("room for %d: %q is handed over (batched: %t), want %q, true", room, over, c.Batched(), want[room:])
		}
	}
}

// Poll waits for nothing and reads what is there, whatever deadline has passed.
func TestPoll(t *testing.T) {
	c, server, client := pair(t, "127.0.0.1:0")
	server.SetReadDeadline(time.Unix(1, 0))
	if n, err := c.Poll(); n != 0 || err != nil {
		t.Errorf("with nothing there Poll returns %d, %v", n, err)
	}
	send(t, client, server, "a")
	if n, err := c.Poll(); n != 1 || err != nil || string(c.Packet(0)) != "a" {
		t.Errorf("Poll returns %d, %v", n, err)
	}
	if n, err := c.Poll(); n != 0 || err != nil {
		t.Errorf("once more Poll returns %d, %v", n, err)
	}
	server.Close()
	if n, err := c.Poll(); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("of a closed socket Poll returns %d, %v", n, err)
	}
}

// A packet without control messages leaves room for those of the next.
func TestControl(t *testing.T) {
	c, server, client := pair(t, "127.0.0.1:0")
	for _, stamps := range []int{0, 1} {
		if err := c.One.raw.Control(func(fd uintptr) {
			if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, stamps); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		send(t, client, server, "a")
		if n, err := c.Read(); n != 1 || err != nil {
			t.Fatalf("%d packets, %v", n, err)
		}
		msgs, err := unix.ParseSocketControlMessage(c.Control(0))
		if err != nil || len(msgs) != stamps || stamps > 0 && msgs[0].Header.Type != unix.SCM_TIMESTAMPNS {
			t.Errorf("control messages %+v, %v, want %d with the time", msgs, err, stamps)
		}
	}
}

// A reply leaves from the address that its control messages name.
func TestReplyControl(t *testing.T) {
	c, server, _ := pair(t, "0.0.0.0:0")
	if err := c.One.raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	to := net.UDPAddr{IP: net.IPv4(127, 0, 0, 2), Port: server.LocalAddr().(*net.UDPAddr).Port}
	client, err := net.DialUDP("udp", nil, &to) // receives from there alone
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.Write([]byte("a"))
	if n, err := c.Read(); n != 1 || err != nil {
		t.Fatalf("%d packets, %v", n, err)
	}
	c.Reply(0, append(c.Out(0), "a reply"...), c.Control(0))
	if c.Send(1); receive(t, client) != "a reply" {
		t.Error("it is another one")
	}
}

// A Sender says why it does not send.
func TestSenderErrors(t *testing.T) {
	c, server, client := pair(t, "127.0.0.1:0")
	to := client.LocalAddr().(*net.UDPAddr).AddrPort()
	if err := c.One.Send(make([]byte, 1<<16), nil, to); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("a packet that is too long: %v", err)
	}
	if err := c.One.Send([]byte("a"), nil, to); err != nil || receive(t, client) != "a" {
		t.Errorf("a packet that is not: %v", err)
	}
	server.Close()
	if err := c.One.Send([]byte("a"), nil, to); !errors.Is(err, net.ErrClosed) {
		t.Errorf("by a closed socket: %v", err)
	}
}

func TestZoneID(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for zone, want := range map[string]uint32{"": 0, "7": 7, "4294967295": 1<<32 - 1, "lo": uint32(lo.Index), "no-such-link": 0} {
		if got := zoneID(zone); got != want {
			t.Errorf("zone %q is %d, want %d", zone, got, want)
		}
	}
}

func TestDrops(t *testing.T) {
	if n, ok := Drops(new(net.UDPConn)); ok || n != 0 {
		t.Errorf("%d drops of no socket, known: %t", n, ok)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	_, closed, _ := pair(t, "127.0.0.1:0")
	closed.Close()
	for what, conn := range map[string]syscall.Conn{"a pipe": r, "a closed socket": closed} {
		if _, ok := Drops(conn); ok {
			t.Errorf("the kernel knows what %s has dropped", what)
		}
	}
	_, server, client := pair(t, "127.0.0.1:0")
	server.SetReadBuffer(4096)
	if n, ok := Drops(server); !ok || n != 0 {
		t.Fatalf("%d drops of a new socket, known: %t", n, ok)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		send(t, client, server, string(make([]byte, 1000)))
		if n, _ := Drops(server); n > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the queue overflows and no drop is counted")
		}
	}
}

// TestWaiting: what is in the queue, and no more than some times as much.
func TestWaiting(t *testing.T) {
	c, server, client := pair(t, "127.0.0.1:0")
	if n := c.Waiting(); n != 0 {
		t.Errorf("%d packets wait in an empty queue", n)
	}
	const sent = 100
	for range sent {
		send(t, client, server, "?")
	}
	if n := c.Waiting(); n < sent || n > 2*sent {
		t.Errorf("%d of %d packets wait", n, sent)
	}
	for left := sent; left > 0; {
		n, err := c.Read()
		if err != nil {
			t.Fatal(err)
		}
		left -= n
	}
	if n := c.Waiting(); n != 0 {
		t.Errorf("%d packets wait when all are read", n)
	}
	c.batch = nil
	if n := c.Waiting(); n != 0 {
		t.Errorf("%d packets are known to wait where there are no such calls", n)
	}
}
