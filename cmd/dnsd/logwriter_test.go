package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// A reader that has stopped reading is waited for once; what there is no room for is
// dropped, and the rest is there when it reads again.
func TestLogIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		l := newLogWriter(w)
		go l.run()
		began := time.Now()
		for i := range 2 * logLines {
			fmt.Fprintf(l, "line %d\n", i)
		}
		if took := time.Since(began); took != 50*time.Millisecond {
			t.Errorf("logging took %s, want 50ms", took)
		}
		if n := l.dropped.Load(); n != logLines-1 { // one is being written
			t.Errorf("%d lines are dropped, want %d", n, logLines-1)
		}
		lines := bufio.NewScanner(r)
		for i := range logLines + 1 {
			if !lines.Scan() || lines.Text() != fmt.Sprintf("line %d", i) {
				t.Fatalf("line %d is %q", i, lines.Text())
			}
		}
		go fmt.Fprintln(l, "and on")
		lines.Scan()
		if synctest.Wait(); lines.Text() != "and on" || l.behind.Load() {
			t.Errorf("afterwards the line is %q", lines.Text())
		}
		fmt.Fprintln(l, "nobody reads")
		began = time.Now()
		if l.end(); time.Since(began) != 500*time.Millisecond {
			t.Errorf("the end took %s, want 500ms", time.Since(began))
		}
		r.Close()
		<-l.ended
	})
}

// Lines that wait at the end are written, if somebody reads.
func TestLogIsWrittenToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		l := newLogWriter(w)
		go l.run()
		const all = 50
		for range all {
			fmt.Fprintln(l, "a line")
		}
		read := make(chan int)
		go func() {
			lines := bufio.NewScanner(r)
			n := 0
			for lines.Scan() {
				n++
			}
			read <- n
		}()
		l.end()
		w.Close()
		if n := <-read; n != all {
			t.Errorf("%d lines of %d are written", n, all)
		}
	})
}

// dnsd goes on where nobody reads its log, or can, and ends when it is told to.
func TestLogReaderIsGone(t *testing.T) {
	t.Parallel()
	for _, gone := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "registry.json")
		fleet(t, path, 1)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		cmd := exec.Command(os.Args[0], "--listen=127.0.0.1:0", "--metrics-listen=none", "--upstream=none", "--network=fdaa:0:18::/48", "--registry=file:"+path)
		cmd.Env, cmd.Stderr = append(os.Environ(), asMain+"=1"), w
		err = cmd.Start()
		w.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer cmd.Process.Kill()
		var addr string
		for lines := bufio.NewScanner(r); addr == "" && lines.Scan(); {
			if m := listens.FindStringSubmatch(lines.Text()); m != nil {
				addr = m[1]
			}
		}
		if gone {
			r.Close()
		} else if raw, err := r.SyscallConn(); err != nil {
			t.Fatal(err)
		} else if err := raw.Control(func(fd uintptr) { unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 4096) }); err != nil {
			t.Fatal(err)
		}
		for range 100 { // each makes a line
			cmd.Process.Signal(syscall.SIGHUP)
			cmd.Process.Signal(syscall.SIGUSR1)
			time.Sleep(2 * time.Millisecond)
		}
		m := new(dns.Msg).SetQuestion("_apps.internal.", dns.TypeTXT)
		if answer, err := dns.Exchange(m, addr); err != nil || len(answer.Answer) != 1 {
			t.Errorf("reader gone: %t: %v, %v", gone, answer, err)
		}
		ended := make(chan error)
		go func() { ended <- cmd.Wait() }()
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("reader gone: %t: it ended with %v", gone, err)
			}
		case <-time.After(patience):
			t.Errorf("reader gone: %t: it does not end", gone)
			cmd.Process.Kill()
			<-ended
		}
	}
}
