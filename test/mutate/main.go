// Mutate asks of a package's tests whether they notice mistakes. It changes one
// token of the package at a time, such as < into <=, && into || or 4 into 5, and
// runs the tests; a change that no test notices is a survivor, and is printed.
//
//	go run ./test/mutate ./zones                     100 changes, ten minutes at most
//	go run ./test/mutate -n 0 -for 1h ./resolver     every change that there is
//	go run ./test/mutate -seed 7 ./registry          others than those of seed 1
//	go run ./test/mutate -tests ./registry,./test ./registry    the tests of two packages
//
// Nothing is written to the tree: the compiler is given the changed file as an
// overlay. A change that makes the tests hang is noticed, too; one that does not
// compile is not counted. Survivors that are known to make no difference stand in
// explained.txt, with the reason.
package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

//go:embed explained.txt
var explained string

func main() {
	n := flag.Int("n", 100, "how many changes; 0: all")
	seed := flag.Uint64("seed", 1, "which of them, in which order")
	limit := flag.Duration("for", 10*time.Minute, "how long, at most")
	tests := flag.String("tests", "", "packages whose tests are run, with commas; by default the changed one")
	only := flag.String("file", "", "changes of this file only, such as kept.go")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: go run ./test/mutate [FLAGS] ./PACKAGE")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	m := mutator{dir: flag.Arg(0), tests: strings.Split(*tests, ",")}
	if *tests == "" {
		m.tests = []string{m.dir}
	}
	if err := m.run(ctx, *n, *seed, *only); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// mutator changes one package.
type mutator struct {
	dir      string   // of the package
	tests    []string // packages
	scratch  string   // a directory for what is not to be in the tree
	timeout  time.Duration
	patience time.Duration // of a test that waits for something

	killed, survived, known, invalid int
}

// result is what became of a change.
type result int

const (
	killed   result = iota
	survived        // no test noticed
	invalid         // it does not compile
)

func (m *mutator) run(ctx context.Context, n int, seed uint64, only string) error {
	changes, err := changesOf(m.dir, only)
	if err != nil {
		return err
	}
	if len(changes) == 0 {
		return fmt.Errorf("%s has nothing to change", m.dir)
	}
	if m.scratch, err = os.MkdirTemp("", "mutate-"); err != nil {
		return err
	}
	defer os.RemoveAll(m.scratch)
	var took time.Duration
	for _, tests := range []string{"^$", "."} { // none: to build what they are made of
		began := time.Now()
		if out, err := m.test(ctx, 10*time.Minute, "-run", tests); err != nil {
			return fmt.Errorf("the tests fail before anything is changed: %w\n%s", err, out)
		}
		took = time.Since(began)
	}
	m.timeout = 3*took + 20*time.Second
	m.patience = max(10*time.Second, took) // none waits longer for one thing than all of them take
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(changes), func(i, j int) { changes[i], changes[j] = changes[j], changes[i] })
	if n > 0 && n < len(changes) {
		changes = changes[:n]
	}
	done := 0
	for _, c := range changes {
		r, err := m.try(ctx, c)
		if err != nil {
			break // the time is over
		}
		done++
		m.count(c, r)
	}
	noticed := m.killed + m.survived
	fmt.Printf("%s, seed %d: %d of %d changes tried; %d do not compile; of the other %d the tests notice %d, and %d are explained: %.0f %%\n",
		m.dir, seed, done, len(changes), m.invalid, noticed+m.known, m.killed, m.known,
		100*float64(m.killed+m.known)/float64(max(noticed+m.known, 1)))
	if m.survived > 0 {
		return fmt.Errorf("%d changes that no test notices", m.survived)
	}
	return nil
}

func (m *mutator) count(c change, r result) {
	switch {
	case r == killed:
		m.killed++
	case r == invalid:
		m.invalid++
	case c.explained(explained):
		m.known++
	default:
		m.survived++
		fmt.Printf("%s:%d: %s\n\t%s\n", c.path, c.line, c.what, c.text)
	}
}

// try runs the tests with one change.
func (m *mutator) try(ctx context.Context, c change) (result, error) {
	path := filepath.Join(m.scratch, "changed.go")
	if err := os.WriteFile(path, c.apply(), 0o600); err != nil {
		return 0, err
	}
	original, err := filepath.Abs(c.path)
	if err != nil {
		return 0, err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {original: path}})
	if err != nil {
		return 0, err
	}
	file := filepath.Join(m.scratch, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return 0, err
	}
	out, err := m.test(ctx, m.timeout, "-overlay", file)
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case err == nil:
		return survived, nil
	case bytes.Contains(out, []byte("[build failed]")) || bytes.Contains(out, []byte("[setup failed]")):
		return invalid, nil
	}
	return killed, nil
}

// test runs the tests until the first fails, and ends all that they have started
// when the time is over.
func (m *mutator) test(ctx context.Context, timeout time.Duration, flags ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout+time.Minute) // to build
	defer cancel()
	args := append([]string{"test", "-failfast", "-count=1", "-vet=off", "-timeout", timeout.String()}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, m.tests...)...)
	if m.patience > 0 {
		cmd.Env = append(os.Environ(), "DNSD_TEST_PATIENCE="+m.patience.String())
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // a test passed, and left something running
	}
	return out, err
}
