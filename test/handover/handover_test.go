package handover

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dnsd/test/internal/lab"
	"dnsd/test/internal/unit"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// TestHandOver: nobody notices that a new process answers, with few machines or many,
// with a state directory or without one, while the registry changes; whoever asks
// whether dnsd is ready does not notice either.
func TestHandOver(t *testing.T) {
	for name, machines := range map[string]int{"small": 25, "large": lab.Full(5000, slower(20_000)), "without_state": 25} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, machines)
			if name == "without_state" {
				s.must(os.Remove(filepath.Join(s.Dir, "state")))
			}
			s.begin()
			s.unnoticed(func() {
				always := s.alwaysReady()
				for i := range 3 {
					s.handOver()
					s.write(machines + i)
				}
				always()
			})
			if n := s.Count("RELOADING=1\nMONOTONIC_USEC="); n != 3 {
				t.Errorf("systemd was told of %d hand-overs, want 3: %q", n, s.Messages())
			}
			if strange := s.Strange(); len(strange) > 0 {
				t.Errorf("processes have spoken that are not the main one: %q", strange)
			}
		})
	}
}

// TestSlowUpstream: questions that wait for an upstream are answered by the process that
// has asked it.
func TestSlowUpstream(t *testing.T) {
	t.Parallel()
	s := newScene(t, 25)
	s.begin()
	conns := map[string]net.Conn{}
	for _, network := range []string{"udp", "tcp"} {
		conn, err := s.lab.Dial(network, netip.MustParseAddr(client), netip.MustParseAddrPort("["+server+"]:53"))
		s.must(err)
		defer conn.Close()
		conns[network] = conn
		s.must((&dns.Conn{Conn: conn}).WriteMsg(new(dns.Msg).SetQuestion("slow."+network+".example.", dns.TypeA)))
	}
	if !lab.Until(s.patience, func() bool {
		_, metrics := s.lab.Get("http://" + lab.Admin + "/metrics")
		return strings.Contains(metrics, "\ndnsd_forward_inflight 2\n")
	}) {
		t.Fatal("the questions do not wait for the upstream")
	}
	s.handOver()
	for network, conn := range conns {
		conn.SetDeadline(time.Now().Add(lab.Patience))
		if m, err := (&dns.Conn{Conn: conn}).ReadMsg(); err != nil || len(m.Answer) != 1 {
			t.Errorf("%s: %v, %v", network, m, err)
		}
	}
}

// TestHandOverInAFlood: a network that asks as much as it can costs others nothing.
func TestHandOverInAFlood(t *testing.T) {
	s := newScene(t, 25)
	s.begin()
	conn, err := s.lab.Dial("udp", netip.MustParseAddr(other), netip.MustParseAddrPort("["+server+"]:53"))
	s.must(err)
	defer conn.Close()
	query, err := new(dns.Msg).SetQuestion("nothing.internal.", dns.TypeAAAA).Pack()
	s.must(err)
	var flooding sync.WaitGroup
	ended := make(chan struct{})
	flooding.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-ended:
				return
			default:
			}
			conn.Write(query)
			if n%slower(50) == 0 {
				time.Sleep(time.Millisecond) // some 30,000 a second: more would only measure the machine
			}
		}
	})
	s.unnoticed(func() {
		for range 2 {
			s.handOver()
		}
	})
	close(ended)
	flooding.Wait()
}

// TestRestart: nobody notices a restart where systemd keeps the sockets: those that
// dnsd gives it to keep, or those of a socket unit.
func TestRestart(t *testing.T) {
	for by, want := range map[string]int{"store": 4, "socket_unit": 0, "both": 4} { // loop, side, TCP, admin
		t.Run(by, func(t *testing.T) {
			s := newScene(t, lab.Full(5000, slower(20_000)))
			s.Args = append(s.Args, "--sockets", "1")
			s.NoStore = by == "socket_unit"
			if by != "store" {
				s.socketUnit()
			}
			s.begin()
			if s.Stored() != want {
				t.Fatalf("%d sockets are kept, want %d", s.Stored(), want)
			}
			s.saved()
			s.unnoticed(func() {
				for range 3 {
					s.must(s.Restart(s.patience))
				}
				s.handOver() // with sockets that were kept
				s.must(s.Restart(s.patience))
			})
			if strings.Contains(s.Log(), "another number of sockets") {
				t.Error("sockets that are given twice are used twice")
			}
			if n := s.Count("STOPPING=1"); n != 0 { // the last one runs
				t.Errorf("%d processes end: %q", n, s.Messages())
			}
			s.Signal(syscall.SIGTERM)
			how, err := s.Wait(s.patience)
			if err != nil || how.ExitStatus() != 0 || s.Count("STOPPING=1") != 1 {
				t.Errorf("it ends with status %d, %v and says %q", how.ExitStatus(), err, s.Messages())
			}
		})
	}
}

