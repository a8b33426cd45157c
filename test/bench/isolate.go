package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dirEnv names the scratch directory, in the process that runs isolated.
const dirEnv = "DNSD_BENCH_DIR"

func isolated() bool { return os.Getenv(dirEnv) != "" }

// isolate builds dnsd where none is given, and runs this program again in
// namespaces of its own: what that process starts dies with it, whatever
// happens, because it is the first of its process namespace.
func isolate(ctx context.Context, o options, stdout, stderr io.Writer) error {
	if err := o.missing(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "dnsd-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	args := os.Args[1:]
	if o.dnsd == "" {
		bin := filepath.Join(dir, "dnsd")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, "dnsd/cmd/dnsd").CombinedOutput(); err != nil {
			return fmt.Errorf("go build dnsd/cmd/dnsd: %w\n%s", err, out)
		}
		args = append(args, "-dnsd", bin)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, args...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.Env = append(os.Environ(), dirEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("making namespaces (run as root, or allow user namespaces): %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return errors.New("failed: the reason stands above")
	}
	return err
}

// settle makes the namespaces fit to live in: a /proc of our own processes, a
// loopback device that is up, and all of fdaa::/16 as addresses of this host,
// so that one process can be clients of thousands of networks.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader("link set lo up\nroute add local fdaa::/16 dev lo\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip -batch: %w\n%s", err, out)
	}
	// Sockets may send from addresses that no device has.
	if err := os.WriteFile("/proc/sys/net/ipv6/ip_nonlocal_bind", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("allowing any source address: %w", err)
	}
	return nil
}
