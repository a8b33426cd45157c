package resolver

import (
	"context"
	"net/netip"
	"sync"

	"github.com/miekg/dns"

	"dnsd/resolver/forward"
)

// Deferred is a question that is not answered where it was read: it has to be
// resolved upstream, or computing its answer takes long. It owns all that it
// needs; the worker that it came from has long gone on. One goroutine uses it, once.
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

// Shed writes the response to a question that there is no room to wait for.
func (d *Deferred) Shed(dst []byte) []byte {
	d.stats.shed.Add(1)
	return d.refuse(dst, dns.RcodeServerFailure, EDE{Code: dns.ExtendedErrorCodeNetworkError,
		Text: "too many questions are waiting for upstream resolvers: ask again"})
}

// admission bounds the questions that wait for the forwarder, or over TCP for
// their client to take the response, each of which is a goroutine. A network is let in while it holds no more places than are free:
// so one network alone gets half of them, n busy ones 1/(n+1) each, and there is
// always room for one that comes new (the "dynamic threshold" of shared switch buffers).
type admission struct {
	mu    sync.Mutex
	free  int
	holds map[netip.Prefix]int
}

func newAdmission(places int) *admission {
	return &admission{free: places, holds: make(map[netip.Prefix]int)}
}

// enter takes a place for network, to be given back with leave. It reports
// false, at once, where there is none for it.
func (a *admission) enter(network netip.Prefix) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.holds[network] >= a.free {
		return false
	}
	a.free--
	a.holds[network]++
	return true
}

func (a *admission) leave(network netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.free++
	if a.holds[network]--; a.holds[network] == 0 {
		delete(a.holds, network)
	}
}
