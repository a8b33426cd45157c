package file

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"dnsd/registry/follow/followtest"
)

// TestNotified changes the file in every way that is known, and relies on
// notification alone.
func TestNotified(t *testing.T) {
	t.Parallel()
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
				time.Sleep(3 * time.Millisecond)
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
			_, f, l := begin(t, path, never)
			f.until(t, "a")
			c.change(t, dir, path)
			f.until(t, "b c")
			replace(t, path, content("d")) // and it is still watched
			f.until(t, "d")
			for _, got := range f.listings() {
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
	_, f, _ := begin(t, path, never)
	f.until(t, "a")
	write(t, path, content("b"))
	ok(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
	f.until(t, "b")
}

// TestSetBackInPlace writes a file of the same size in place and sets its time
// back, long after it was read: only the time of its change tells.
func TestSetBackInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "registry.json")
		write(t, path, content("a"))
		info, err := os.Stat(path)
		ok(t, err)
		_, f, _ := beginUnwatched(t, path, time.Second, &watch{})
		time.Sleep(10 * time.Second) // it is read once more, and then only looked at
		change := func(how func()) {
			t.Helper()
			tick(t)
			how()
			time.Sleep(10 * time.Second)
		}
		change(func() {
			write(t, path, content("b"))
			ok(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
		})
		if f.listed() != "b" {
			t.Errorf("listed are %s", f.listed())
		}
		change(func() { ok(t, os.Chmod(path, 0o600)) }) // changed, but not in content
		change(func() { replace(t, path, content("b")) })
		if n := f.Listings(); n != 2 {
			t.Errorf("%d listings, want 2", n)
		}
	})
}

// TestPollSeesWhatIsNotNotified swaps directories further up.
func TestPollSeesWhatIsNotNotified(t *testing.T) {
	t.Parallel()
	top := filepath.Join(t.TempDir(), "top")
	path := filepath.Join(top, "etc", "registry.json")
	ok(t, os.MkdirAll(filepath.Dir(path), 0o755))
	write(t, path, content("a"))
	_, f, _ := begin(t, path, 20*time.Millisecond)
	f.until(t, "a")
	ok(t, os.MkdirAll(filepath.Join(top+".new", "etc"), 0o755))
	write(t, filepath.Join(top+".new", "etc", "registry.json"), content("b"))
	ok(t, os.Rename(top, top+".old"))
	ok(t, os.Rename(top+".new", top))
	f.until(t, "b")
}

// TestWhenItLooks lets events come and records at which times the file is looked at.
func TestWhenItLooks(t *testing.T) {
	const ms = time.Millisecond
	burst := func(from, to time.Duration) (at []time.Duration) { // an event each 20 ms
		for ; from <= to; from += 20 * ms {
			at = append(at, from)
		}
		return at
	}
	for _, c := range []struct {
		name   string
		poll   time.Duration
		blind  bool
		events []time.Duration
		gone   [2]time.Duration // from when to when there is no file
		want   []time.Duration  // of looks within 10 s that found the file
	}{
		{name: "poll", poll: 3000 * ms, want: []time.Duration{0, 3000 * ms, 6000 * ms, 9000 * ms}},
		{name: "default_poll", want: []time.Duration{0, 3000 * ms, 6000 * ms, 9000 * ms}},
		{name: "blind", poll: 4 * pollBlind, blind: true, gone: [2]time.Duration{1900 * ms, 9400 * ms},
			want: []time.Duration{0, 500 * ms, 1000 * ms, 1500 * ms, 9500 * ms}},
		{name: "blind_and_quick", poll: 4000 * ms / 10, blind: true, gone: [2]time.Duration{600 * ms, 9500 * ms},
			want: []time.Duration{0, 400 * ms, 9600 * ms}},
		{name: "one_event", poll: never, events: []time.Duration{1000 * ms}, want: []time.Duration{0, 1050 * ms}},
		{name: "three_events", poll: never, events: []time.Duration{1000 * ms, 1040 * ms, 1080 * ms}, want: []time.Duration{0, 1130 * ms}},
		{name: "event_before_a_poll", poll: 3000 * ms, events: []time.Duration{2990 * ms}, want: []time.Duration{0, 3000 * ms, 6000 * ms, 9000 * ms}},
		{name: "always_events", poll: never, events: burst(1000*ms, 1600*ms), want: []time.Duration{0, 1250 * ms, 1510 * ms, 1650 * ms}},
		{name: "event_while_it_is_gone", poll: never, gone: [2]time.Duration{1000 * ms, 1060 * ms}, events: []time.Duration{1000 * ms, 1060 * ms},
			want: []time.Duration{0, 1550 * ms}},
		{name: "gone_for_long", poll: 2000 * ms, gone: [2]time.Duration{1000 * ms, 3000 * ms}, events: []time.Duration{1000 * ms, 3000 * ms},
			want: []time.Duration{0, 3050 * ms, 5050 * ms, 7050 * ms, 9050 * ms}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "registry.json")
				write(t, path, content("a"))
				began := time.Now()
				events := make(chan fsnotify.Event)
				_, f, _ := beginUnwatched(t, path, c.poll, &watch{events: events, blind: c.blind})
				if c.gone[0] > 0 {
					time.AfterFunc(c.gone[0], func() { os.Remove(path) })
					time.AfterFunc(c.gone[1], func() { os.WriteFile(path, []byte(content("a")), 0o600) })
				}
				for _, at := range c.events {
					time.Sleep(at - time.Since(began))
					synctest.Wait()
					events <- fsnotify.Event{}
				}
				time.Sleep(9990*ms - time.Since(began))
				var looks []time.Duration
				f.See(func(*followtest.Seen) {
					for _, at := range f.looks {
						looks = append(looks, at.Sub(began))
					}
				})
				if !slices.Equal(looks, c.want) {
					t.Errorf("looks at %v, want %v", looks, c.want)
				}
			})
		})
	}
}

