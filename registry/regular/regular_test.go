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
}
