package forward

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

// answer is an upstream's response.
type answer struct {
	Reply
	life lifetime // of a good one
	edns bool     // the upstream sent an OPT
}

func (a *answer) good() bool { return isGood(a.Rcode) }

// isGood says whether a response code answers the question. Any other may be the fault of
// the upstream.
func isGood(rcode uint16) bool {
	return rcode == dns.RcodeSuccess || rcode == dns.RcodeNameError || rcode == dns.RcodeYXDomain
}

var errMalformed = errors.New("malformed answer")

// Bounds on an upstream's extended errors.
const (
	maxEDEs    = 4   // more than any resolver sends for one question
	maxEDEText = 200 // bytes; a sentence
)

// read reads a response to m in one pass and keeps b: the reply's records are bytes of b, so
// that record data of every type pass unchanged. Compressed names stay right, since
// they point backwards, and a client's message begins as b does, with a header and the same
// question. Therefore the additional section ends at the first record that does not go to
// clients (OPT, TSIG, SIG(0)); servers put those last.
//
// Every name, every length and the data of the usual types are checked.
func read(b []byte, m *message, now time.Time) (*answer, error) {
	a := &answer{Reply: Reply{Rcode: uint16(b[3] & 0xf), AD: b[3]&0x20 != 0, born: now, partial: truncated(b)}}
	if isBare(b) {
		return a, nil
	}
	start := m.end()
	all := 0
	for i := range a.counts {
		a.counts[i] = binary.BigEndian.Uint16(b[6+2*i:])
		all += int(a.counts[i])
	}
	r := reader{b: b, off: start, start: start, read: make([]record, 0, min(all, len(b)/minRecord))}
	for section, n := range a.counts {
		for i := range n {
			rec, ok := r.next()
			switch {
			case !ok:
				return nil, errMalformed
			case !rec.hopByHop(section):
				if i < a.counts[section] {
					a.spelled = a.spelled || rec.ttl-4-rec.start == len(m.name)
					r.read = append(r.read, record{ttl: uint16(rec.ttl - start), end: uint16(r.off - start)})
				}
				continue
			case section != wire.Additional || rec.typ == dns.TypeOPT && !a.readOPT(b, rec, r.off):
				return nil, errMalformed
			}
			a.counts[section] = min(a.counts[section], i)
		}
	}
	a.records = r.read
	if n := len(a.records); n > 0 {
		a.body = b[start : start+int(a.records[n-1].end) : len(b)]
	}
	if a.good() {
		a.boundTTLs(b[start:], m.qtype, now)
	}
	return a, nil
}

// readOPT reads the OPT record whose data end at end: the upper bits of the response code,
// and the extended errors (RFC 8914). False: it is malformed.
func (a *answer) readOPT(b []byte, rec rawRecord, end int) bool {
	if a.edns || b[rec.start] != 0 { // RFC 6891, section 6.1.1
		return false
	}
	a.edns = true
	a.Rcode |= uint16(b[rec.ttl]) << 4
	for o := b[rec.data:end]; len(o) > 0; {
		if len(o) < 4 {
			return false
		}
		code, n := binary.BigEndian.Uint16(o), int(binary.BigEndian.Uint16(o[2:]))
		if o = o[4:]; n > len(o) {
			return false
		}
		if code == dns.EDNS0EDE && n >= 2 && len(a.EDE) < maxEDEs {
			text := string(o[2:min(n, 2+maxEDEText)])
			a.EDE = append(a.EDE, wire.EDE{Code: binary.BigEndian.Uint16(o), Text: strings.ToValidUTF8(text, "")})
		}
		o = o[n:]
	}
	return true
}

// rawRecord says where in a message a record's parts are.
type rawRecord struct {
	typ              uint16
	start, ttl, data int
}

// hopByHop says whether the record is meant for dnsd alone, as SIG is in the additional
// section only (RFC 2931, section 3).
func (r rawRecord) hopByHop(section int) bool {
	return r.typ == dns.TypeOPT || r.typ == dns.TypeTSIG || r.typ == dns.TypeSIG && section == wire.Additional
}

// minRecord is the shortest record: root, type, class, TTL, length.
const minRecord = 11

// reader walks the records of a message.
type reader struct {
	b     []byte
	off   int      // where the next record begins
	start int      // where the first one did
	ttl   int      // of the record whose data are being checked
	read  []record // the records before it that are kept

	// The target of the last pointer that was followed, and the length of the name there:
	// the records of an RRset all point to one name.
	target, length int
}

// next reads the record at off and moves to the one after it.
func (r *reader) next() (rec rawRecord, ok bool) {
	rec.start = r.off
	off, ok := r.nameEnd(r.off, len(r.b))
	if !ok || off+10 > len(r.b) {
		return rec, false
	}
	rec.typ, rec.ttl, rec.data = binary.BigEndian.Uint16(r.b[off:]), off+4, off+10
	r.ttl = rec.ttl
	r.off = rec.data + int(binary.BigEndian.Uint16(r.b[off+8:]))
	return rec, r.off <= len(r.b) && r.dataFits(rec)
}

// maxPointers is more than the labels of any name.
const maxPointers = 127

