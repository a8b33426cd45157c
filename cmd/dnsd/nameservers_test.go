package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dnsd/registry/regular"

	"github.com/miekg/dns"
)

// writeResolvConf puts a resolv.conf into place in one of the ways that such files change.
func writeResolvConf(t *testing.T, path, text, how string) {
	t.Helper()
	var err error
	switch how {
	case "rename":
		if err = os.WriteFile(path+".new", []byte(text), 0o600); err == nil {
			err = os.Rename(path+".new", path)
		}
	case "in place":
		err = os.WriteFile(path, []byte(text), 0o600)
	case "link":
		target := fmt.Sprintf("%s.%d", path, len(text))
		if err = os.WriteFile(target, []byte(text), 0o600); err == nil {
			os.Remove(path)
			err = os.Symlink(target, path)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestNameserversAreFollowed: the host's nameservers are asked as they change, and what
// says nothing changes nothing.
func TestNameserversAreFollowed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	log := &logBuffer{}
	c, _, err := parseConfig([]string{"--listen=127.0.0.9:53", "--upstream=corp.example=192.0.2.9"}, environment())
	if err != nil {
		t.Fatal(err)
	}
	c.resolvConf = path
	f, hosts, err := c.forwarder(0, newLogger(c, log)) // the file is not there yet
	if err != nil {
		t.Fatal(err)
	}
	hosts.every = 5 * time.Millisecond
	if hosts == nil || len(hosts.upstreams()) != 1 || !strings.Contains(log.String(), "no such file") {
		t.Fatalf("%+v\n%s", hosts, log)
	}
	ended := make(chan error)
	ctx, stop := context.WithCancel(t.Context())
	go func() { ended <- hosts.follow(ctx, f) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	for i, step := range []struct{ text, how, now string }{
		{"nameserver 192.0.2.1\n", "rename", "now=[192.0.2.1:53] before=[]"},
		{"nameserver 192.0.2.2\nnameserver 127.0.0.9\n", "in place", "now=[192.0.2.2:53] before=[192.0.2.1:53]"},
		{"nameserver 192.0.2.3\nnameserver 192.0.2.4\nnameserver 192.0.2.3\n", "link", "now=\"[192.0.2.3:53 192.0.2.4:53]\" before=[192.0.2.2:53]"},
	} {
		writeResolvConf(t, path, step.text, step.how)
		eventually(t, fmt.Sprintf("step %d", i), func() bool { return strings.Contains(log.String(), step.now) })
	}
	changes := strings.Count(log.String(), "nameservers have changed")
	for _, nothing := range []string{"", "search example.com\n", "nameserver 127.0.0.9\n"} {
		writeResolvConf(t, path, nothing, "rename")
		before := strings.Count(log.String(), "names no upstream")
		if nothing != "nameserver 127.0.0.9\n" || before == 0 {
			eventually(t, "said", func() bool { return strings.Contains(log.String(), "asked_until_then=\"[192.0.2.3:53 192.0.2.4:53]\"") })
		}
	}
	os.Remove(path)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a pipe does not hold it up", func() bool { return strings.Contains(log.String(), "device, pipe or socket") })
	if n := strings.Count(log.String(), "nameservers have changed"); n != changes {
		t.Errorf("%d changes of nothing:\n%s", n-changes, log)
	}
	writeResolvConf(t, path, "nameserver 192.0.2.3\nnameserver 192.0.2.4\n# the same\n", "rename")
	writeResolvConf(t, path, "nameserver 192.0.2.5\n", "rename")
	eventually(t, "it is followed again", func() bool { return strings.Contains(log.String(), "now=[192.0.2.5:53]") })
}

// TestNameserversLook: what is the same is no news, and trouble is told once.
func TestNameserversLook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	log := &logBuffer{}
	n := &nameservers{path: path, self: &config{}, log: newLogger(&config{}, log)}
	look := func(text string, changed bool, told int) {
		t.Helper()
		if text != "" {
			writeResolvConf(t, path, text, "rename")
		}
		for i := range 3 {
			if got := n.look(); got != (changed && i == 0) {
				t.Errorf("%q, look %d: changed %v", text, i, got)
			}
		}
		if got := strings.Count(log.String(), "level=WARN"); got != told {
			t.Errorf("%q: told %d times, want %d\n%s", text, got, told, log)
		}
	}
	look("", false, 1)
	look("nameserver 192.0.2.1\n", true, 1)
	look("# the same\nnameserver 192.0.2.1\n", false, 1)
	look("search example.com\n", false, 2)
	look("search example.org\n", false, 2)
	look("nameserver 192.0.2.1\n", false, 2)
	look("search example.com\n", false, 3)
	look(strings.Repeat("# long\n", regular.MaxSettings/7+1), false, 4)
	if got := labels(n.upstreams()); len(got) != 1 || got[0] != "192.0.2.1:53" {
		t.Errorf("upstreams are %v", got)
	}
}

// TestNameserversBySwitch: with an upstream for all names the file is nobody's business.
func TestNameserversBySwitch(t *testing.T) {
	for args, want := range map[string]bool{"": true, "--upstream=192.0.2.1": false, "--upstream=corp.example=192.0.2.1": true, "--upstream=none": false} {
		c, _, err := parseConfig(strings.Fields(args), environment())
		if err != nil {
			t.Fatal(err)
		}
		c.resolvConf = "/nowhere/resolv.conf"
		if _, hosts, err := c.forwarder(0, newLogger(c, &logBuffer{})); err != nil || (hosts != nil) != want {
			t.Errorf("%q: followed %v, %v", args, hosts != nil, err)
		}
	}
}

// A question whose packet is lost is asked again within its time.
func TestLostPackets(t *testing.T) {
	t.Parallel()
	conn := localUDP(t)
	var asked atomic.Int32
	serveDNS(t, conn, func(w dns.ResponseWriter, q *dns.Msg) {
		if asked.Add(1) > 1 {
			w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeNameError))
		}
	})
	d := startWith(t, "--registry=file:/nowhere", "--upstream", conn.LocalAddr().String(), "--upstream-timeout=2s")
	if m := d.ask("udp", "example.com.", dns.TypeA); m.Rcode != dns.RcodeNameError {
		t.Errorf("%v", m)
	}
}

