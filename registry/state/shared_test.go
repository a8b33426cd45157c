package state

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dnsd/registry"
)

// TestLeftoversOfWhom: what a process that was killed has left is removed; where there are
// no locks, or of a probe, only what is old: another process may be writing it.
func TestLeftoversOfWhom(t *testing.T) {
	for name, c := range map[string]struct {
		flock func(int, int) error
		left  int
	}{
		"alone":   {func(int, int) error { return nil }, 1}, // the young probe
		"unknown": {func(int, int) error { return syscall.ENOLCK }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			for _, file := range []string{"1.tmp", "2.tmp", "1.probe", "2.probe"} {
				file = filepath.Join(path, Name+"."+file)
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				if strings.Contains(filepath.Base(file), ".1.") {
					old := time.Now().Add(-oldProbe - time.Minute)
					if err := os.Chtimes(file, old, old); err != nil {
						t.Fatal(err)
					}
				}
			}
			d := New(path, source)
			d.flock = c.flock
			defer d.Close()
			d.Load(func(path string, err error) { t.Error(path, err) })
			if left, _ := filepath.Glob(filepath.Join(path, "*")); len(left) != c.left {
				t.Errorf("left are %q, want %d of them", left, c.left)
			}
		})
	}
}

// TestDirectoryInTheWay: a directory that has the name of one of the files is told by a
// probe, and by whatever reads it, with what to do.
func TestDirectoryInTheWay(t *testing.T) {
	for _, name := range []string{Name, Previous} {
		path := t.TempDir()
		if err := os.Mkdir(filepath.Join(path, name), 0o700); err != nil {
			t.Fatal(err)
		}
		told := 0
		tell := func(err error) {
			if told++; err == nil || !strings.Contains(err.Error(), name+" is a directory, where dnsd writes a file: remove it") {
				t.Errorf("%s: %v", name, err)
			}
		}
		tell(Try(path))
		d := New(path, source)
		d.Load(func(_ string, err error) { tell(err) })
		tell(d.Save(registry.New().Snapshot(), now))
		d.Close()
		if told != 3 {
			t.Errorf("%s: told %d times, want 3", name, told)
		}
	}
}

// TestNoAppendBeyondTheBound: while a new file is written, nothing is appended to one
// that is already so long that it soon could not be read.
func TestNoAppendBeyondTheBound(t *testing.T) {
	for name, want := range map[string]bool{"short": true, "long": false} {
		t.Run(name, func(t *testing.T) {
			w, d := newWorld(t, 3), New(t.TempDir(), source)
			defer d.Close()
			w.change(40)
			w.save(d)
			if name == "long" {
				d.most = d.out.size + d.out.size/10
			}
			asked := false
			d.Meanwhile = func() *registry.Snapshot { asked = true; return nil }
			if err := d.Save(w.reg.Snapshot(), now.Add(rewriteEvery)); err != nil {
				t.Fatal(err)
			}
			if asked != want {
				t.Errorf("asked for what to append: %t, want %t", asked, want)
			}
		})
	}
}
