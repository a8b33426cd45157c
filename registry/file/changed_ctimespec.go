//go:build darwin || freebsd || netbsd

package file

import (
	"io/fs"
	"syscall"
	"time"
)

// changed returns when the file's content or attributes changed last. Unlike the
// time of its modification nobody can set that back, as rsync and touch do.
func changed(info fs.FileInfo) time.Time {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(s.Ctimespec.Unix())
	}
	return time.Time{}
}
