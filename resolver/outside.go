package resolver

import (
	"context"
	"net/netip"

	"github.com/miekg/dns"

	"dnsd/resolver/forward"
)

// deferred is a question that is not answered where it was read: it has to be
// resolved upstream, or computing its answer takes long. It shares no memory with the
// worker that read it. One to be resolved holds one of the forwarder's places, which
// also bounds these goroutines fairly; done gives it back. One goroutine uses it, once.
type deferred struct {
	exchange
	view View

	query forward.Query // to be resolved upstream

	zone   *zone // computes the answer; nil: to be resolved upstream
	client netip.Addr
}

// newOutside returns a question to be resolved upstream.
func newOutside(x *exchange, view View, q forward.Query) *deferred {
	d := &deferred{exchange: *x, view: view, query: q}
	d.req.Keep()
	d.query.Name = d.req.Name()
	return d
}

// newSlow returns a question whose answer takes long.
func newSlow(x *exchange, view View, z *zone, client netip.Addr) *deferred {
	d := &deferred{exchange: *x, view: view, zone: z, client: client}
	d.req.Keep()
	return d
}

// compute computes the answer and writes the response into dst. It calls pause now
// and then, see Question. It returns the answer as well if it is one to keep. It
// never panics.
func (d *deferred) compute(pause func(), dst []byte) (resp []byte, keep *kept) {
	defer func() {
		if p := recover(); p != nil {
			resp, keep = d.panicked(p, dst), nil
		}
	}()
	var labels [maxLabels]string
	a := d.zone.Answer(d.ask(new(Question), &labels, d.zone, d.view, d.client, pause))
	keep = d.r.keepable(d.req.Type, d.zone, a, len(d.req.Name()))
	return d.answer(dst, d.zone, a, dns.ClassINET), keep
}

// resolve waits for the forwarder and writes the response into dst. It never panics
// and never returns nil.
func (d *deferred) resolve(ctx context.Context, dst []byte) (resp []byte) {
	defer func() {
		if p := recover(); p != nil {
			resp = d.panicked(p, dst)
		}
	}()
	return d.forward(dst, d.r.cfg.Forward.Resolve(ctx, &d.query))
}

// done gives back the question's place, after its response is sent or given up.
func (d *deferred) done() { d.r.cfg.Forward.Release(&d.query) }
