package file

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"dnsd/registry/regular"
)

// read returns the content of a regular file, and an error when it was written
// meanwhile.
func read(path string) ([]byte, error) {
	f, err := regular.Open(path, regular.MaxRegistry)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return nil, err
	}
	data, err := regular.ReadAll(f, regular.MaxRegistry)
	if err != nil {
		return nil, err
	}
	after, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !same(before, after) || int64(len(data)) != after.Size() {
		return nil, errChanging
	}
	return data, nil
}

// plain puts the common errors of the file system into words, without the path,
// which its reader has beside it.
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
