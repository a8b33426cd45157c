package lab

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Admin is where dnsd's admin listener is in every lab: a namespace of its own
// has all ports free.
const Admin = "127.0.0.1:9153"

// build is one flavour of the binary, made once per test process.
type build struct {
	once sync.Once
	path string
	err  error
}

var (
	builds   sync.Map // of *build, by the flags
	buildDir string
)

// Main is MainOf for tests of which some work while others wait.
func Main(m *testing.M) int { return MainOf(m, 6) }

// MainOf runs the tests, removes what they built, looks for goroutines that they
// left, and returns the exit code. It is the body of TestMain. So many parallel tests
// run at a time, unless -parallel says it: more than there are processors, since
// most of what they do is wait.
func MainOf(m *testing.M, atOnce int) int {
	if code, ran := AsRoot(); ran {
		return code
	}
	_ = flag.Set("test.parallel", strconv.Itoa(atOnce)) // m.Run parses what the user says
	dir, err := os.MkdirTemp("", "dnsd-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// A test starts the binary as nobody, who must get at it.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	buildDir = dir
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

// Binary returns the path of dnsd, built with the race detector when the test
// is.
func Binary(t testing.TB) string {
	t.Helper()
	if Race {
		return Build(t, "-race")
	}
	return Build(t)
}

// PlainBinary returns the path of dnsd without the race detector, for figures.
func PlainBinary(t testing.TB) string { t.Helper(); return Build(t) }

// Build returns the path of dnsd, built with flags of go build.
func Build(t testing.TB, flags ...string) string {
	t.Helper()
	one, _ := builds.LoadOrStore(strings.Join(flags, " "), new(build))
	b := one.(*build)
	b.once.Do(func() {
		seeSources()
		dir, err := os.MkdirTemp(buildDir, "build-")
		if err != nil {
			b.err = err
			return
		}
		b.path, b.err = filepath.Join(dir, "dnsd"), os.Chmod(dir, 0o755)
		b.err = GoBuild(b.path, "dnsd/cmd/dnsd", flags...)
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.path
}

// GoBuild puts the program of a package at path. Go keeps what go run links, unlike
// what go build does, so that one test after the other has it without linking.
func GoBuild(path, pkg string, flags ...string) error {
	args := slices.Concat([]string{"run", "-exec", "cp"}, flags, []string{pkg, path})
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// seeSources lists the project's directories from within the test. The binary is
// built by another process, so that go test would not know of what it is built
// from, and print "(cached)" for a dnsd that has changed; what a test looks at
// itself is part of its key.
func seeSources() {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return // then the build fails as well, and says why
	}
	for _, room := range []string{"cmd", "registry", "resolver", "zones", "go.mod", "go.sum"} {
		_ = filepath.WalkDir(filepath.Join(strings.TrimSpace(string(root)), room), func(path string, _ fs.DirEntry, _ error) error {
			_, _ = os.Stat(path)
			return nil
		})
	}
}

// Log collects what a process prints. Safe for concurrent use.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String returns all that was printed so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Server is a running dnsd.
type Server struct {
	Lab    *Lab
	Stdout Log
	Stderr Log

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // of Wait; read after done
}

// Command is dnsd as a command with nothing of the test's environment but the
// path, and env on top of it.
func Command(bin string, env []string, args ...string) *exec.Cmd {
	cmd := exec.Command(bin, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "GORACE=exitcode=66"}, env...)
	return cmd
}

// Launch starts a command as a server and does not wait until it is ready. When
// the test ends the server is told to end; it must do so with code 0, unless it
// ended before.
func (l *Lab) Launch(t testing.TB, cmd *exec.Cmd) *Server {
	t.Helper()
	s, err := l.Begin(t, cmd)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Begin is Launch for any goroutine.
func (l *Lab) Begin(t testing.TB, cmd *exec.Cmd) (*Server, error) {
	s := &Server{Lab: l, cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &s.Stdout, &s.Stderr
	if err := l.Start(cmd); err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd, err)
	}
	go func() { s.err = cmd.Wait(); close(s.done) }()
	t.Cleanup(func() {
		if s.Running() {
			s.Signal(syscall.SIGTERM)
			if code := s.Wait(t); code != 0 {
				t.Errorf("dnsd ended with code %d after SIGTERM, want 0", code)
			}
		}
		log := s.Stderr.String()
		for _, bad := range []string{"DATA RACE", "panic:", "fatal error:", "goroutine "} {
			if strings.Contains(log, bad) {
				t.Errorf("dnsd's log holds %q", bad)
			}
		}
		if t.Failed() {
			t.Logf("log of dnsd %s:\n%s", strings.Join(cmd.Args[1:], " "), tail(log))
		}
	})
	return s, nil
}

// Serve starts dnsd and waits until it is ready.
func (l *Lab) Serve(t testing.TB, args ...string) *Server {
	t.Helper()
	s := l.Launch(t, Command(Binary(t), nil, append([]string{"--metrics-listen", Admin}, args...)...))
	s.Ready(t)
	return s
}

// Ready waits until /readyz says so.
func (s *Server) Ready(t testing.TB) {
	t.Helper()
	var body string
	ok := Until(3*Patience, func() bool {
		if !s.Running() {
			return true
		}
		status, text := s.Lab.Get("http://" + Admin + "/readyz")
		body = text
		return status == 200
	})
	switch {
	case !s.Running():
		t.Fatalf("dnsd ended before it was ready: %v\n%s", s.err, tail(s.Stderr.String()))
	case !ok:
		t.Fatalf("dnsd is not ready: %s\n%s", body, tail(s.Stderr.String()))
	}
}

// Metric returns the value of one of dnsd's series, by its name and labels; 0 where
// there is no such series.
func (l *Lab) Metric(t testing.TB, series string) float64 {
	t.Helper()
	status, text := l.Get("http://" + Admin + "/metrics")
	if status != 200 {
		t.Fatalf("/metrics answers %d: %s", status, text)
	}
	_, rest, _ := strings.Cut(text, "\n"+series+" ")
	value, _, found := strings.Cut(rest, "\n")
	if !found {
		return 0
	}
	n, err := strconv.ParseFloat(value, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Running reports whether the process has not ended yet.
func (s *Server) Running() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// Done returns a channel that closes when the process has ended, Code the exit
// code after that.
func (s *Server) Done() <-chan struct{} { return s.done }
func (s *Server) Code() int             { return s.cmd.ProcessState.ExitCode() }

// Pid returns the process's id.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Signal sends a signal to the process; to one that has ended it does nothing.
func (s *Server) Signal(sig syscall.Signal) {
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		panic(err)
	}
}

// Wait returns the exit code, once the process has ended. A process that does
// not end in time fails the test with the stacks of its goroutines.
func (s *Server) Wait(t testing.TB) int {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(3 * Patience):
		s.Signal(syscall.SIGQUIT)
		select {
		case <-s.done:
		case <-time.After(Patience):
			s.Signal(syscall.SIGKILL)
			<-s.done
		}
		t.Fatalf("dnsd does not end:\n%s", s.Stderr.String())
	}
	return s.cmd.ProcessState.ExitCode()
}

// Run runs dnsd to its end and returns its exit code and output.
func (l *Lab) Run(t testing.TB, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := Command(Binary(t), env, args...)
	var out, errs Log
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := l.Start(cmd); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(2*Patience, func() { cmd.Process.Signal(syscall.SIGQUIT) })
	err := cmd.Wait()
	if !kill.Stop() {
		t.Fatalf("dnsd %s does not end: %v\n%s", strings.Join(args, " "), err, tail(errs.String()))
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// tail returns the last part of a log, as much as helps.
func tail(s string) string {
	const most = 8000 // bytes
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}
