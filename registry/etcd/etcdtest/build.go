package etcdtest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
)

// Build builds the program that a member runs, unless that was done before, and
// returns its path in the user's cache. It is a module of its own; the first build
// on a machine fetches what it is made of, and takes a minute or two.
var Build = sync.OnceValues(build)

func build() (string, error) {
	dir, err := memberDir()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %d\n%s", name, len(text), text)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	path := filepath.Join(cache, "dnsd-test", fmt.Sprintf("etcd-member-%x", sum.Sum(nil)[:8]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	// Several tests may build it at once: each for itself, and the last one wins.
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	defer os.Remove(fresh)
	cmd := exec.Command("go", "build", "-o", fresh, ".")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building an etcd member: %w\n%s", err, out)
	}
	return path, os.Rename(fresh, path)
}

// memberDir returns where the member's source is, from wherever in the module the
// process runs.
func memberDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte("module dnsd\n")) {
			return filepath.Join(dir, "registry", "etcd", "etcdtest", "member"), nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("this is run outside of dnsd's module")
		}
		dir = parent
	}
}
