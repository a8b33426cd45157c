package resolver

import (
	"net/netip"

	"dnsd/resolver/internal/wire"
)

// View is what a client sees: everything about it that an answer may depend on.
// Clients with equal views get equal answers to equal questions, so a view is
// part of every cache key. It is comparable.
type View struct {
	Network netip.Prefix // the client's private network, a /48; zero: none
	Region  string       // where the client is, in lower case; empty: unknown
}

// Question is what a client asks of a zone.
type Question struct {
	// Labels are those left of the zone's origin, leftmost first, in lower
	// case (A to Z only, RFC 4343), as raw bytes without escapes. Empty at the
	// apex. The slice and its strings must not be kept.
	Labels []string
	Type   uint16     // any type but AXFR and IXFR; class is always IN
	View   View       // never without a Network unless the zone is public
	Client netip.Addr // who asks, unmapped; an answer that uses it must set NoStore

	// Pause is called now and then by an answer that takes long, some thousand
	// steps apart, and lets others have their turn meanwhile; it may block.
	// Nil: a socket waits, and a zone that cannot answer within some 100 µs
	// returns nil. The question then comes again, with Pause, elsewhere.
	Pause func()
}

// A Zone answers with authority for the names at and below one owner name. It
// is never forwarded. Answer must be safe for concurrent use, must not block,
// and must compute its result from the question and one consistent state.
type Zone interface {
	// Origin returns the zone's owner name, lower case, absolute: "internal.".
	Origin() string

	// Answer answers one question, of a client of no network (the zero View) as
	// well. It returns nil only where q.Pause is nil and
	// the answer would take long.
	Answer(q *Question) *Answer
}

// Answer is a zone's reply to a question: at most one RRset, whose owner is the
// question's name, or none with the zone's SOA. Immutable once returned.
type Answer struct {
	Rcode uint16 // dns.RcodeSuccess, RcodeNameError, RcodeServerFailure or RcodeRefused
	Type  uint16 // of the records: the question's, or HINFO for ANY
	TTL   uint32 // seconds

	// Data holds the records' rdata in wire form, uncompressed. A nil Data is
	// NODATA or an error, and the response carries SOA in authority where the
	// code is NOERROR or NXDOMAIN.
	Data [][]byte

	// Turns cuts Data into consecutive runs, given by their lengths, whose
	// members take turns at being first of their run. The lengths add up to
	// len(Data). Nil: the order is fixed.
	Turns []int

	// Limit is how many records leave in a response, counted after the turns
	// are taken, so that a run it cuts through sends each member equally often.
	// Zero: all of them.
	Limit int

	SOA *SOA // the zone's; needed where Data is nil and Rcode NOERROR or NXDOMAIN

	// Partial says that the set is larger than any message: Data holds Shown
	// of Total entries. The response then has TC=1 and an EDE with the counts.
	Partial *Partial

	EDE []EDE // sent only to clients that sent OPT

	// Watch holds channels of which at least one closes when the answer may
	// have changed; until then it may be given to every client of an equal
	// view. Nil together with NoStore false: the answer never changes.
	Watch []<-chan struct{}

	// App, where it is not empty, is the app, in lower case, on which alone of all that a
	// registry holds the answer depends, beside the registry's status, for all clients of
	// the view's network alike, wherever they are. Such an answer may be given by the kernel.
	App string

	// NoStore says that the answer is for this one client or this moment.
	NoStore bool
}

// SOA is the record that says for how long a negative answer may be kept
// (RFC 2308, section 5).
type SOA struct {
	TTL  uint32 // seconds; the smaller of the record's TTL and MINIMUM
	Data []byte // rdata in wire form, uncompressed
}

// EDE is an extended DNS error (RFC 8914).
type EDE = wire.EDE

// Partial counts the entries of a set that no message can hold whole.
type Partial struct {
	Shown, Total int
	What         string // what the entries are, in the plural: "machines"
}

// Viewer decides what a client sees. Safe for concurrent use; must not block.
type Viewer interface {
	// View returns the view of the client at addr (unmapped, without zone),
	// and channels of which at least one closes when that may have changed.
	View(addr netip.Addr) (View, []<-chan struct{})
}
