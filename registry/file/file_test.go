package file

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"dnsd/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// never is a poll so slow that only notification can show a change.
const never = time.Hour

// feed applies listings to a map and counts.
type feed struct {
	mu       sync.Mutex
	pending  []registry.Item
	now      string   // the ids of the machines listed last, in order
	history  []string // every listing
	lives    int      // calls that proved the source alive
	rejected int
}

func (f *feed) List(_ context.Context, items []registry.Item) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = append(f.pending, items...)
	return nil
}

func (f *feed) Listed(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []string
	for _, i := range f.pending {
		if m, ok := i.Object.(*registry.Machine); ok {
			ids = append(ids, m.ID)
		} else if i.Err != nil {
			f.rejected++
		}
	}
	f.pending, f.now = nil, strings.Join(ids, " ")
	f.history = append(f.history, f.now)
	f.lives++
	return nil
}

func (f *feed) Change(_ context.Context, items []registry.Item) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(items) > 0 {
		panic("a file knows no changes, only listings")
	}
	f.lives++
	return nil
}

func (f *feed) listed() string { f.mu.Lock(); defer f.mu.Unlock(); return f.now }
func (f *feed) listings() int  { f.mu.Lock(); defer f.mu.Unlock(); return len(f.history) }
func (f *feed) alive() int     { f.mu.Lock(); defer f.mu.Unlock(); return f.lives }

// logs is a log that tests read while it is written.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }
func (l *logs) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// follow runs a source until the test ends.
func follow(t *testing.T, path string, poll time.Duration) (*Source, *feed, *logs) {
	t.Helper()
	l, f := &logs{}, &feed{now: "nothing"}
	s := New(Config{Path: path, Poll: poll}, slog.New(slog.NewTextHandler(l, nil)))
	run(t, s, f)
	return s, f, l
}

func run(t *testing.T, s *Source, f registry.Feed) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Follow(ctx, f, false) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != context.Canceled {
			t.Errorf("Follow returned %v", err)
		}
	})
}

// until waits for something that must come true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not so: %s", what)
		}
	}
}

func (f *feed) until(t *testing.T, ids string) {
	t.Helper()
	until(t, "listed are "+ids, func() bool { return f.listed() == ids })
}

// content returns a registry file with these machines.
func content(ids ...string) string {
	var b strings.Builder
	b.WriteString(`{"apps": [{"name": "web", "network": "fdaa:0:18::/48", "machines": [`)
	for i, id := range ids {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, "\n"+`{"id": %q, "state": "started"}`, id)
	}
	b.WriteString("]}]}\n")
	return b.String()
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	ok(t, os.WriteFile(path, []byte(text), 0o644))
}

func replace(t *testing.T, path, text string) {
	t.Helper()
	write(t, path+".tmp", text)
	ok(t, os.Rename(path+".tmp", path))
}

