package forward

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sort"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

// Query is one question for names outside dnsd's own zones.
type Query struct {
	Name    []byte // owner name in wire form, lower case, uncompressed, root label included; not kept
	Type    uint16
	Class   uint16
	DO      bool           // the client wants DNSSEC records (RFC 3225)
	CD      bool           // the client checks signatures itself (RFC 4035, section 3.2.2)
	RD      bool           // recursion desired; without it only the cache answers
	Network netip.Prefix   // whose question it is, for fairness; zero: a client without a network
	Hits    *atomic.Uint64 // the caller's count of fresh kept answers, so that its sockets share none; nil: not counted

	place *place // taken by Immediate
}

// Reply answers a question outside dnsd's own zones. It is immutable and may be appended to
// several responses at once.
type Reply struct {
	Rcode uint16
	// AD says that the upstream found the data authentic. Only clients that set AD or
	// DO in their query are told (RFC 6840, section 5.8).
	AD  bool
	EDE []wire.EDE // sent only to clients that sent OPT

	// body is the three sections as they stand in a message right after its question.
	// Pointers in it are right in every message whose question is as long.
	body    []byte
	records []record
	counts  [3]uint16 // answer, authority, additional
	born    time.Time // when body's TTLs were right
	extra   uint32    // seconds after which the additional records are left out
	fixed   bool      // TTLs are not counted down: stale and special answers
	partial bool      // the upstream had only a part of it (TC over a stream); never kept
	spelled bool      // owner names may repeat the question's name without compression
}

// record marks a record's places in the body, which is shorter than 64 KiB.
type record struct {
	ttl uint16 // where its TTL is
	end uint16 // where the next record begins
}

func (r record) typeIn(body []byte) uint16 { return binary.BigEndian.Uint16(body[r.ttl-4:]) }

// Append appends the reply's records to dst, which must hold a header and the reply's
// question and nothing else: as many whole records as limit bytes allow, with TTLs
// counted down to now (RFC 1035, section 3.2.1). None is an OPT. counts says how many
// records of each section were appended. truncated says that TC must be set, because
// records of the answer or authority section are missing (RFC 2181, section 9). Append
// allocates nothing where dst has room.
func (r *Reply) Append(dst []byte, limit int) (out []byte, counts [3]uint16, truncated bool) {
	var age uint32 // for how many whole seconds TTLs have been running
	if !r.fixed {
		age = uint32(time.Since(r.born) / time.Second)
	}
	n, room := len(r.records), limit-len(dst)
	if age > 0 && age >= r.extra {
		n -= int(r.counts[2])
	}
	if len(r.body) > room {
		n = sort.Search(n, func(i int) bool { return int(r.records[i].end) > room })
	}
	truncated = r.partial || n < int(r.counts[0])+int(r.counts[1])
	if n == 0 {
		return dst, counts, truncated
	}
	start := len(dst)
	out = append(dst, r.body[:r.records[n-1].end]...)
	for _, rec := range r.records[:n] {
		field := out[start+int(rec.ttl):]
		ttl := binary.BigEndian.Uint32(field)
		binary.BigEndian.PutUint32(field, ttl-min(ttl, age))
	}
	if r.spelled {
		takeCase(out[start:], r.records[:n], out[12:start-4])
	}
	left := uint16(n)
	for i, c := range r.counts {
		counts[i] = min(c, left)
		left -= counts[i]
	}
	return out, counts, truncated
}

// takeCase writes the question's name, with its case, over owner names that are equal to
// it. Those that point to it have its case already.
func takeCase(body []byte, records []record, name []byte) {
	start := 0
	for _, rec := range records {
		if owner := body[start : rec.ttl-4]; sameName(owner, name) {
			copy(owner, name)
		}
		start = int(rec.end)
	}
}

// failure returns a reply without records.
func failure(rcode int, code uint16, text string) *Reply {
	return &Reply{Rcode: uint16(rcode), EDE: []wire.EDE{{Code: code, Text: text}}}
}

// stale returns the reply as it is given after it has expired (RFC 8767, section 4). It has
// no AD, since its signatures may have expired as well.
func (r *Reply) stale(why string) *Reply {
	code := uint16(dns.ExtendedErrorCodeStaleAnswer)
	if r.Rcode == dns.RcodeNameError {
		code = dns.ExtendedErrorCodeStaleNXDOMAINAnswer
	}
	s := *r
	s.AD, s.fixed, s.EDE = false, true, []wire.EDE{{Code: code, Text: why}}
	if !r.fixed {
		s.counts[2], s.records = 0, r.records[:r.counts[0]+r.counts[1]]
		s.body = bytes.Clone(r.body)
		for _, rec := range s.records {
			binary.BigEndian.PutUint32(s.body[rec.ttl:], staleTTL)
		}
	}
	return &s
}
