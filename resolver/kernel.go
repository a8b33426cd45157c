package resolver

import (
	"net/netip"

	"dnsd/resolver/fastpath"
	"dnsd/resolver/internal/wire"
)

// Kernel gives kept answers before a socket is reached: *fastpath.Path. All methods
// must be safe for concurrent use, and must not wait.
type Kernel interface {
	// Generation returns what changes before answers that depend on an app, its name in lower
	// case, of a network do, and false while they do.
	Generation(network netip.Prefix, app string) (fastpath.Generation, bool)
	// Put offers an answer that was seen to hold after its Generation was read. False:
	// not now.
	Put(*fastpath.Answer) bool
	// Answered returns how many questions were answered, by Answer.Counter.
	Answered() [fastpath.Counters]uint64
}

// The types of questions are the kernel's counters.
var _ [fastpath.Counters - len(typeNames)]struct{}

// offered is what the kernel has been given of a kept answer.
type offered struct {
	app  string
	last *fastpath.Answer // nil: nothing yet
}

// keepable is packKept of an answer that the kernel may be given.
func (r *Resolver) keepable(typ uint16, z *zone, a *Answer, nameLen int) *kept {
	k := packKept(typ, z, a, nameLen)
	if k != nil && r.cfg.Kernel != nil && a.App != "" && k.answer == nil {
		k.offered = &offered{app: a.App}
	}
	return k
}

// offer gives the kernel the kept answer to the question in hand, unless it has it. That
// the question was asked again shows that it is worth it.
func (w *worker) offer(k *kept, view View, client netip.Addr) {
	if !view.Network.Contains(client) || !ula.Contains(client) {
		return // the kernel knows clients by their addresses alone
	}
	now, ok := w.r.cfg.Kernel.Generation(view.Network, k.offered.app)
	if !ok || k.offered.last != nil && k.offered.last.Stands(now) {
		return
	}
	// This look comes after the generation was read: see fastpath.
	if !w.keeper.holds(&k.guarded) {
		return
	}
	if a := w.forKernel(k, view, now); w.r.cfg.Kernel.Put(a) {
		k.offered.last = a
	}
}

// forKernel returns a kept answer as the kernel gives it: as replay writes it.
func (w *worker) forKernel(k *kept, view View, now fastpath.Generation) *fastpath.Answer {
	a := &fastpath.Answer{
		Network: view.Network, Type: w.req.Type, Name: append([]byte(nil), w.req.Name()...), Generation: now,
		Flags: wire.QR | wire.AA, Records: k.packed, TurnLen: k.turnLen, Counter: uint8(typeSlot(w.req.Type)),
	}
	if w.r.cfg.Forward != nil {
		a.Flags |= wire.RA
	}
	switch k.section {
	case wire.Answer:
		a.Answers = k.records
	case wire.Authority:
		a.Authority = k.records
	}
	var opt wire.Reply
	opt.Begin(nil, 0, nil, wire.MaxMessage)
	opt.OPT(uint16(w.r.cfg.MaxUDPSize), false, "", k.ede)
	a.OPT = opt.Finish()[wire.HeaderLen:]
	return a
}

// kernelAnswered returns how many questions of each of typeNames the kernel has answered, and
// how many in all. All its answers are NOERROR.
func (r *Resolver) kernelAnswered() (types [len(typeNames)]uint64, all uint64) {
	if r.cfg.Kernel == nil {
		return types, 0
	}
	answered := r.cfg.Kernel.Answered()
	for i := range types {
		types[i] = answered[i]
		all += answered[i]
	}
	return types, all
}
