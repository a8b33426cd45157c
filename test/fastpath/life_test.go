package fastpath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"dnsd/test/internal/lab"
	"dnsd/test/internal/steady"
	"dnsd/test/internal/unit"

	"github.com/miekg/dns"
)

// try asks once and reports whether an answer came within a time.
func try(t *testing.T, from *lab.Tenant, req []byte, patience time.Duration) bool {
	t.Helper()
	conn, err := from.Dial("udp", from.Addr, server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(req); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Read(make([]byte, 4096))
	return err == nil
}

// lease is for how long the kernel answers without a sign of life of dnsd.
const lease = 3 * time.Second

// While dnsd stands still the kernel answers for it, and stops before what it says
// can be old. Afterwards it goes on.
func TestFrozen(t *testing.T) {
	t.Parallel()
	s := start(t)
	req := query("home.internal.", dns.TypeAAAA, edns(1232))
	s.warm(s.a, req)
	s.dnsd.Signal(syscall.SIGSTOP)
	defer s.dnsd.Signal(syscall.SIGCONT)
	stopped := time.Now()
	if !try(t, s.a, req, time.Second) {
		t.Error("the kernel does not answer while dnsd stands still, so that this test shows nothing")
	}
	var last time.Duration // after the stop, when the last answered question was asked
	for asked := time.Since(stopped); asked < lease+2*time.Second; asked = time.Since(stopped) {
		if try(t, s.a, req, 50*time.Millisecond) {
			last = asked
		}
	}
	if last > lease || last == 0 {
		t.Errorf("the kernel has answered for %v, want at most %v", last, lease)
	}
	s.dnsd.Signal(syscall.SIGCONT)
	s.warm(s.a, req)
}

// programs returns how many programs there are at a device's ingress.
func (s *scene) programs(device string) int {
	s.t.Helper()
	n := -1
	var err error
	s.Do(func() { n, err = attached(device) })
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// The programs go with their process, however it ends.
func TestProgramsGoWithTheProcess(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			s := start(t)
			req := query("home.internal.", dns.TypeAAAA, nil)
			s.warm(s.a, req)
			if n := s.programs("to-a"); n != 1 {
				t.Fatalf("%d programs are attached, want 1", n)
			}
			if n := s.programs("to-slow"); n != 0 {
				t.Fatalf("%d programs are attached where none is asked for", n)
			}
			s.dnsd.Signal(sig)
			<-s.dnsd.Done()
			if !lab.Until(soon, func() bool { return s.programs("to-a") == 0 && s.programs("to-b") == 0 }) {
				t.Error("programs outlive their process")
			}
			if try(t, s.a, req, 100*time.Millisecond) {
				t.Error("somebody answers for a process that is gone")
			}
		})
	}
}

// One process hands over to another while machines ask and their apps change: nothing is
// lost, and nothing wrong. Afterwards the new one's programs answer, and no others.
func TestHandOver(t *testing.T) {
	t.Parallel()
	s := newHost(t)
	u := &unit.Unit{
		Path: lab.Binary(t), Dir: t.TempDir(), Spawn: s.Start, Env: []string{"PATH=" + os.Getenv("PATH"), "GORACE=exitcode=66"},
		Args: []string{"--metrics-listen", lab.Admin, "--registry", "file:" + s.path, "--upstream", "none", "--listen", server.String(), "--fast-path", "to-?"},
	}
	t.Cleanup(func() {
		u.Close()
		if log := u.Log(); t.Failed() || strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic") {
			t.Errorf("the log:\n%s", log)
		}
	})
	if err := errors.Join(u.Start(), u.Await("READY=1", lab.Patience)); err != nil {
		t.Fatal(err)
	}
	s.devices(2)
	req := query("home.internal.", dns.TypeAAAA, edns(1232))
	s.warm(s.a, req)
	network := s.a.Addr.String()[:len("fdaa:0:a:a7b:7d:1:")]
	client := &steady.Client{
		Dial: func(network string) (net.Conn, error) { return s.a.Dial(network, s.a.Addr, server) },
		Questions: []steady.Question{
			{Name: "home.internal.", Type: dns.TypeAAAA, Data: []string{network + "1:2", network + "2:2", network + "3:2"}},
			{Name: "single.internal.", Type: dns.TypeAAAA, Data: []string{"fdaa:0:a:a7b:104:1:1:2"}},
			{Name: "none.internal.", Type: dns.TypeAAAA, Rcode: dns.RcodeNameError},
		},
		UDP: 1000, TCP: 20,
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan *steady.Result, 1)
	go func() { done <- client.Run(ctx) }()
	time.Sleep(300 * time.Millisecond)
	old := u.Main()
	u.Signal(syscall.SIGUSR2)
	if err := u.Replaced(old, 3*lab.Patience); err != nil {
		t.Error(err)
	}
	s.write() // a change that the new process follows
	time.Sleep(300 * time.Millisecond)
	stop()
	if r := <-done; !r.Good() {
		t.Error(r)
	}
	s.devices(2)
	s.warm(s.a, req)
	if !lab.Until(soon, func() bool { return s.programs("to-a") == 1 }) {
		t.Errorf("%d programs are attached, want those of the new process", s.programs("to-a"))
	}
}

