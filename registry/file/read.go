package file

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"

	"dnsd/registry/regular"
)

// stamp tells one state of a file from another without reading it. The time of
// its last change of any kind (ctime) is part of it because nobody can set that
// back, as rsync and touch do with the time of its modification.
type stamp struct {
	device, inode     uint64
	size              int64
	modified, changed unix.Timespec
	err               string // why there is nothing else; empty: the file is there
}

func stampOf(path string) (stamp, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return stamp{err: err.Error()}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return newStamp(&st), nil
}

func newStamp(st *unix.Stat_t) stamp {
	return stamp{device: uint64(st.Dev), inode: uint64(st.Ino), size: st.Size, modified: st.Mtim, changed: st.Ctim}
}

// read returns the content of a regular file. It fails when the file is written
// meanwhile.
func read(path string) ([]byte, error) {
	f, err := regular.Open(path, regular.MaxRegistry)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var before, after unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &before); err != nil {
		return nil, err
	}
	data, err := regular.ReadAll(f, regular.MaxRegistry)
	if err != nil {
		return nil, err
	}
	if err := unix.Fstat(int(f.Fd()), &after); err != nil {
		return nil, err
	}
	if newStamp(&before) != newStamp(&after) || int64(len(data)) != after.Size {
		return nil, errChanging
	}
	return data, nil
}

// plain puts the common errors of the file system into words, without the path,
// which the log line has already.
func plain(err error) error {
	var path *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("the file does not exist")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("permission denied: dnsd's user must be able to read the file and to enter its directories")
	case errors.As(err, &path) && !errors.As(err, new(syscall.Errno)):
		return path.Err // a sentence already
	case errors.As(err, &path):
		return fmt.Errorf("%s: %w", path.Op, path.Err)
	}
	return err
}
