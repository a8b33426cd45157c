package registrytest

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// OddFiles makes files that must not be read to their end, or waited for, in a
// directory, and returns what is said of each.
func OddFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	name := func(s string) string { return filepath.Join(dir, s) }
	sparse, err := os.Create(name("sparse"))
	if err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", name("socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	if err := errors.Join(sparse.Truncate(1<<40), sparse.Close(), syscall.Mkfifo(name("pipe"), 0o600),
		os.Mkdir(name("directory"), 0o700), os.Symlink("/dev/zero", name("zeros")), os.Symlink("pipe", name("link"))); err != nil {
		t.Fatal(err)
	}
	const device, large = "this is a device, pipe or socket", "it is larger than the"
	return map[string]string{
		"pipe": device, "link": device, "zeros": device, "socket": device, "sparse": large,
		"directory": "this is a directory", "none": "no such file",
	}
}

// Soon returns what do returns, and fails where that takes a hang's time.
func Soon(t *testing.T, what string, do func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: still waiting", what)
		return nil
	}
}
