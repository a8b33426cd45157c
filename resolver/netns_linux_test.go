package resolver

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// elsewhere runs f on a thread with a network of its own, whose loopback
// interface has the given addresses (with their prefix lengths). Sockets stay in
// the network they were made in, so that f makes them and anybody may use them.
func elsewhere(t *testing.T, addrs []string, f func()) {
	t.Helper()
	onThread(t, func() string {
		if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) {
			return "skip: no privilege to make a network namespace"
		} else if err != nil {
			return err.Error()
		}
		for _, a := range append([]string{""}, addrs...) {
			cmd := []string{"link", "set", "lo", "up"}
			if a != "" {
				cmd = []string{"addr", "add", a, "dev", "lo"}
			}
			if strings.Contains(a, ":") {
				cmd = append(cmd, "nodad")
			}
			if out, err := exec.Command("ip", cmd...).CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
				return "skip: no ip command (iproute2)"
			} else if err != nil {
				return "ip " + strings.Join(cmd, " ") + ": " + string(out)
			}
		}
		if missing := waitForRoutes(addrs); missing != "" {
			return "never reachable: " + missing
		}
		f()
		return ""
	})
}

// waitForRoutes waits until IPv6 addresses are not only there but local: the
// kernel adds their routes a little later, and what is sent until then is lost.
// It returns an address that stays without, if any.
func waitForRoutes(addrs []string) (missing string) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		routes, err := exec.Command("ip", "-6", "route", "show", "table", "local").Output()
		if missing = ""; err != nil {
			return err.Error()
		}
		for _, a := range addrs {
			a, _, _ = strings.Cut(a, "/")
			if strings.Contains(a, ":") && !strings.Contains(string(routes), "local "+a+" dev lo") {
				missing = a
			}
		}
		if missing == "" {
			return ""
		}
	}
	return missing
}

// onThread runs f on a thread that ends with it. f returns what failed, or why
// the test is to be skipped; it must not end the test itself.
func onThread(t *testing.T, f func() string) {
	t.Helper()
	result := make(chan string)
	go func() {
		runtime.LockOSThread() // for good: the thread is not used again
		result <- f()
	}()
	msg := <-result
	if strings.HasPrefix(msg, "skip: ") && os.Getenv("DNSD_TEST_NO_SKIP") == "" {
		t.Skip(msg[len("skip: "):])
	}
	if msg != "" {
		t.Fatal(msg)
	}
}
