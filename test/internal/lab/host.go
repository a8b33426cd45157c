package lab

import (
	"runtime"
	"testing"
)

// Host returns a lab that is no network of its own but the test's: for servers
// that talk to processes which others start, and are told apart by their
// loopback addresses.
func Host(t testing.TB) *Lab {
	l := &Lab{work: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		// Processes die with the thread that started them, so it must last.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for fn := range l.work {
			fn()
		}
	}()
	t.Cleanup(func() { close(l.work); <-l.done })
	return l
}
