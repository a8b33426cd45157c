package file

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// watch reports changes in every directory that decides which file path leads to.
// A watch on the file itself would end with the file.
type watch struct {
	path   string
	log    *slog.Logger
	logged string // why a directory could not be watched, last

	notify *fsnotify.Watcher // nil: the system has none to give
	events <-chan fsnotify.Event
	errors <-chan error
	dirs   map[string]fs.FileInfo // what is watched
	blind  bool                   // some directory is not watched that should be
}

// newWatch returns a watch, which update begins and close ends. Where nothing can be
// watched it is blind.
func newWatch(path string, log *slog.Logger) *watch {
	w := &watch{path: path, log: log, dirs: map[string]fs.FileInfo{}}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w.cannot(err)
		return w
	}
	w.notify, w.events, w.errors = notify, notify.Events, notify.Errors
	return w
}

func (w *watch) close() {
	if w.notify != nil {
		w.notify.Close() // waits for its goroutine
	}
}

// cannot notes that not everything is watched.
func (w *watch) cannot(err error) {
	w.blind = true
	if w.logged != err.Error() {
		w.logged = err.Error()
		w.log.Warn("the registry file's directory cannot be watched; looking every half second instead", "path", w.path, "err", err)
	}
}

// update watches the directories that matter now and no others.
func (w *watch) update() {
	if w.notify == nil {
		return
	}
	// A directory may come or go before the watch on it begins; then all of them are
	// looked for again, a few times: the next look comes anyway.
	for range 5 {
		w.blind = false
		dirs := directories(w.path)
		for dir := range w.dirs {
			if !slices.Contains(dirs, dir) {
				w.remove(dir)
			}
		}
		changed := false
		for _, dir := range dirs {
			changed = w.add(dir) || changed
		}
		if !changed {
			return
		}
	}
}

func (w *watch) remove(dir string) {
	w.notify.Remove(dir) // fails where the watch has gone with its directory
	delete(w.dirs, dir)
}

// add watches dir and reports whether anything has changed by that.
func (w *watch) add(dir string) bool {
	info, err := os.Stat(dir)
	// A watch is on the directory that had the name when it began, and ends when
	// that one is deleted or renamed.
	if os.SameFile(w.dirs[dir], info) && slices.Contains(w.notify.WatchList(), dir) {
		return false
	}
	w.remove(dir)
	if err == nil {
		err = w.notify.Add(dir)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist): // gone since it was found
		return true
	case err != nil:
		w.cannot(err)
		return false
	}
	w.dirs[dir] = info
	return true
}

// maxLinks is how many symbolic links a path may lead through, as in Linux.
const maxLinks = 40

// directories returns the directories whose entries decide which file an absolute
// path leads to: the file's own, each that holds a symbolic link on the way, and,
// where a part of the way is missing, the one that it is missing from.
func directories(path string) []string {
	var found []string
	dir, rest := string(filepath.Separator), split(path)
	for links := 0; len(rest) > 0 && links <= maxLinks; {
		full := filepath.Join(dir, rest[0])
		rest = rest[1:]
		info, err := os.Lstat(full)
		link := err == nil && info.Mode()&fs.ModeSymlink != 0
		if (link || err != nil || len(rest) == 0) && !slices.Contains(found, dir) {
			found = append(found, dir)
		}
		switch {
		case err != nil:
			return found
		case link:
			target, err := os.Readlink(full)
			if err != nil {
				return found
			}
			if filepath.IsAbs(target) {
				dir = string(filepath.Separator)
			}
			rest = append(split(target), rest...)
			links++
		default:
			dir = full
		}
	}
	return found
}

func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == filepath.Separator })
}
