package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"dnsd/registry"
	"dnsd/registry/regular"
)

// The files in a directory.
const (
	Name     = "registry.state"
	Previous = "registry.state.previous"
)

const (
	// A file is written anew when the changes behind its first batch have so many
	// times the first batch's bytes: half as much is then written for that as for
	// the changes, and a start reads three times what it would read at least.
	maxAppended = 2

	// minAppended is what may be appended to the smallest first batch.
	minAppended = 1 << 20

	// rewriteEvery is how long after its first batch a file is written anew, if
	// anything changes: where a disk damages it, the file before it is that old.
	rewriteEvery = 24 * time.Hour

	// syncEvery is how often what is appended is made to last through a power
	// failure, and the disk is asked whether it took it. A process that is killed
	// loses nothing that was written, and a power failure what came from the source
	// in this time, which the source lists again; a disk that other tenants of the
	// host use is not flushed every two seconds for that.
	syncEvery = time.Minute

	// oldProbe is when a probe was left by a process that was killed: longer than any
	// disk that is of use takes to write 64 KiB.
	oldProbe = time.Hour
)

// Errors of Save that pass.
var (
	// ErrBusy says that another process writes to the directory: the dnsd that this
	// one takes over from, or one that was given the same directory by mistake.
	ErrBusy = errors.New("another dnsd keeps its state there")

	errEnding = errors.New("dnsd ends")
)

// Dir is a directory that a state is kept in. But for End it is used by one
// goroutine at a time.
type Dir struct {
	path, source string

	// Meanwhile returns a newer snapshot to save, nil for none. It is asked while a
	// file is written anew, which may take longer than changes may go unsaved: those
	// are appended to the old file until the new one takes its place. Set before the
	// first Save, or nil.
	Meanwhile func() *registry.Snapshot

	// Unlocked is told, once, why the directory is used without a lock: where another
	// process writes to it as well, each may undo what the other has written. Set
	// before the first Load or Save, or nil.
	Unlocked func(why error)

	lock *os.File // the directory, locked where that can be; nil: it is not
	ends atomic.Bool

	// What Name is. The file is nil where the next Save writes it anew.
	file      *os.File
	out       blockWriter
	base      int64              // bytes up to the end of the first batch
	holds     *registry.Snapshot // what the batches come to
	overtaken bool               // holds is newer than what the last new file began with
	rewritten time.Time
	synced    time.Time

	loaded *Contents   // what Continue may append to
	good   fs.FileInfo // of the file that was loaded or written last, as it was then; nil: none was

	most  int64                   // bytes of a file; what Read reads, but in tests
	flock func(fd, how int) error // syscall.Flock, but in tests
	sync  func(*os.File) error    // (*os.File).Sync, but in tests
}

// New returns a directory for the state of a source. It touches nothing.
func New(path, source string) *Dir {
	return &Dir{path: path, source: source, most: regular.MaxRegistry, flock: syscall.Flock, sync: (*os.File).Sync}
}

// Load returns the newest state that can be used, nil where there is none, and calls
// report for each file that cannot be used.
func (d *Dir) Load(report func(path string, err error)) *Contents {
	_ = d.acquire() // or what is loaded may not be what is appended to: see reopen
	d.loaded, d.good = nil, nil
	for _, name := range []string{Name, Previous} {
		path := filepath.Join(d.path, name)
		c, err := Read(path)
		switch {
		case err == nil && c.Source != d.source:
			err = fmt.Errorf("it was saved from another source, %s", c.Source)
		case err == nil:
			if name == Name {
				d.loaded, d.good = c, c.info
			}
			return c
		}
		if !errors.Is(err, fs.ErrNotExist) {
			report(path, err)
		}
	}
	return nil
}

// Continue says that v is what Load returned, so that changes to it can be appended
// to the file.
func (d *Dir) Continue(v *registry.Snapshot) { d.holds = v }

// acquire locks the directory. A file system that has no locks is used without.
func (d *Dir) acquire() error {
	if d.lock != nil {
		return nil
	}
	dir, err := os.Open(d.path)
	if err != nil {
		return err
	}
	err = d.flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errors.Join(ErrBusy, dir.Close())
	}
	if err != nil && d.Unlocked != nil {
		d.Unlocked(os.NewSyscallError("flock", err))
		d.Unlocked = nil
	}
	d.lock = dir
	d.removeLeftovers()
	return nil
}

