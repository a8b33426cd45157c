package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/registrytest"
)

// A new file is on the disk before it takes the name of the old one, and the name before
// the Save returns; what is appended is synced once a minute, and when dnsd ends. A disk that
// fails at any of that fails the Save.
func TestSavesAreSynced(t *testing.T) {
	r := registry.New()
	r.Apply(registrytest.Many(20))
	path, now := t.TempDir(), time.Now()
	d := New(path, "script://")
	defer d.Close()
	var synced []string
	broken := errors.New("broken")
	fails := "nothing"
	d.sync = func(f *os.File) error {
		what := "the file"
		if info, err := f.Stat(); err != nil {
			t.Error(err)
		} else if info.IsDir() {
			what = "the directory"
		}
		named := "before it has its name"
		if _, err := os.Stat(filepath.Join(path, Name)); err == nil {
			named = "named"
		}
		if synced = append(synced, what+" "+named); what == fails {
			return broken
		}
		return f.Sync()
	}
	save := func(when string, after time.Duration, want error, steps ...string) {
		t.Helper()
		m := registrytest.Machine(t, "new", registrytest.InState(map[bool]string{true: "started", false: "stopped"}[after%2 == 0]))
		r.Apply([]registry.Item{registry.Put(m)})
		synced = nil
		if err := d.Save(r.Snapshot(), now.Add(after)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", when, err, want)
		}
		if fmt.Sprint(synced) != fmt.Sprint(steps) {
			t.Errorf("%s: synced %q, want %q", when, synced, steps)
		}
	}
	fails = "the file"
	save("a file that cannot be synced", 0, broken, "the file before it has its name")
	fails = "the directory"
	save("a directory that cannot be synced", 1, broken, "the file before it has its name", "the directory named")
	fails = "nothing"
	save("a new file", 2, nil, "the file named", "the directory named")
	save("a moment later", time.Second+1, nil)
	save("a minute later", syncEvery+2, nil, "the file named")
	d.End()
	save("at the end", syncEvery+3, nil, "the file named")
}
