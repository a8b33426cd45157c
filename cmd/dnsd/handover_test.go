package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"dnsd/resolver"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// stuckZone answers when it is let.
type stuckZone struct{ asked, open chan struct{} }

func (z *stuckZone) Origin() string { return "internal." }

func (z *stuckZone) Answer(*resolver.Question) *resolver.Answer {
	z.asked <- struct{}{}
	<-z.open
	return &resolver.Answer{}
}

func (z *stuckZone) View(netip.Addr) (resolver.View, []<-chan struct{}) { return resolver.View{}, nil }

// A loop that stands still ends the watchdog's beat, and nothing else does.
func TestStuckLoopStopsTheBeat(t *testing.T) {
	dir := t.TempDir()
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	t.Setenv("NOTIFY_SOCKET", systemd.LocalAddr().String())
	t.Setenv("WATCHDOG_USEC", "1") // as often as it goes
	fleet(t, filepath.Join(dir, "registry.json"), 1)
	log := &logBuffer{}
	c, _, err := parseConfig([]string{"--listen=127.0.0.1:0", "--metrics-listen=none", "--upstream=none", "--registry=file:" + dir + "/registry.json"}, environment())
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDaemon(c, environment(), newLogger(c, log))
	if err != nil {
		t.Fatal(err)
	}
	zone := &stuckZone{make(chan struct{}, 1), make(chan struct{})}
	if d.resolver, err = resolver.New(resolver.Config{Listen: c.Listen, Zones: []resolver.Zone{zone}, Viewer: zone, Sockets: 2}); err != nil {
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
	beat := func() bool { // whether one comes within some of its intervals
		for systemd.SetReadDeadline(time.Now().Add(mustTurn / 2)); ; {
			buf := make([]byte, 4096)
			n, err := systemd.Read(buf)
			if err != nil {
				return false
			}
			if strings.HasPrefix(string(buf[:n]), "WATCHDOG=1") {
				return true
			}
		}
	}
	if first := beat(); !first || !beat() {
		t.Fatalf("an idle dnsd has no beat\n%s", log)
	}
	conn, err := net.Dial("udp", d.resolver.Addresses()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	question, err := new(dns.Msg).SetQuestion("internal.", dns.TypeAAAA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	conn.Write(question)
	<-zone.asked
	time.Sleep(mustTurn + 2*mostBeats)
	for systemd.SetReadDeadline(time.Now().Add(time.Millisecond)); ; { // what was said before
		if _, err := systemd.Read(make([]byte, 4096)); err != nil {
			break
		}
	}
	if beat() {
		t.Error("the beat goes on while a loop stands still")
	}
	if !strings.Contains(log.String(), "stands still") {
		t.Errorf("the log does not say it: %s", log)
	}
	close(zone.open)
	if !beat() {
		t.Error("the beat does not begin again")
	}
}

// Nobody who does not read what dnsd says holds it up.
func TestUnreadNotifications(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	for n := 0; ; n++ {
		if err := tell(path, "STATUS=nobody reads this"); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			return
		}
		if n == 100_000 {
			t.Fatalf("%d messages that nobody reads are taken", n)
		}
	}
}

// What was stored and is no longer there is taken out of the store.
func TestStoreIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	files, err := duplicate([]resolver.NamedSocket{{Name: "dns", Conn: r}})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(files)
	if err := store(path, files); err != nil {
		t.Fatal(err)
	}
	var said []string
	for range 4 {
		buf, rights := make([]byte, 4096), make([]byte, 64)
		n, rightsLen, _, _, err := systemd.ReadMsgUnix(buf, rights)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(buf[:n]), "\n", " ")
		if rightsLen > 0 {
			messages, err := unix.ParseSocketControlMessage(rights[:rightsLen])
			if err != nil {
				t.Fatal(err)
			}
			fds, err := unix.ParseUnixRights(&messages[0])
			if err != nil {
				t.Fatal(err)
			}
			for _, fd := range fds {
				unix.Close(fd)
			}
			text += fmt.Sprint(" with ", len(fds))
		}
		said = append(said, text)
	}
	slices.Sort(said)
	if want := []string{"FDSTORE=1 FDPOLL=0 FDNAME=dns with 1", "FDSTOREREMOVE=1 FDNAME=admin", "FDSTOREREMOVE=1 FDNAME=dns", "FDSTOREREMOVE=1 FDNAME=side"}; !slices.Equal(said, want) {
		t.Errorf("%q\nwant %q", said, want)
	}
}

// What is given to a successor is all that it needs, and nothing that systemd has said
// to this process alone.
func TestSuccessorEnvironment(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	files, err := duplicate([]resolver.NamedSocket{{Name: "dns", Conn: r}, {Name: "side", Conn: w}})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(files)
	got := strings.Join(successorEnvironment([]string{"A=b", "LISTEN_PID=1", "LISTEN_FDS=9", "LISTEN_FDNAMES=x", "WATCHDOG_PID=1", "WATCHDOG_USEC=5", "NOTIFY_SOCKET=/n"}, files), " ")
	if want := "A=b WATCHDOG_USEC=5 NOTIFY_SOCKET=/n DNSD_HANDOVER=1 LISTEN_FDS=2 LISTEN_FDNAMES=dns:side"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// A new process that neither serves nor ends is ended: after a while, and when this
// process ends.
func TestSuccessorIsNotWaitedForForEver(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	for want, c := range map[string]struct {
		ctx      context.Context
		patience time.Duration
	}{
		"it does not serve within 50ms": {t.Context(), 50 * time.Millisecond},
		"this process ends":             {ended, time.Hour},
	} {
		said, tells, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer tells.Close() // by whoever else has it
		_, gone, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		next := &successor{exec.Command("sleep", "1000"), said, gone}
		if err := next.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := next.await(c.ctx, c.patience); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		if how := next.cmd.ProcessState.String(); how != "signal: terminated" {
			t.Errorf("%s: it has ended: %s", want, how)
		}
	}
}

// TestHalfTheProcessors: while another process answers, this one loads with half of the
// processors.
func TestHalfTheProcessors(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for n, half := range map[int]int{1: 1, 2: 1, 5: 2} {
		t.Setenv("GOMAXPROCS", strconv.Itoa(n))
		runtime.GOMAXPROCS(n)
		all := halfTheProcessors()
		if got := runtime.GOMAXPROCS(0); got != half {
			t.Errorf("of %d processors %d are used, want %d", n, got, half)
		}
		all()
		if got := runtime.GOMAXPROCS(0); got != n {
			t.Errorf("afterwards %d of %d are used", got, n)
		}
	}
	t.Setenv("GOMAXPROCS", "")
	runtime.SetDefaultGOMAXPROCS()
	before := runtime.GOMAXPROCS(0)
	halfTheProcessors()()
	if got := runtime.GOMAXPROCS(0); got != before {
		t.Errorf("afterwards %d are used, want %d", got, before)
	}
}
