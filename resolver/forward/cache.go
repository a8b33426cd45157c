package forward

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/miekg/dns"
)

// How long answers are kept.
const (
	minTTL      = 1         // seconds; a TTL of 0 would send each of a burst upstream
	maxTTL      = 24 * 3600 // seconds; RFC 8767, section 4, suggests a week at most
	maxNegative = 5 * 60    // seconds; a name that comes to exist is seen after that (RFC 2308, section 5: at most 3 h)

	failureHold = 5 * time.Second // failures are kept too, 1 s to 5 min (RFC 9520, section 3.2)

	staleTTL  = 30             // seconds, on stale records (RFC 8767, section 4)
	staleHold = 24 * time.Hour // how long after its expiry an answer may stand in
	// staleNegative keeps search lists working through an outage without
	// denying a new name for a day.
	staleNegative = time.Hour
	// stalePatience is how long a client waits for the upstream when there is
	// a stale answer to give (RFC 8767, section 5: the client response timer).
	stalePatience = 1800 * time.Millisecond

	// Names in use are asked for again in the last tenth of their time, unless
	// that is so short that the next client's question does as well.
	refreshPart   = 10
	refreshMinTTL = 10 * time.Second
)

// key finds an answer. The name stands in it as a keyed hash, so that a
// look-up allocates nothing; the entry holds the name itself.
type key struct {
	name    uint64
	network netip.Prefix // zero unless answers are kept per network
	qtype   uint16
	class   uint16
	do, cd  bool
}

// entry is an answer that is kept, with the question it answers.
type entry struct {
	Reply
	name    []byte // wire form, lower case
	key     key
	fresh   time.Time // until when it is given without asking
	usable  time.Time // until when it stands in for an upstream that fails
	refresh time.Time // from when a hit sends for a newer one; zero: never

	refreshing atomic.Bool // set by the first such hit
}

// entryOverhead is what an entry takes beside its variable parts: itself, the
// cache's node and bucket share, and the headers of four slices. Measured as heap
// growth per entry; see TestCacheWeight.
const entryOverhead = 670

func (e *entry) weight() uint32 {
	n := entryOverhead + len(e.name) + len(e.body) + 4*cap(e.records)
	for _, ede := range e.EDE {
		n += 24 + len(ede.Text)
	}
	return uint32(n)
}

// cache keeps answers within a bound of bytes. Safe for concurrent use.
type cache struct {
	entries    *otter.Cache[key, *entry]
	seed       maphash.Seed
	perNetwork bool
}

func newCache(maxBytes uint64, perNetwork bool) (*cache, error) {
	// Expiry is the entries' own affair: what is stale must stay, and the
	// library's timers would need a goroutine.
	entries, err := otter.New(&otter.Options[key, *entry]{
		MaximumWeight: maxBytes,
		Weigher:       func(_ key, e *entry) uint32 { return e.weight() },
	})
	if err != nil {
		return nil, fmt.Errorf("making the cache: %w", err)
	}
	return &cache{entries: entries, seed: maphash.MakeSeed(), perNetwork: perNetwork}, nil
}

func (c *cache) keyOf(q *Query) key {
	k := key{name: maphash.Bytes(c.seed, q.Name), qtype: q.Type, class: q.Class, do: q.DO, cd: q.CD}
	if c.perNetwork {
		k.network = q.Network
	}
	return k
}

// get returns the entry for a question, be it fresh or long stale, or nil.
func (c *cache) get(k key, name []byte) *entry {
	e, ok := c.entries.GetIfPresent(k)
	if !ok || !bytes.Equal(e.name, name) {
		return nil
	}
	return e
}

// put keeps a reply for as long as life says.
func (c *cache) put(k key, name []byte, r *Reply, life lifetime, now time.Time) {
	e := &entry{Reply: *r, name: name, key: k, fresh: now.Add(life.fresh), usable: life.usable}
	if life.renew && life.fresh >= refreshMinTTL {
		e.refresh = e.fresh.Add(-life.fresh / refreshPart)
	}
	c.entries.Set(k, e)
}

// lifetime says how long a reply is good for.
type lifetime struct {
	fresh  time.Duration // given without asking; zero: not kept
	usable time.Time     // until when it may be given although stale; zero: not at all
	renew  bool          // worth asking for again before it expires
}

// clampTTLs brings the TTLs of an answer (NOERROR, NXDOMAIN or YXDOMAIN) within
// bounds, in place, and says how long it may be kept: as long as its shortest
// lived record, and negative answers no longer than their SOA says
// (RFC 2308, section 5).
func clampTTLs(m *dns.Msg, q *Query, now time.Time) lifetime {
	negative := isNegative(m, q.Type)
	ceiling := uint32(maxTTL)
	if negative {
		soa := findSOA(m.Ns)
		if soa == nil {
			return lifetime{} // nothing says for how long: RFC 2308, section 5
		}
		soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl)
		ceiling = maxNegative
	}
	shortest := ceiling
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			h := rr.Header()
			if h.Rrtype == dns.TypeOPT {
				continue
			}
			if h.Ttl > 1<<31-1 { // RFC 2181, section 8
				h.Ttl = 0
			}
			h.Ttl = min(max(h.Ttl, minTTL), ceiling)
			shortest = min(shortest, h.Ttl)
		}
	}
	life := lifetime{fresh: time.Duration(shortest) * time.Second, renew: true}
	hold := staleHold
	if negative {
		hold = staleNegative
	}
	life.usable = now.Add(life.fresh + hold)
	return life
}

// isNegative says whether an answer is NXDOMAIN or NODATA: no record of the
// asked type, be it at the end of a chain of aliases.
func isNegative(m *dns.Msg, qtype uint16) bool {
	if m.Rcode == dns.RcodeNameError {
		return true
	}
	for _, rr := range m.Answer {
		if t := rr.Header().Rrtype; t == qtype || qtype == dns.TypeANY {
			return false
		}
	}
	return true
}

func findSOA(authority []dns.RR) *dns.SOA {
	for _, rr := range authority {
		if soa, ok := rr.(*dns.SOA); ok {
			return soa
		}
	}
	return nil
}
