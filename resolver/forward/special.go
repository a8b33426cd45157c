package forward

import (
	"encoding/binary"
	"slices"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

// specialZone is a domain whose names are never forwarded.
type specialZone struct {
	byType map[uint16]*Reply
	other  *Reply // to all other types
}

// specialZones holds the zones by origin in wire form. dnsd's own are among them in case
// the resolver, which answers them itself, ever fails to.
var specialZones = map[string]*specialZone{
	// RFC 6761, section 6.3: the loopback addresses, and nothing for other types.
	"\x09localhost\x00": {map[uint16]*Reply{
		dns.TypeA:    oneRecord(dns.RcodeSuccess, wire.Answer, toQuestion, dns.TypeA, 86400, []byte{127, 0, 0, 1}),
		dns.TypeAAAA: oneRecord(dns.RcodeSuccess, wire.Answer, toQuestion, dns.TypeAAAA, 86400, []byte{15: 1}),
	}, emptyZone("\x09localhost\x00", dns.RcodeSuccess)},
	"\x07invalid\x00":               {nil, emptyZone("\x07invalid\x00", dns.RcodeNameError)},
	"\x08internal\x00":              {nil, ownZone},
	"\x07flycast\x00":               {nil, ownZone},
	"\x01d\x01f\x03ip6\x04arpa\x00": {nil, ownZone},
}

var ownZone = failure(dns.RcodeRefused, dns.ExtendedErrorCodeNotAuthoritative, "names of this zone are never forwarded")

// toQuestion is the question's name, compressed.
var toQuestion = binary.BigEndian.AppendUint16(nil, wire.ToQuestion)

// special returns the special zone that a name in wire form lies in, or nil.
func special(name []byte) *specialZone {
	for domain := range domains(name) {
		if z := specialZones[string(domain)]; z != nil {
			return z
		}
	}
	return nil
}

// specialReply returns the reply for a name that is never forwarded, or nil.
func specialReply(q *Query) *Reply {
	z := special(q.Name)
	if z == nil {
		return nil
	}
	if r := z.byType[q.Type]; r != nil {
		return r
	}
	return z.other
}

// emptyZone returns the negative reply of an empty zone. Its SOA record is that of RFC
// 6303, section 3, with a shorter minimum, so that the zone can be filled later.
func emptyZone(origin string, rcode int) *Reply {
	data := origin + "\x06nobody\x07invalid\x00"
	rdata, _ := binary.Append([]byte(data), binary.BigEndian, [5]uint32{1, 3600, 1200, 604800, 300})
	return oneRecord(rcode, wire.Authority, []byte(origin), dns.TypeSOA, 300, rdata)
}

// oneRecord returns a reply of one record, which fits every question.
func oneRecord(rcode, section int, owner []byte, typ uint16, ttl uint32, rdata []byte) *Reply {
	r := &Reply{Rcode: uint16(rcode), fixed: true}
	r.body = slices.Concat(owner, wire.AppendRecord(nil, 0, typ, dns.ClassINET, ttl, rdata)[2:])
	r.counts[section] = 1
	r.records = []record{{end: uint16(len(r.body))}} // its TTL is fixed
	return r
}
