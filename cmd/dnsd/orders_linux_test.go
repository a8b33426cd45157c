package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Signals that come while dnsd starts do not end it, from before its packages are
// initialized: with GODEBUG=inittrace=1 each says so on standard error, and where
// that is a pipe that is full, dnsd stands still in the midst of it.
func TestOrdersWhileStarting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.json")
	fleet(t, path, 1)
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	size, err := unix.FcntlInt(in.Fd(), unix.F_SETPIPE_SZ, 4096) // at least a page
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "--listen=127.0.0.1:0", "--metrics-listen=none", "--upstream=none", "--registry=file:"+path)
	cmd.Env = append(os.Environ(), asMain+"=1", "GODEBUG=inittrace=1")
	cmd.Stderr = in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	eventually(t, "the pipe is full", func() bool {
		n, err := unix.IoctlGetInt(int(out.Fd()), unix.TIOCINQ)
		return err != nil || n > size-200
	})
	for range 100 {
		cmd.Process.Signal(syscall.SIGHUP)
		cmd.Process.Signal(syscall.SIGUSR1)
	}
	log := &logBuffer{}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		io.Copy(log, out)
	}()
	eventually(t, "the orders are obeyed in the end", func() bool {
		select {
		case <-copied:
			t.Fatalf("dnsd has ended:\n%s", log)
		default:
		}
		return strings.Contains(log.String(), "nothing is held back") && strings.Contains(log.String(), "the registry file is read again")
	})
	cmd.Process.Signal(syscall.SIGTERM)
	<-copied
	if err := cmd.Wait(); err != nil {
		t.Errorf("dnsd: %v\n%s", err, log)
	}
	before, _, caught := strings.Cut(log.String(), "\ninit dnsd/cmd/dnsd/orders @")
	if full := log.String()[:size]; !caught || len(before) > len(full) || strings.Contains(full, "init main @") {
		t.Errorf("dnsd did not stand still where it should:\n%s", full)
	}
	for _, late := range []string{"init net/http @", "init google.golang.org/grpc @", "init github.com/prometheus/client_golang/prometheus @"} {
		if strings.Contains(before, late) {
			t.Errorf("the signals are caught only after %q", late)
		}
	}
}

// Of two orders given at once both are obeyed, again and again.
func TestOrdersAtOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.json")
	fleet(t, path, 1)
	cmd, log := process(t, "--listen=127.0.0.1:0", "--metrics-listen=none", "--upstream=none", "--registry=file:"+path)
	eventually(t, "listed", func() bool { return strings.Contains(log.String(), "the registry is listed") })
	obeyed := regexp.MustCompile(`nothing is held back|the registry file is read again`)
	const rounds = 200
	for round := range rounds {
		log.reset()
		for _, s := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGCONT} {
			cmd.Process.Signal(s) // those two arrive in the same moment
		}
		done := map[string]bool{}
		for deadline := time.Now().Add(patience); len(done) < 2; {
			for _, order := range obeyed.FindAllString(log.String(), -1) {
				done[order] = true
			}
			if time.Now().After(deadline) {
				t.Fatalf("round %d: obeyed was only %v", round, done)
			}
		}
	}
}