// nameEnd returns where the name at off ends, at most at limit. False: it cannot be read.
// What a pointer points to must end before the pointer (RFC 1035, section 4.1.4) and must
// not change, so that a name means the same in every response.
func (r *reader) nameEnd(off, limit int) (end int, ok bool) {
	target, before, length := 0, off, 0
	for pointers := 0; off < limit; {
		n := int(r.b[off])
		size := 1 + n
		if n >= 0xc0 {
			size = 2
		} else if length += size; n > 63 || length > wire.MaxName {
			return 0, false
		}
		if off+size > limit || pointers > 0 && r.changes(off, off+size) {
			return 0, false
		}
		switch {
		case n == 0:
			if pointers == 0 {
				return off + 1, true
			}
			r.target, r.length = target, length-r.length
			return end, true
		case n < 0xc0:
			off += size
			continue
		}
		to := n&0x3f<<8 | int(r.b[off+1])
		if pointers++; pointers > maxPointers || to < 12 {
			return 0, false
		}
		if pointers == 1 {
			if end = off + 2; to == r.target {
				return end, length+r.length <= wire.MaxName
			}
			target, r.length = to, length
			r.target = 0 // until it is known how long it is
		}
		limit, before, off = before, to, to
	}
	return 0, false
}

// changes says whether bytes of the message may differ in a client's response: TTLs, and the
// question's type and class, since a denial is given for all types.
func (r *reader) changes(from, to int) bool {
	if to <= r.start-4 {
		return false
	}
	if from < r.start || from < r.ttl+4 && r.ttl < to {
		return true
	}
	i, _ := slices.BinarySearchFunc(r.read, from-r.start, func(rec record, from int) int { return int(rec.ttl) + 3 - from })
	return i < len(r.read) && int(r.read[i].ttl) < to-r.start
}

// layout says what the data of a type consist of: so many bytes, so many names, and so many
// bytes, or any number of bytes.
type layout struct {
	before, names, after int
	exact                bool
}

// layouts holds, by type, those of nearly all records. Of other types only the length is
// checked (RFC 3597).
var layouts = [...]layout{
	dns.TypeA:      {4, 0, 0, true},
	dns.TypeAAAA:   {16, 0, 0, true},
	dns.TypeNS:     {0, 1, 0, true},
	dns.TypeCNAME:  {0, 1, 0, true},
	dns.TypePTR:    {0, 1, 0, true},
	dns.TypeDNAME:  {0, 1, 0, true},
	dns.TypeSOA:    {0, 2, 20, true},
	dns.TypeMX:     {2, 1, 0, true},
	dns.TypeSRV:    {6, 1, 0, true},
	dns.TypeRRSIG:  {18, 1, 0, false},
	dns.TypeNSEC:   {0, 1, 0, false},
	dns.TypeSVCB:   {2, 1, 0, false},
	dns.TypeHTTPS:  {2, 1, 0, false},
	dns.TypeDS:     {4, 0, 0, false},
	dns.TypeDNSKEY: {4, 0, 0, false},
}

// dataFits says whether a record's data, which end at r.off, have the form of its type.
func (r *reader) dataFits(rec rawRecord) bool {
	off, end := rec.data, r.off
	if rec.typ == dns.TypeTXT { // one string or more
		for off < end {
			off += 1 + int(r.b[off])
		}
		return off == end && off > rec.data
	}
	var l layout
	if int(rec.typ) < len(layouts) {
		l = layouts[rec.typ]
	}
	off += l.before
	for range l.names {
		next, ok := r.nameEnd(off, end)
		if !ok {
			return false
		}
		off = next
	}
	off += l.after
	return off == end || off < end && !l.exact
}

// boundTTLs brings the TTLs in body, which holds the records, within bounds and sets for how
// long the answer may be kept: for the shortest TTL of its answer and authority sections,
// and a negative one no longer than its SOA says (RFC 2308, section 5). Additional records
// that expire earlier are left out from then on.
func (a *answer) boundTTLs(body []byte, qtype uint16, now time.Time) {
	first, rest := int(a.counts[0]), int(a.counts[0]+a.counts[1]) // where the authority and the additional section begin
	negative := a.Rcode == dns.RcodeNameError || !slices.ContainsFunc(a.records[:first], func(r record) bool {
		return qtype == dns.TypeANY || r.typeIn(body) == qtype
	})
	ceiling, hold := uint32(maxTTL), staleHold
	if negative {
		ceiling, hold = maxNegative, staleNegative
	}
	soa := slices.IndexFunc(a.records[first:rest], func(r record) bool { return r.typeIn(body) == dns.TypeSOA })
	shortest := ceiling
	a.extra = ceiling
	for i, r := range a.records {
		ttl := binary.BigEndian.Uint32(body[r.ttl:])
		if ttl > 1<<31-1 { // RFC 2181, section 8
			ttl = 0
		}
		if negative && soa >= 0 && i == first+soa {
			ttl = min(ttl, binary.BigEndian.Uint32(body[r.end-4:])) // MINIMUM
		}
		ttl = min(ttl, ceiling)
		binary.BigEndian.PutUint32(body[r.ttl:], ttl)
		if i < rest {
			shortest = min(shortest, ttl)
		} else {
			a.extra = min(a.extra, ttl)
		}
	}
	if shortest == 0 || negative && soa < 0 || a.partial {
		// A TTL of 0 is for the transaction in progress (RFC 1035, section 3.2.1), and
		// nothing says how long a denial without SOA holds.
		return
	}
	a.life.fresh = time.Duration(shortest) * time.Second
	a.life.usable = now.Add(a.life.fresh + hold)
}
