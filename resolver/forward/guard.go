package forward

import (
	"errors"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
)

// errInternal stands for an answer that a panic has cost.
var errInternal = errors.New("internal error")

// guard keeps a panic from ending the process: one packet costs itself. Every
// goroutine of the forwarder's own runs under it. Safe for concurrent use.
type guard struct {
	log    *slog.Logger
	panics atomic.Uint64
}

// run runs fn. A panic ends fn and is counted; one that comes again and again is
// logged ever more seldom.
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
