package udpbatch

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// pair returns a Conn on loopback and a client's socket.
func pair(t testing.TB, addr string) (*Conn, *net.UDPConn, *net.UDPConn) {
	t.Helper()
	server, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		skip(t, fmt.Sprintf("no socket on %s: %v", addr, err))
	}
	client, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close(); client.Close() })
	return New(server, 512), server, client
}

// skip skips the test, or fails it where all have to run.
func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("DNSD_TEST_NO_SKIP") != "" {
		t.Fatal("would be skipped: " + why)
	}
	t.Skip(why)
}

// echo answers every packet of one batch with itself in capitals.
func echo(t testing.TB, c *Conn) int {
	t.Helper()
	n, err := c.Read()
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		c.Reply(i, append(c.Out(i), bytes.ToUpper(c.Packet(i))...), nil)
	}
	c.Send(n)
	return n
}

func receive(t testing.TB, client *net.UDPConn) string {
	t.Helper()
	buf := make([]byte, 65536)
	client.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := client.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func send(t testing.TB, client, server *net.UDPConn, text string) {
	t.Helper()
	if _, err := client.WriteToUDP([]byte(text), server.LocalAddr().(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
}

func TestBatch(t *testing.T) {
	for name, addr := range map[string]string{"IPv4": "127.0.0.1:0", "IPv6": "[::1]:0", "IPv4 singly": "127.0.0.1:0", "IPv6 singly": "[::1]:0"} {
		t.Run(name, func(t *testing.T) {
			c, server, client := pair(t, addr)
			if strings.HasSuffix(name, "singly") {
				c.batch = nil
			}
			for round := range 3 {
				const packets = 100 // more than a batch
				for i := range packets {
					send(t, client, server, fmt.Sprintf("packet %d.%d", round, i))
				}
				for got := 0; got < packets; {
					n := echo(t, c)
					if c.From(0) != client.LocalAddr().(*net.UDPAddr).AddrPort() {
						t.Fatalf("from %s, want %s", c.From(0), client.LocalAddr())
					}
					got += n
				}
				for i := range packets {
					if got, want := receive(t, client), fmt.Sprintf("PACKET %d.%d", round, i); got != want {
						t.Fatalf("received %q, want %q", got, want)
					}
				}
			}
		})
	}
}

func TestSlotsWithoutReplySendNothing(t *testing.T) {
	c, server, client := pair(t, "127.0.0.1:0")
	for _, text := range []string{"a", "b", "c"} {
		send(t, client, server, text)
	}
	for got := 0; got < 3; {
		n, err := c.Read()
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if string(c.Packet(i)) == "b" {
				continue
			}
			c.Reply(i, append(c.Out(i), c.Packet(i)...), nil)
		}
		c.Send(n)
		got += n
	}
	if a, b := receive(t, client), receive(t, client); a != "a" || b != "c" {
		t.Errorf("received %q and %q, want a and c", a, b)
	}
}

// TestSendOfNone: Send goes as far as it is told.
func TestSendOfNone(t *testing.T) {
	for _, singly := range []bool{false, true} {
		c, server, client := pair(t, "127.0.0.1:0")
		if singly {
			c.batch = nil
		}
		for _, text := range []string{"a", "b"} {
			send(t, client, server, text)
			n, err := c.Read()
			if err != nil {
				t.Fatal(err)
			}
			c.Reply(0, append(c.Out(0), c.Packet(0)...), nil)
			if c.Send(0); text == "b" {
				c.Send(n)
			}
		}
		if got := receive(t, client); got != "b" {
			t.Errorf("received %q first, want b alone", got)
		}
		failed := ""
		c.Failed = func(reply, _ []byte, _ netip.AddrPort, _ error) { failed += string(reply) }
		server.Close()
		if c.Send(1); singly && failed != "b" {
			t.Errorf("of a closed socket %q is handed over, want b", failed)
		}
	}
}

func TestLongPacketIsCutOff(t *testing.T) {
	c, server, client := pair(t, "127.0.0.1:0")
	send(t, client, server, string(make([]byte, 2*InSize)))
	send(t, client, server, "next")
	for got := 0; got < 2; {
		n, err := c.Read()
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			want := InSize
			if got+i == 1 {
				want = len("next")
			}
			if len(c.Packet(i)) != want {
				t.Errorf("packet %d has %d bytes, want %d", got+i, len(c.Packet(i)), want)
			}
		}
		got += n
	}
}

func TestDeadlineAndCloseEndRead(t *testing.T) {
	for _, singly := range []bool{false, true} {
		c, server, _ := pair(t, "127.0.0.1:0")
		if singly {
			c.batch = nil
		}
		server.SetReadDeadline(time.Unix(1, 0))
		var timeout net.Error
		if n, err := c.Read(); n != 0 || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("after the deadline Read returned %d, %v", n, err)
		}
		server.Close()
		if n, err := c.Read(); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close Read returned %d, %v", n, err)
		}
	}
}

func TestNothingIsAllocated(t *testing.T) {
	c, server, client := pair(t, "[::1]:0")
	to := server.LocalAddr().(*net.UDPAddr).AddrPort()
	packet, buf := []byte("packet"), make([]byte, 512)
	if allocs := testing.AllocsPerRun(200, func() {
		client.WriteToUDPAddrPort(packet, to)
		n, _ := c.Read()
		for i := range n {
			_ = c.From(i)
			c.Reply(i, append(c.Out(i), c.Packet(i)...), nil)
		}
		c.Send(n)
		client.ReadFromUDPAddrPort(buf)
	}); allocs != 0 {
		t.Errorf("%v allocations a batch, want 0", allocs)
	}
}

func BenchmarkEcho(b *testing.B) {
	c, server, client := pair(b, "127.0.0.1:0")
	packet, buf := []byte("packet"), make([]byte, 512)
	to := server.LocalAddr().(*net.UDPAddr).AddrPort()
	for b.Loop() {
		for range 32 {
			client.WriteToUDPAddrPort(packet, to)
		}
		for n := 0; n < 32; {
			n += echo(b, c)
		}
		for range 32 {
			client.ReadFromUDPAddrPort(buf)
		}
	}
}
