package forward

import (
	"bytes"
	"encoding/binary"
	"iter"
	"math/rand/v2"
	"net/netip"

	"github.com/miekg/dns"
)

// udpSize is the largest UDP answer asked for: it passes every IPv6 link without
// fragments, which an attacker could replace (RFC 9715).
const udpSize = 1232

// message is a question as it goes upstream. Of the client's message it holds only name,
// type, class, DO and CD.
type message struct {
	name  []byte // wire form, lower case
	qtype uint16
	class uint16
	bytes []byte // the whole message, with id zero; not written to
}

// newMessage writes the question of q. Its AD bit asks the upstream to say
// whether the data are authentic without sending signatures (RFC 6840, section 5.7).
func newMessage(q *Query, recurse bool) *message {
	b := make([]byte, 12, 128)
	if recurse {
		b[2] |= 0x01
	}
	b[3] |= 0x20
	if q.CD {
		b[3] |= 0x10
	}
	b[5], b[11] = 1, 1 // one question, one additional record
	b = append(b, q.Name...)
	b = binary.BigEndian.AppendUint16(b, q.Type)
	b = binary.BigEndian.AppendUint16(b, q.Class)
	var do byte
	if q.DO {
		do = 0x80
	}
	b = append(b, 0, 0, byte(dns.TypeOPT), byte(udpSize>>8), udpSize&0xff, 0, 0, do, 0, 0, 0)
	return &message{name: b[12 : 12+len(q.Name)], qtype: q.Type, class: q.Class, bytes: b}
}

// end returns where a message ends that holds the question alone.
func (m *message) end() int { return 12 + len(m.name) + 4 }

// plain returns the message without its OPT, for servers that know no EDNS
// (RFC 6891, section 7).
func (m *message) plain() *message {
	p := *m
	p.bytes = bytes.Clone(m.bytes[:m.end()])
	p.bytes[11] = 0
	return &p
}

// append appends the message with an id to dst.
func (m *message) append(dst []byte, id uint16) []byte {
	start := len(dst)
	dst = append(dst, m.bytes...)
	binary.BigEndian.PutUint16(dst[start:], id)
	return dst
}

// newID returns an unpredictable id: the top-level generator is ChaCha8, seeded by the
// system.
func newID() uint16 { return uint16(rand.Uint32()) }

// answeredBy says whether b is a response to the message under id: the id, the
// bits and the question must agree (RFC 5452, section 9.1).
func (m *message) answeredBy(b []byte, id uint16) bool {
	if len(b) < 12 || binary.BigEndian.Uint16(b) != id || b[2]&0xf8 != 0x80 { // a response, opcode 0
		return false
	}
	if isBare(b) {
		return true
	}
	end := m.end()
	if len(b) < end || binary.BigEndian.Uint16(b[4:]) != 1 {
		return false
	}
	return sameName(b[12:12+len(m.name)], m.name) &&
		binary.BigEndian.Uint16(b[end-4:]) == m.qtype && binary.BigEndian.Uint16(b[end-2:]) == m.class
}

// sameName says whether two names in wire form are equal apart from the case of A to Z
// (RFC 4343, section 3). No length of a label is a letter.
func sameName(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		if d := b[i]; c != d && lower(c) != lower(d) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// isBare says whether a response lacks the question, as from a server that could not read
// the query (RFC 1035, section 4.1.1).
func isBare(b []byte) bool {
	rcode := b[3] & 0xf
	return (rcode == dns.RcodeFormatError || rcode == dns.RcodeNotImplemented) &&
		(len(b) == 12 || binary.BigEndian.Uint16(b[4:]) == 0)
}

// truncated says whether a response has TC set.
func truncated(b []byte) bool { return b[2]&0x02 != 0 }

// domains yields a name in wire form and every domain that it lies in, the longest first.
func domains(name []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(name) > 0 && yield(name) {
			name = name[1+int(name[0]):]
		}
	}
}

// question identifies a question, whoever asks it and with whatever flags.
type question struct {
	name  string // wire form, lower case
	qtype uint16
	class uint16
}

// flightKey identifies the questions that may share one upstream query.
type flightKey struct {
	question
	do, cd  bool
	network netip.Prefix // zero unless answers are kept per network
}
