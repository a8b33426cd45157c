//go:build unix

// Package orders catches the signals by which an operator gives dnsd an order,
// from the first moment that a Go program can: Go initializes packages in the
// order of their import paths, as far as their imports allow, so that this one,
// which imports next to nothing, comes before nearly all others. Those take some
// 10 ms together, in which SIGHUP would end the process.
//
// It also has the main goroutine keep the main thread, where it must not do anything
// but wait: the kernel gives a signal to the main thread if that can take it, and
// believes so of one that waits for a disk. Signals then came when the disk answered.
//
// Only Unix has these signals, and dnsd runs nowhere else.
package orders

import (
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// The orders that nobody has obeyed yet, each by itself, so that none takes the
// place of another; the same one given twice is one order.
var (
	Reload   <-chan os.Signal = catch(syscall.SIGHUP)  // read the registry file again
	Release  <-chan os.Signal = catch(syscall.SIGUSR1) // let go of what the sweep guard holds
	HandOver <-chan os.Signal = catch(syscall.SIGUSR2) // to a new process
)

var _ = keepThread()

func keepThread() struct{} {
	runtime.LockOSThread() // for good: this runs before main, which is on the main thread
	return struct{}{}
}

func catch(s os.Signal) <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, s)
	return c
}
