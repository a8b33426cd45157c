package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// endless makes files that have no end, or that nobody writes, and returns them
// with what is said of each.
func endless(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	pipe, zeros, sparse := filepath.Join(dir, "pipe"), filepath.Join(dir, "zeros"), filepath.Join(dir, "sparse")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.Symlink("/dev/zero", zeros),
		os.WriteFile(sparse, nil, 0o600), os.Truncate(sparse, 1<<40)); err != nil {
		t.Fatal(err)
	}
	return map[string]string{pipe: "this is a device, pipe or socket", zeros: "this is a device, pipe or socket", sparse: "it is larger than"}
}

// finished returns the exit status and the output of a dnsd that ends by itself,
// soon and without much memory.
func finished(t *testing.T, stdin io.Reader, args ...string) (int, string) {
	t.Helper()
	out := &logBuffer{}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
	deadline := time.After(patience)
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-ended:
			return cmd.ProcessState.ExitCode(), out.String()
		case <-deadline:
			cmd.Process.Kill()
		case <-look.C:
			var size, resident int
			statm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", cmd.Process.Pid))
			fmt.Sscan(string(statm), &size, &resident)
			if resident*os.Getpagesize() > 1<<30 {
				cmd.Process.Kill()
			}
		}
	}
}

// No file that a flag names keeps dnsd from starting, or from saying why it does
// not.
func TestFilesWithoutEnd(t *testing.T) {
	t.Parallel()
	const etcd = "--registry=etcd://127.0.0.1:1/dnsd/v1/"
	const corrosion = "--registry=corrosion://127.0.0.1:1"
	for path, says := range endless(t) {
		for _, args := range [][]string{
			{"--regions=" + path},
			{etcd, "--etcd-ca=" + path},
			{etcd, "--etcd-cert=" + path, "--etcd-key=" + path},
			{etcd, "--etcd-user=dnsd", "--etcd-password-file=" + path},
			{corrosion, "--corrosion-token-file=" + path},
			{corrosion, "--corrosion-queries=" + path},
		} {
			code, out := finished(t, nil, append(args, "--listen=127.0.0.1:0", "--metrics-listen=none")...)
			if code != 2 || !strings.Contains(out, says) {
				t.Errorf("%v: %d, want 2 with %q: %s", args, code, says, out)
			}
		}
		code, out := finished(t, nil, "check", path)
		if code != 1 || !strings.Contains(out, says) {
			t.Errorf("check: %d, want 1 with %q: %s", code, says, out)
		}
		c := &config{resolvConf: path}
		log := &logBuffer{}
		if f, _, err := c.forwarder(1024, slog.New(slog.NewTextHandler(log, nil))); err != nil || f == nil || !strings.Contains(log.String(), says) {
			t.Errorf("as resolv.conf: %v\n%s", err, log)
		}
	}
}

// A registry or a state without an end is trouble that passes: dnsd serves what it
// can, says so, and ends when it is told to.
func TestRegistryWithoutEnd(t *testing.T) {
	t.Parallel()
	for path, says := range endless(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			state := t.TempDir()
			if err := os.Link(path, filepath.Join(state, "registry.state")); err != nil { // of a link, the link itself
				t.Fatal(err)
			}
			d := start(t, "--registry", "file:"+path, "--network=fdaa:0:18::/48", "--state-dir", state)
			eventually(t, "the reason at /readyz", func() bool {
				code, reason := d.readyz()
				return code == 503 && strings.Contains(reason, says)
			})
			if !strings.Contains(d.log.String(), "the last known state cannot be used") {
				t.Errorf("nothing is said of the state:\n%s", d.log)
			}
			fleet(t, path, 2) // renames a good one into its place
			d.ready()
		})
	}
}

// Standard input can be checked, which is how to check what another program prints.
func TestCheckOfStandardInput(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.json")
	fleet(t, path, 2)
	for text, want := range map[string]struct {
		code int
		says string
	}{
		path:            {0, "standard input: 1 app, 2 machines, 0 peers, 0 addresses in 1 network"},
		"{\"apps\": 7}": {1, "standard input:1:10: "},
	} {
		var stdin io.Reader = strings.NewReader(text)
		if text == path {
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			stdin = f
		}
		if code, out := finished(t, stdin, "check", "-"); code != want.code || !strings.Contains(out, want.says) {
			t.Errorf("%d, want %d with %q: %s", code, want.code, want.says, out)
		}
	}
}
