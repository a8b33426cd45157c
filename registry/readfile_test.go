package registry

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// odd makes files that must not be read to their end, or waited for, in a
// directory, and returns what is said of each.
func odd(t *testing.T, dir string) map[string]string {
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

// soon returns what do returns, and fails where that takes a hang's time.
func soon(t *testing.T, what string, do func() error) error {
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

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	for name, want := range odd(t, dir) {
		err := soon(t, name, func() error { _, err := ReadFile(filepath.Join(dir, name), 100); return err })
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "open "+filepath.Join(dir, name)+": ") {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
		if is := errors.Is(err, fs.ErrNotExist); is != (name == "none") {
			t.Errorf("%s does not exist: %t", name, is)
		}
	}
	path := filepath.Join(dir, "file")
	if err := errors.Join(os.WriteFile(path, []byte(strings.Repeat("x", 100)), 0o600), os.Symlink("file", path+".link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{path, path + ".link"} {
		if data, err := ReadFile(path, 100); err != nil || len(data) != 100 {
			t.Errorf("%d bytes, %v", len(data), err)
		}
		if _, err := ReadFile(path, 99); err == nil || !strings.Contains(err.Error(), "larger") {
			t.Errorf("with a bound of 99: %v", err)
		}
	}
	// A file that says less than it has, as those of the kernel do.
	if data, err := ReadFile("/proc/self/status", MaxSettings); err != nil || !strings.Contains(string(data), "Name:") {
		t.Errorf("/proc/self/status: %d bytes, %v", len(data), err)
	}
	if _, err := ReadFile("/proc/self/status", 10); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("/proc/self/status with a bound of 10: %v", err)
	}
}

// A state on disk that is no file, or has no end, is passed over at the start, and
// replaced by one that is good, but for a directory.
func TestStateThatIsNoFile(t *testing.T) {
	for name, says := range odd(t, t.TempDir()) {
		for _, which := range []string{stateName, previousName} {
			dir, log := t.TempDir(), &strings.Builder{}
			odd(t, dir)
			if err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, which)); err != nil && name != "none" {
				t.Fatal(err)
			}
			src := newPuppet(fleetOf(t, 3))
			if err := soon(t, name, func() error {
				follow(t, src, FollowerConfig{StateDir: dir, Log: textLog(log)}, func(t *testing.T, r *Registry, _ *Follower) {
					pass(time.Second)
					if r.Count(KindMachine) != 3 || r.Status().State != Live {
						t.Errorf("%s: %d machines, %s", name, r.Count(KindMachine), r.Status().State)
					}
				})
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if name != "none" && !strings.Contains(log.String(), says) {
				t.Errorf("%s as %s: the log does not say %q:\n%s", name, which, says, log)
			}
			items, _, err := readState(filepath.Join(dir, stateName), src.String())
			if (err != nil || len(items) != 3) && name != "directory" {
				t.Errorf("%s as %s: afterwards %d objects are saved, %v", name, which, len(items), err)
			}
		}
	}
}
