package forward

import (
	"bytes"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

// specialZone is a domain whose names never leave this machine.
type specialZone struct {
	origin []byte // wire form
	byType map[uint16]*Reply
	other  *Reply // to all other types
}

// The domains that are answered here. dnsd's own zones are listed in case the
// resolver, which answers them before it comes here, should ever not.
var specialZones = []specialZone{
	// As RFC 6761, section 6.3, asks of a caching server: the loopback addresses,
	// and nothing for other types.
	{mustName("localhost."), map[uint16]*Reply{
		dns.TypeA:    mustReply(dns.RcodeSuccess, "localhost. 86400 IN A 127.0.0.1", ""),
		dns.TypeAAAA: mustReply(dns.RcodeSuccess, "localhost. 86400 IN AAAA ::1", ""),
	}, emptyZone("localhost.", dns.RcodeSuccess)},
	{mustName("invalid."), nil, emptyZone("invalid.", dns.RcodeNameError)},
	{mustName("internal."), nil, ownZone},
	{mustName("flycast."), nil, ownZone},
	{mustName("d.f.ip6.arpa."), nil, ownZone},
}

var ownZone = failure(dns.RcodeRefused, dns.ExtendedErrorCodeNotAuthoritative, "names of this zone are never forwarded")

// special returns the special zone that a name in wire form lies in, or nil.
func special(name []byte) *specialZone {
	for i := range specialZones {
		if below(name, specialZones[i].origin) {
			return &specialZones[i]
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

// below says whether name is origin or lies below it. Both are in wire form and
// lower case.
func below(name, origin []byte) bool {
	off := 0
	for len(name)-off > len(origin) {
		off += 1 + int(name[off])
	}
	return bytes.Equal(name[off:], origin)
}

// emptyZone returns the negative reply of an empty zone. Its SOA is RFC 6303's
// (section 3), with a minimum short enough for a later change of mind.
func emptyZone(origin string, rcode int) *Reply {
	return mustReply(rcode, "", origin+" 300 IN SOA "+origin+" nobody.invalid. 1 3600 1200 604800 300")
}

// mustReply builds a reply of one record whose owner, in the answer, is the
// question's name. It holds no other pointer and so fits every question.
func mustReply(rcode int, answer, authority string) *Reply {
	r := &Reply{Rcode: uint16(rcode), fixed: true, counts: [3]uint16{1, 0, 0}}
	text := answer
	if answer == "" {
		text, r.counts = authority, [3]uint16{0, 1, 0}
	}
	rr, err := dns.NewRR(text)
	if err != nil {
		panic(err)
	}
	r.body = make([]byte, dns.Len(rr))
	if _, err := dns.PackRR(rr, r.body, 0, nil, false); err != nil {
		panic(err)
	}
	owner := len(mustName(rr.Header().Name))
	if answer != "" {
		r.body = append([]byte{0xc0, 12}, r.body[owner:]...)
		owner = 2
	}
	r.records = []record{{ttl: uint16(owner + 4), end: uint16(len(r.body))}}
	return r
}

func mustName(name string) []byte {
	b, err := wire.PackName(name)
	if err != nil {
		panic(err)
	}
	return b
}