// TestWrittenWithoutATrace changes a file in memory, which leaves its attributes as
// they are. That is seen until the time in which two writes may look alike is over.
func TestWrittenWithoutATrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "registry.json")
		text := content("a")
		write(t, path, text)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		ok(t, err)
		defer f.Close()
		memory, err := unix.Mmap(int(f.Fd()), 0, len(text), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		ok(t, err)
		defer unix.Munmap(memory)
		id := strings.Index(text, `"a"`) + 1
		memory[id] = 'a' // from now on the page is dirty
		_, feed, _ := beginUnwatched(t, path, 500*time.Millisecond, &watch{})
		time.Sleep(time.Second + 600*time.Millisecond) // it was looked at, and read, four times
		memory[id] = 'b'
		time.Sleep(500 * time.Millisecond)
		if feed.listed() != "b" {
			t.Errorf("listed are %s, want b", feed.listed())
		}
		memory[id] = 'c' // 2 s after the file was seen first, it was read for the last time
		time.Sleep(10 * time.Second)
		if feed.listed() != "b" {
			t.Errorf("listed are %s, want b", feed.listed())
		}
	})
}

// TestMissingAtStart: what is found twice is complained of, and not before.
func TestMissingAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := beginUnwatched(t, filepath.Join(t.TempDir(), "registry.json"), never, &watch{})
		time.Sleep(499 * time.Millisecond)
		before := s.Trouble()
		time.Sleep(2 * time.Millisecond)
		if before != nil || s.Trouble() == nil {
			t.Errorf("%v, then %v", before, s.Trouble())
		}
	})
}

func TestUnusableFileChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "registry.json")
		s, f, l := beginUnwatched(t, path, 100*time.Millisecond, &watch{})
		troubled := func(reason string) {
			t.Helper()
			time.Sleep(again / 2)
			if err := s.Trouble(); err != nil && err.Error() == reason {
				t.Errorf("%s is complained of at once", reason)
			}
			time.Sleep(again)
			if err := s.Trouble(); err == nil || err.Error() != reason {
				t.Fatalf("the trouble is %v, want %s", err, reason)
			}
			listings, alive := f.Listings(), f.Proofs()
			time.Sleep(2 * granule)
			if f.Listings() != listings || f.Proofs() != alive {
				t.Errorf("%s: %d listings and %d proofs of life, then %d and %d", reason, listings, alive, f.Listings(), f.Proofs())
			}
			if n := strings.Count(l.String(), reason); n != 1 {
				t.Errorf("%q is logged %d times:\n%s", reason, n, l)
			}
		}
		usable := func(machines string) {
			t.Helper()
			time.Sleep(again + time.Millisecond)
			if err := s.Trouble(); err != nil || f.listed() != machines {
				t.Errorf("trouble %v, listed are %s, want %s", err, f.listed(), machines)
			}
		}
		const nothing, stays = "cannot be used, and nothing was read from it before", "cannot be used; what was read from it before stays"
		troubled("the file does not exist")
		if text := l.String(); !strings.Contains(text, nothing) || strings.Contains(text, stays) {
			t.Errorf("it is not said that nothing is known:\n%s", text)
		}
		write(t, path, content("a", "b"))
		usable("a b")
		if text := l.String(); !strings.Contains(text, "can be used again") || !strings.Contains(text, "after=4.8s repeats=42") {
			t.Errorf("it is not said for how long it could not be used:\n%s", text)
		}
		l.reset()
		write(t, path, content("a", "b")[:90])
		troubled("line 2, column 22: the file ends in the middle: is it cut short, or still being written?")
		if text := l.String(); strings.Contains(text, nothing) || !strings.Contains(text, stays) {
			t.Errorf("it is not said that what was known stays:\n%s", text)
		}
		ok(t, os.Remove(path))
		troubled("the file does not exist")
		ok(t, os.Mkdir(path, 0o755))
		troubled("this is a directory: name the file in it")
		ok(t, os.Remove(path))
		write(t, path, "\ufeff"+content("c"))
		troubled("line 1, column 1: the file begins with a byte order mark: save it as UTF-8 without one (RFC 8259, section 8.1)")
		if f.listed() != "a b" || f.Listings() != 1 {
			t.Errorf("%d listings: %s", f.Listings(), f.listed())
		}
		replace(t, path, content("a", "b"))
		usable("a b")
		replace(t, path, content("a.b", "c")) // one bad object does not make a bad file
		usable("c")
		if n := len(f.Seen().Rejects); n != 1 {
			t.Errorf("%d rejected", n)
		}
		if n := strings.Count(l.String(), "the registry file cannot be used"); n != 4 {
			t.Errorf("%d complaints:\n%s", n, l)
		}
	})
}

func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "registry.json")
		write(t, path, content("a"))
		s, f, l := beginUnwatched(t, path, never, &watch{})
		synctest.Wait()
		s.Reload()
		s.Reload() // does not block
		synctest.Wait()
		if f.Listings() < 2 || !strings.Contains(l.String(), "is read again") {
			t.Errorf("%d listings:\n%s", f.Listings(), l)
		}
		for _, n := range []int{1, 2} { // each is answered
			os.Remove(path)
			s.Reload()
			synctest.Wait()
			if strings.Count(l.String(), "does not exist") != n {
				t.Errorf("after Reload %d:\n%s", n, l)
			}
		}
	})
}

// TestSlowWriterIsNotComplainedOf needs no files: only the clock matters.
func TestSlowWriterIsNotComplainedOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &logs{}
		s := New(Config{Path: "/registry.json"}, slog.New(slog.NewTextHandler(l, nil)))
		began := time.Now()
		for i := 0; l.String() == ""; i++ {
			s.seen.since = time.Now() // as in a look that found another size
			if wait := s.fail(fmt.Errorf("line %d: cut short", i), false); wait != again && s.Trouble() == nil {
				t.Fatalf("waits %v", wait)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(began); took != 10*time.Second+100*time.Millisecond { // with a pause behind it
			t.Errorf("complains after %v", took)
		}
		for i := range 100 {
			s.seen.since = time.Now()
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

// TestRandomHistories changes the file in random ways. Whatever is listed was
// the content of a whole file at some time, and at rest the last one is listed.
func TestRandomHistories(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			randomHistory(t, rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

func randomHistory(t *testing.T, rng *rand.Rand) {
	dir := filepath.Join(t.TempDir(), "etc")
	path := filepath.Join(dir, "registry.json")
	_, f, _ := begin(t, path, never)
	whole := map[string]bool{}
	for round := range 3 {
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
	for _, got := range f.listings() {
		if !whole[got] {
			t.Errorf("listed %q", got)
		}
	}
}
