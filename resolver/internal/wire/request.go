package wire

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// Sizes and limits of RFC 1035, sections 2.3.4 and 4.1.1.
const (
	HeaderLen  = 12
	MaxName    = 255   // octets of a name in wire form, lengths and root included
	maxLabels  = 128   // a name of MaxName octets has 127 labels and the root
	maxLabel   = 63    // octets of a label
	MaxMessage = 65535 // what TCP's length field can say
)

// Bits of the header's second 16-bit word (RFC 1035, section 4.1.1; AD and CD:
// RFC 4035, section 3.2).
const (
	QR uint16 = 1 << 15
	AA uint16 = 1 << 10
	TC uint16 = 1 << 9
	RD uint16 = 1 << 8
	RA uint16 = 1 << 7
	AD uint16 = 1 << 5
	CD uint16 = 1 << 4

	OpcodeMask uint16 = 0xf << 11
	rcodeMask  uint16 = 0xf
)

const (
	typeOPT    = 41
	optionNSID = 3       // RFC 5001
	optionEDE  = 15      // RFC 8914
	flagDO     = 1 << 15 // of the OPT's TTL field (RFC 3225)
)

// Form says what came out of reading a request.
type Form uint8

const (
	// Silent: fewer than 12 bytes, or a response. Neither is answered, or two
	// servers could talk to each other for ever.
	Silent Form = iota
	// Malformed: the request breaks the rules as Fault says.
	Malformed
	// Plain: a question and at most an OPT.
	Plain
	// Extra: well formed, with other records beside; their rdata has not been looked at.
	Extra
)

// Request is what dnsd needs to know of a request. Parse fills it; one Request
// can be used for many messages, one at a time. It refers to the message's bytes.
type Request struct {
	ID    uint16
	Flags uint16

	// Question is the question as it stands in the message, at offset 12:
	// name, type, class. Empty where there is not exactly one or it could not be read.
	Question []byte
	Type     uint16
	Class    uint16

	OPT     bool // the request has an OPT record that could be read
	Version uint8
	UDPSize uint16 // what the client's OPT says
	DO      bool
	NSID    bool

	Fault string // what is wrong with a Malformed request

	nameLen  int
	labels   int
	lower    [MaxName]byte
	starts   [maxLabels]uint8
	question [MaxName + 4]byte // where Keep puts the question
}

// Name returns the question's name in wire form, A to Z in lower case, the root
// label included. Valid until the next Parse.
func (q *Request) Name() []byte { return q.lower[:q.nameLen] }

// Labels returns how many labels the question's name has, the root not counted.
func (q *Request) Labels() int { return q.labels }

// LabelStart returns the offset in Name of label i's length octet; for i equal
// to Labels that of the root.
func (q *Request) LabelStart(i int) int {
	if i == q.labels {
		return q.nameLen - 1
	}
	return int(q.starts[i])
}

// Keep copies what q holds of the message, so that it outlives it.
func (q *Request) Keep() { q.Question = q.question[:copy(q.question[:], q.Question)] }

// Parse reads a request. Everything that could be read is in q, whatever the
// form that it returns: a FORMERR carries an OPT where the request did, and its
// question where it had one. Where a question cannot be read nothing behind it can.
func (q *Request) Parse(msg []byte) Form {
	q.Question, q.Fault, q.nameLen, q.labels = nil, "", 0, 0
	q.Type, q.Class = 0, 0
	q.OPT, q.Version, q.UDPSize, q.DO, q.NSID = false, 0, 0, false, false
	if len(msg) < HeaderLen {
		return Silent
	}
	q.ID = binary.BigEndian.Uint16(msg)
	q.Flags = binary.BigEndian.Uint16(msg[2:])
	if q.Flags&QR != 0 {
		return Silent
	}
	if n := binary.BigEndian.Uint16(msg[4:]); n != 1 {
		return q.parseCount(msg, int(n))
	}
	off, ok := q.parseName(msg)
	if !ok || off+4 > len(msg) {
		return q.fault("a question that cannot be read")
	}
	q.Type = binary.BigEndian.Uint16(msg[off:])
	q.Class = binary.BigEndian.Uint16(msg[off+2:])
	off += 4
	q.Question = msg[HeaderLen:off]
	return q.parseRecords(msg, off)
}

