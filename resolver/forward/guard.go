package forward

import (
	"errors"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
)

// errInternal is the outcome of work that has panicked.
var errInternal = errors.New("internal error")

// guard recovers panics, so that one ends only the work that caused it. Every goroutine of
// the forwarder runs under it. Safe for concurrent use.
type guard struct {
	log    *slog.Logger
	panics atomic.Uint64
}

// run runs fn. A panic ends fn and is counted; the 1st, 2nd, 4th, 8th … are logged.
func (g *guard) run(doing string, fn func()) {
	defer func() {
		if p := recover(); p != nil {
			if n := g.panics.Add(1); n&(n-1) == 0 {
				g.log.Error("panic in the forwarder; what it was doing failed, please report this",
					"doing", doing, "panic", p, "panics", n, "stack", string(debug.Stack()))
			}
		}
	}()
	fn()
}
