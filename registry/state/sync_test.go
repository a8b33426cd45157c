package state

import (
	"errors"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dnsd/registry"
	"dnsd/registry/registrytest"
)

// A new file is on the disk before it has the name of the state, and then its name is.
// What is appended is once a minute, and at the end.
func TestWhatIsSyncedAndWhen(t *testing.T) {
	w, path := newWorld(t, 40), t.TempDir()
	var synced []string
	var failing string // what the disk does not take
	var d *Dir
	open := func() {
		d = New(path, source)
		d.sync = func(f *os.File) error {
			info, err := f.Stat()
			if err != nil {
				t.Error(err)
			}
			name, what := f.Name(), "a new file"
			named, _ := os.Stat(filepath.Join(path, Name))
			if os.SameFile(info, named) {
				name, what = filepath.Join(path, Name), "the state"
			}
			if info.IsDir() {
				if what = "names"; named == nil || d.file == nil || d.out.size != named.Size() {
					what = "names, without the new file's"
				}
			} else if whole, err := Read(name); err != nil || whole.Cut != 0 {
				what += ", a part of it"
			}
			if synced = append(synced, what); what == failing {
				return errors.New("the disk is broken")
			}
			return f.Sync()
		}
	}
	open()
	at := now
	save := func(after time.Duration, want ...string) {
		t.Helper()
		synced, at = nil, at.Add(after)
		w.change(20)
		if err := d.Save(w.reg.Snapshot(), at); (err != nil) != (failing != "") || !slices.Equal(synced, want) {
			t.Fatalf("%v after the start: synced are %q, want %q: %v", at.Sub(now), synced, want, err)
		}
	}
	save(0, "a new file", "names")
	save(syncEvery - time.Second)
	save(time.Second, "the state")
	save(syncEvery - time.Second)
	save(2*time.Second, "the state")
	failing = "a new file"
	save(rewriteEvery, "a new file")
	if left, _ := filepath.Glob(filepath.Join(path, "*.tmp")); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
	failing = "names" // nobody knows whether the file has its name
	save(0, "a new file", "names")
	failing = ""
	save(0, "a new file", "names")
	failing = "the state"
	save(syncEvery, "the state")
	failing = ""
	save(0, "a new file", "names") // the file may lack what was not taken
	d.Close()
	open() // a process that goes on with what another one has left
	d.Load(func(path string, err error) { t.Error(path, err) })
	d.Continue(w.reg.Snapshot())
	save(0, "the state")
	save(0)
	d.End()
	save(0, "the state")
	save(0, "the state")
	d.Close()
}

// What was loaded is appended to only if it still is what is there.
func TestWhatWasLoadedIsReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(path string) error
		anew bool
	}{
		"as it was": {func(string) error { return nil }, false},
		"a copy": {func(path string) error {
			data, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(path+".copy", data, 0o600), os.Rename(path+".copy", path))
		}, true},
		"longer": {func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("#")
			return errors.Join(err, f.Close())
		}, true},
		"gone":         {os.Remove, true},
		"not restored": {nil, true},
	} {
		w, dir := newWorld(t, 41), t.TempDir()
		w.change(20)
		d := New(dir, source)
		w.save(d)
		d.Close()
		d = New(dir, source)
		d.Load(func(path string, err error) { t.Error(path, err) })
		if c.do != nil {
			d.Continue(w.reg.Snapshot())
			if err := c.do(filepath.Join(dir, Name)); err != nil {
				t.Fatal(name, err)
			}
		}
		w.change(20)
		if anew := w.saveAt(d, now); anew != c.anew {
			t.Errorf("%s: written anew: %t", name, anew)
		}
		if _, got, errs := load(t, dir); !maps.Equal(got, registrytest.Objects(w.reg)) || len(errs) > 0 {
			t.Errorf("%s: %d objects, %v", name, len(got), errs)
		}
		file := d.file
		d.Load(func(path string, err error) { t.Error(path, err) })
		if w.saveAt(d, now) || d.file != file {
			t.Errorf("%s: what it writes to is opened a second time", name)
		}
		d.Close()
	}
}

// A disk that is full has room for a name: a probe is 64 KiB. A limit of the process
// stands in for the disk.
func TestAProbeOfAFullDisk(t *testing.T) {
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, ok := range []bool{true, false} {
		limit := was
		if limit.Cur = 64 << 10; !ok {
			limit.Cur--
		}
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
		err := Try(dir)
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
			t.Fatal(err)
		}
		if (err == nil) != ok {
			t.Errorf("with room for %d bytes: %v", limit.Cur, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

var processors = runtime.GOMAXPROCS(0)

// Files are closed when another one takes their place, and at the end: those that
// are opened next get the numbers that they would have got before.
func TestFilesAreClosed(t *testing.T) {
	next := func() (numbers []uintptr) {
		for range 10 {
			f, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			numbers = append(numbers, f.Fd())
		}
		return numbers
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it would close what nobody has
	w, dir := newWorld(t, 42), t.TempDir()
	w.change(20)
	before := next()
	d := New(dir, source)
	for i := range 3 {
		// A name that was left is in nobody's way.
		if err := os.WriteFile(filepath.Join(dir, Previous+".tmp"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if !w.saveAt(d, now.Add(time.Duration(i)*rewriteEvery)) {
			t.Fatal("appended")
		}
		if _, err := Read(filepath.Join(dir, Previous)); i > 0 && err != nil {
			t.Error(err)
		}
	}
	d.Close()
	for range 3 {
		if _, err := Read(filepath.Join(dir, Name)); err != nil {
			t.Error(err)
		}
		if err := Try(dir); err != nil {
			t.Error(err)
		}
	}
	if after := next(); !slices.Equal(after, before) {
		t.Errorf("the next files are numbers %d, were %d", after, before)
	}
	if n := runtime.GOMAXPROCS(0); n != processors {
		t.Errorf("Read has left %d processors of %d", n, processors)
	}
}

// Nothing is asked for more while the first file is written: there is none to append to.
func TestNothingIsAppendedToNoFile(t *testing.T) {
	w := newWorld(t, 43)
	w.change(20)
	d := New(t.TempDir(), source)
	defer d.Close()
	d.Meanwhile = func() *registry.Snapshot { t.Error("asked"); return w.reg.Snapshot() }
	w.save(d)
}
