package forward

import (
	"bytes"
	"container/heap"
	"container/list"
	"hash/maphash"
	"math/bits"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// How long answers are kept.
const (
	maxTTL      = 24 * 3600 // seconds; RFC 8767, section 4, suggests a week at most
	maxNegative = 5 * 60    // seconds until a new name is seen (RFC 2308, section 5: at most 3 h)

	failureHold = 5 * time.Second // of failures; 1 s to 5 min (RFC 9520, section 3.2)

	staleTTL  = 30             // seconds, on stale records (RFC 8767, section 4)
	staleHold = 24 * time.Hour // how long after its expiry an answer may be given
	// staleNegative keeps search lists working through an outage without denying a new
	// name for a day.
	staleNegative = time.Hour
	// stalePatience is how long a client waits for the upstream when there is a stale
	// answer (RFC 8767, section 5: the client response timer).
	stalePatience = 1800 * time.Millisecond

	// Names in use are asked for again in the last tenth of their time, unless they live
	// for less than refreshMinTTL, as failures do.
	refreshPart   = 10
	refreshMinTTL = 10 * time.Second
)

// lifetime says how long a reply is good for.
type lifetime struct {
	fresh  time.Duration // given without asking; zero: not kept
	usable time.Time     // until when it may be given although stale; zero: not at all
}

// key finds an answer. It has a keyed hash of the name, so that a look-up allocates
// nothing; the entry holds the name itself.
type key struct {
	name    uint64
	network netip.Prefix // zero unless answers are kept per network
	qtype   uint16       // anyType for the denial of a name
	class   uint16
	do, cd  bool
}

// anyType stands for all types: a name that does not exist has records of none (RFC 2308,
// section 5). It is reserved (RFC 6895, section 3.1).
const anyType = 0

// entry is an answer that is kept, with the question it answers.
type entry struct {
	Reply
	name    []byte // wire form, lower case
	key     key
	fresh   time.Time // until when it is given without asking
	usable  time.Time // until when it is given although stale
	refresh time.Time // from when a hit renews it; zero: never

	refreshing atomic.Bool // set by the first such hit
	used       atomic.Bool // given since it was put or last spared

	next atomic.Pointer[entry] // of the same bucket

	holder  *holder       // guarded by cache.mu, as is element
	element *list.Element // among the holder's
}

// entryOverhead is what an entry takes in addition to its variable parts: itself, its place
// in a bucket and in its holder's list. Measured as heap growth; see TestCacheWeight.
const entryOverhead = 420

func (e *entry) weight() int {
	n := entryOverhead + len(e.name) + cap(e.body) + 4*cap(e.records)
	for _, ede := range e.EDE {
		n += 24 + len(ede.Text)
	}
	return n
}

// cache keeps answers within a bound of bytes. Look-ups take no lock. Safe for concurrent
// use.
//
// An answer counts for the network whose question fetched it last. When the cache is full,
// the network that holds most loses its oldest answer that has not been given lately. So a
// network that holds no more than its share loses nothing, whatever others ask for.
type cache struct {
	seed       maphash.Seed
	perNetwork bool
	max        uint64                  // bytes
	buckets    []atomic.Pointer[entry] // written with mu held

	mu      sync.Mutex
	size    int // guarded by mu, as are those below; in bytes
	count   int
	holders map[netip.Prefix]*holder
	order   holders // a heap: the one that holds most comes first
}

// holder is a network with its answers. All of it is guarded by cache.mu.
type holder struct {
	network netip.Prefix
	size    int
	entries list.List // of *entry, oldest first
	index   int       // in cache.order
}

// maxSpared bounds how many answers in use are passed over to find one to evict, and so the
// time that a put takes.
const maxSpared = 16

// maxBuckets is enough for 14 GB of answers.
const maxBuckets = 1 << 24

func newCache(maxBytes uint64, perNetwork bool) *cache {
	n := 1 << bits.Len64(min(maxBytes/(2*entryOverhead), maxBuckets)) // one to two entries each
	return &cache{
		seed: maphash.MakeSeed(), perNetwork: perNetwork, max: maxBytes,
		buckets: make([]atomic.Pointer[entry], n), holders: make(map[netip.Prefix]*holder),
	}
}

func (c *cache) keyOf(q *Query) key {
	k := key{name: maphash.Bytes(c.seed, q.Name), qtype: q.Type, class: q.Class, do: q.DO, cd: q.CD}
	if c.perNetwork {
		k.network = q.Network
	}
	return k
}

func (c *cache) bucket(k key) *atomic.Pointer[entry] {
	return &c.buckets[maphash.Comparable(c.seed, k)&uint64(len(c.buckets)-1)]
}

// get returns the entry for a question, fresh or stale, or nil: that of its type if it is
// fresh, or else that or the denial of its name, whichever is younger.
func (c *cache) get(k key, name []byte) *entry {
	e := c.find(k, name)
	if e != nil && time.Now().Before(e.fresh) {
		return e
	}
	k.qtype = anyType
	if denial := c.find(k, name); denial != nil && (e == nil || e.born.Before(denial.born)) {
		return denial
	}
	return e
}

func (c *cache) find(k key, name []byte) *entry {
	for e := c.bucket(k).Load(); e != nil; e = e.next.Load() {
		if e.key == k && bytes.Equal(e.name, name) {
			return e
		}
	}
	return nil
}

// put keeps a reply for as long as life says. It counts for network.
func (c *cache) put(k key, name []byte, network netip.Prefix, r *Reply, life lifetime, now time.Time) {
	denied := k
	denied.qtype = anyType
	if r.Rcode == dns.RcodeNameError && r.counts[0] == 0 { // with an alias, its target is denied
		k = denied
	}
	e := &entry{Reply: *r, name: name, key: k, fresh: now.Add(life.fresh), usable: life.usable}
	if life.fresh >= refreshMinTTL {
		e.refresh = e.fresh.Add(-life.fresh / refreshPart)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.find(k, name); old != nil {
		c.drop(old)
	}
	if r.Rcode == dns.RcodeSuccess {
		if old := c.find(denied, name); old != nil {
			c.drop(old) // the name exists
		}
	}
	c.add(e, network)
	for uint64(c.size) > c.max {
		c.evict()
	}
}

// add needs mu, as do drop and evict.
func (c *cache) add(e *entry, network netip.Prefix) {
	h := c.holders[network]
	if h == nil {
		h = &holder{network: network}
		c.holders[network] = h
		heap.Push(&c.order, h)
	}
	n := e.weight()
	e.holder, e.element = h, h.entries.PushBack(e)
	h.size += n
	heap.Fix(&c.order, h.index)
	c.size += n
	c.count++
	head := c.bucket(e.key)
	e.next.Store(head.Load())
	head.Store(e)
}

// drop removes an entry. Readers that have found it may go on reading it.
func (c *cache) drop(e *entry) {
	at := c.bucket(e.key)
	for at.Load() != e {
		at = &at.Load().next
	}
	at.Store(e.next.Load())
	h, n := e.holder, e.weight()
	h.entries.Remove(e.element)
	c.size -= n
	c.count--
	if h.size -= n; h.entries.Len() > 0 {
		heap.Fix(&c.order, h.index)
		return
	}
	heap.Remove(&c.order, h.index)
	delete(c.holders, h.network)
}

// evict drops an answer of the network that holds most.
func (c *cache) evict() {
	entries := &c.order[0].entries
	for range maxSpared {
		e := entries.Front().Value.(*entry)
		if !e.used.Swap(false) {
			break
		}
		entries.MoveToBack(e.element)
	}
	c.drop(entries.Front().Value.(*entry))
}

// stats returns how many answers are kept, and what they take in bytes.
func (c *cache) stats() (count, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count, c.size
}

// holders implements heap.Interface.
type holders []*holder

func (h holders) Len() int           { return len(h) }
func (h holders) Less(i, j int) bool { return h[i].size > h[j].size }

func (h holders) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *holders) Push(x any) {
	x.(*holder).index = len(*h)
	*h = append(*h, x.(*holder))
}

func (h *holders) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return x
}
