package forward

import (
	"errors"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
)

// errInternal is the outcome of work that has panicked.
var errInternal = errors.New("internal error")

// guard keeps a panic from ending the process: it costs only the work that caused it.
// All goroutines of the forwarder run under it. Safe for concurrent use.
type guard struct {
	log    *slog.Logger
	panics atomic.Uint64
}

// run runs fn. A panic ends fn and is counted; the more there are, the more rarely they
// are logged.
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
