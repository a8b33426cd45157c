// Package zones turns the registry into names: internal., flycast., and the
// reverse of the private networks' addresses. Each zone answers a question from
// the client's view and one read transaction, and returns the channels of which
// one closes when the answer may have changed. An answer that may be kept depends
// neither on the clock nor on chance.
package zones

import (
	"net/netip"

	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// Config configures the zones. Set once.
type Config struct {
	TTL       uint32     // of every record, and the SOA's minimum; seconds
	Advertise netip.Addr // the server's own IPv6 address, AAAA of internal. and flycast.; zero: none
	API       netip.Addr // IPv6 address of _api.internal.; zero: the name does not exist

	Network netip.Prefix // the /48 of clients outside fdaa::/16; zero: none
	Region  string       // of clients whose region is not known; empty: unknown
	Regions *Regions     // coordinates; nil: the built-in table

	Version   string // for _dnsd.internal.
	Anonymous bool   // leaves the version and the source's name out of _dnsd.internal.
}

// Zones are all zones that dnsd answers from the registry. Safe for concurrent use.
type Zones struct {
	reg    *registry.Registry
	cfg    Config
	zones  []resolver.Zone
	inline int // steps of an answer that a socket waits for; maxInline, less in tests
}

// maxInline is how many steps an answer may take while a socket waits for it: a
// thousand machines, each looked at twice. That took 60 µs, and 140 µs where
// nothing of them was in a cache (BenchmarkInline).
const maxInline = 2000

// New returns the zones of reg.
func New(reg *registry.Registry, cfg Config) *Zones {
	if cfg.Regions == nil {
		cfg.Regions = BuiltInRegions()
	}
	cfg.Region = registry.Lower(cfg.Region)
	z := &Zones{reg: reg, cfg: cfg, inline: maxInline}
	z.zones = []resolver.Zone{
		z.zone("internal.", "internal.", cfg.Advertise, (*lookup).internal),
		z.zone("flycast.", "flycast.", cfg.Advertise, (*lookup).flycast),
		z.zone("a.a.d.f.ip6.arpa.", "internal.", netip.Addr{}, (*lookup).reverse),
		z.zone("d.f.ip6.arpa.", "internal.", netip.Addr{}, (*lookup).local),
	}
	return z
}

// Zones returns the zones. One of them lies within another: the resolver gives
// a question to the zone with the longest matching origin.
func (z *Zones) Zones() []resolver.Zone { return z.zones }

// zone is a resolver.Zone: an origin with its records, and the function that
// answers the questions in it.
type zone struct {
	*Zones
	origin string
	answer func(*lookup) *resolver.Answer
	soa    *resolver.SOA
	ns     []byte   // rdata
	aaaa   [][]byte // rdata of the origin's address, nil for none
}

// zone returns a zone. server is its name server; addr is that server's address
// where it is the origin itself.
func (z *Zones) zone(origin, server string, addr netip.Addr, answer func(*lookup) *resolver.Answer) *zone {
	mname := dns.SplitDomainName(server)
	o := &zone{
		Zones:  z,
		origin: origin,
		answer: answer,
		soa:    &resolver.SOA{TTL: z.cfg.TTL, Data: soaData(mname, z.cfg.TTL)},
		ns:     appendName(nil, mname...),
	}
	if addr.IsValid() {
		o.aaaa = [][]byte{addressData(addr)}
	}
	return o
}

// Origin implements resolver.Zone.
func (z *zone) Origin() string { return z.origin }

// lookup is one question under way. Everything it reads comes from one
// transaction, and what it reads it watches.
type lookup struct {
	*zone
	q       *resolver.Question
	network registry.Network
	status  *registry.Status // nil while nothing of the registry is in the answer
	view    *registry.Snapshot
	watch   []<-chan struct{}
	noStore bool

	// Every loop over what a tenant may have many of counts its steps. Once there
	// are too many, loops end early, and the incomplete answer is dropped.
	budget registry.Budget
}

// Answer implements resolver.Zone.
func (z *zone) Answer(q *resolver.Question) *resolver.Answer {
	n, ok := registry.NetworkOf(q.View.Network.Addr())
	if !ok || q.View.Network.Bits() != 48 {
		refused := &resolver.Answer{Rcode: dns.RcodeRefused, EDE: []resolver.EDE{noNetwork}}
		if !z.reg.Status().Synced() { // for dnsd healthcheck, wherever it asks from
			refused.EDE = append(refused.EDE, notReady)
		}
		return refused
	}
	l := &lookup{zone: z, q: q, network: n, budget: registry.NewBudget(z.inline, q.Pause)}
	a := z.answer(l)
	if l.budget.Over() {
		return nil
	}
	return a
}

// open begins the look-up's transaction. It returns false while the registry has
// not been read for the first time.
//
// The status is read before the transaction begins: a follower applies a listing
// and then says so, so "synced" is never older than what is read.
func (l *lookup) open() bool {
	l.status = l.reg.Status()
	l.watch = append(make([]<-chan struct{}, 0, 4), l.status.Changed())
	l.view = l.reg.Snapshot()
	return l.status.Synced()
}

// What counts for more than one step.
const (
	stepsRow   = 4 // a row of the database, with the tree nodes on the way to it
	stepsEntry = 2 // the text of a list's entry
)

// watched returns v, which a snapshot returned with ch, and watches ch.
func watched[T any](l *lookup, v T, ch <-chan struct{}) T {
	l.watch = append(l.watch, ch)
	return v
}

// fleet returns an app of the client's network, nil when there is none.
func (l *lookup) fleet(app string) *registry.Fleet {
	f, ch := l.view.Fleet(l.network, app)
	watched(l, f, ch)
	if f == nil || !f.Exists() {
		return nil
	}
	return f
}

// wants reports whether the question can be answered with records of typ.
func (l *lookup) wants(typ uint16) bool { return l.q.Type == typ || l.q.Type == dns.TypeANY }

// records answers with data, the RRset of type typ, and to ANY with the HINFO of
// RFC 8482, section 4.2, so that ANY cannot be used for amplification.
func (l *lookup) records(typ uint16, data [][]byte) *resolver.Answer {
	a := &resolver.Answer{Type: typ, Data: data}
	if l.q.Type == dns.TypeANY {
		a.Type, a.Data = dns.TypeHINFO, hinfo
	}
	return l.finish(a)
}

// finish sets the fields that all answers have.
func (l *lookup) finish(a *resolver.Answer, ede ...resolver.EDE) *resolver.Answer {
	a.TTL, a.NoStore = l.cfg.TTL, l.noStore
	if !l.noStore {
		a.Watch = l.watch
	}
	if len(a.Data) == 0 && a.Rcode != dns.RcodeServerFailure {
		a.SOA = l.soa
	}
	a.EDE = append(a.EDE, ede...)
	switch {
	case l.status == nil || !l.status.Stale():
	case l.status.State == registry.CatchingUp:
		a.EDE = append(a.EDE, earlierAnswer)
	default:
		a.EDE = append(a.EDE, staleAnswer)
	}
	return a
}

// apex answers for the origin itself, which does not depend on the registry.
func (l *lookup) apex() *resolver.Answer {
	switch l.q.Type {
	case dns.TypeSOA, dns.TypeANY:
		return l.records(dns.TypeSOA, [][]byte{l.soa.Data})
	case dns.TypeNS:
		return l.records(dns.TypeNS, [][]byte{l.ns})
	case dns.TypeAAAA:
		if l.aaaa != nil {
			return l.allAddresses(l.aaaa)
		}
	}
	return l.nodata("")
}

// allAddresses answers with AAAA records that take turns at being first.
func (l *lookup) allAddresses(data [][]byte) *resolver.Answer {
	if !l.wants(dns.TypeAAAA) {
		return l.otherType(dns.TypeAAAA)
	}
	a := l.records(dns.TypeAAAA, data)
	if a.Type == dns.TypeAAAA {
		a.Turns = []int{len(data)}
	}
	return a
}

// hinfo is the record of RFC 8482, section 4.2: CPU "RFC8482", OS "".
var hinfo = [][]byte{append(appendString(nil, "RFC8482"), 0)}

// addressData returns addr as an AAAA record's rdata.
func addressData(addr netip.Addr) []byte { b := addr.As16(); return b[:] }

// appendName appends a name in wire form: its labels, as raw bytes, and the root.
func appendName(dst []byte, labels ...string) []byte {
	for _, label := range labels {
		dst = append(append(dst, byte(len(label))), label...)
	}
	return append(dst, 0)
}

// maxString is the most that a character-string holds (RFC 1035, section 3.3).
const maxString = 255

// appendString appends s as a character-string, cut to what one can hold.
func appendString(dst []byte, s string) []byte {
	s = s[:min(len(s), maxString)]
	return append(append(dst, byte(len(s))), s...)
}
