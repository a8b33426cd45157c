package main

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A hand-over that fails is said, with the reason, and changes nothing else; one that
// succeeds leaves every address served and ends the old process; and one under way ends
// with the process that has begun it.
func TestHandOverOfProcesses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	heard, deaf := &logBuffer{}, make(chan struct{})
	go func() {
		defer close(deaf)
		for buf := make([]byte, 4096); ; {
			n, err := systemd.Read(buf)
			if err != nil {
				return
			}
			io.WriteString(heard, strings.ReplaceAll(string(buf[:n]), "\n", " ")+"\n")
		}
	}()
	t.Cleanup(func() { systemd.Close(); <-deaf })

	fleet(t, filepath.Join(dir, "registry.json"), 1)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, regions := filepath.Join(dir, "dnsd"), filepath.Join(dir, "regions.csv")
	install := func(link, script, table string) { // what the next process will be, and read
		t.Helper()
		os.Remove(program)
		if link != "" {
			err = os.Symlink(link, program)
		} else if script != "" {
			err = os.WriteFile(program, []byte("#!/bin/sh\n"+script+"\n"), 0o700)
		}
		if err == nil {
			err = os.WriteFile(regions, []byte("code,latitude,longitude\n"+table), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	install(self, "", "")
	cmd := exec.Command(program, "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", "--upstream=none", "--network=fdaa:0:18::/48",
		"--registry=file:"+dir+"/registry.json", "--regions="+regions)
	// The tests' own settings are none of dnsd's, which warns of them.
	environ := slices.DeleteFunc(os.Environ(), func(pair string) bool {
		return strings.HasPrefix(pair, "DNSD_TEST_")
	})
	cmd.Env = append(environ, "NOTIFY_SOCKET="+systemd.LocalAddr().String(), "WATCHDOG_USEC=often")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	_, log := spawn(t, cmd)
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if t.Failed() {
			t.Logf("%s\nsystemd has heard\n%s", log, heard)
		}
	})
	pid := cmd.Process.Pid
	hears := func(what string) []string { // waits for one more such message than last time
		t.Helper()
		var found [][]string
		eventually(t, what, func() bool {
			found = regexp.MustCompile("(?m)^"+what).FindAllStringSubmatch(heard.String(), -1)
			return found != nil
		})
		heard.reset()
		return found[len(found)-1]
	}
	hears("READY=1 WATCHDOG=1 STATUS=live: file:")
	m := listens.FindStringSubmatch(log.String())
	d := &running{t: t, log: log, dns: m[1], metrics: m[2]}
	serves := func(when string) {
		t.Helper()
		for _, network := range []string{"udp", "tcp"} {
			if m := d.ask(network, "my-app.internal.", dns.TypeAAAA); len(m.Answer) != 1 {
				t.Errorf("%s, over %s: %v", when, network, m)
			}
		}
		if code, reason := d.readyz(); code != 200 {
			t.Errorf("%s: /readyz is %d, %s", when, code, reason)
		}
	}
	handOver := func() {
		t.Helper()
		if err := syscall.Kill(pid, syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
	}

	for _, c := range []struct{ link, script, table, want string }{
		{"", "", "", "starting a new process: .*/dnsd: no such file"},
		{"", "exit 3", "", regexp.QuoteMeta(program) + ": exit status 3: what it has said stands in the log before this"},
		{self, "", "fra,far,8.6\n", regexp.QuoteMeta(program) + `: exit status 2: dnsd: --regions: .*: line 2: latitude "far" is`},
	} {
		install(c.link, c.script, c.table)
		handOver()
		hears("READY=1 STATUS=the hand-over has failed: " + c.want + ".*; live: file:")
		serves(c.want)
	}

	install(self, "", "")
	handOver()
	m = hears(`(?s)RELOADING=1 MONOTONIC_USEC=\d+ STATUS=a new process starts; live: file:.*^MAINPID=(\d+) READY=1 WATCHDOG=1$`)
	if next := hears(`(?s).*FDSTORE=1 .*READY=1 WATCHDOG=1 STATUS=live: file:`); strings.Contains(next[0], "STOPPING=1") {
		t.Errorf("systemd was told of an end: %s", next[0])
	}
	state, err := cmd.Process.Wait()
	if err != nil || !state.Success() {
		t.Errorf("the old process: %v, %v", state, err)
	}
	if pid, err = strconv.Atoi(m[1]); err != nil || pid == cmd.Process.Pid {
		t.Fatalf("the new process is %q", m[1])
	}
	serves("after the hand-over")

	install("", "exec sleep 1000", "")
	handOver()
	hears("RELOADING=1 ")
	handOver()
	eventually(t, "refused", func() bool {
		return strings.Contains(log.String(), "SIGUSR2 is refused: a hand-over is under way")
	})
	syscall.Kill(pid, syscall.SIGTERM)
	hears("STOPPING=1$")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait() // until nobody has its standard error any more
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("something goes on that was started")
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
	}
	for text, want := range map[string]int{"level=ERROR": 3, "level=WARN": 3, "there is no watchdog": 2, "dnsd has ended": 2, "a new process serves: this one ends": 1, "the hand-over has failed: this process goes on as before": 3} {
		if n := strings.Count(log.String(), text); n != want {
			t.Errorf("the log says %d times that %s, want %d", n, text, want)
		}
	}
}