// parseCount reads the OPT of a request with n questions, n not being one.
func (q *Request) parseCount(msg []byte, n int) Form {
	off := HeaderLen
	for range n {
		end, ok := skipName(msg, off)
		if off = end + 4; !ok || off > len(msg) {
			return q.fault("a question that cannot be read")
		}
	}
	q.parseRecords(msg, off) // only one fault is reported, and the count comes first
	return q.fault("not exactly one question")
}

func (q *Request) fault(s string) Form {
	q.Fault = s
	return Malformed
}

// parseName reads the question's name, which nothing stands before that it
// could point to: a compressed one is malformed. It returns the offset behind it.
func (q *Request) parseName(msg []byte) (int, bool) {
	off := HeaderLen
	for {
		if off >= len(msg) {
			return 0, false
		}
		n := int(msg[off])
		at := off - HeaderLen
		if n > maxLabel || off+1+n > len(msg) || at+1+n > MaxName {
			return 0, false
		}
		q.lower[at] = byte(n)
		off++
		if n == 0 {
			q.nameLen = at + 1
			return off, true
		}
		q.starts[q.labels] = uint8(at)
		q.labels++
		for i, c := range msg[off : off+n] {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			q.lower[at+1+i] = c
		}
		off += n
	}
}

// parseRecords walks the three sections behind the questions and reads the OPT.
func (q *Request) parseRecords(msg []byte, off int) Form {
	answers := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:]))
	all := answers + int(binary.BigEndian.Uint16(msg[10:]))
	form := Plain
	for i := range all {
		end, ok := skipName(msg, off)
		if !ok || end+10 > len(msg) {
			return q.fault("a record that cannot be read")
		}
		typ, class := binary.BigEndian.Uint16(msg[end:]), binary.BigEndian.Uint16(msg[end+2:])
		ttl, size := binary.BigEndian.Uint32(msg[end+4:]), int(binary.BigEndian.Uint16(msg[end+8:]))
		data := end + 10
		if data+size > len(msg) {
			return q.fault("a record longer than the message")
		}
		if typ == typeOPT {
			if i < answers || msg[off] != 0 { // RFC 6891, sections 6.1.1 and 6.1.2
				return q.fault("an OPT record out of its place")
			}
			if q.OPT {
				return q.fault("two OPT records")
			}
			q.OPT, q.UDPSize, q.Version, q.DO = true, class, uint8(ttl>>16), ttl&flagDO != 0
			if q.Version == 0 && !q.parseOptions(msg[data:data+size]) {
				return q.fault("an EDNS option that cannot be read")
			}
		} else {
			form = Extra
		}
		off = data + size
	}
	if off != len(msg) {
		return q.fault("bytes behind the last record")
	}
	return form
}

// parseOptions walks the options of an OPT record of version 0. Those that dnsd
// does not know are passed over (RFC 6891, section 6.1.2).
func (q *Request) parseOptions(b []byte) bool {
	for len(b) > 0 {
		if len(b) < 4 {
			return false
		}
		code, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if b = b[4:]; n > len(b) {
			return false
		}
		if code == optionNSID {
			q.NSID = true // whatever it holds: RFC 5001, section 2.1
		}
		b = b[n:]
	}
	return true
}

// PackName returns an absolute name in wire form, without compression.
func PackName(name string) ([]byte, error) {
	b := make([]byte, MaxName)
	n, err := dns.PackDomainName(name, b, 0, nil, false)
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

// skipName returns the offset behind the name at off, which may be behind msg as
// well. What a pointer points to is not followed: a record that dnsd looks into is
// its reader's to check.
func skipName(msg []byte, off int) (int, bool) {
	for start := off; off < len(msg); {
		n := int(msg[off])
		switch {
		case n == 0:
			return off + 1, true
		case n >= 0xc0:
			return off + 2, true
		case n > maxLabel:
			return 0, false
		}
		if off += 1 + n; off-start >= MaxName {
			return 0, false
		}
	}
	return 0, false
}
