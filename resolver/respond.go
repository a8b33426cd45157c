package resolver

import (
	"log/slog"
	"net/netip"
	"runtime/debug"
	"time"

	"github.com/miekg/dns"

	"dnsd/resolver/forward"
	"dnsd/resolver/internal/wire"
)

// exchange is one request and its response.
type exchange struct {
	r     *Resolver
	proto Proto
	stats *stats // of the socket the request came from

	req       wire.Request
	reply     wire.Reply
	forbidden bool // dnsd does not serve the client
	forwarded bool // the answer is the forwarder's
}

// worker answers the requests of one socket, one at a time, in memory that it
// owns and reuses.
type worker struct {
	exchange
	question Question
	labels   [maxLabels]string // the storage of question.Labels
	query    forward.Query
	keeper   *keeper // nil: nothing is kept
	pause    func()  // see Question; nil, with a keeper: answers that take long are deferred
	cold     int     // how many answers it computes before the first that is charged
}

// maxLabels is more than a name of 255 bytes has.
const maxLabels = 128

func newWorker(r *Resolver, proto Proto, s *stats) *worker {
	return &worker{exchange: exchange{r: r, proto: proto, stats: s}, pause: func() {}}
}

// respond answers one request. It does no I/O and never waits. The response is
// built in dst's storage, which should have room for it (64 KiB over TCP), and
// is nil where the rules ask for silence. Where later is not nil the caller has the
// question answered elsewhere, and calls its done where it has to be resolved upstream.
// Neither holds on to req. It never panics.
func (w *worker) respond(req []byte, from netip.AddrPort, dst []byte) (resp []byte, later *deferred) {
	w.forbidden, w.forwarded = false, false
	defer func() {
		if p := recover(); p != nil {
			resp, later = w.panicked(p, dst), nil
		}
	}()
	form := w.req.Parse(req)
	if form == wire.Silent {
		return nil, nil
	}
	client := from.Addr().Unmap().WithZone("")
	if rcode, ede, ok := w.check(form, req, client); !ok {
		return w.refuse(dst, rcode, ede), nil
	}
	if w.req.Class == dns.ClassCHAOS {
		return w.identity(dst), nil
	}
	var key []byte
	var view View
	var known *knownClient
	if w.keeper != nil {
		known = w.keeper.client(client, w.r.cfg.Viewer)
		key, view = w.keeper.keyOf(known.number, &w.req), known.view
		if k := w.keeper.get(key); k != nil {
			if k.offered != nil {
				w.offer(k, view, client)
			}
			return w.replay(dst, k), nil
		}
	} else if w.r.cfg.Viewer != nil {
		view, _ = w.r.cfg.Viewer.View(client)
	}
	z := w.r.route(&w.req)
	switch {
	case z == nil && w.r.cfg.Forward == nil:
		return w.refuse(dst, dns.RcodeRefused, EDE{Code: dns.ExtendedErrorCodeNotAuthoritative,
			Text: "this dnsd has no upstream and serves internal names only"}), nil
	case z == nil:
		return w.outside(dst, view)
	}
	a := w.compute(z, view, client, known)
	if a == nil {
		return nil, newSlow(&w.exchange, view, z, client)
	}
	if w.keeper != nil {
		w.keeper.put(key, w.r.keepable(w.req.Type, z, a, len(w.req.Name())))
	}
	return w.answer(dst, z, a, dns.ClassINET), nil
}

// compute asks a zone. Nil: that takes long, or the client's network has used up
// its budget.
func (w *worker) compute(z *zone, view View, client netip.Addr, known *knownClient) *Answer {
	if w.pause != nil {
		return z.Answer(w.ask(&w.question, &w.labels, z, view, client, w.pause))
	}
	start := time.Now()
	if !known.budget.allows(start) {
		return nil
	}
	a := z.Answer(w.ask(&w.question, &w.labels, z, view, client, nil))
	if w.cold > 0 {
		w.cold--
	} else {
		known.budget.charge(start, time.Since(start))
	}
	return a
}

