package resolver

import (
	"context"

	"dnsd/resolver/forward"
)

// Deferred is a question that has to be resolved upstream. It owns all that it
// needs; the worker that it came from has long gone on. It has a place among those
// that wait, so that the forwarder bounds the goroutines as well, and fairly: Done
// must follow. One goroutine uses it, once.
type Deferred struct {
	exchange
	query forward.Query
}

func newDeferred(x *exchange, q forward.Query) *Deferred {
	d := &Deferred{exchange: *x, query: q}
	d.req.Keep()
	d.query.Name = d.req.Name()
	return d
}

// Resolve waits for the forwarder and writes the response into dst, as Respond
// does. It never panics and never returns nil.
func (d *Deferred) Resolve(ctx context.Context, dst []byte) (resp []byte) {
	defer func() {
		if p := recover(); p != nil {
			resp = d.panicked(p, dst)
		}
	}()
	return d.forward(dst, d.r.cfg.Forward.Resolve(ctx, &d.query))
}

// Done gives back the question's place among those that wait, when its response is
// sent or given up.
func (d *Deferred) Done() { d.r.cfg.Forward.Release(&d.query) }
