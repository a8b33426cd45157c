package resolver

import (
	"context"
	"net/netip"

	"github.com/miekg/dns"

	"dnsd/resolver/forward"
)

// Deferred is a question that is not answered where it was read: it has to be
// resolved upstream, or computing its answer takes long. It owns all that it
// needs; the worker that it came from has long gone on. One to be resolved has a
// place among those that wait, so that the forwarder bounds the goroutines as well,
// and fairly: Done must follow. One goroutine uses it, once.
type Deferred struct {
	exchange
	view View

	query forward.Query // to be resolved upstream

	zone   *zone // to be computed by; nil: to be resolved upstream
	client netip.Addr
}

func newDeferred(x *exchange, view View, q forward.Query) *Deferred {
	d := &Deferred{exchange: *x, view: view, query: q}
	d.req.Keep()
	d.query.Name = d.req.Name()
	return d
}

// newSlow returns a question whose answer takes long.
func newSlow(x *exchange, view View, z *zone, client netip.Addr) *Deferred {
	d := &Deferred{exchange: *x, view: view, zone: z, client: client}
	d.req.Keep()
	return d
}

// Network is whose question it is, for fairness.
func (d *Deferred) Network() netip.Prefix { return d.view.Network }

// Compute computes the answer and writes the response into dst, as Respond does.
// It calls pause now and then, see Question. It returns the answer as well if it is
// one to keep. It never panics.
func (d *Deferred) Compute(pause func(), dst []byte) (resp []byte, keep *kept) {
	defer func() {
		if p := recover(); p != nil {
			resp, keep = d.panicked(p, dst), nil
		}
	}()
	var labels [maxLabels]string
	a := d.zone.Answer(d.ask(new(Question), &labels, d.zone, d.view, d.client, pause))
	keep = packKept(d.req.Type, d.zone, a, len(d.req.Name()))
	return d.answer(dst, d.zone, a, dns.ClassINET), keep
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
