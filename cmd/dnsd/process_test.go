package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// process starts dnsd as a process of its own and returns it with its log. It is
// killed at the test's end if it still runs.
func process(t *testing.T, args ...string) (*exec.Cmd, *logBuffer) {
	t.Helper()
	return spawn(t, exec.Command(os.Args[0], args...))
}

// limited is process with a limit of open files.
func limited(t *testing.T, files int, args ...string) (*exec.Cmd, *logBuffer) {
	t.Helper()
	return spawn(t, exec.Command("/bin/sh", append([]string{"-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, files), os.Args[0]}, args...)...))
}

func spawn(t *testing.T, cmd *exec.Cmd) (*exec.Cmd, *logBuffer) {
	t.Helper()
	log := &logBuffer{}
	cmd.Env = append(cmd.Environ(), asMain+"=1")
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	return cmd, log
}

func TestExitStatusOfProcess(t *testing.T) {
	cmd, log := process(t, "--ttl", "soon")
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 2 {
		t.Errorf("exit status %d, want 2: %s", code, log)
	}
}

// A first signal drains and ends with status 0; a second one ends at once.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	silent := localUDP(t)
	path := filepath.Join(t.TempDir(), "registry.json")
	fleet(t, path, 1)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		for _, twice := range []bool{false, true} {
			cmd, log := process(t, "--listen=127.0.0.1:0", "--metrics-listen=none", "--registry=file:"+path,
				"--upstream="+silent.LocalAddr().String(), "--upstream-timeout=1m")
			var addr string
			eventually(t, "listening", func() bool {
				if m := listens.FindStringSubmatch(log.String()); m != nil {
					addr = m[1]
				}
				return addr != ""
			})
			if twice { // something to drain, which the first signal waits for
				q, err := new(dns.Msg).SetQuestion("example.com.", dns.TypeA).Pack()
				if err != nil {
					t.Fatal(err)
				}
				client, err := net.Dial("udp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				client.Write(q)
				silent.SetReadDeadline(time.Now().Add(patience))
				if _, _, err := silent.ReadFrom(make([]byte, 512)); err != nil {
					t.Fatal(err)
				}
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				cmd.Wait()
			}()
			cmd.Process.Signal(sig)
			if twice { // the first one may not have been taken yet
				eventually(t, "ended", func() bool {
					time.Sleep(50 * time.Millisecond)
					cmd.Process.Signal(sig)
					select {
					case <-ended:
						return true
					default:
						return false
					}
				})
			}
			<-ended
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if twice && (!status.Signaled() || status.Signal() != sig) || !twice && cmd.ProcessState.ExitCode() != 0 {
				t.Errorf("%v, twice %v: %v\n%s", sig, twice, cmd.ProcessState, log)
			}
		}
	}
}
