package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// connect opens connections to an address that send text and no more. They are
// closed at the test's end.
func connect(t *testing.T, addr, text string, n int) []net.Conn {
	t.Helper()
	var conns []net.Conn
	for range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	return conns
}

// ended reports whether the other end closes c within d.
func ended(c net.Conn, d time.Duration) bool {
	c.SetReadDeadline(time.Now().Add(d))
	_, err := io.Copy(io.Discard, c)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// Whoever holds all connections and says nothing, or not enough, keeps nobody out
// and is out soon.
func TestSilentAdminConnections(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"silent":        "",
		"half a header": "GET /metrics HTTP/1.1\r\nHost: ",
		"idle":          "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
		"half a body":   "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			addr := startAdmin(t, func() (string, bool) { return "", true }).String()
			silent := connect(t, addr, text, 2*64)
			var gone atomic.Int32
			var reading sync.WaitGroup
			for _, c := range silent {
				reading.Go(func() {
					if ended(c, patience) {
						gone.Add(1)
					}
				})
			}
			defer reading.Wait()
			defer func() {
				for _, c := range silent {
					c.Close()
				}
			}()
			began := time.Now()
			if code, body := get(t, "http://"+addr+"/metrics"); code != 200 || !strings.Contains(body, "go_goroutines") {
				t.Errorf("a scrape: %d %.40q", code, body)
			}
			if took := time.Since(began); took > adminHeaderTimeout-time.Second {
				t.Errorf("a scrape took %v, as long as the others may be silent", took)
			}
			eventually(t, "no more than 64 are open", func() bool { return gone.Load() >= 64 })
		})
	}
	t.Run("after a while", func(t *testing.T) {
		addr := startAdmin(t, nil, func(s *http.Server) {
			s.ReadHeaderTimeout, s.ReadTimeout, s.IdleTimeout = 100*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond
		}).String()
		for _, text := range []string{"", "GET", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"} {
			for _, c := range connect(t, addr, text, 3) {
				if !ended(c, patience) {
					t.Errorf("a connection that sends %q and no more stays open", text)
				}
			}
		}
	})
}

// conn is a connection that notes that it was closed.
type conn struct {
	net.Conn
	closed bool
}

func (c *conn) Close() error { c.closed = true; return nil }

// The place of a connection that has ended is free; otherwise the one that has
// been without a request for longest makes room.
func TestAdminConns(t *testing.T) {
	a, conns := newAdminConns(3), make([]*conn, 9)
	open := func(i int) { conns[i] = new(conn); a.state(conns[i], http.StateNew) }
	open(0)
	for range 5 {
		open(1)
		a.state(conns[1], http.StateClosed)
	}
	open(1)
	open(2)
	closed := func(want ...int) {
		t.Helper()
		for i, c := range conns {
			if c != nil && c.closed != slices.Contains(want, i) {
				t.Errorf("connection %d closed: %v", i, c.closed)
			}
		}
	}
	closed()
	a.busy(conns[0], true)
	a.busy(conns[0], false) // it is the last in turn now
	open(3)
	closed(1)
	a.busy(conns[1], true) // too late
	a.busy(conns[1], false)
	a.busy(conns[2], true)
	open(4)
	closed(0, 1)
	a.busy(conns[3], true)
	a.busy(conns[4], true)
	open(5) // finds all busy
	closed(0, 1, 5)
	a.state(conns[4], http.StateHijacked)
	open(6)
	closed(0, 1, 5)
	if len(a.open) != 3 {
		t.Errorf("%d connections are known, want 3", len(a.open))
	}
}

