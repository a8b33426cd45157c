package main

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"dnsd/resolver/forward"
)

// TestDescriptors: whatever the limit, all parts together stay within it, each
// has something, and none is larger than it may be.
func TestDescriptors(t *testing.T) {
	c := &config{Listen: make([]netip.AddrPort, 2)}
	const fixed = 64 + 65 + 2*(8+2) // dnsd's own, the admin listener, sockets that listen
	before := descriptors{}
	for _, limit := range []int{0, 64, 256, 512, 1024, 2048, 4096, 8192, 65536, 1 << 20} {
		d := c.descriptors(limit)
		if sum := fixed + d.tcp + d.lanes + d.forwarding; limit >= 256 && sum != limit {
			t.Errorf("of %d descriptors %d are given away: %+v", limit, sum, d)
		}
		if limit <= fixed && (d.tcp != 1 || d.lanes != 1 || d.forwarding != 1) || d.tcp > 1024 || d.lanes > 256 || d.limit != limit {
			t.Errorf("of %d: %+v", limit, d)
		}
		if d.tcp < before.tcp || d.lanes < before.lanes || d.forwarding < before.forwarding {
			t.Errorf("more in all, and less for one: %+v, then %+v", before, d)
		}
		before = d
	}
	if d := c.descriptors(1024); d.tcp != 218 || d.lanes != 109 {
		t.Errorf("of 1024: %+v", d)
	}
	c.Sockets = 2
	if d := c.descriptors(65536); d.tcp != 1024 || d.lanes != 256 || d.forwarding != 65536-fixed+12-1024-256 {
		t.Errorf("of 65536 with two sockets: %+v", d)
	}
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || openFiles() != int(min(l.Cur, 1<<20)) {
		t.Errorf("%d files of %d may be open, %v", openFiles(), l.Cur, err)
	}
}

// TestBoundsAreSaid: one line says what may wait at once, and warns where that is
// less than was asked for.
func TestBoundsAreSaid(t *testing.T) {
	t.Parallel()
	for limit, want := range map[int]string{
		1024: "level=WARN msg=\"fewer questions may wait for upstreams than --max-inflight says",
		8192: "level=INFO msg=\"bounds of what waits at once\" max_inflight=4096 open_files=8192 tcp_connections=1024",
	} {
		_, log := limited(t, limit, "--listen=127.0.0.1:0", "--metrics-listen=none", "--registry=file:/nowhere", "--upstream=192.0.2.1")
		eventually(t, "said", func() bool { return strings.Contains(log.String(), fmt.Sprintf("open_files=%d", limit)) })
		if !strings.Contains(log.String(), want) {
			t.Errorf("limit %d: %s", limit, log)
		}
	}
}

// TestBoundsAreUsed: the bounds reach who has to keep them.
func TestBoundsAreUsed(t *testing.T) {
	c, _, err := parseConfig([]string{"--upstream", "192.0.2.1", "--upstream", "192.0.2.2"}, environment())
	if err != nil {
		t.Fatal(err)
	}
	d := c.descriptors(1024)
	f, _, err := c.forwarder(d.forwarding, newLogger(c, &logBuffer{}))
	if err != nil {
		t.Fatal(err)
	}
	if n := f.Places(); n >= d.forwarding/2 || n < d.forwarding/4 {
		t.Errorf("%d places for questions that may have two sockets each, of %d descriptors", n, d.forwarding)
	}
	if n := forward.DefaultMaxInflight; c.MaxInflight != n {
		t.Errorf("%d", n)
	}
}