// removeLeftovers removes what a process that was killed while it wrote has left.
// What cannot be removed does no harm. A probe is made without the lock: one that is
// not old may be another process's.
func (d *Dir) removeLeftovers() {
	entries, _ := os.ReadDir(d.path)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), Name+".") {
			continue
		}
		left := strings.HasSuffix(e.Name(), ".tmp")
		if strings.HasSuffix(e.Name(), ".probe") {
			info, err := e.Info()
			left = err == nil && time.Since(info.ModTime()) > oldProbe
		}
		if left {
			_ = os.Remove(filepath.Join(d.path, e.Name()))
		}
	}
}

// Save makes the state that is kept v, which was right at a time. It appends what has
// changed, or writes everything to a new file which then takes the place of the old
// one, so that at every moment, power failures included, there is a whole one.
func (d *Dir) Save(v *registry.Snapshot, now time.Time) error {
	ended := false
	defer func() {
		if !ended { // it panics, in the middle of whatever
			d.forget()
		}
	}()
	err := d.save(v, now)
	if ended = true; err != nil {
		return fmt.Errorf("writing state: %w", err)
	}
	return nil
}

func (d *Dir) save(v *registry.Snapshot, now time.Time) error {
	if !d.there() {
		d.forget()
	}
	if err := d.acquire(); err != nil {
		return err
	}
	d.reopen()
	if d.file == nil {
		return d.rewrite(v, now)
	}
	if d.outgrown(now) {
		if err := d.rewrite(v, now); !errors.Is(err, errEnding) {
			return err
		}
		if d.overtaken {
			return nil
		}
	}
	return d.append(v, now)
}

func (d *Dir) outgrown(now time.Time) bool {
	appended := d.out.size - d.base
	return appended > max(maxAppended*d.base, minAppended) || d.out.size > d.most-d.most/8 || now.Sub(d.rewritten) >= rewriteEvery
}

// there reports whether the directory and the file in it are still what is written to,
// and the file as long as it was left: without locks another process may have written.
func (d *Dir) there() bool {
	same := func(path string, f *os.File, size int64) bool {
		if f == nil {
			return true
		}
		named, err := os.Stat(path)
		if err != nil {
			return false
		}
		open, err := f.Stat()
		return err == nil && os.SameFile(named, open) && (size < 0 || named.Size() == size)
	}
	return same(d.path, d.lock, -1) && same(filepath.Join(d.path, Name), d.file, d.out.size)
}

// forget has the next Save write everything.
func (d *Dir) forget() {
	for _, f := range []*os.File{d.file, d.lock} {
		if f != nil {
			_ = f.Close() // what mattered of it has been synced
		}
	}
	d.file, d.lock, d.holds, d.loaded = nil, nil, nil, nil
}

// reopen opens the file that was loaded, if nobody has written to it since, and cuts
// off what cannot be used.
func (d *Dir) reopen() {
	c := d.loaded
	d.loaded = nil
	if c == nil || c.size == 0 || d.file != nil || d.holds == nil {
		return
	}
	f, err := os.OpenFile(filepath.Join(d.path, Name), os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return // which the writing of a new one tells, too, if it matters
	}
	info, err := f.Stat()
	if err != nil || !os.SameFile(info, c.info) || info.Size() != c.info.Size() || f.Truncate(c.size) != nil {
		_ = f.Close()
		return
	}
	if _, err := f.Seek(c.size, 0); err != nil {
		_ = f.Close()
		return
	}
	d.good, _ = f.Stat()
	d.file, d.base = f, c.base
	d.out = blockWriter{w: f, size: c.size, sum: c.sum}
	d.rewritten, d.synced = c.Saved, time.Time{}
}

// append writes what has changed since the last Save as one batch.
func (d *Dir) append(v *registry.Snapshot, now time.Time) error {
	err := d.batch(&d.out, v, d.holds, now, nil)
	if err == nil && (d.ends.Load() || now.Sub(d.synced) >= syncEvery) {
		err, d.synced = d.sync(d.file), now
	}
	if d.holds = v; err != nil {
		d.forget() // it may end in a part of a block, or lack one
	}
	return err
}

