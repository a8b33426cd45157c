package resolver

import (
	"fmt"
	"math/rand/v2"

	"github.com/miekg/dns"

	"dnsd/resolver/forward"
	"dnsd/resolver/internal/wire"
)

// begin starts the response. Room is kept for the OPT, which is never left
// out (RFC 6891, section 6.1.1), and for an NSID that was asked for; records come next,
// and EDE texts get what is left, since no program needs them.
func (x *exchange) begin(dst []byte, rcode uint16) {
	q, w := &x.req, &x.reply
	w.Begin(dst, q.ID, q.Question, x.limit())
	w.Flags = wire.QR | q.Flags&wire.OpcodeMask
	if q.Flags&wire.OpcodeMask == 0 { // what other opcodes mean by these bits is not known here
		w.Flags |= q.Flags & wire.RD
		if x.forwarded {
			w.Flags |= q.Flags & wire.CD // an authoritative server clears it (RFC 4035, section 3.1.6)
		}
	}
	if x.r.cfg.Forward != nil {
		w.Flags |= wire.RA
	}
	if q.OPT {
		w.Reserve(wire.OPTLen)
		if x.nsid() != "" {
			w.Reserve(wire.NSIDLen(x.nsid()))
		}
	} else if rcode > 0xf {
		rcode = dns.RcodeServerFailure // there is no OPT to carry the rest of it
	}
	w.Rcode = rcode
}

// limit is the longest response that the client takes, in bytes.
func (x *exchange) limit() int {
	switch {
	case x.proto == TCP:
		return wire.MaxMessage
	case !x.req.OPT:
		return minUDPSize
	}
	return min(max(int(x.req.UDPSize), minUDPSize), x.r.cfg.MaxUDPSize)
}

func (x *exchange) nsid() string {
	if x.req.NSID && !x.forbidden {
		return x.r.nsid
	}
	return ""
}

// finish ends the response with the OPT, where the request had one.
func (x *exchange) finish(errors []EDE) []byte {
	if x.req.OPT {
		x.reply.OPT(uint16(x.r.cfg.MaxUDPSize), x.req.DO, x.nsid(), errors)
	}
	return x.reply.Finish()
}

// refuse writes a response without records.
func (x *exchange) refuse(dst []byte, rcode uint16, ede EDE) []byte {
	x.begin(dst, rcode)
	return x.finish([]EDE{ede})
}

// answer writes a zone's answer. Nothing here changes a: it may be kept and
// written again for another client. z is nil for class CHAOS.
func (x *exchange) answer(dst []byte, z *zone, a *Answer, class uint16) []byte {
	total := len(a.Data)
	if a.Limit > 0 {
		total = min(total, a.Limit)
	}
	errors := a.EDE
	shown := x.records(dst, a, total, class, 0)
	full := shown == total
	if x.proto == TCP && (!full || a.Partial != nil) {
		// The client has no larger transport to try, so it is told how much is
		// missing: room for that EDE is kept before records are written.
		errors = x.counted(dst, a, total, class)
	}
	if !full || a.Partial != nil {
		x.reply.Flags |= wire.TC
	}
	negative := a.Rcode == dns.RcodeSuccess || a.Rcode == dns.RcodeNameError
	if negative && total == 0 && a.SOA != nil && z != nil && !x.authority(z, a.SOA) {
		x.reply.Flags |= wire.TC
	}
	return x.finish(errors)
}

// records starts the response anew and writes total of a's records, or as many
// as fit, with reserved bytes left free. It returns how many were written. Each run
// starts at a random member, so that each is first equally often; that comes before
// the limit, so that a limit or a small packet leaves out different ones each time.
func (x *exchange) records(dst []byte, a *Answer, total int, class uint16, reserved int) int {
	x.begin(dst, a.Rcode)
	if a.Rcode == dns.RcodeSuccess || a.Rcode == dns.RcodeNameError {
		x.reply.Flags |= wire.AA
	}
	x.reply.Reserve(reserved)
	shown, base := 0, 0
	for run := 0; shown < total; run++ {
		n, first := 1, 0
		if run < len(a.Turns) {
			n = min(a.Turns[run], len(a.Data)-base)
		}
		if n > 1 {
			first = rand.IntN(n)
		}
		for i := 0; i < n && shown < total; i++ {
			at := first + i
			if at >= n {
				at -= n
			}
			if !x.reply.Record(wire.Answer, wire.ToQuestion, a.Type, class, a.TTL, a.Data[base+at]) {
				return shown
			}
			shown++
		}
		base += max(n, 0)
	}
	return shown
}

// counted writes a's records again with room for an EDE that says how many of
// them there are, and returns that in front of a's own.
func (x *exchange) counted(dst []byte, a *Answer, total int, class uint16) []EDE {
	if p := a.Partial; p != nil {
		text := fmt.Sprintf("%d of %d %s", p.Shown, p.Total, p.What)
		x.records(dst, a, total, class, x.edeLen(text))
		return append([]EDE{{Text: text}}, a.EDE...)
	}
	count := func(n int) string { return fmt.Sprintf("%d of %d %s", n, total, plural(a.Type)) }
	shown := x.records(dst, a, total, class, x.edeLen(count(total)))
	return append([]EDE{{Text: count(shown)}}, a.EDE...)
}

func (x *exchange) edeLen(text string) int {
	if !x.req.OPT {
		return 0
	}
	return wire.EDELen(text)
}

func plural(typ uint16) string {
	switch typ {
	case dns.TypeAAAA, dns.TypeA:
		return "addresses"
	case dns.TypePTR:
		return "names"
	}
	return "records"
}

// authority writes the SOA of a negative answer (RFC 2308, section 3). Its owner
// is the end of the question's name.
func (x *exchange) authority(z *zone, soa *SOA) bool {
	return x.reply.Record(wire.Authority, soaOwner(z, len(x.req.Name())), dns.TypeSOA, dns.ClassINET, soa.TTL, soa.Data)
}

// soaOwner points to the end of a question's name of that length.
func soaOwner(z *zone, nameLen int) uint16 { return wire.ToQuestion + uint16(nameLen-len(z.origin)) }

// forward writes the forwarder's reply. AD goes to clients that show by DO or
// AD that they know it (RFC 6840, section 5.8).
func (x *exchange) forward(dst []byte, reply *forward.Reply) []byte {
	x.begin(dst, reply.Rcode)
	if reply.AD && (x.req.DO || x.req.Flags&wire.AD != 0) {
		x.reply.Flags |= wire.AD
	}
	x.reply.Splice(func(msg []byte, limit int) ([]byte, [3]uint16) {
		out, counts, truncated := reply.Append(msg, limit)
		if truncated {
			x.reply.Flags |= wire.TC
		}
		return out, counts
	})
	return x.finish(reply.EDE)
}
