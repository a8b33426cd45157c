package state

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/contain"
	"dnsd/registry/registrytest"
)

// saveAt saves w at a time, and reports whether that made a new file.
func (w *world) saveAt(d *Dir, at time.Time) (anew bool) {
	w.t.Helper()
	path := filepath.Join(d.path, Name)
	before, _ := os.Stat(path)
	if err := d.Save(w.reg.Snapshot(), at); err != nil {
		w.t.Fatal(err)
	}
	return !os.SameFile(before, stat(w.t, path))
}

// Changes are appended until they have outgrown the first batch, or a day has passed;
// the file before stays beside the new one.
func TestWhenAFileIsWrittenAnew(t *testing.T) {
	w := newWorld(t, 20)
	d := New(t.TempDir(), source)
	defer d.Close()
	machines := func(n int, state string) (items []registry.Item) {
		for i := range n {
			items = append(items, registry.Put(registrytest.Machine(t, fmt.Sprint("m", i), func(s *registry.MachineSpec) {
				s.State, s.Metadata = state, map[string]string{"k": strings.Repeat(fmt.Sprint(i), 500)}
			})))
		}
		return items
	}
	w.reg.Apply(machines(500, "started")) // some 700 kB
	if !w.saveAt(d, now) {
		t.Fatal("nothing was written")
	}
	base := d.out.size
	if 2*base < minAppended {
		t.Fatalf("%d bytes are too few", base)
	}
	states := []string{"stopped", "started"}
	appended := int64(0)
	for round := 0; ; round++ {
		w.reg.Apply(machines(200, states[round%2]))
		appended = d.out.size - base
		anew := w.saveAt(d, now)
		if anew != (appended > maxAppended*base) {
			t.Fatalf("%d bytes behind %d: written anew: %t", appended, base, anew)
		}
		if anew {
			break
		}
	}
	c, err := Read(filepath.Join(d.path, Previous))
	if n, batches := int64(0), 0; err == nil {
		if n, batches = c.Appended(); n != appended || batches < 5 {
			t.Errorf("the file before has %d bytes in %d batches", n, batches)
		}
	} else {
		t.Error(err)
	}
	if w.saveAt(d, now.Add(rewriteEvery-time.Second)) || !w.saveAt(d, now.Add(rewriteEvery)) {
		t.Error("it is not written anew once a day")
	}
	if _, got, errs := load(t, d.path); !maps.Equal(got, registrytest.Objects(w.reg)) || len(errs) > 0 {
		t.Errorf("%d objects, %v", len(got), errs)
	}
}

// A save that changes nothing says when the state was right. A small first batch may
// have more behind it than itself.
func TestASmallState(t *testing.T) {
	w := newWorld(t, 21)
	w.change(10)
	d := New(t.TempDir(), source)
	defer d.Close()
	want := w.save(d)
	size := d.out.size
	later := now.Add(time.Hour)
	if w.saveAt(d, later) || d.out.size-size > 32 {
		t.Errorf("%d bytes say that nothing has changed", d.out.size-size)
	}
	if c, got, _ := load(t, d.path); !c.Saved.Equal(later) || !maps.Equal(got, want) {
		t.Errorf("saved at %v, want %v", c.Saved, later)
	}
	for range 100 {
		w.change(20)
		if w.saveAt(d, later) {
			t.Fatalf("written anew with %d bytes behind %d", d.out.size-d.base, d.base)
		}
	}
}

