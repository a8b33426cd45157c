package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"dnsd/resolver/forward"
)

// TestShareDescriptors: whatever the limit, all parts together stay within it, each
// has something, and none is larger than it may be.
func TestShareDescriptors(t *testing.T) {
	before := descriptors{}
	for _, limit := range []int{0, 64, 256, 512, 1024, 2048, 4096, 8192, 65536, mostOpenFiles} {
		d := shareDescriptors(limit, 18)
		sum := ownDescriptors + adminDescriptors + 18 + d.tcp + d.lanes + d.forwarding
		if limit >= 256 && sum > limit {
			t.Errorf("of %d descriptors %d are given away: %+v", limit, sum, d)
		}
		if d.tcp < 1 || d.lanes < 1 || d.forwarding < 1 || d.tcp > mostTCP || d.lanes > mostLanes || d.limit != limit {
			t.Errorf("of %d: %+v", limit, d)
		}
		if d.tcp < before.tcp || d.lanes < before.lanes || d.forwarding < before.forwarding {
			t.Errorf("more in all, and less for one: %+v, then %+v", before, d)
		}
		before = d
	}
	if d := shareDescriptors(1024, 9); d.forwarding < 512 || d.tcp < 200 || d.lanes < 100 {
		t.Errorf("of 1024: %+v", d)
	}
	if d := shareDescriptors(65536, 9); d.tcp != mostTCP || d.lanes != mostLanes {
		t.Errorf("of 65536: %+v", d)
	}
}

// TestBoundsAreSaid: one line says what may wait at once, and warns where that is
// less than was asked for.
func TestBoundsAreSaid(t *testing.T) {
	t.Parallel()
	for limit, want := range map[string]string{
		"1024": "level=WARN msg=\"fewer questions may wait for upstreams than --max-inflight says",
		"8192": "level=INFO msg=\"bounds of what waits at once\" max_inflight=4096",
	} {
		log := &logBuffer{}
		cmd := exec.Command("sh", "-c", `ulimit -n `+limit+` && exec "$0" "$@"`, os.Args[0],
			"--listen=127.0.0.1:0", "--metrics-listen=none", "--registry=file:/nowhere", "--upstream=192.0.2.1")
		cmd.Env, cmd.Stderr = append(os.Environ(), asMain+"=1"), log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "said", func() bool { return strings.Contains(log.String(), "open_files="+limit) })
		cmd.Process.Kill()
		cmd.Wait()
		if !strings.Contains(log.String(), want) {
			t.Errorf("limit %s: %s", limit, log)
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
