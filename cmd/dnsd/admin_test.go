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
	const reason = "listing: reading fleet.json: no such file"
	var ready atomic.Bool
	addr := startAdmin(t, func() (string, bool) { return reason, ready.Load() })
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
}