// Of two processes one writes, until it ends. What the other one loaded meanwhile it
// appends to only if it still is what is there.
func TestTwoProcessesOfOneDirectory(t *testing.T) {
	for _, saves := range []bool{false, true} {
		w, second := newWorld(t, 22), newWorld(t, 23)
		old := New(t.TempDir(), source)
		w.change(40)
		w.save(old)

		next := New(old.path, source)
		defer next.Close()
		next.Load(func(path string, err error) { t.Error(path, err) }).Restore(second.reg)
		next.Continue(second.reg.Snapshot())
		second.change(10)
		for range 2 {
			if err := next.Save(second.reg.Snapshot(), now); !errors.Is(err, ErrBusy) {
				t.Fatalf("two write: %v", err)
			}
		}
		left := filepath.Join(old.path, Name+".1.tmp")
		if err := os.WriteFile(left, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if New(old.path, source).Load(func(string, error) {}) == nil || stat(t, left) == nil {
			t.Fatal("it cannot be read meanwhile")
		}
		if saves {
			w.change(10)
		}
		old.End()
		if saves {
			w.save(old)
		}
		old.Close()
		if anew := second.saveAt(next, now); anew != saves {
			t.Errorf("the old one has saved meanwhile: %t; the file is written anew: %t", saves, anew)
		}
		if _, got, errs := load(t, next.path); !maps.Equal(got, registrytest.Objects(second.reg)) || len(errs) > 0 {
			t.Errorf("%d objects, %v", len(got), errs)
		}
		if _, err := os.Stat(left); err == nil {
			t.Error("what a writer has left half written is there still")
		}
	}
}

// Where a file system has no locks, two processes cost each other the appending, and
// what is loaded is what one of them has saved, all of it.
func TestTwoProcessesWithoutLocks(t *testing.T) {
	path := t.TempDir()
	var dirs [2]*Dir
	var worlds [2]*world
	var told [2]int
	for i := range dirs {
		d := New(path, source)
		d.flock = func(int, int) error { return syscall.ENOLCK }
		d.Unlocked = func(why error) {
			if told[i]++; !errors.Is(why, syscall.ENOLCK) {
				t.Error(why)
			}
		}
		defer d.Close()
		w := newWorld(t, 31+uint64(i))
		if i == 0 {
			w.change(40)
			w.save(d)
		} else {
			d.Load(func(path string, err error) { t.Error(path, err) }).Restore(w.reg)
			d.Continue(w.reg.Snapshot())
		}
		dirs[i], worlds[i] = d, w
	}
	for step, i := range []int{1, 0, 0, 1, 1, 0, 1} {
		worlds[i].change(1 + step*10)
		want := worlds[i].save(dirs[i])
		if c, got, errs := load(t, path); !maps.Equal(got, want) || len(errs) > 0 || c.Cut != 0 {
			t.Fatalf("step %d: %d objects are loaded of %d, %v", step, len(got), len(want), errs)
		}
	}
	if worlds[1].saveAt(dirs[1], now) {
		t.Error("it does not append where nobody else has written")
	}
	if told != [2]int{1, 1} {
		t.Errorf("that there are no locks was told %v times", told)
	}
}

// What a process that was killed has left is removed, whatever the directory is
// called, and nothing else; nor is a probe that another process may be at.
func TestLeftovers(t *testing.T) {
	w := newWorld(t, 29)
	d := New(filepath.Join(t.TempDir(), "a[1]*"), source)
	defer d.Close()
	if err := os.Mkdir(d.path, 0o700); err != nil {
		t.Fatal(err)
	}
	stays := map[string]bool{
		Name + ".1.tmp": false, Previous + ".tmp": false, "mine.tmp": true, Name + "x.tmp": true, Name + ".mine": true,
		Name + ".2.probe": true, Name + ".3.probe": false, "mine.probe": true,
	}
	for name := range stays {
		if err := os.WriteFile(filepath.Join(d.path, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-2 * oldProbe)
	for _, name := range []string{Name + ".3.probe", "mine.probe"} {
		if err := os.Chtimes(filepath.Join(d.path, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	w.save(d)
	for name, want := range stays {
		if _, err := os.Stat(filepath.Join(d.path, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A probe survives another process that takes the directory meanwhile.
func TestAProbeAndAnotherProcess(t *testing.T) {
	dir, stop, stopped := t.TempDir(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			d := New(dir, source)
			d.Load(func(path string, err error) { t.Error(path, err) })
			d.Close()
		}
	}()
	for range 50 {
		if err := Try(dir); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	<-stopped
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// Where the directory or the file is another one, or the file is not as it was left,
// everything is written.
func TestAnotherFile(t *testing.T) {
	for name, do := range map[string]func(dir string) error{
		"the file is gone":     func(dir string) error { return os.Remove(filepath.Join(dir, Name)) },
		"the file is replaced": func(dir string) error { return os.Rename(filepath.Join(dir, "other"), filepath.Join(dir, Name)) },
		"the file is replaced by one of its length": func(dir string) error {
			other := filepath.Join(dir, "other")
			info, err := os.Stat(filepath.Join(dir, Name))
			if err != nil {
				return err
			}
			return errors.Join(os.Truncate(other, info.Size()), os.Rename(other, filepath.Join(dir, Name)))
		},
		"another directory": func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)) },
	} {
		w := newWorld(t, 24)
		dir := filepath.Join(t.TempDir(), "state")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "other"), []byte("other"), 0o600); err != nil {
			t.Fatal(err)
		}
		d := New(dir, source)
		w.change(20)
		w.save(d)
		if err := do(dir); err != nil {
			t.Fatal(err)
		}
		w.change(20)
		want := w.save(d)
		if _, got, errs := load(t, dir); !maps.Equal(got, want) || len(errs) > 0 {
			t.Errorf("%s: %d objects, %v", name, len(got), errs)
		}
		d.Close()
	}
}

// What cannot be used does not take the place of the file before, which may be the
// last that can be.
func TestThePreviousFileIsOneThatCanBeUsed(t *testing.T) {
	damage := func(dir string) error {
		data, err := os.ReadFile(filepath.Join(dir, Name))
		if err != nil {
			return err
		}
		data[len(data)/2] ^= 1
		return os.WriteFile(filepath.Join(dir, Name), data, 0o600)
	}
	for name, c := range map[string]struct {
		do    func(dir string) error
		loads bool // before it saves
		keeps int  // which of the files before is the previous one: the first or the second
	}{
		"whole":                {func(string) error { return nil }, true, 2},
		"damaged":              {damage, true, 1},
		"cut short":            {func(dir string) error { return os.Truncate(filepath.Join(dir, Name), 30) }, true, 1},
		"nobody knows":         {damage, false, 1},
		"damaged, and no more": {func(dir string) error { return errors.Join(damage(dir), os.Remove(filepath.Join(dir, Previous))) }, true, 0},
		"of another source": {func(dir string) error {
			other := New(dir, "other://")
			defer other.Close()
			return errors.Join(os.Remove(filepath.Join(dir, Name)), other.Save(registry.New().Snapshot(), now))
		}, true, 1},
	} {
		w, dir := newWorld(t, 30), t.TempDir()
		path, previous := filepath.Join(dir, Name), filepath.Join(dir, Previous)
		d := New(dir, source)
		var wants []map[registry.Key]string
		for i := range 2 {
			w.change(20)
			if !w.saveAt(d, now.Add(time.Duration(i)*rewriteEvery)) {
				t.Fatal("appended")
			}
			wants = append(wants, registrytest.Objects(w.reg))
		}
		d.Close()
		if err := c.do(dir); err != nil {
			t.Fatal(err)
		}
		unusable, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		d = New(dir, source)
		defer d.Close()
		if c.loads {
			if last := d.Load(func(string, error) {}); last != nil {
				last.Restore(registry.New())
				d.Continue(w.reg.Snapshot())
			}
		}
		w.change(20)
		w.saveAt(d, now.Add(2*rewriteEvery))
		if c.keeps == 0 {
			if left, err := os.ReadFile(previous); err != nil || !bytes.Equal(left, unusable) {
				t.Errorf("%s: it is not kept, where there is no other: %v", name, err)
			}
		} else if kept, err := Read(previous); err != nil || !maps.Equal(restored(t, kept), wants[c.keeps-1]) {
			t.Errorf("%s: the previous file is not that of save %d: %v", name, c.keeps, err)
		}
		// What it has written itself it keeps.
		want := registrytest.Objects(w.reg)
		w.change(20)
		w.saveAt(d, now.Add(4*rewriteEvery))
		if kept, err := Read(previous); err != nil || !maps.Equal(restored(t, kept), want) {
			t.Errorf("%s: the file that was written next is not kept: %v", name, err)
		}
	}
}

// At the end no file is written anew that changes can be appended to, also where that
// has begun.
func TestTheEndAppends(t *testing.T) {
	w := newWorld(t, 25)
	d := New(t.TempDir(), source)
	defer d.Close()
	w.reg.Apply(registrytest.Many(2_000))
	if w.saveAt(d, now); d.ends.Load() {
		t.Fatal("it ends")
	}
	w.change(20)
	d.End()
	if w.saveAt(d, now.AddDate(1, 0, 0)) {
		t.Error("the file is written anew at the end")
	}
	left, _ := filepath.Glob(filepath.Join(d.path, "*"))
	if _, got, errs := load(t, d.path); !maps.Equal(got, registrytest.Objects(w.reg)) || len(errs) > 0 || len(left) != 1 {
		t.Errorf("%d objects, %v, in %v", len(got), errs, left)
	}
	// Where there is none, it is written.
	first := New(t.TempDir(), source)
	defer first.Close()
	first.End()
	if !w.saveAt(first, now) {
		t.Error("nothing is written")
	}
}

// A write that fails leaves what was there, and the next one writes everything.
func TestAWriteThatFails(t *testing.T) {
	w := newWorld(t, 27)
	d := New(t.TempDir(), source)
	defer d.Close()
	w.change(40)
	before := w.save(d)
	for i, fail := range []func() *os.File{
		func() *os.File { f, _ := os.Open(filepath.Join(d.path, Name)); return f }, // which cannot be written
	} {
		d.out.w = fail()
		w.change(40)
		if err := d.Save(w.reg.Snapshot(), now); err == nil {
			t.Errorf("%d: the write did not fail", i)
		}
		if _, got, errs := load(t, d.path); !maps.Equal(got, before) || len(errs) > 0 {
			t.Errorf("%d: %d objects, %v", i, len(got), errs)
		}
		if !w.saveAt(d, now) {
			t.Errorf("%d: appended to a file that may end in a part of a block", i)
		}
	}
	// So does one that panics.
	d.Meanwhile = func() *registry.Snapshot { panic("no more") }
	if err := contain.Run(func() error { return d.Save(w.reg.Snapshot(), now.Add(rewriteEvery)) }); !errors.As(err, new(*contain.Error)) {
		t.Error(err)
	}
	if d.Meanwhile = nil; !w.saveAt(d, now) {
		t.Error("appended to a file of which nobody knows the end")
	}
	if err := Try(d.path); err != nil {
		t.Error(err)
	}
	if err := Try(d.path + "/none"); err == nil {
		t.Error("a directory that is not there can be written")
	}
	if left, _ := filepath.Glob(filepath.Join(d.path, "*.*.*")); len(left) > 1 { // the previous one
		t.Error(fmt.Sprint("left are ", left))
	}
}

// What changes while a file is written anew is in the old one meanwhile, and in the new
// one when it takes its place; also where the writing is given up at the end.
func TestChangesWhileAFileIsWrittenAnew(t *testing.T) {
	for _, ends := range []bool{false, true} {
		w := newWorld(t, 28)
		d := New(t.TempDir(), source)
		w.reg.Apply(registrytest.Many(5_000)) // three blocks
		w.save(d)
		w.change(30)
		began, asked := w.reg.Snapshot(), 0
		d.Meanwhile = func() *registry.Snapshot {
			if asked++; asked > 2 {
				return nil
			}
			w.change(30)
			if asked == 2 {
				_, got, errs := load(t, d.path)
				if len(errs) > 0 || len(got) < 5_000 {
					t.Errorf("%d objects, %v", len(got), errs)
				}
				if ends {
					d.End()
				}
			}
			return w.reg.Snapshot()
		}
		old := stat(t, filepath.Join(d.path, Name))
		if err := d.Save(began, now.Add(rewriteEvery)); err != nil {
			t.Fatal(err)
		}
		want := registrytest.Objects(w.reg)
		if _, got, errs := load(t, d.path); !maps.Equal(got, want) || len(errs) > 0 || asked < 2 || os.SameFile(old, stat(t, filepath.Join(d.path, Name))) != ends {
			t.Errorf("given up: %t: %d objects of %d, %v; asked %d times", ends, len(got), len(want), errs, asked)
		}
		if c, err := Read(filepath.Join(d.path, Previous)); !ends && (err != nil || c.Objects() != len(want)) {
			t.Errorf("the old file: %v, %v", c, err)
		}
		w.change(30)
		if w.saveAt(d, now.Add(rewriteEvery)) {
			t.Error("written anew once more")
		}
		if _, got, errs := load(t, d.path); !maps.Equal(got, registrytest.Objects(w.reg)) || len(errs) > 0 {
			t.Errorf("%d objects, %v", len(got), errs)
		}
		d.Close()
	}
}
