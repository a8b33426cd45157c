package file

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"dnsd/registry/follow/followtest"
)

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
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.json")
	write(t, path, content("a"))
	info, err := os.Stat(path)
	ok(t, err)
	if changed(info).IsZero() {
		t.Skip("this system does not tell when a file was changed")
	}
	s, f, _ := begin(t, path, 50*time.Millisecond)
	f.until(t, "a")
	time.Sleep(granule + 10*s.poll) // it is read once more, and then only looked at
	write(t, path, content("b"))
	ok(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
	f.until(t, "b")
	time.Sleep(granule + 10*s.poll)
	ok(t, os.Chmod(path, 0o600)) // changed, but not in content
	time.Sleep(10 * s.poll)
	replace(t, path, content("b")) // nor here
	time.Sleep(10 * s.poll)
	if n := f.Listings(); n != 2 {
		t.Errorf("%d listings, want 2", n)
	}
}

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

func TestUnusableFileChangesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.json")
	s, f, l := begin(t, path, 100*time.Millisecond)
	const complaint = "the registry file cannot be used"
	troubled := func(reason string, lasting time.Duration) {
		t.Helper()
		followtest.Eventually(t, "it is in trouble: "+reason, func() bool { err := s.Trouble(); return err != nil && err.Error() == reason })
		listings, alive := f.Listings(), f.Proofs()
		time.Sleep(lasting)
		if f.Listings() != listings || f.Proofs() != alive {
			t.Errorf("%s: %d listings and %d proofs of life, then %d and %d", reason, listings, alive, f.Listings(), f.Proofs())
		}
		if n := strings.Count(l.String(), reason); n != 1 {
			t.Errorf("%q is logged %d times:\n%s", reason, n, l)
		}
	}
	const shortly = 300 * time.Millisecond // several polls
	troubled("the file does not exist", shortly)
	const nothing, stays = "cannot be used, and nothing was read from it before", "cannot be used; what was read from it before stays"
	if text := l.String(); !strings.Contains(text, nothing) || strings.Contains(text, stays) {
		t.Errorf("it is not said that nothing is known:\n%s", text)
	}
	write(t, path, content("a", "b"))
	f.until(t, "a b")
	followtest.Eventually(t, "the trouble is over", func() bool { return s.Trouble() == nil && strings.Contains(l.String(), "can be used again") })

	write(t, path, content("a", "b")[:90])
	troubled("line 2, column 22: the file ends in the middle: is it cut short, or still being written?", granule+again)
	if text := l.String(); strings.Count(text, nothing) != 1 || !strings.Contains(text, stays) {
		t.Errorf("it is not said that what was known stays:\n%s", text)
	}
	ok(t, os.Remove(path))
	followtest.Eventually(t, "its absence is noticed", func() bool { return s.Trouble().Error() == "the file does not exist" })
	ok(t, os.Mkdir(path, 0o755))
	troubled("this is a directory: name the file in it", shortly)
	ok(t, os.Remove(path))
	write(t, path, "\ufeff"+content("c"))
	troubled("line 1, column 1: the file begins with a byte order mark: save it as UTF-8 without one (RFC 8259, section 8.1)", shortly)
	if f.listed() != "a b" || f.Listings() != 1 {
		t.Errorf("%d listings: %s", f.Listings(), f.listed())
	}
	replace(t, path, content("a", "b"))
	followtest.Eventually(t, "the trouble is over", func() bool { return s.Trouble() == nil })
	replace(t, path, content("a.b", "c"))
	f.until(t, "c") // one bad object does not make a bad file
	if s.Trouble() != nil || len(f.Seen().Rejects) != 1 {
		t.Errorf("trouble %v, %d rejected", s.Trouble(), len(f.Seen().Rejects))
	}
	if n := strings.Count(l.String(), complaint); n != 5 {
		t.Errorf("%d complaints:\n%s", n, l)
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.json")
	write(t, path, content("a"))
	s, f, l := begin(t, path, never)
	f.until(t, "a")
	s.Reload()
	s.Reload() // does not block
	followtest.Eventually(t, "it is listed again", func() bool { return f.Listings() > 1 })
	followtest.Eventually(t, "and that is said", func() bool { return strings.Contains(l.String(), "is read again") })
	ok(t, os.Remove(path))
	s.Reload()
	followtest.Eventually(t, "the answer to Reload", func() bool { return strings.Contains(l.String(), "does not exist") })
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
		if took := time.Since(began); took < changesFor || took > changesFor+time.Second {
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

// TestRandomHistories changes the file in random ways. Whatever is listed was
// the content of a whole file at some time, and at rest the last one is listed.
func TestRandomHistories(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	dir := filepath.Join(t.TempDir(), "etc")
	path := filepath.Join(dir, "registry.json")
	_, f, _ := begin(t, path, never)
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
	for _, got := range f.listings() {
		if !whole[got] {
			t.Errorf("listed %q", got)
		}
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
	} {
		if _, err := read(path); err == nil || !strings.HasPrefix(plain(err).Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}
