package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// patience bounds each wait for a server to start or end. Listing a million
// machines on a busy machine is the longest of them.
const patience = 3 * time.Minute

// server is a running process that answers DNS.
type server struct {
	name    string
	v4, v6  string // host:port
	cmd     *exec.Cmd
	pids    []int // the process and its children
	logFile string
	done    chan struct{} // closed when the process has ended
}

// launch starts a program whose output goes to a file. The caller stops it.
func (b *bench) launch(name string, cmd *exec.Cmd) (*server, error) {
	s := &server{name: name, cmd: cmd, logFile: filepath.Join(b.dir, name+".log"), done: make(chan struct{})}
	log, err := os.Create(s.logFile)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() { _ = cmd.Wait(); close(s.done) }()
	return s, nil
}

// stop ends the process and waits for it.
func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
}

// await polls until ok says that the server is ready.
func (s *server) await(ctx context.Context, every time.Duration, ok func() bool) error {
	deadline := time.Now().Add(patience)
	for !ok() {
		select {
		case <-s.done:
			return fmt.Errorf("%s ended: %s", s.name, s.lastWords())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %s: %s", s.name, patience, s.lastWords())
		}
	}
	s.pids = processTree(s.cmd.Process.Pid)
	return nil
}

// awaitAnswer waits until the server answers a question with NOERROR.
func (s *server) awaitAnswer(ctx context.Context, addr, name string, typ uint16) error {
	client := dns.Client{Timeout: time.Second}
	return s.await(ctx, 20*time.Millisecond, func() bool {
		resp, _, err := client.Exchange(new(dns.Msg).SetQuestion(name, typ), addr)
		return err == nil && resp.Rcode == dns.RcodeSuccess
	})
}

// awaitReady waits until dnsd's admin listener says that it is ready.
func (s *server) awaitReady(ctx context.Context, admin string) error {
	client := http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	return s.await(ctx, 5*time.Millisecond, func() bool {
		resp, err := client.Get("http://" + admin + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// rest waits until the server is done with what an earlier load left in its
// queue, and gives up after 10 s: a server may be busy by itself.
func (s *server) rest(ctx context.Context) error {
	const (
		window = 100 * time.Millisecond
		quiet  = time.Millisecond // of CPU time in a window: 1 %
	)
	last, err := cpuTime(s.pids)
	for i := 0; i < int(10*time.Second/window) && err == nil; i++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(window):
		}
		var now time.Duration
		if now, err = cpuTime(s.pids); now-last < quiet {
			break
		}
		last = now
	}
	return err
}

// lastWords returns the end of the log.
func (s *server) lastWords() string {
	text, _ := os.ReadFile(s.logFile)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// port returns the port of host:port.
func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}
