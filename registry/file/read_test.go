package file

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A path is the one of the start, wherever the process goes later.
func TestRelativePath(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	here, err := os.Getwd()
	ok(t, err)
	if got, want := New(Config{Path: "etc/../registry.json"}, nil).String(), "file:"+filepath.Join(here, "registry.json"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// What is read is closed: a file that is opened next gets the same number.
func TestReadCloses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.json")
	write(t, path, content("a"))
	next := func() uintptr {
		f, err := os.Open(path)
		ok(t, err)
		defer f.Close()
		return f.Fd()
	}
	before := next()
	data, err := read(path)
	if after := next(); err != nil || string(data) != content("a") || after != before {
		t.Errorf("%q, %v; the next file is number %d, was %d", data, err, after, before)
	}
}

func TestReadWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	pipe, sparse := filepath.Join(dir, "pipe"), filepath.Join(dir, "sparse")
	ok(t, syscall.Mkfifo(pipe, 0o644))
	write(t, sparse, "")
	ok(t, os.Truncate(sparse, 1<<40))
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "the file does not exist",
		dir:                        "this is a directory",
		"/dev/null":                "this is a device, pipe or socket",
		"/dev/zero":                "this is a device, pipe or socket",
		sparse:                     "it is larger than the 2048 MiB that dnsd reads",
		pipe:                       "this is a device, pipe or socket",
		"/proc/self/status":        "the file keeps changing", // it has more than it says
		filepath.Join(sparse, "x"): "open: not a directory",
	} {
		if _, err := read(path); err == nil || !strings.HasPrefix(plain(err).Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}
