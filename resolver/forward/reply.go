package forward

import (
	"net/netip"
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
}
