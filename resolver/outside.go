package resolver

import (
	"context"
	"net/netip"
	"sync"

	"github.com/miekg/dns"

	"dnsd/resolver/forward"
)

// Deferred is a question that has to be resolved upstream. It owns all that it
// needs; the worker that it came from has long gone on. One goroutine uses it, once.
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

// Network is whose question it is, for fairness.
func (d *Deferred) Network() netip.Prefix { return d.query.Network }

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
