package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// startAdmin serves an admin listener, after edits to its server, and returns its
// address.
func startAdmin(t *testing.T, ready readiness, edits ...func(*http.Server)) netip.AddrPort {
	t.Helper()
	a, err := listenAdmin(netip.MustParseAddrPort("127.0.0.1:0"), nil, newMetrics(), ready, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, edit := range edits {
		edit(a.server)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- a.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return netip.MustParseAddrPort(a.listener.Addr().String())
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestAdmin(t *testing.T) {
	t.Parallel()
	const reason = "listing: reading fleet.json: no such file"
	var ready atomic.Bool
	addr := startAdmin(t, func() (string, bool) { return reason, ready.Load() }, func(s *http.Server) {
		for _, d := range []time.Duration{s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout, s.IdleTimeout} {
			if d < time.Second || d > 5*time.Minute {
				t.Errorf("a time-out is %v", d)
			}
		}
		if s.MaxHeaderBytes < 4<<10 || s.MaxHeaderBytes > 64<<10 {
			t.Errorf("a header may have %d bytes", s.MaxHeaderBytes)
		}
	})
	url := "http://" + addr.String()

	check := func(path string, code int, want string) {
		t.Helper()
		if gotCode, body := get(t, url+path); gotCode != code || !strings.Contains(body, want) {
			t.Errorf("%s: %d %q, want %d with %q", path, gotCode, body, code, want)
		}
	}
	check("/healthz", 200, "ok")
	check("/readyz", 503, reason)
	ready.Store(true)
	check("/readyz", 200, reason)
	check("/metrics", 200, `dnsd_build_info{goversion="go`)
	check("/metrics", 200, "go_goroutines")
	check("/debug/pprof/", 200, "goroutine")
	check("/debug/pprof/cmdline", 200, "dnsd")
	check("/debug/pprof/trace?seconds=0.01", 200, "go 1.")
	check("/", 200, "/readyz")
	check("/etc/passwd", 404, "")
}

func TestAdminAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := netip.MustParseAddrPort(l.Addr().String())
	_, err = listenAdmin(addr, nil, newMetrics(), nil, slog.New(slog.DiscardHandler))
	want := "--metrics-listen " + addr.String() + " is in use, perhaps by another dnsd: write another address, or none"
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
	_, err = listenAdmin(netip.MustParseAddrPort("192.0.2.1:1"), nil, newMetrics(), nil, slog.New(slog.DiscardHandler))
	if err == nil || !strings.HasPrefix(err.Error(), "binding --metrics-listen: listen tcp 192.0.2.1:1: ") {
		t.Errorf("an address that this host does not have: %v", err)
	}
}

// After a hand-over, who is connected has a moment to ask.
func TestAdminLeavesLater(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		a, began, after := &admin{listener: l}, time.Now(), time.Duration(0)
		a.handOver(func() { after = time.Since(began) })
		time.Sleep(time.Hour)
		synctest.Wait()
		if after != 100*time.Millisecond || !a.leaves.Load() {
			t.Errorf("it leaves after %s, want 100ms", after)
		}
	})
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("it listens on")
	}
}

// What is in hand at the end is finished, if that does not take too long.
func TestAdminDrain(t *testing.T) {
	t.Parallel()
	a, err := listenAdmin(netip.MustParseAddrPort("127.0.0.1:0"), nil, newMetrics(), nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	asked, finish := make(chan string, 2), make(chan struct{})
	a.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		select {
		case <-finish:
			if r.URL.Path == "/short" {
				io.WriteString(w, "done")
				return
			}
			<-r.Context().Done()
		case <-r.Context().Done():
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx) }()
	answers := map[string]chan error{}
	for _, path := range []string{"/short", "/long"} {
		answer := make(chan error, 1)
		answers[path] = answer
		go func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
			response, err := client.Get("http://" + a.listener.Addr().String() + path)
			if err == nil {
				response.Body.Close()
			}
			answer <- err
		}()
		<-asked
	}
	cancel()
	eventually(t, "nobody else is let in", func() bool {
		c, err := net.Dial("tcp", a.listener.Addr().String())
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	select {
	case err := <-ended:
		t.Errorf("it has ended before what was in hand: %v", err)
	default:
	}
	close(finish)
	if err := <-answers["/short"]; err != nil {
		t.Errorf("the short request: %v", err)
	}
	if err := <-answers["/long"]; err == nil || strings.Contains(err.Error(), "Timeout") {
		t.Errorf("the long request: %v", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A listener that fails ends dnsd.
func TestAdminFails(t *testing.T) {
	a, err := listenAdmin(netip.MustParseAddrPort("127.0.0.1:0"), nil, newMetrics(), nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	a.listener.Close()
	if err := a.run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "serving --metrics-listen: ") {
		t.Errorf("%v", err)
	}
}
