package test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

// packed returns a request in wire form with an id.
func packed(t testing.TB, id uint16, name string, qtype uint16) []byte {
	t.Helper()
	req := question(name, qtype, true)
	req.Id = id
	raw, err := req.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// open opens a connection that is closed when the test ends.
func (w *world) open(t testing.TB, client, proto string) net.Conn {
	t.Helper()
	conn, err := w.client(client).Open(proto)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (w *world) tcp(t *testing.T) {
	t.Run("Pipelining", func(t *testing.T) {
		conn := w.open(t, "a", "tcp")
		names := []string{"my-app.internal", "vms.my-app.internal", "no-app.internal", "iad.my-app.internal"}
		var all bytes.Buffer
		reqs := make(map[uint16][]byte)
		for id := range uint16(200) {
			reqs[id] = packed(t, id, names[int(id)%len(names)], dns.TypeAAAA)
			all.Write(lab.Frame(reqs[id]))
		}
		if _, err := conn.Write(all.Bytes()); err != nil {
			t.Fatal(err)
		}
		for len(reqs) > 0 {
			resp, err := lab.ReadFrame(conn)
			if err != nil {
				t.Fatalf("%d of 200 answers are missing: %v", len(reqs), err)
			}
			id := binary.BigEndian.Uint16(resp)
			req, ok := reqs[id]
			if !ok {
				t.Fatalf("an answer to nothing, or the second to %d", id)
			}
			delete(reqs, id)
			w.lawful(t, "tcp", req, resp)
		}
	})
	t.Run("OneWrite", func(t *testing.T) {
		// A client that reads length and message with one read each sees both
		// at once only when they were written at once.
		conn := w.open(t, "a", "tcp")
		buf := make([]byte, 65537)
		for id := range uint16(200) {
			if _, err := conn.Write(lab.Frame(packed(t, id, "my-app.internal", dns.TypeAAAA))); err != nil {
				t.Fatal(err)
			}
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if n < 2 || n != 2+int(binary.BigEndian.Uint16(buf)) {
				t.Fatalf("one read gave %d bytes, not a length and its message", n)
			}
		}
	})
	t.Run("ByteByByte", func(t *testing.T) {
		conn := w.open(t, "a", "tcp")
		req := packed(t, 1, "my-app.internal", dns.TypeAAAA)
		for _, b := range lab.Frame(req) {
			if _, err := conn.Write([]byte{b}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		resp, err := lab.ReadFrame(conn)
		if err != nil {
			t.Fatal(err)
		}
		w.lawful(t, "tcp", req, resp)
	})
	t.Run("HalfClose", func(t *testing.T) {
		// A client that has sent all it has may say so and still wait for the
		// answer (RFC 7766, section 6.2.3 lets the server finish).
		conn := w.open(t, "a", "tcp")
		req := packed(t, 1, "my-app.internal", dns.TypeAAAA)
		if _, err := conn.Write(lab.Frame(req)); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		resp, err := lab.ReadFrame(conn)
		if err != nil {
			t.Fatal(err)
		}
		w.lawful(t, "tcp", req, resp)
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after the answer: %v, want the end", err)
		}
	})
	t.Run("LyingClients", w.lyingClients)
	t.Run("ManyConnections", w.manyConnections)
}

// TestIdle: a connection without questions is closed.
func TestIdle(t *testing.T) {
	t.Parallel()
	conn := newWorld(t).open(t, "a", "tcp")
	if err := conn.SetDeadline(time.Now().Add(6 * lab.Patience)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err := conn.Read(make([]byte, 1))
	if netErr, ok := err.(net.Error); err == nil || ok && netErr.Timeout() {
		t.Errorf("an idle connection is open after %v: %v", time.Since(start), err)
	}
	t.Logf("an idle connection is closed after %v", time.Since(start).Round(100*time.Millisecond))
}

// lyingClients checks that what one connection does wrong costs nobody else.
func (w *world) lyingClients(t *testing.T) {
	good := packed(t, 9, "my-app.internal", dns.TypeAAAA)
	for _, sent := range [][]byte{
		{0}, {0, 40}, {0xff, 0xff, 1, 2, 3}, {0, 0}, {0, 5, 1, 2, 3, 4, 5},
		append([]byte{0, byte(len(good) - 4)}, good...), // a length too short
		append([]byte{0, byte(len(good) + 4)}, good...), // a length too long
		[]byte("GET / HTTP/1.1\r\nHost: internal\r\n\r\n"),
		bytes.Repeat([]byte{0xff}, 100000),
	} {
		conn := w.open(t, "a", "tcp")
		// The server may close while we write.
		conn.Write(sent)
	}
	// Clients that ask for much and read nothing of it.
	ask := bytes.Repeat(lab.Frame(packed(t, 1, "huge.internal", dns.TypeAAAA)), 200)
	for range 5 {
		conn := w.open(t, "large", "tcp")
		if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		conn.Write(ask)
	}
	for _, proto := range []string{"udp", "tcp"} {
		for range 20 {
			if resp := w.ask(t, "a", proto, question("my-app.internal", dns.TypeAAAA, true)); len(resp.Answer) != 3 {
				t.Errorf("beside lying clients over %s: %v", proto, resp)
			}
		}
	}
}

// manyConnections checks that connections are bounded: many idle ones neither
// bring the server down nor keep others out.
func (w *world) manyConnections(t *testing.T) {
	const many = 3000
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range many {
		conn, err := w.client("a-peer").Open("tcp")
		if err != nil {
			break // refused: a bound as good as another
		}
		conns = append(conns, conn)
	}
	if resp := w.ask(t, "a", "udp", question("my-app.internal", dns.TypeAAAA, true)); len(resp.Answer) != 3 {
		t.Errorf("UDP beside %d connections: %v", len(conns), resp)
	}
	// Another client gets in, at the latest when it tries again.
	raw := packed(t, 3, "my-app.internal", dns.TypeAAAA)
	if !lab.Until(lab.Patience, func() bool {
		_, err := w.client("b").Exchange("tcp", raw)
		return err == nil
	}) {
		t.Errorf("%d idle connections of one client keep another out of TCP", len(conns))
	}
	open := 0
	for _, c := range conns {
		if c.SetReadDeadline(time.Now().Add(time.Millisecond)) != nil {
			continue
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("an answer to nothing")
		} else if netErr, ok := err.(net.Error); ok && netErr.Timeout() {
			open++
		}
	}
	t.Logf("%d of %d idle connections are still open", open, many)
	if open == many {
		t.Errorf("%d connections are open at once: no bound", open)
	}
}