// batch writes what has changed from old to v. Between blocks it asks whether to go on.
func (d *Dir) batch(w *blockWriter, v, old *registry.Snapshot, now time.Time, goOn func() error) error {
	e := newEncoder(func(body []byte) error {
		if goOn != nil {
			if err := goOn(); err != nil {
				return err
			}
		}
		return w.block(kindObjects, body)
	})
	v.Since(old, e.fleet, e.other)
	if err := e.flush(); err != nil {
		return err
	}
	return w.block(kindEnd, binary.AppendUvarint(nil, uint64(max(0, now.Unix()))))
}

// rewrite writes everything to a new file, which takes the place of the old one.
func (d *Dir) rewrite(v *registry.Snapshot, now time.Time) error {
	tmp, err := os.CreateTemp(d.path, Name+".*.tmp")
	if err != nil {
		return err
	}
	out := blockWriter{w: tmp}
	d.overtaken = false
	base, err := d.whole(&out, tmp, v, now)
	if err != nil {
		return errors.Join(err, tmp.Close(), os.Remove(tmp.Name()))
	}
	if d.file != nil {
		_ = d.file.Close()
	}
	if !d.overtaken {
		d.holds = v
	}
	d.file, d.out, d.base = tmp, out, base
	d.rewritten, d.synced = now, now
	d.good, _ = tmp.Stat()
	if err := d.syncDir(); err != nil {
		d.forget()
		return err
	}
	return nil
}

// whole writes everything to tmp and gives that the name of the state. It returns the
// bytes up to the end of the first batch.
func (d *Dir) whole(out *blockWriter, tmp *os.File, v *registry.Snapshot, now time.Time) (base int64, err error) {
	if err := out.begin(d.source, rand.Uint64()); err != nil {
		return 0, err
	}
	goOn := func() error {
		if d.ends.Load() && d.file != nil {
			return errEnding // changes are appended instead
		}
		if out.size > d.most {
			return regular.TooLarge(d.most)
		}
		return d.catchUp()
	}
	if err := d.batch(out, v, nil, now, goOn); err != nil {
		return 0, err
	}
	base = out.size
	if d.overtaken {
		if err := d.batch(out, d.holds, v, time.Now(), nil); err != nil {
			return 0, err
		}
	}
	if out.size > d.most {
		return 0, regular.TooLarge(d.most)
	}
	if err := d.sync(tmp); err != nil {
		return 0, err
	}
	state := filepath.Join(d.path, Name)
	if err := d.keepPrevious(state, filepath.Join(d.path, Previous)); err != nil {
		return 0, err
	}
	return base, os.Rename(tmp.Name(), state)
}

// catchUp appends to the old file what has changed since the writing of a new one began.
func (d *Dir) catchUp() error {
	if d.file == nil || d.Meanwhile == nil {
		return nil
	}
	later := d.Meanwhile()
	if later == nil {
		return nil
	}
	d.overtaken = true
	return d.append(later, time.Now())
}

// keepPrevious makes previous a second name of state. What it named is replaced only
// by a file that can be used: until the new one has its name, it may be the last one.
func (d *Dir) keepPrevious(state, previous string) error {
	link := previous + ".tmp"
	if !d.usable(state) {
		link = previous
	} else if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch err := os.Link(state, link); {
	case errors.Is(err, fs.ErrNotExist): // the first state
		return nil
	case link == previous && errors.Is(err, fs.ErrExist):
		return nil
	case err != nil || link == previous:
		return err
	}
	return os.Rename(link, previous)
}

// usable reports whether a file is one that was loaded or written, with nothing but
// more behind it.
func (d *Dir) usable(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && d.good != nil && os.SameFile(info, d.good) && info.Size() >= d.good.Size()
}

func (d *Dir) syncDir() error {
	dir, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(d.sync(dir), dir.Close())
}

// End has a Save under way, and those to come, do no more than they must: no file is
// written anew that changes can be appended to. Safe for concurrent use.
func (d *Dir) End() { d.ends.Store(true) }

// Close lets go of the directory.
func (d *Dir) Close() { d.forget() }

// Try reports what would keep a state from being written to a directory.
func Try(dir string) (err error) {
	probe, err := os.CreateTemp(dir, Name+".*.probe")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, probe.Close(), os.Remove(probe.Name())) }()
	// A full disk has room for a name.
	if _, err := probe.Write(bytes.Repeat([]byte{'#'}, 64<<10)); err != nil {
		return err
	}
	return probe.Sync()
}
