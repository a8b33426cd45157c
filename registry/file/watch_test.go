package file

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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

// TestWatchMovesToTheDirectoryOfTheSameName replaces a directory that is not
// watched itself by one that holds another of the watched name.
func TestWatchMovesToTheDirectoryOfTheSameName(t *testing.T) {
	top := filepath.Join(t.TempDir(), "top")
	path := filepath.Join(top, "etc", "registry.json")
	for _, dir := range []string{top, top + ".new"} {
		ok(t, os.MkdirAll(filepath.Join(dir, "etc"), 0o755))
	}
	w := newWatch(path, slog.New(slog.DiscardHandler))
	defer w.close()
	w.update()
	ok(t, os.Rename(top, top+".old"))
	ok(t, os.Rename(top+".new", top))
	w.update()
	write(t, path, "")
	select {
	case <-w.events:
	case <-time.After(15 * time.Second):
		t.Error("the new directory is not watched")
	}
}

// TestWatchLeavesWhatNoLongerMatters swaps a link.
func TestWatchLeavesWhatNoLongerMatters(t *testing.T) {
	top, err := filepath.EvalSymlinks(t.TempDir())
	ok(t, err)
	path := filepath.Join(top, "current", "registry.json")
	w := newWatch(path, slog.New(slog.DiscardHandler))
	defer w.close()
	for _, version := range []string{"a", "b", "c", "b"} {
		ok(t, os.MkdirAll(filepath.Join(top, version), 0o755))
		ok(t, os.Symlink(version, filepath.Join(top, "next")))
		ok(t, os.Rename(filepath.Join(top, "next"), filepath.Join(top, "current")))
		w.update()
		got, want := slices.Sorted(slices.Values(w.notify.WatchList())), []string{top, filepath.Join(top, version)}
		if !slices.Equal(got, want) || len(w.dirs) != 2 {
			t.Errorf("watched are %v, known %d, want %v", got, len(w.dirs), want)
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

// Where the system has no watch to give, that is said once, and the file is looked
// at more often.
func TestNoWatch(t *testing.T) {
	var was unix.Rlimit
	ok(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was))
	none := was
	none.Cur = 3
	ok(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &none)) // every descriptor is one too many
	l := &logs{}
	w := newWatch(filepath.Join(t.TempDir(), "registry.json"), slog.New(slog.NewTextHandler(l, nil)))
	ok(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &was))
	defer w.close()
	w.update()
	if !w.blind || strings.Count(l.String(), "cannot be watched") != 1 {
		t.Errorf("blind %v:\n%s", w.blind, l)
	}
}
