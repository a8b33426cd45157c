package regular

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dnsd/registry/registrytest"
)

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	for name, want := range registrytest.OddFiles(t, dir) {
		err := registrytest.Soon(t, name, func() error { _, err := Read(filepath.Join(dir, name), 100); return err })
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
		if data, err := Read(path, 100); err != nil || len(data) != 100 {
			t.Errorf("%d bytes, %v", len(data), err)
		}
		if _, err := Read(path, 99); err == nil || !strings.Contains(err.Error(), "larger") {
			t.Errorf("with a bound of 99: %v", err)
		}
	}
	// A file that says less than it has, as those of the kernel do.
	if data, err := Read("/proc/self/status", MaxSettings); err != nil || !strings.Contains(string(data), "Name:") {
		t.Errorf("/proc/self/status: %d bytes, %v", len(data), err)
	}
	if _, err := Read("/proc/self/status", 10); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("/proc/self/status with a bound of 10: %v", err)
	}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		for _, fd := range fds {
			if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, dir) {
				t.Errorf("%s is left open", to)
			}
		}
	}
	// A file of the usual kind is in memory once, without room for another.
	const size = 1 << 20
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := Read(path, size); err != nil || len(data) != size || cap(data) > size+size/8 {
		t.Errorf("a file of %d bytes: %d bytes with room for %d, %v", size, len(data), cap(data), err)
	}
}

func TestTooLarge(t *testing.T) {
	for most, want := range map[int64]string{MaxSettings: "it is larger than the 16 MiB that dnsd reads", MaxRegistry: "it is larger than the 2048 MiB that dnsd reads"} {
		if err := TooLarge(most); err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