// check applies the rules that hold before the name is looked at. A client that may
// not ask learns nothing else; an opcode that dnsd does not know makes the rest
// of the message unknown too (RFC 8906, section 3.2.1), so it comes before form.
func (w *worker) check(form wire.Form, req []byte, client netip.Addr) (rcode uint16, ede EDE, ok bool) {
	q := &w.req
	switch {
	case !w.r.allowed(client):
		w.forbidden = true
		return dns.RcodeRefused, EDE{Code: dns.ExtendedErrorCodeProhibited,
			Text: "your address is not among the clients of this dnsd: see its --allow"}, false
	case q.Flags&wire.OpcodeMask != 0:
		return dns.RcodeNotImplemented, EDE{Code: dns.ExtendedErrorCodeNotSupported, Text: "opcode QUERY only"}, false
	case form == wire.Malformed:
		return dns.RcodeFormatError, EDE{Text: q.Fault}, false
	case form == wire.Extra && !unpacks(req):
		return dns.RcodeFormatError, EDE{Text: "a record that cannot be read"}, false
	case q.OPT && q.Version != 0:
		return dns.RcodeBadVers, EDE{Code: dns.ExtendedErrorCodeNotSupported, Text: "EDNS version 0 only"}, false
	case q.Type == dns.TypeOPT || q.Type == dns.TypeTSIG:
		return dns.RcodeFormatError, EDE{Code: dns.ExtendedErrorCodeNotSupported, Text: "no type to ask for: such records concern a message"}, false
	case q.Type == dns.TypeTKEY || q.Type == dns.TypeMAILA || q.Type == dns.TypeMAILB:
		return dns.RcodeNotImplemented, EDE{Code: dns.ExtendedErrorCodeNotSupported, Text: "questions of this type are not supported"}, false
	case q.Type == dns.TypeAXFR || q.Type == dns.TypeIXFR:
		return dns.RcodeRefused, EDE{Code: dns.ExtendedErrorCodeNotSupported, Text: "no zone transfers"}, false
	case q.Class != dns.ClassINET && q.Class != dns.ClassCHAOS:
		return dns.RcodeRefused, EDE{Code: dns.ExtendedErrorCodeNotSupported, Text: "class IN only"}, false
	}
	return 0, EDE{}, true
}

// unpacks reports whether all records of a request, also those that dnsd has no
// use for, are what their types say. No common client sends any.
func unpacks(req []byte) bool { return new(dns.Msg).Unpack(req) == nil }

// ask makes q the question for zone z. It lives as long as q and labels do.
func (x *exchange) ask(q *Question, labels *[maxLabels]string, z *zone, view View, client netip.Addr, pause func()) *Question {
	name := string(x.req.Name())
	n := x.req.Labels() - z.labels
	for i := range n {
		labels[i] = name[x.req.LabelStart(i)+1 : x.req.LabelStart(i+1)]
	}
	*q = Question{Labels: labels[:n], Type: x.req.Type, View: view, Client: client, Pause: pause}
	return q
}

// identity answers a question of class CHAOS (RFC 4892).
func (w *worker) identity(dst []byte) []byte {
	a := w.r.chaos[string(w.req.Name())]
	if a == nil {
		return w.refuse(dst, dns.RcodeRefused, EDE{Code: dns.ExtendedErrorCodeNotAuthoritative,
			Text: "no such name of class CHAOS, or switched off"})
	}
	if w.req.Type != dns.TypeTXT && w.req.Type != dns.TypeANY {
		a = &Answer{}
	}
	return w.answer(dst, nil, a, dns.ClassCHAOS)
}

// outside answers a name that is in none of the zones, or returns it for later.
func (w *worker) outside(dst []byte, view View) ([]byte, *deferred) {
	w.forwarded = true
	w.query = forward.Query{
		Name:    w.req.Name(),
		Type:    w.req.Type,
		Class:   w.req.Class,
		DO:      w.req.DO,
		CD:      w.req.Flags&wire.CD != 0,
		RD:      w.req.Flags&wire.RD != 0,
		Network: view.Network,
		Hits:    &w.stats.hits,
	}
	if reply := w.r.cfg.Forward.Immediate(&w.query); reply != nil {
		return w.forward(dst, reply), nil
	}
	return nil, newOutside(&w.exchange, view, w.query)
}

// panicked is the response to a question that made dnsd panic.
func (x *exchange) panicked(p any, dst []byte) []byte {
	x.stats.panics.Add(1)
	x.r.panicLog.log(x.r.log, slog.LevelError, "a question made dnsd panic and was answered SERVFAIL; please report this",
		"panic", p, "type", dns.Type(x.req.Type).String(), "stack", string(debug.Stack()))
	return x.refuse(dst, dns.RcodeServerFailure, EDE{Text: "dnsd failed on this question: its log says why"})
}
