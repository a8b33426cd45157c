package etcdtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// process is a program that ends with the test, however that ends: when the
// test's end of a pipe is closed.
type process struct {
	begin func(*exec.Cmd) error // starts it; (*exec.Cmd).Start or in a place of its own
	cmd   *exec.Cmd             // nil: not running
	stdin *os.File
	guard *exec.Cmd // ends a program that does not look at its standard input; may be nil
}

// start starts a program that ends when its standard input does.
func (p *process) start(cmd *exec.Cmd) error {
	if p.cmd != nil {
		return errors.New("it is running")
	}
	child, stdin, err := os.Pipe()
	if err != nil {
		return err
	}
	defer child.Close()
	cmd.Stdin = child
	if err := p.begin(cmd); err != nil {
		stdin.Close()
		return err
	}
	p.cmd, p.stdin = cmd, stdin
	return nil
}

// startAny starts any program, and a shell that kills it when the test has ended.
func (p *process) startAny(cmd *exec.Cmd) error {
	if p.cmd != nil {
		return errors.New("it is running")
	}
	if err := p.begin(cmd); err != nil {
		return err
	}
	shell := exec.Command("sh", "-c", `read -r end; kill -9 "$0"`, strconv.Itoa(cmd.Process.Pid))
	guard := process{begin: (*exec.Cmd).Start}
	if err := guard.start(shell); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return err
	}
	p.cmd, p.stdin, p.guard = cmd, guard.stdin, shell
	return nil
}

// kill ends the process and waits for it.
func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	if p.guard != nil { // first, as its process id will be another's
		_ = p.guard.Process.Kill()
		_ = p.guard.Wait()
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	_ = p.stdin.Close()
	p.cmd, p.guard = nil, nil
}

func (p *process) signal(sig syscall.Signal) error {
	if p.cmd == nil {
		return fmt.Errorf("it does not run")
	}
	return p.cmd.Process.Signal(sig)
}

// pid returns the process id, 0 while it does not run.
func (p *process) pid() int {
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// lastLines returns the end of a log.
func lastLines(file string) string {
	b, _ := os.ReadFile(file)
	lines := slices.Collect(strings.Lines(string(b)))
	return strings.Join(lines[max(0, len(lines)-20):], "")
}
