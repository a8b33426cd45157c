//go:build amd64 || arm64

package fastpath_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// space is a thread with a network of its own.
type space struct {
	work chan func()
	tid  int
}

// newSpace returns a new network, which ends with the test. It skips the test where
// that is not allowed.
func newSpace(t testing.TB) *space {
	t.Helper()
	s := &space{work: make(chan func())}
	ready, done := make(chan error), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread is not used again
		err := unix.Unshare(unix.CLONE_NEWNET)
		s.tid = unix.Gettid()
		ready <- err
		for f := range s.work {
			f()
		}
	}()
	t.Cleanup(func() { close(s.work); <-done })
	if err := <-ready; err != nil {
		skip(t, "no network namespace of our own: "+err.Error())
	}
	return s
}

// skip skips the test, or fails it where nothing may be skipped.
func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("DNSD_TEST_NO_SKIP") != "" {
		t.Fatal("would be skipped: " + why)
	}
	t.Skip(why)
}

// do runs f on the thread. f must not end the test.
func (s *space) do(f func()) {
	done := make(chan struct{})
	s.work <- func() { defer close(done); f() }
	<-done
}

// ip runs lines of ip -batch.
func (s *space) ip(t testing.TB, lines ...string) {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		skip(t, "no ip command (iproute2)")
	}
	var out []byte
	var err error
	s.do(func() {
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
		out, err = cmd.CombinedOutput()
	})
	if err != nil {
		t.Fatalf("ip: %v: %s", err, out)
	}
}

// pair joins a host to a client's machine by a veth pair. The host answers at fdaa::3, and
// routes.
func pair(t testing.TB, addr string) (host, client *space) {
	t.Helper()
	host, client = newSpace(t), newSpace(t)
	var err error
	// A network's values are those of the thread that opens the file.
	host.do(func() { err = os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0o644) })
	if err != nil {
		t.Fatal(err)
	}
	host.ip(t, "link set lo up", "addr add fdaa::3/128 dev lo nodad",
		fmt.Sprintf("link add fast0 type veth peer name eth0 netns /proc/%d/task/%d/ns/net", os.Getpid(), client.tid),
		"link set fast0 up", "addr add fe80::1/64 dev fast0 nodad", "route add "+addr+"/128 dev fast0")
	client.ip(t, "link set lo up", "link set eth0 up", "addr add "+addr+"/128 dev eth0 nodad", "route add default via fe80::1 dev eth0")
	return host, client
}