// kubernetes publishes text as the volume of a config map does: a directory of
// its own, and a link to it swapped by rename.
func kubernetes(t *testing.T, dir, version, text string) {
	t.Helper()
	ok(t, os.MkdirAll(filepath.Join(dir, version), 0o755))
	write(t, filepath.Join(dir, version, "registry.json"), text)
	ok(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
	old, _ := os.Readlink(filepath.Join(dir, "..data"))
	ok(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	if old == "" {
		ok(t, os.Symlink("..data/registry.json", filepath.Join(dir, "registry.json")))
	} else {
		ok(t, os.RemoveAll(filepath.Join(dir, old)))
	}
}

// TestNotified changes the file in every way that is known, and relies on
// notification alone.
func TestNotified(t *testing.T) {
	before, after := content("a"), content("b", "c")
	before += strings.Repeat("\n", len(after)-len(before)) // of one size
	for _, c := range []struct {
		name   string
		before func(t *testing.T, dir string) // nil: a plain file
		change func(t *testing.T, dir, path string)
	}{
		{"rename", nil, func(t *testing.T, dir, path string) { replace(t, path, after) }},
		{"rename_from_elsewhere", nil, func(t *testing.T, dir, path string) {
			write(t, dir+".new", after)
			ok(t, os.Rename(dir+".new", path))
		}},
		{"rename_of_one_size_and_time", nil, func(t *testing.T, dir, path string) {
			info, err := os.Stat(path)
			ok(t, err)
			write(t, path+".tmp", after)
			ok(t, os.Chtimes(path+".tmp", info.ModTime(), info.ModTime()))
			ok(t, os.Rename(path+".tmp", path))
		}},
		{"in_place", nil, func(t *testing.T, dir, path string) { write(t, path, after) }},
		{"in_place_slowly", nil, func(t *testing.T, dir, path string) {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
			ok(t, err)
			defer f.Close()
			for i := range after {
				_, err := f.WriteString(after[i : i+1])
				ok(t, err)
				time.Sleep(10 * time.Millisecond)
			}
		}},
		{"in_place_without_truncation", nil, func(t *testing.T, dir, path string) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			ok(t, err)
			defer f.Close()
			_, err = f.WriteString(after)
			ok(t, err)
		}},
		{"deleted_and_created", nil, func(t *testing.T, dir, path string) {
			ok(t, os.Remove(path))
			time.Sleep(700 * time.Millisecond) // long enough to be noticed
			write(t, path, after)
		}},
		{"directory_deleted_and_created", nil, func(t *testing.T, dir, path string) {
			ok(t, os.RemoveAll(dir))
			ok(t, os.Mkdir(dir, 0o755))
			write(t, path, after)
		}},
		{"directory_away_for_a_while", nil, func(t *testing.T, dir, path string) {
			ok(t, os.RemoveAll(dir))
			time.Sleep(700 * time.Millisecond)
			ok(t, os.Mkdir(dir, 0o755))
			time.Sleep(200 * time.Millisecond)
			write(t, path, after)
		}},
		{"directory_renamed_away", nil, func(t *testing.T, dir, path string) {
			ok(t, os.Mkdir(dir+".new", 0o755))
			write(t, filepath.Join(dir+".new", "registry.json"), after)
			ok(t, os.Rename(dir, dir+".old"))
			ok(t, os.Rename(dir+".new", dir))
		}},
		{"kubernetes", func(t *testing.T, dir string) { kubernetes(t, dir, "..v1", before) },
			func(t *testing.T, dir, path string) { kubernetes(t, dir, "..v2", after) }},
		{"link_to_a_file_elsewhere", func(t *testing.T, dir string) {
			write(t, dir+".target", before)
			ok(t, os.Symlink(dir+".target", filepath.Join(dir, "registry.json")))
		}, func(t *testing.T, dir, path string) { write(t, dir+".target", after) }},
		{"link_in_the_middle_of_a_chain", func(t *testing.T, dir string) {
			ok(t, os.MkdirAll(dir+".a/1", 0o755))
			ok(t, os.MkdirAll(dir+".a/2", 0o755))
			write(t, dir+".a/1/f", before)
			write(t, dir+".a/2/f", after)
			ok(t, os.Symlink("1", dir+".a/current"))
			ok(t, os.Symlink("../"+filepath.Base(dir)+".a/current/f", filepath.Join(dir, "registry.json")))
		}, func(t *testing.T, dir, path string) {
			ok(t, os.Symlink("2", dir+".a/next"))
			ok(t, os.Rename(dir+".a/next", dir+".a/current"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "etc")
			path := filepath.Join(dir, "registry.json")
			ok(t, os.Mkdir(dir, 0o755))
			if c.before == nil {
				write(t, path, before)
			} else {
				c.before(t, dir)
			}
			_, f, l := follow(t, path, never)
			f.until(t, "a")
			c.change(t, dir, path)
			f.until(t, "b c")
			replace(t, path, content("d")) // and it is still watched
			f.until(t, "d")
			for _, got := range f.history {
				if got != "a" && got != "b c" && got != "d" {
					t.Errorf("listed %q, which was never the file's content", got)
				}
			}
			if strings.Contains(l.String(), "level=WARN") {
				t.Error(l)
			}
		})
	}
}

// TestSameSizeAndTime writes twice within the granularity of time stamps.
func TestSameSizeAndTime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.json")
	write(t, path, content("a"))
	info, err := os.Stat(path)
	ok(t, err)
	_, f, _ := follow(t, path, never)
	f.until(t, "a")
	write(t, path, content("b"))
	ok(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
	f.until(t, "b")
}

func TestPollSeesWhatIsNotNotified(t *testing.T) {
	t.Parallel()
	top := filepath.Join(t.TempDir(), "top")
	path := filepath.Join(top, "etc", "registry.json")
	ok(t, os.MkdirAll(filepath.Dir(path), 0o755))
	write(t, path, content("a"))
	_, f, _ := follow(t, path, 20*time.Millisecond)
	f.until(t, "a")
	ok(t, os.MkdirAll(filepath.Join(top+".new", "etc"), 0o755))
	write(t, filepath.Join(top+".new", "etc", "registry.json"), content("b"))
	ok(t, os.Rename(top, top+".old"))
	ok(t, os.Rename(top+".new", top))
	f.until(t, "b")
}

func TestUnchangedFileIsAliveAndNotListedAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.json")
	write(t, path, content("a"))
	_, f, _ := follow(t, path, 100*time.Millisecond)
	until(t, "it proves alive long after it has settled", func() bool { return f.alive() > 30 })
	ok(t, os.Chtimes(path, time.Now(), time.Now()))
	replace(t, path, content("a"))
	was := f.alive()
	until(t, "it goes on", func() bool { return f.alive() > was+3 })
	if n := f.listings(); n != 1 {
		t.Errorf("listed %d times", n)
	}
}

func TestUnusableFileChangesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.json")
	s, f, l := follow(t, path, 100*time.Millisecond)
	const complaint = "the registry file cannot be used"
	troubled := func(reason string) {
		t.Helper()
		until(t, "it is in trouble: "+reason, func() bool { err := s.Trouble(); return err != nil && err.Error() == reason })
		listings, alive := f.listings(), f.alive()
		time.Sleep(300 * time.Millisecond)
		if f.listings() != listings || f.alive() != alive {
			t.Errorf("%s: %d listings and %d proofs of life, then %d and %d", reason, listings, alive, f.listings(), f.alive())
		}
		if n := strings.Count(l.String(), reason); n != 1 {
			t.Errorf("%q is logged %d times:\n%s", reason, n, l)
		}
	}
	troubled("the file does not exist")
	write(t, path, content("a", "b"))
	f.until(t, "a b")
	until(t, "the trouble is over", func() bool { return s.Trouble() == nil && strings.Contains(l.String(), "can be used again") })

	write(t, path, content("a", "b")[:90])
	troubled("line 2, column 22: the file ends in the middle: is it cut short, or still being written?")
	ok(t, os.Remove(path))
	until(t, "its absence is noticed", func() bool { return s.Trouble().Error() == "the file does not exist" })
	ok(t, os.Mkdir(path, 0o755))
	troubled("this is a directory: name the file in it")
	ok(t, os.Remove(path))
	write(t, path, "\ufeff"+content("c"))
	troubled("line 1, column 1: the file begins with a byte order mark: save it as UTF-8 without one (RFC 8259, section 8.1)")
	if f.listed() != "a b" || f.listings() != 1 {
		t.Errorf("%d listings: %s", f.listings(), f.listed())
	}
	replace(t, path, content("a", "b"))
	until(t, "the trouble is over", func() bool { return s.Trouble() == nil })
	replace(t, path, content("a.b", "c"))
	f.until(t, "c") // one bad object does not make a bad file
	if s.Trouble() != nil || f.rejected != 1 {
		t.Errorf("trouble %v, %d rejected", s.Trouble(), f.rejected)
	}
	if n := strings.Count(l.String(), complaint); n != 5 {
		t.Errorf("%d complaints:\n%s", n, l)
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.json")
	write(t, path, content("a"))
	s, f, l := follow(t, path, never)
	f.until(t, "a")
	s.Reload()
	s.Reload() // does not block
	until(t, "it is listed again", func() bool { return f.listings() > 1 })
	until(t, "and that is said", func() bool { return strings.Contains(l.String(), "is read again") })
	ok(t, os.Remove(path))
	s.Reload()
	until(t, "the answer to Reload", func() bool { return strings.Contains(l.String(), "does not exist") })
}

// TestSlowWriterIsNotComplainedOf needs no files: only the clock matters.
func TestSlowWriterIsNotComplainedOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &logs{}
		s := New(Config{Path: "/registry.json"}, slog.New(slog.NewTextHandler(l, nil)))
		began := time.Now()
		for i := 0; l.String() == ""; i++ {
			s.seen.note(nil, fmt.Errorf("another size: %d", i), time.Now())
			if wait := s.fail(fmt.Errorf("line %d: cut short", i), false); wait != again && s.Trouble() == nil {
				t.Fatalf("waits %v", wait)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(began); took < patience || took > patience+time.Second {
			t.Errorf("complains after %v", took)
		}
		for i := range 100 {
			s.seen.note(nil, fmt.Errorf("another size: %d", -i), time.Now())
			s.fail(fmt.Errorf("line %d: cut short", i), false)
		}
		if n := strings.Count(l.String(), "\n"); n != 1 || s.Trouble() != errChanging {
			t.Errorf("%d lines, trouble %v", n, s.Trouble())
		}
		s.well(false)
		if !strings.Contains(l.String(), "repeats=100") || s.Trouble() != nil {
			t.Errorf("%v\n%s", s.Trouble(), l)
		}
	})
}

func TestFollowAgainListsAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.json")
	write(t, path, content("a"))
	s := New(Config{Path: path}, slog.New(slog.DiscardHandler))
	for range 3 {
		f := &feed{}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Follow(ctx, f, true) }()
		f.until(t, "a")
		cancel()
		<-done
	}
	if got := s.String(); got != "file:"+path {
		t.Error(got)
	}
}

// TestRandomHistories changes the file in random ways. Whatever is listed was
// the content of a whole file at some time, and at rest the last one is listed.
func TestRandomHistories(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	dir := filepath.Join(t.TempDir(), "etc")
	path := filepath.Join(dir, "registry.json")
	_, f, _ := follow(t, path, never)
	whole := map[string]bool{}
	for round := range 12 {
		last := ""
		for step := range 1 + rng.IntN(8) {
			ok(t, os.MkdirAll(dir, 0o755))
			id := fmt.Sprintf("m%d-%d", round, step)
			text := content(id)
			switch last = id; rng.IntN(6) {
			case 0, 1:
				os.RemoveAll(path)
				replace(t, path, text)
			case 2, 3:
				write(t, path, text)
			case 4:
				ok(t, os.RemoveAll(dir))
				ok(t, os.Mkdir(dir, 0o755))
				write(t, path, text)
			case 5:
				write(t, path, text[:rng.IntN(len(text)-2)])
				last = ""
			}
			whole[id] = true
			time.Sleep(time.Duration(rng.IntN(4)) * 30 * time.Millisecond)
		}
		if last != "" {
			f.until(t, last)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, got := range f.history {
		if !whole[got] {
			t.Errorf("listed %q", got)
		}
	}
}

func TestDirectories(t *testing.T) {
	top, err := filepath.EvalSymlinks(t.TempDir())
	ok(t, err)
	ok(t, os.MkdirAll(filepath.Join(top, "a/b"), 0o755))
	ok(t, os.MkdirAll(filepath.Join(top, "c"), 0o755))
	write(t, filepath.Join(top, "a/b/f"), "")
	for link, target := range map[string]string{
		"c/rel": "../a/b/f", "c/abs": top + "/a/b", "c/loop": "loop", "c/gone": "../x/y", "a/b/twice": "../../c/rel",
	} {
		ok(t, os.Symlink(target, filepath.Join(top, link)))
	}
	for path, want := range map[string]string{
		"a/b/f": "a/b", "c/rel": "c a/b", "c/abs/f": "c a/b", "c/abs/twice": "c a/b", "c/loop": "c",
		"c/gone": "c .", "x/y/z": ".", "a/b/g": "a/b", "a/b/f/g": "a/b/f",
	} {
		var got []string
		for _, dir := range directories(filepath.Join(top, path)) {
			rel, _ := filepath.Rel(top, dir)
			got = append(got, rel)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestBlindWatchSaysSoOnce(t *testing.T) {
	l := &logs{}
	w := newWatch(filepath.Join(t.TempDir(), "registry.json"), slog.New(slog.NewTextHandler(l, nil)))
	w.update()
	if w.blind || len(w.dirs) == 0 {
		t.Fatalf("blind %v, watched %v", w.blind, w.dirs)
	}
	w.notify.Close() // as good as a system that refuses
	for range 3 {
		w.update()
	}
	if !w.blind || strings.Count(l.String(), "cannot be watched") != 1 {
		t.Errorf("blind %v:\n%s", w.blind, l)
	}
	w.close()
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "registry.json")
	if _, err := Check(path); err == nil || err.Error() != "registry file "+path+": the file does not exist" {
		t.Error(err)
	}
	if _, err := Check(dir); err == nil || !strings.Contains(err.Error(), "this is a directory") {
		t.Error(err)
	}
	if _, err := Check("/dev/null"); err == nil || !strings.Contains(err.Error(), "device") {
		t.Error(err)
	}
	write(t, path, content("a", "b", "b"))
	r, err := Check(path)
	ok(t, err)
	if r.Objects[registry.KindMachine] != 2 || len(r.Problems) != 1 || !maps.Equal(r.States, map[string]int{"started": 2}) {
		t.Errorf("%+v", r)
	}
}

// TestRegistryFollows runs the whole way from a write to a view.
func TestRegistryFollows(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.json")
	write(t, path, content("a", "b"))
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	reg := registry.New()
	follower := registry.NewFollower(reg, New(Config{Path: path}, log), registry.FollowerConfig{Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { follower.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	until(t, "two machines are known", func() bool { return reg.Count(registry.KindMachine) == 2 })
	var worst time.Duration
	for i := range 10 {
		began := time.Now()
		replace(t, path, content(fmt.Sprint("m", i)))
		until(t, "the change is seen", func() bool {
			fleet, _ := reg.View().Fleet(0x18, "web")
			return fleet != nil && fleet.Machine(fmt.Sprint("m", i)) != nil && reg.Count(registry.KindMachine) == 1
		})
		worst = max(worst, time.Since(began))
	}
	t.Logf("slowest of 10 changes from write to view: %v", worst.Round(time.Millisecond))
}