// socketUnit makes sockets as systemd makes those of deploy/dnsd.socket.
func (s *scene) socketUnit() {
	s.t.Helper()
	uc, err := s.lab.ListenUDP("[" + server + "]:53")
	s.must(err)
	defer uc.Close()
	tl, err := s.lab.ListenTCP("[" + server + "]:53")
	s.must(err)
	defer tl.Close()
	for _, c := range []interface{ File() (*os.File, error) }{uc, tl} {
		f, err := c.File()
		s.must(err)
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		s.must(err)
		f.Close()
		named := os.NewFile(uintptr(fd), "dnsd.socket")
		s.t.Cleanup(func() { named.Close() })
		s.Sockets = append(s.Sockets, named)
	}
}

// TestRestartWithoutTheStore shows that the clients of these tests notice: where
// nobody keeps the sockets, questions are lost.
func TestRestartWithoutTheStore(t *testing.T) {
	t.Parallel()
	s := newScene(t, 25)
	s.NoStore, s.lossy = true, true
	s.begin()
	if r := s.ask(func() { s.must(s.Restart(s.patience)) }); r.Good() {
		t.Errorf("nobody notices: %s", r)
	}
}

// TestOtherSettings: a restart with other addresses closes the sockets of those that
// are not served any more, and another number of sockets does no harm.
func TestOtherSettings(t *testing.T) {
	t.Parallel()
	s := newScene(t, 25)
	before := s.Args
	listen := func(args ...string) {
		s.Args = append(args, before[2:]...)
		s.must(s.Restart(s.patience))
	}
	s.Args = append([]string{"--listen", "127.0.0.1:53"}, before...)
	s.begin()
	both := s.Stored()
	s.unnoticed(func() {
		listen(append(before[:2:2], "--sockets", "4", "--metrics-listen", "127.0.0.1:9154")...)
		if conn, err := s.lab.ListenUDP("127.0.0.1:53"); err != nil {
			t.Errorf("the address that is not served any more is still bound: %v", err)
		} else {
			conn.Close()
		}
		if n := s.Stored(); n >= both {
			t.Errorf("%d sockets are kept, of %d before", n, both)
		}
		if status, _ := s.lab.Get("http://127.0.0.1:9154/readyz"); status != 200 {
			t.Errorf("/readyz at its new address: %d", status)
		}
		if status, _ := s.lab.Get("http://" + lab.Admin + "/readyz"); status != 0 {
			t.Errorf("/readyz at its old address: %d", status)
		}
		listen(append(before[:2:2], "--listen", "127.0.0.1:53")...)
	})
	if n := s.Stored(); n != both {
		t.Errorf("%d sockets are kept, want %d again", n, both)
	}
}

// TestBadProgram: a new program that does not come to serve costs nothing, and the
// log says why.
func TestBadProgram(t *testing.T) {
	for name, c := range map[string]struct {
		put  func(s *scene)
		says string
	}{
		"exits":     {func(s *scene) { s.script("echo it is broken >&2; exit 3") }, "exit status 3"},
		"settings":  {func(s *scene) { s.script(`exec "` + s.Path + `.good" --ttl soon`) }, "--ttl soon"},
		"addresses": {func(s *scene) { s.script(`exec "` + s.Path + `.good" --listen [fdaa:0:7::3]:53 "$@"`) }, "this host does not have the address"},
		"killed":    {func(s *scene) { s.script("kill -9 $$") }, "signal: killed"},
		"missing":   {func(s *scene) { s.must(os.Remove(s.Path)) }, "no such file"},
		"forbidden": {func(s *scene) { s.must(os.Chmod(s.Path, 0o600)) }, "permission denied"},
		"no_format": {func(s *scene) { s.program(s.Path, "x") }, "exec format error"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 25)
			s.begin()
			s.install(s.Path, s.Path+".good")
			pid := s.Main()
			s.unnoticed(func() {
				c.put(s)
				s.Signal(syscall.SIGUSR2)
				s.must(s.Await("STATUS=the hand-over has failed", s.patience))
				if s.Main() != pid {
					t.Errorf("process %d has become the main one", s.Main())
				}
				if log := s.failure(); !strings.Contains(log, c.says) {
					t.Errorf("the log does not say %q: %s", c.says, log)
				}
				s.must(os.Rename(s.Path+".good", s.Path))
				s.handOver() // and now it works
			})
		})
	}
}

