// Package contain turns panics into errors, so that a bug costs what was being
// worked on and not the process.
package contain

import (
	"errors"
	"fmt"
	"log/slog"
	"path"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
)

// Error is a panic that has been contained.
type Error struct {
	Value any    // what panic was called with
	Place string // where: "registry.(*edit).putMachine, registry.go:312"
	Stack []byte

	noted atomic.Bool
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("dnsd failed at it, which is a bug, in %s: %v", e.Place, e.Value)
}

// Run calls do and returns its error, or its panic as an *Error. It is for code that
// works on what others have sent, a piece at a time, and whose caller can do
// without the piece. do must leave no lock behind.
func Run(do func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &Error{Value: v, Place: placeOfPanic(), Stack: debug.Stack()}
		}
	}()
	return do()
}

// placeOfPanic returns where the panic happened that is being recovered.
func placeOfPanic() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])]) // behind Run's deferred function: the runtime's, then the place
	for {
		frame, more := frames.Next()
		if !strings.HasPrefix(frame.Function, "runtime.") || !more {
			return fmt.Sprintf("%s, %s:%d", path.Base(frame.Function), path.Base(frame.File), frame.Line)
		}
	}
}

// Counter counts contained panics, and logs the first at each place with its
// stack. Safe for concurrent use.
type Counter struct {
	Log    *slog.Logger // set once
	count  atomic.Int64
	places sync.Map // those that were logged: as many as the program has, at most
}

// Note counts err if it is a panic that was not noted before.
func (p *Counter) Note(err error) {
	var e *Error
	if !errors.As(err, &e) || e.noted.Swap(true) {
		return
	}
	p.count.Add(1)
	if _, known := p.places.LoadOrStore(e.Place, nil); !known {
		p.Log.Error("a panic was contained; this is a bug in dnsd", "in", e.Place, "panic", e.Value, "stack", string(e.Stack))
	}
}

// Count returns how many panics were noted.
func (p *Counter) Count() int64 { return p.count.Load() }
