// Package lab gives an end-to-end test a network of its own: a namespace with
// the addresses the test asks for, a thread that lives in it, and ways to start
// processes and open sockets there. Nothing of it outlives the test process,
// however that ends: the namespace has no name and its processes die with the
// thread that started them.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is how long a test waits for what must happen before it calls it
// failed. It is generous: the machine may be busy, and waiting costs only a
// failing test.
const Patience = 20 * time.Second

// Lab is a network namespace (and a mount namespace, so that it can have its
// own resolv.conf). Safe for concurrent use.
type Lab struct {
	work chan func()
	done chan struct{}
	tid  int // of its thread

	unanswered atomic.Int32 // questions of Client.Exchange
}

// Open makes a lab whose loopback device has the given addresses, and removes
// it when the test ends. It skips the test where that is not allowed.
func Open(t testing.TB, addrs ...string) *Lab {
	t.Helper()
	l := &Lab{work: make(chan func()), done: make(chan struct{})}
	ready := make(chan error)
	go l.live(ready)
	if err := <-ready; err != nil {
		Skip(t, "no network namespace of our own: "+err.Error())
	}
	t.Cleanup(func() { close(l.work); <-l.done })

	batch := []string{"link set lo up"}
	for _, a := range addrs {
		bits := "/128 dev lo nodad"
		if !strings.Contains(a, ":") {
			bits = "/32 dev lo"
		}
		batch = append(batch, "addr add "+a+bits)
	}
	l.IP(t, batch...)
	for _, a := range addrs {
		if err := l.reach(a); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// reach waits until packets to an address arrive. The kernel adds the route
// to a new IPv6 address a little later, and drops what is sent before.
func (l *Lab) reach(addr string) error {
	conn, err := l.ListenUDP(net.JoinHostPort(addr, "0"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if Until(Patience, func() bool {
		if _, err := conn.WriteTo([]byte("?"), conn.LocalAddr()); err != nil {
			return false
		}
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			return false
		}
		_, err := conn.Read(make([]byte, 1))
		return err == nil
	}) {
		return nil
	}
	return fmt.Errorf("%s does not become reachable", addr)
}

// live is the lab's thread. It never gives the thread back to the runtime, so
// the thread ends with the goroutine and the namespaces with their last user.
func (l *Lab) live(ready chan<- error) {
	defer close(l.done)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		ready <- fmt.Errorf("unshare: %w", err)
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		ready <- fmt.Errorf("making mounts private: %w", err)
		return
	}
	l.tid = unix.Gettid()
	ready <- nil
	for fn := range l.work {
		fn()
	}
}

// IP runs lines of ip -batch in the lab.
func (l *Lab) IP(t testing.TB, lines ...string) {
	t.Helper()
	l.Tool(t, strings.Join(lines, "\n")+"\n", "ip", "-batch", "-")
}

// Sysctl sets a value of the lab's network, named by its path below /proc/sys.
func (l *Lab) Sysctl(t testing.TB, path, value string) {
	t.Helper()
	l.Tool(t, value, "tee", "/proc/sys/"+path)
}

// Tool runs a program with some input in the lab, to its end. It skips the test
// where there is no such program.
func (l *Lab) Tool(t testing.TB, input, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		Skip(t, name+" is missing")
	}
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := l.Output(cmd); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}

// Do runs fn on the lab's thread. fn must not call t.FailNow.
func (l *Lab) Do(fn func()) {
	done := make(chan struct{})
	l.work <- func() { defer close(done); fn() }
	<-done
}

// Bind puts a file of the given text in path's place, for the lab only. A path
// that does not exist is left alone.
func (l *Lab) Bind(t testing.TB, path, text string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		return
	}
	file := filepath.Join(t.TempDir(), filepath.Base(path))
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var err error
	l.Do(func() { err = unix.Mount(file, path, "", unix.MS_BIND, "") })
	if err != nil {
		t.Fatalf("binding %s: %v", path, err)
	}
	t.Cleanup(func() { l.Do(func() { unix.Unmount(path, unix.MNT_DETACH) }) })
}

// Dial opens a connected socket from an address of the lab. The zero address
// leaves the choice to the kernel.
func (l *Lab) Dial(network string, from netip.Addr, to netip.AddrPort) (conn net.Conn, err error) {
	d := net.Dialer{Timeout: Patience}
	if from.IsValid() {
		if strings.HasPrefix(network, "tcp") {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		} else {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
	}
	l.Do(func() { conn, err = d.Dial(network, to.String()) })
	return conn, err
}

// ListenUDP binds a UDP socket in the lab.
func (l *Lab) ListenUDP(at string) (conn *net.UDPConn, err error) {
	addr := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at))
	l.Do(func() { conn, err = net.ListenUDP("udp", addr) })
	return conn, err
}

// ListenTCP binds a TCP listener in the lab.
func (l *Lab) ListenTCP(at string) (ln *net.TCPListener, err error) {
	addr := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(at))
	l.Do(func() { ln, err = net.ListenTCP("tcp", addr) })
	return ln, err
}

// Start starts a process in the lab. It dies with the lab.
func (l *Lab) Start(cmd *exec.Cmd) (err error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	l.Do(func() { err = cmd.Start() })
	return err
}

// Output runs a process in the lab to its end and returns all it printed.
func (l *Lab) Output(cmd *exec.Cmd) (string, error) {
	var out Log
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := l.Start(cmd); err != nil {
		return "", err
	}
	timer := time.AfterFunc(3*Patience, func() { cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	return out.String(), err
}

// Get asks for a URL from inside the lab. Status 0: nobody answered.
func (l *Lab) Get(url string) (status int, body string) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(addr)
			if err != nil {
				return nil, err
			}
			return l.Dial(network, netip.Addr{}, to)
		},
	}
	client := http.Client{Transport: transport, Timeout: Patience}
	resp, err := client.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	var text strings.Builder
	if _, err := io.Copy(&text, resp.Body); err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, text.String()
}

// Skip skips the test, or fails it where DNSD_TEST_NO_SKIP is set.
func Skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("DNSD_TEST_NO_SKIP") != "" {
		t.Fatal("would be skipped: " + why)
	}
	t.Skip(why)
}

// Full returns how long or how often a test does something: usual, or full where
// DNSD_TEST_FULL is set, as it is in .ci/run.
func Full[T any](usual, full T) T {
	if os.Getenv("DNSD_TEST_FULL") != "" {
		return full
	}
	return usual
}

// Tries runs what a machine that is busy with something else may spoil, up to five
// times, until it returns nothing that is wrong. What dnsd does wrong it does each time.
func Tries(t testing.TB, try func() (wrong []string)) {
	t.Helper()
	const most = 5
	for n := 1; ; n++ {
		wrong := try()
		if len(wrong) == 0 {
			return
		}
		if n == most {
			t.Errorf("in each of %d tries something was wrong, in the last: %q", most, wrong)
			return
		}
		t.Logf("try %d: %q", n, wrong)
	}
}

// Until polls ok until it holds, and reports whether it did in time.
func Until(patience time.Duration, ok func() bool) bool {
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// Reachable lets every user reach a directory of the test's own.
func Reachable(t testing.TB, dir string) {
	t.Helper()
	shared := filepath.Clean(os.TempDir())
	for ; dir != shared && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// AsRoot runs the test binary again as root of a user namespace when it isn't
// root, and reports the exit code; false when it is root or that is not allowed.
func AsRoot() (code int, ran bool) {
	if os.Geteuid() == 0 {
		return 0, false
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	runtime.LockOSThread()
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), true
	}
	return 0, err == nil
}
