// Package regular reads regular files of bounded size, so that no path makes dnsd
// wait or run out of memory.
package regular

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

const (
	// MaxRegistry is how large a registry file, or a state on disk, may be. 2 GiB are
	// six million machines of the usual kind; a larger file is a mistake, such as a
	// sparse one. It is read into memory as a whole.
	MaxRegistry = 2 << 30

	// MaxSettings is how large any other file may be that a flag names. The largest
	// in use, a bundle of certificate authorities, has a few hundred KiB.
	MaxSettings = 16 << 20
)

// Open opens a regular file of at most most bytes for reading. Anything else, such
// as a directory, a device or a pipe that nobody writes, is an error; it is neither
// waited for nor touched.
func Open(path string, most int64) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.Unwrap(err)}
	}
	if err := readable(path, info, most); err != nil {
		return nil, err
	}
	// It may be another file by now, whose opening would wait.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err == nil {
		err = readable(path, info, most)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// readable says why a file cannot be read.
func readable(path string, info fs.FileInfo, most int64) error {
	var why error
	switch {
	case info.IsDir():
		why = errors.New("this is a directory: name the file in it")
	case !info.Mode().IsRegular():
		why = errors.New("this is a device, pipe or socket: it must be a file, which can be read again and again")
	case info.Size() > most:
		why = TooLarge(most)
	default:
		return nil
	}
	return &fs.PathError{Op: "open", Path: path, Err: why}
}

// TooLarge is the error of a file of more than most bytes.
func TooLarge(most int64) error {
	return fmt.Errorf("it is larger than the %d MiB that dnsd reads", most>>20)
}

// Read returns the content of a regular file of at most most bytes. It fails
// as Open does, and if the file turns out to be larger while it is read.
func Read(path string, most int64) ([]byte, error) {
	f, err := Open(path, most)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := ReadAll(f, most)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return data, nil
}

// ReadAll returns what a stream holds up to its end. It fails if that is more than
// most bytes.
func ReadAll(r io.Reader, most int64) ([]byte, error) {
	var data bytes.Buffer
	if f, ok := r.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Size() <= most {
			data.Grow(int(info.Size()) + bytes.MinRead) // MinRead more, or it grows once again at the end
		}
	}
	if _, err := data.ReadFrom(io.LimitReader(r, most+1)); err != nil {
		return nil, err
	}
	if int64(data.Len()) > most {
		return nil, TooLarge(most)
	}
	return data.Bytes(), nil
}