// A connection that is being answered is not taken for a silent one.
func TestAdminConnectionsInHand(t *testing.T) {
	t.Parallel()
	inHand, finish := make(chan struct{}), make(chan struct{})
	addr := startAdmin(t, nil, func(s *http.Server) {
		mux := http.NewServeMux()
		mux.Handle("/", s.Handler)
		conns := newAdminConns(3)
		s.ConnState, s.ConnContext = conns.state, conns.context
		mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
			inHand <- struct{}{}
			<-finish
			io.WriteString(w, "done")
		})
		s.Handler = conns.serving(mux)
	}).String()
	const ask = "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
	slow := connect(t, addr, ask, 2)
	<-inHand
	<-inHand
	connect(t, addr, "", 10)
	slow = append(slow, connect(t, addr, ask, 1)...)
	<-inHand
	if c := connect(t, addr, "", 1); !ended(c[0], adminHeaderTimeout/2) {
		t.Error("a connection is open beyond the bound")
	}
	close(finish)
	for i, c := range slow {
		c.SetReadDeadline(time.Now().Add(patience))
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("connection %d was answered: %v", i, err)
		}
		if body, err := io.ReadAll(response.Body); string(body) != "done" {
			t.Errorf("connection %d was answered %q, %v", i, body, err)
		}
	}
	if code, _ := get(t, "http://"+addr+"/healthz"); code != 200 { // they are idle now
		t.Errorf("after them: %d", code)
	}
}

// A profile may last longer than other requests may take; few are made at once.
func TestProfilesLast(t *testing.T) {
	t.Parallel()
	addr := startAdmin(t, nil, func(s *http.Server) {
		s.ReadHeaderTimeout, s.ReadTimeout = 500*time.Millisecond, 500*time.Millisecond
	}).String()
	url := "http://" + addr + "/debug/pprof/"
	if code, body := get(t, url+"profile?seconds=1"); code != 200 || len(body) < 100 {
		t.Errorf("a profile that takes longer than other requests may: %d, %d bytes", code, len(body))
	}
	if code, body := get(t, url+"heap?seconds=301"); code != 400 || body != "a profile takes at most 300 seconds\n" {
		t.Errorf("a profile of five minutes and a second: %d %s", code, body)
	}
	var wg sync.WaitGroup
	codes := make(chan int, 4+3)
	for range cap(codes) {
		wg.Go(func() {
			code, _ := get(t, url+"heap?seconds=1")
			codes <- code
		})
	}
	wg.Wait()
	close(codes)
	count := map[int]int{}
	for code := range codes {
		count[code]++
	}
	if count[200] != 4 || count[503] != 3 {
		t.Errorf("of %d profiles at once by status: %v", cap(codes), count)
	}
	if code, _ := get(t, url+"heap"); code != 200 {
		t.Errorf("a profile after them: %d", code)
	}
}

// A process that opens one connection after the other to the admin listener takes
// no descriptor that a client of DNS needs.
func TestAdminConnectionsLeaveDescriptors(t *testing.T) {
	t.Parallel()
	const limit = 256 // of which 32 places are left for upstreams
	path := filepath.Join(t.TempDir(), "registry.json")
	fleet(t, path, 1)
	upstream := localUDP(t)
	serveDNS(t, upstream, func(w dns.ResponseWriter, q *dns.Msg) {
		w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeNameError))
	})
	_, log := limited(t, limit, "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", "--registry=file:"+path,
		"--network=fdaa:0:18::/48", "--upstream="+upstream.LocalAddr().String())
	d := &running{t: t, log: log}
	eventually(t, "listening", func() bool {
		if m := listens.FindStringSubmatch(log.String()); m != nil {
			d.dns, d.metrics = m[1], m[2]
		}
		return d.dns != ""
	})
	d.ready()
	for range 3 {
		connect(t, d.metrics, "", limit)
		for _, network := range []string{"udp", "tcp"} {
			if m := d.ask(network, "my-app.internal.", dns.TypeAAAA); len(m.Answer) != 1 {
				t.Errorf("an internal name over %s: %v", network, m)
			}
			if m := d.ask(network, fmt.Sprintf("x%d.example.com.", time.Now().UnixNano()), dns.TypeA); m.Rcode != dns.RcodeNameError {
				t.Errorf("an outside name over %s: %v", network, m)
			}
		}
		if code, body := get(t, "http://"+d.metrics+"/metrics"); code != 200 || !strings.Contains(body, "\ngo_gc_gogc_percent 50\n") {
			t.Errorf("a scrape: %d, or the collector of garbage runs as rarely as by default", code)
		}
	}
}