// Devices come, go and change their names, as do the addresses of the host: the kernel
// answers where it is to.
func TestDevicesComeAndGo(t *testing.T) {
	t.Parallel()
	s := newHost(t)
	s.serve(privileges, "--fast-path", "to-b", "--fast-path", "to-n*", "--fast-path", "none")
	s.devices(1)
	req := query("home.internal.", dns.TypeAAAA, nil)
	s.warm(s.b, req)
	if n := s.programs("to-a"); n != 0 {
		t.Fatalf("%d programs are attached to a device that no pattern names", n)
	}
	s.IP(t, "link add to-new type veth peer name other")
	s.devices(2)
	if s.programs("to-new") != 1 || s.programs("other") != 0 {
		t.Error("programs are not where they are to be")
	}
	s.IP(t, "link set to-a down", "link set to-a name to-na", "link set to-na up") // now a pattern names it
	s.devices(3)
	s.IP(t, fmt.Sprintf("addr add fe80::1/64 dev %s nodad", "to-na"), "route replace fdaa:0:a::/48 dev to-na")
	s.warm(s.a, req)
	s.IP(t, "link set to-na down", "link set to-na name old", "link set old up")
	s.devices(2)
	if s.programs("old") != 0 {
		t.Error("a program stays at a device that has another name now")
	}
	s.IP(t, "link del to-new")
	s.devices(1)

	// Without the address nothing is answered there, and nothing in its name.
	s.IP(t, "addr del fdaa::3/128 dev lo")
	if !lab.Until(soon, func() bool { return !try(t, s.b, req, 50*time.Millisecond) }) {
		t.Error("the kernel answers at an address that the host has no longer")
	}
	s.IP(t, "addr add fdaa::3/128 dev lo nodad")
	if !lab.Until(soon, func() bool { return try(t, s.b, req, 50*time.Millisecond) }) { // its route comes a little later
		t.Fatal("the address does not come back")
	}
	s.warm(s.b, req)
}

// Listening on all addresses, the kernel answers at each of the host's, as the sockets do.
func TestEveryAddress(t *testing.T) {
	t.Parallel()
	s := newHost(t)
	s.IP(t, "addr add fdaa:0:a::3/128 dev lo nodad")
	s.serve(privileges, "--listen", "[::]:54", "--fast-path", "to-?")
	s.devices(2)
	req := query("home.internal.", dns.TypeAAAA, nil)
	s.warm(s.a, req) // at fdaa::3, port 53
	for _, to := range []string{"[fdaa::3]:54", "[fdaa:0:a::3]:54"} {
		before := s.hits()
		conn, err := s.a.Dial("udp", s.a.Addr, mustAddr(to))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(req); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(soon))
		if _, err := conn.Read(make([]byte, 1000)); err != nil || s.hits() != before+1 {
			t.Errorf("%s: %v, %d answers by the kernel", to, err, s.hits()-before)
		}
		conn.Close()
	}
	before := s.counts()
	conn, err := s.a.Dial("udp", s.a.Addr, mustAddr("[fdaa:0:a::3]:53"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(req); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1000)); err == nil || s.since(before) != "" {
		t.Errorf("a port and address that dnsd does not listen at: %v, %q", err, s.since(before))
	}
}

// Where the kernel cannot answer, one line says why, and the sockets do.
func TestWithout(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		caps []uintptr
		want string
	}{
		{"privileges", privileges[:1], "this process lacks CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"},
		{"CAP_PERFMON", privileges[:3], "this process lacks CAP_PERFMON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newHost(t)
			s.serve(c.caps, "--fast-path", "to-?")
			if got := canonical(s.ask(s.a, query("home.internal.", dns.TypeAAAA, nil))); !strings.Contains(got, "fdaa:0:a:a7b:7d:1:1:2") {
				t.Errorf("the socket answers %s", got)
			}
			log := s.dnsd.Stderr.String()
			if strings.Count(log, "fast-path") != 1 || strings.Count(log, "level=WARN") != 1 || !strings.Contains(log, c.want) {
				t.Errorf("the log says\n%s\nwant one line with %q", log, c.want)
			}
		})
	}
	t.Run("forwarding", func(t *testing.T) {
		s := newHost(t)
		s.Sysctl(t, "net/ipv6/conf/all/forwarding", "0")
		s.serve(privileges, "--fast-path", "to-?")
		s.devices(2)
		req := query("home.internal.", dns.TypeAAAA, nil)
		s.ask(s.a, req)
		s.ask(s.a, req)
		if !lab.Until(soon, func() bool { s.ask(s.a, req); return s.counts()[3] > 0 }) || s.hits() != 0 {
			t.Errorf("the packets are counted as %v: %v", results, s.counts())
		}
		if log := s.dnsd.Stderr.String(); !strings.Contains(log, "net.ipv6.conf.all.forwarding is off") {
			t.Errorf("the log does not say why:\n%s", log)
		}
	})
}
