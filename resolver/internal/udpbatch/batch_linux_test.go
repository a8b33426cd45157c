package udpbatch

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPartialSends(t *testing.T) {
	c, server, client := pair(t, "127.0.0.1:0")
	calls := 0
	c.batch.sendmmsg = func(fd uintptr, hdrs *mmsghdr, n int) (int, syscall.Errno) {
		calls++
		if calls%3 == 0 {
			return -1, unix.EINTR
		}
		return sendmmsg(fd, hdrs, min(n, 2))
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
	for name, errno := range map[string]syscall.Errno{"unreachable": unix.EHOSTUNREACH, "too long": unix.EMSGSIZE} {
		t.Run(name, func(t *testing.T) {
			c, server, client := pair(t, "127.0.0.1:0")
			refused := 0
			c.SendFailed = func(_ netip.AddrPort, err error) {
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

// Where a filter forbids the calls, the Conn goes on one packet a call.
func TestFallsBackWhereTheCallsAreForbidden(t *testing.T) {
	for name, errno := range map[string]syscall.Errno{"no such call": unix.ENOSYS, "filtered": unix.EPERM} {
		for _, which := range []string{"receiving", "sending"} {
			t.Run(name+" "+which, func(t *testing.T) {
				c, server, client := pair(t, "127.0.0.1:0")
				forbidden := func(uintptr, *mmsghdr, int) (int, syscall.Errno) { return -1, errno }
				if which == "receiving" {
					c.batch.recvmmsg = forbidden
				} else {
					c.batch.sendmmsg = forbidden
				}
				c.SendFailed = func(to netip.AddrPort, err error) { t.Errorf("sending to %s failed: %v", to, err) }
				for range 2 {
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
				}
				if c.Batched() {
					t.Error("still tries the forbidden calls")
				}
				// What forbade them may go away.
				c.batch.recvmmsg, c.batch.sendmmsg, c.retry = recvmmsg, sendmmsg, time.Time{}
				send(t, client, server, "a")
				echo(t, c)
				if got := receive(t, client); got != "A" || !c.Batched() {
					t.Errorf("allowed again: received %q (batched: %t), want A, true", got, c.Batched())
				}
			})
		}
	}
}

// The forbidden calls are tried ever more seldom.
func TestForbiddenCallsAreTriedSeldom(t *testing.T) {
	c, server, client := pair(t, "127.0.0.1:0")
	tries := 0
	c.batch.recvmmsg = func(uintptr, *mmsghdr, int) (int, syscall.Errno) { tries++; return -1, unix.ENOSYS }
	for i := range 20 {
		c.retry = time.Time{}
		send(t, client, server, "a")
		send(t, client, server, "b")
		echo(t, c)
		echo(t, c)
		if pause := min(firstRetry<<i, lastRetry); c.pause != pause || tries != i+1 {
			t.Fatalf("after %d tries for %d retries the pause is %v, want %v", tries, i+1, c.pause, pause)
		}
	}
}

// A firewall that refuses a packet now and then costs that packet at the most, and
// never the batch.
func TestPassingEPERM(t *testing.T) {
	c, server, client := pair(t, "127.0.0.1:0")
	calls := 0
	c.batch.sendmmsg = func(fd uintptr, hdrs *mmsghdr, n int) (int, syscall.Errno) {
		if calls++; calls > 1 && calls%2 == 0 {
			return -1, unix.EPERM
		}
		return sendmmsg(fd, hdrs, 1)
	}
	for range 5 {
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
	}
	if !c.Batched() {
		t.Error("batching has ended")
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
		c.Full = func(reply, _ []byte, to netip.AddrPort) {
			if to != client.LocalAddr().(*net.UDPAddr).AddrPort() {
				t.Errorf("reply to %s, want %s", to, client.LocalAddr())
			}
			over = append(over, string(reply))
		}
		c.SendFailed = func(to netip.AddrPort, err error) { t.Errorf("sending to %s failed: %v", to, err) }
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
	server.Close()
	if _, err := c.Poll(); err == nil {
		t.Error("no error of a closed socket")
	}
}

func TestDrops(t *testing.T) {
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