// TestNameserversChange: dnsd as a whole asks the server that the file names now.
func TestNameserversChange(t *testing.T) {
	t.Parallel()
	var asked [2]atomic.Int32
	var addrs [2]string
	for i := range asked {
		addrs[i] = fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250))
		conn, err := net.ListenPacket("udp", addrs[i]+":53")
		if err != nil && os.Getenv("DNSD_TEST_NO_SKIP") == "" {
			t.Skipf("port 53 cannot be had: %v", err)
		} else if err != nil {
			t.Fatal(err)
		}
		serveDNS(t, conn, func(w dns.ResponseWriter, q *dns.Msg) {
			asked[i].Add(1)
			w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeNameError))
		})
	}
	path := filepath.Join(t.TempDir(), "resolv.conf")
	writeResolvConf(t, path, "nameserver "+addrs[0]+"\n", "rename")
	log := &logBuffer{}
	c, _, err := parseConfig([]string{"--listen=127.0.0.1:0", "--metrics-listen=none", "--registry=file:/nowhere"}, environment())
	if err != nil {
		t.Fatal(err)
	}
	c.resolvConf = path
	d, err := newDaemon(c, environment(), newLogger(c, log))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.listen(c); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- d.run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	n := 0
	ask := func() {
		n++
		q := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.example.", n), dns.TypeA)
		if m, _, err := (&dns.Client{Timeout: patience}).Exchange(q, d.resolver.Addresses()[0].String()); err != nil || m.Rcode != dns.RcodeNameError {
			t.Fatalf("%v, %v", m, err)
		}
	}
	ask()
	if asked[0].Load() == 0 || asked[1].Load() != 0 {
		t.Errorf("asked %d and %d times", asked[0].Load(), asked[1].Load())
	}
	writeResolvConf(t, path, "nameserver "+addrs[1]+"\n", "rename")
	eventually(t, "the other one is asked", func() bool { ask(); return asked[1].Load() > 0 })
}