// failure returns the line of the log that says why a hand-over failed.
func (s *scene) failure() string {
	for line := range strings.Lines(s.Log()) {
		if strings.Contains(line, "the hand-over has failed") {
			return line
		}
	}
	return ""
}

// hang has a hand-over begin with a program that does not end, and returns the new
// process.
func (s *scene) hang() (pid int) {
	s.t.Helper()
	s.script("trap '' TERM; while :; do sleep 1000; done")
	s.Signal(syscall.SIGUSR2)
	return s.successor()
}

// child returns a process that the main one has started.
func (s *scene) child() int { return s.childWhich(func(int) bool { return true }) }

// successor returns the process that the main one has begun to hand over to. Not each
// child is that: before its first one, os/exec forks a process to see what the kernel can.
func (s *scene) successor() int {
	return s.childWhich(func(pid int) bool {
		return regexp.MustCompile(fmt.Sprintf(`msg="a hand-over begins" .* pid=%d\n`, pid)).MatchString(s.Log())
	})
}

func (s *scene) childWhich(is func(pid int) bool) (pid int) {
	s.t.Helper()
	if !lab.Until(s.patience, func() bool {
		all := unit.Children(s.Main())
		i := slices.IndexFunc(all, is)
		if i >= 0 {
			pid = all[i]
		}
		return i >= 0
	}) {
		s.t.Fatal("no process is started")
	}
	return pid
}

func gone(pid int) bool { return syscall.Kill(pid, 0) != nil }

// TestHangingProgram: while a new program hangs, the old process answers, refuses
// another hand-over, and obeys SIGTERM, which ends both.
func TestHangingProgram(t *testing.T) {
	t.Parallel()
	s := newScene(t, 25)
	s.begin()
	var child int
	s.unnoticed(func() {
		child = s.hang()
		s.Signal(syscall.SIGUSR2)
		if !lab.Until(s.patience, func() bool { return strings.Contains(s.Log(), "SIGUSR2 is refused: a hand-over is under way") }) {
			t.Error("another hand-over is not refused")
		}
	})
	s.Signal(syscall.SIGTERM)
	if how, err := s.Wait(s.patience); err != nil || how.ExitStatus() != 0 {
		t.Errorf("it ends with status %d, %v", how.ExitStatus(), err)
	}
	if !lab.Until(s.patience, func() bool { return gone(child) }) {
		t.Error("the new process does not end")
	}
}

// slow has a hand-over begin with a process that cannot list its registry.
func (s *scene) slow() (pid int) {
	s.t.Helper()
	s.must(os.Rename(s.registry, s.registry+".away"))
	s.Signal(syscall.SIGUSR2)
	pid = s.successor()
	if !lab.Until(s.patience, func() bool { return strings.Count(s.Log(), "dnsd listens") == 2 }) {
		s.t.Fatal("the new process does not listen")
	}
	return pid
}

// TestNewProcessIsKilled: while the new process waits for its registry it answers
// nothing, and when it is killed nobody notices.
func TestNewProcessIsKilled(t *testing.T) {
	t.Parallel()
	s := newScene(t, 25)
	s.begin()
	s.unnoticed(func() {
		syscall.Kill(s.slow(), syscall.SIGKILL)
		s.must(s.Await("STATUS=the hand-over has failed", s.patience))
		s.must(os.Rename(s.registry+".away", s.registry))
		s.handOver()
	})
}

// TestOldProcessIsKilled: where the old process is killed in the middle, the new one
// answers from the last known state. What the old one had in hand is lost.
func TestOldProcessIsKilled(t *testing.T) {
	t.Parallel()
	s := newScene(t, 25)
	s.lossy = true
	s.begin()
	s.saved()
	var child int
	r := s.ask(func() {
		child = s.slow()
		s.Signal(syscall.SIGKILL)
		if _, err := s.Wait(s.patience); err != nil {
			t.Fatal(err)
		}
	})
	defer func() {
		syscall.Kill(child, syscall.SIGTERM)
		if !lab.Until(s.patience, func() bool { syscall.Wait4(child, nil, syscall.WNOHANG, nil); return gone(child) }) {
			t.Error("the new process does not end")
		}
	}()
	if r.Wrong+r.ServFail > 0 || r.Lost > r.Asked/20 {
		t.Error(r)
	}
	s.unnoticed(func() { time.Sleep(300 * time.Millisecond) })
}

