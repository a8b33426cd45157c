package forward

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

// Query is one question for names outside dnsd's own zones.
type Query struct {
	Name    []byte // owner name in wire form, lower case, uncompressed, root label included; not kept
	Type    uint16
	Class   uint16
	DO      bool         // the client wants DNSSEC records (RFC 3225)
	CD      bool         // the client checks signatures itself (RFC 4035, section 3.2.2)
	RD      bool         // recursion desired; without it only the cache answers
	Network netip.Prefix // whose question it is, for fairness; zero: a client without a network
	Worker  uint8        // which of the caller's sockets asks; equal ones may share a counter's cache line
}

// Reply is what a question outside dnsd's own zones is answered with. It is
// immutable and may be appended to any number of responses at once.
type Reply struct {
	Rcode uint16
	// AD says that the upstream found the data authentic. It goes to clients
	// that set AD or DO in their query and to no other (RFC 6840, section 5.8).
	AD  bool
	EDE []wire.EDE // sent only to clients that sent OPT

	// body is the three sections as they stand in a message right after its
	// question. Names are compressed against that message's start, which holds
	// for every question of the same name length.
	body    []byte
	records []record
	counts  [3]uint16 // answer, authority, additional
	born    time.Time // when body's TTLs were right
	fixed   bool      // TTLs leave as they are: stale and special answers
	partial bool      // the upstream itself had no more than a part (TC over a stream); never kept
}

// record marks a record's places in the body, which is shorter than 64 KiB.
type record struct {
	ttl uint16 // where its TTL is
	end uint16 // where the next record begins
}

// Append appends the reply's records to dst, which must hold a header and the
// question the reply was given for and nothing else, as whole records while the
// message stays within limit bytes. TTLs are counted down to now (RFC 1035,
// section 3.2.1). counts says how many records of each section went out;
// truncated, that answer or authority records did not or that the upstream lacked
// some, so that TC must be set (additional ones may be left out in silence,
// RFC 2181, section 9). There is never an OPT among them. Append allocates nothing where dst has room.
func (r *Reply) Append(dst []byte, limit int) (out []byte, counts [3]uint16, truncated bool) {
	n, room := len(r.records), limit-len(dst)
	if len(r.body) > room {
		for n > 0 && int(r.records[n-1].end) > room {
			n--
		}
	}
	truncated = r.partial || n < int(r.counts[0])+int(r.counts[1])
	if n == 0 {
		return dst, counts, truncated
	}
	start := len(dst)
	out = append(dst, r.body[:r.records[n-1].end]...)
	if !r.fixed {
		countDown(out[start:], r.records[:n], time.Since(r.born))
	}
	left := uint16(n)
	for i, c := range r.counts {
		counts[i] = min(c, left)
		left -= counts[i]
	}
	return out, counts, truncated
}

// countDown takes the whole seconds of age off the records' TTLs.
func countDown(body []byte, records []record, age time.Duration) {
	secs := uint32(age / time.Second)
	if secs == 0 {
		return
	}
	for _, rec := range records {
		field := body[rec.ttl : rec.ttl+4]
		ttl := binary.BigEndian.Uint32(field)
		binary.BigEndian.PutUint32(field, ttl-min(ttl, secs))
	}
}

// failure returns a reply without records.
func failure(rcode int, code uint16, text string) *Reply {
	return &Reply{Rcode: uint16(rcode), EDE: []wire.EDE{{Code: code, Text: text}}}
}

// What an upstream may make us keep beside its records.
const (
	maxEDEs    = 4   // more than any resolver sends for one question
	maxEDEText = 200 // bytes; a sentence
)

// newReply turns an upstream's answer into a reply, without its OPT and other
// hop-by-hop records, and with TTLs brought within bounds by clampTTLs.
func newReply(m *dns.Msg, now time.Time) (*Reply, error) {
	r := &Reply{Rcode: uint16(m.Rcode), AD: m.AuthenticatedData, EDE: edesOf(m), born: now, partial: m.Truncated}
	out := dns.Msg{Question: m.Question, Answer: m.Answer, Ns: m.Ns, Extra: endToEnd(m.Extra), Compress: true}
	packed, err := out.Pack()
	if err != nil {
		return nil, fmt.Errorf("packing the answer: %w", err)
	}
	// The library reads records whose data end early, for the sake of dynamic
	// updates, and writes some of them as what nobody can read.
	if err := new(dns.Msg).Unpack(packed); err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	sections := [3]int{len(out.Answer), len(out.Ns), len(out.Extra)}
	start := 12
	for packed[start] != 0 {
		start += 1 + int(packed[start])
	}
	if err := r.mark(packed[start+5:], sections); err != nil {
		return nil, err
	}
	return r, nil
}

// mark takes body and finds its records.
func (r *Reply) mark(body []byte, sections [3]int) error {
	off := 0
	for i, n := range sections {
		r.counts[i] = uint16(n)
		for range n {
			for off < len(body) && body[off] != 0 && body[off] < 0xc0 {
				off += 1 + int(body[off])
			}
			if off < len(body) && body[off] >= 0xc0 {
				off++
			}
			ttl := off + 5
			if ttl+6 > len(body) {
				return errors.New("packing the answer: a record is cut short")
			}
			off = ttl + 6 + int(binary.BigEndian.Uint16(body[ttl+4:]))
			if off > len(body) || off > dns.MaxMsgSize {
				return errors.New("packing the answer: a record is cut short")
			}
			r.records = append(r.records, record{ttl: uint16(ttl), end: uint16(off)})
		}
	}
	r.body = append([]byte(nil), body[:off]...) // without the packer's spare room
	return nil
}

// endToEnd returns the records that concern the client: not OPT, TSIG and SIG(0),
// which are between us and the upstream.
func endToEnd(extra []dns.RR) []dns.RR {
	var kept []dns.RR
	for _, rr := range extra {
		switch rr.Header().Rrtype {
		case dns.TypeOPT, dns.TypeTSIG, dns.TypeSIG:
		default:
			kept = append(kept, rr)
		}
	}
	return kept
}

// edesOf returns the extended errors of an upstream's answer.
func edesOf(m *dns.Msg) []wire.EDE {
	opt := m.IsEdns0()
	if opt == nil {
		return nil
	}
	var edes []wire.EDE
	for _, o := range opt.Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok && len(edes) < maxEDEs {
			text := e.ExtraText
			if len(text) > maxEDEText {
				text = text[:maxEDEText]
			}
			edes = append(edes, wire.EDE{Code: e.InfoCode, Text: strings.ToValidUTF8(text, "")})
		}
	}
	return edes
}

// stale returns the reply as it is given after it has expired because no
// upstream could renew it (RFC 8767, section 4), or nil where it may not be.
func (r *Reply) stale(why string) *Reply {
	s := *r
	code := uint16(dns.ExtendedErrorCodeStaleAnswer)
	if r.Rcode == dns.RcodeNameError {
		code = dns.ExtendedErrorCodeStaleNXDOMAINAnswer
	}
	s.EDE = []wire.EDE{{Code: code, Text: why}}
	s.fixed = true
	if !r.fixed {
		s.body = append([]byte(nil), r.body...)
		for _, rec := range s.records {
			binary.BigEndian.PutUint32(s.body[rec.ttl:], staleTTL)
		}
	}
	return &s
}
