package file

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// read returns the content of a regular file, and an error when it was written
// meanwhile.
func read(path string) ([]byte, error) {
	// Opening a pipe would block, so its kind is looked at first.
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, errors.New("this is a directory: name the file in it")
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("this is a device, pipe or socket: it must be a file, which can be read again and again")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var data bytes.Buffer
	data.Grow(int(before.Size()) + bytes.MinRead) // MinRead more, or it grows once again at the end
	if _, err := data.ReadFrom(f); err != nil {
		return nil, err
	}
	after, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !same(before, after) || int64(data.Len()) != after.Size() {
		return nil, errChanging
	}
	return data.Bytes(), nil
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
	case errors.As(err, &path):
		return fmt.Errorf("%s: %w", path.Op, path.Err)
	}
	return err
}