// TestCrash: after a crash the questions wait until the next process reads them.
func TestCrash(t *testing.T) {
	t.Parallel()
	s := newScene(t, lab.Full(5000, slower(20_000)))
	s.lossy = true
	s.begin()
	s.saved()
	r := s.ask(func() {
		s.Signal(syscall.SIGKILL)
		if _, err := s.Wait(s.patience); err != nil {
			t.Fatal(err)
		}
		time.Sleep(250 * time.Millisecond) // RestartSec=
		s.begin()
	})
	if r.Wrong+r.ServFail > 0 || r.Lost > r.Asked/20 { // what it had in hand
		t.Error(r)
	}
	t.Log(r)
}

// TestFirstProcess: in a container the first process must not end.
func TestFirstProcess(t *testing.T) {
	t.Parallel()
	s := newScene(t, 25)
	s.Args = append([]string{s.Path}, s.Args...)
	script := filepath.Join(s.Dir, "first")
	s.program(script, "#!/bin/sh\nexec unshare --pid --fork --kill-child \"$@\"\n")
	s.Path = script
	s.must(s.Start())
	if !lab.Until(s.patience, func() bool { return strings.Contains(s.Log(), "the registry is listed") }) {
		t.Fatal("it does not serve")
	}
	syscall.Kill(s.child(), syscall.SIGUSR2)
	if !lab.Until(s.patience, func() bool {
		return strings.Contains(s.Log(), "SIGUSR2 is refused: this is the first process of a container")
	}) {
		t.Error("the hand-over is not refused")
	}
	syscall.Kill(s.child(), syscall.SIGTERM)
	if _, err := s.Wait(s.patience); err != nil {
		t.Error(err)
	}
}

// TestWithoutSystemd: a hand-over needs nobody who listens.
func TestWithoutSystemd(t *testing.T) {
	t.Parallel()
	s := newScene(t, 25)
	s.Args = append([]string{"-u", "NOTIFY_SOCKET", s.Path}, s.Args...)
	s.Path = "/usr/bin/env"
	s.must(s.Start())
	if !lab.Until(s.patience, func() bool { return strings.Contains(s.Log(), "the registry is listed") }) {
		t.Fatal("it does not serve")
	}
	var child int
	s.unnoticed(func() {
		s.Signal(syscall.SIGUSR2)
		child = s.successor()
		if _, err := s.Wait(s.patience); err != nil {
			t.Fatal(err)
		}
	})
	syscall.Kill(child, syscall.SIGTERM)
	if !lab.Until(s.patience, func() bool { syscall.Wait4(child, nil, syscall.WNOHANG, nil); return gone(child) }) {
		t.Error("the new process does not end")
	}
	if n := len(s.Messages()) + len(s.Strange()); n > 0 {
		t.Errorf("%d messages", n)
	}
}

// TestWatchdog: an idle dnsd says that it is alive, and so does its successor.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	s := newScene(t, 25)
	s.Watchdog = 6 * time.Second // the apply loop turns every second
	s.begin()
	s.must(s.Await("WATCHDOG=1", s.patience))
	if s.Count("WATCHDOG=1\nSTATUS=live: file:") == 0 {
		t.Errorf("it does not say how it is: %q", s.Messages())
	}
	s.handOver()
	before := s.Count("WATCHDOG=1")
	if !lab.Until(s.patience, func() bool { return s.Count("WATCHDOG=1") > before+1 }) {
		t.Errorf("the new process does not say that it is alive: %q", s.Messages())
	}
}

// TestReadyWithoutARegistry: units that need DNS start, since other names are there.
func TestReadyWithoutARegistry(t *testing.T) {
	t.Parallel()
	s := newScene(t, 25)
	s.must(os.Remove(s.registry))
	s.must(s.Start())
	conn, err := s.lab.Dial("udp", netip.MustParseAddr(client), netip.MustParseAddrPort("["+server+"]:53"))
	s.must(err)
	defer conn.Close()
	ask(t, conn, "www.example.com.", dns.RcodeSuccess) // at once
	ask(t, conn, "my-app.internal.", dns.RcodeServerFailure)
	s.must(s.Await("READY=1", s.patience))
	s.must(s.Await("STATUS=listing: ", s.patience))
}

func ask(t *testing.T, conn net.Conn, name string, rcode int) {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, dns.TypeA)
	c := dns.Conn{Conn: conn}
	var last string
	if !lab.Until(lab.Patience, func() bool {
		conn.SetDeadline(time.Now().Add(time.Second))
		if c.WriteMsg(m) != nil {
			return false
		}
		resp, err := c.ReadMsg()
		if err == nil {
			last = fmt.Sprint(dns.RcodeToString[resp.Rcode])
		}
		return err == nil && resp.Rcode == rcode
	}) {
		t.Errorf("%s: %s", name, last)
	}
}
