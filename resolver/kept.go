package resolver

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/netip"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

const (
	// mostKeptBytes bounds the answers that all sockets together keep. One of five
	// machines takes some 450 bytes, so that this is 300,000 of them: more
	// names than the machines of one host ask for.
	mostKeptBytes = 128 << 20

	// minKeptBytes is what a socket may keep however many there are: room for
	// the names of some large app beside all others.
	minKeptBytes = 8 << 20

	// maxViews bounds the clients, and the views, that a socket remembers. A
	// host has some hundred machines; more are a scan of made-up addresses,
	// and forgetting all of them costs each real one a look-up.
	maxViews = 1 << 14

	// keptOverhead is what a kept answer takes beside its records and its key:
	// the struct, a map slot, slices' unused capacity; in bytes.
	keptOverhead = 250

	// answerOverhead is what one that holds its Answer takes in addition.
	answerOverhead = 250
)

// keeper holds the answers that one socket has given, packed and ready to go out
// again. An answer is kept with the channels that close when it may have
// changed. They are checked before it is used, so it is never stale, and nothing
// has to notify the keeper. Names that do not exist and unusual types are not kept,
// so that made-up questions cannot push real ones out. The socket's goroutine owns it.
type keeper struct {
	epoch   func() uint64 // see Config.Epoch; nil: channels are always looked at
	clients map[netip.Addr]*knownClient
	views   map[View]uint32 // a number for each view: what keys begin with
	budgets map[netip.Prefix]*budget

	// Two generations: a hit in the old one moves the answer to the young one. When
	// that is full it becomes the old one, and what is left of the old one is dropped.
	young, old map[string]*kept
	size       int // of young, in bytes
	limit      int // of young and of old, in bytes

	key [keyPrefix + wire.MaxName]byte
}

// keyPrefix is a view's number and a type.
const keyPrefix = 4 + 2

// guarded is valid until one of its channels closes.
type guarded struct {
	watch []<-chan struct{}
	// at is the epoch in which all of watch were last seen open.
	at uint64
}

// unseen is no epoch: the channels have to be looked at.
const unseen = math.MaxUint64

// knownClient is a client with its view.
type knownClient struct {
	guarded
	view   View
	number uint32
	budget *budget // of its network
}

// kept is an answer and its records in wire form, as a response has them.
type kept struct {
	guarded
	rcode uint16
	ede   []EDE

	section int
	records uint16
	turnLen int    // length of each of the records, all of which take turns; 0: the order is fixed
	packed  []byte // the section's records, concatenated

	// answer and its zone are kept where the records are not packed; nil otherwise.
	answer *Answer
	zone   *zone

	offered *offered // to the kernel; nil: it is not to be
}

func newKeeper(limit int, epoch func() uint64) *keeper {
	k := &keeper{epoch: epoch, limit: limit / 2}
	k.reset()
	return k
}

// keptBytes returns what a socket may keep, in bytes: its part of what all may, or
// of a side socket the least.
func (r *Resolver) keptBytes(s *socket) int {
	if s.side {
		return minKeptBytes
	}
	n := 0
	for _, other := range r.sockets {
		if !other.side {
			n++
		}
	}
	return max(mostKeptBytes/max(n, 1), minKeptBytes)
}

// reset drops everything.
func (k *keeper) reset() {
	k.clients, k.views = make(map[netip.Addr]*knownClient), make(map[View]uint32)
	k.budgets = make(map[netip.Prefix]*budget)
	k.young, k.old, k.size = make(map[string]*kept), nil, 0
}

// holds reports whether none of g's channels has closed. In the epoch in which they
// were last seen open there is no need to look again.
func (k *keeper) holds(g *guarded) bool {
	epoch := uint64(unseen)
	if k.epoch != nil {
		if epoch = k.epoch(); epoch == g.at {
			return true
		}
	}
	for _, ch := range g.watch {
		select {
		case <-ch:
			return false
		default:
		}
	}
	g.at = epoch
	return true
}

// client returns what is known of a client.
func (k *keeper) client(addr netip.Addr, viewer Viewer) *knownClient {
	c := k.clients[addr]
	if c != nil && k.holds(&c.guarded) {
		return c
	}
	if len(k.views) >= maxViews {
		k.reset() // keys begin with a view's number
	} else if len(k.clients) >= maxViews {
		clear(k.clients)
	}
	c = &knownClient{guarded: guarded{at: unseen}}
	if viewer != nil {
		c.view, c.watch = viewer.View(addr)
	}
	c.number = k.numberOf(c.view)
	if c.budget = k.budgets[c.view.Network]; c.budget == nil {
		c.budget = new(budget)
		k.budgets[c.view.Network] = c.budget
	}
	k.clients[addr] = c
	return c
}

// numberOf returns the number of a view.
func (k *keeper) numberOf(v View) uint32 {
	number, ok := k.views[v]
	if !ok {
		number = uint32(len(k.views))
		k.views[v] = number
	}
	return number
}

// keyOf returns the key of a question, which lives in the keeper until the next.
func (k *keeper) keyOf(view uint32, q *wire.Request) []byte {
	b := k.key[:keyPrefix+copy(k.key[keyPrefix:], q.Name())]
	binary.NativeEndian.PutUint32(b, view)
	binary.NativeEndian.PutUint16(b[4:], q.Type)
	return b
}

// get returns the answer kept under key, nil where there is none that holds.
func (k *keeper) get(key []byte) *kept {
	a := k.young[string(key)]
	if a == nil {
		if a = k.old[string(key)]; a == nil {
			return nil
		}
		delete(k.old, string(key))
		if k.holds(&a.guarded) {
			k.insert(string(key), a)
			return a
		}
		return nil
	}
	if !k.holds(&a.guarded) {
		k.size -= a.bytes(len(key))
		delete(k.young, string(key))
		return nil
	}
	return a
}

// packKept returns a zone's answer to a question of a type in the form in which it is
// kept; nil if it must not be.
func packKept(typ uint16, z *zone, a *Answer, nameLen int) *kept {
	if a.NoStore || a.Rcode != dns.RcodeSuccess || typeSlot(typ) == 0 {
		return nil
	}
	return pack(z, a, nameLen)
}

// put keeps an answer, unless it is nil or so large that it would push out all
// others.
func (k *keeper) put(key []byte, a *kept) {
	if a != nil && a.bytes(len(key)) <= k.limit/2 {
		k.insert(string(key), a)
	}
}

func (k *keeper) insert(key string, a *kept) {
	n := a.bytes(len(key))
	if k.size+n > k.limit {
		// The new map starts small: to allocate its full size at once would delay the
		// socket for milliseconds.
		k.young, k.old, k.size = make(map[string]*kept), k.young, 0
	}
	k.young[key] = a
	k.size += n
}

// bytes is about what the answer takes, with a key of that length. It assumes that
// all records of a set are as long as the first, since there may be 300,000.
func (a *kept) bytes(keyLen int) int {
	n := keptOverhead + keyLen + cap(a.packed)
	if a.answer != nil {
		n += answerOverhead
		if data := a.answer.Data; len(data) > 0 {
			n += len(data) * (len(data[0]) + 24) // a slice header
		}
	}
	return n
}

// maxPacked is the most records that are packed. Responses hold only some dozens of a
// larger set, which takes less room as the zone gave it.
const maxPacked = 256

// pack puts an answer's records into wire form. What depends on more than the
// question is left to the writer: runs that are turned one by one, limits that
// cut through them, records of a fixed order that may have to be cut off, and
// sets that are larger than a message.
func pack(z *zone, a *Answer, nameLen int) *kept {
	e := &kept{guarded: guarded{watch: a.Watch, at: unseen}, rcode: a.Rcode, ede: a.EDE}
	n := len(a.Data)
	turns := n > 1 && n <= maxPacked && len(a.Turns) == 1 && sameLength(a.Data)
	switch {
	case n == 0 && a.SOA != nil:
		e.section, e.records = wire.Authority, 1
		e.packed = wire.AppendRecord(nil, soaOwner(z, nameLen), dns.TypeSOA, dns.ClassINET, a.SOA.TTL, a.SOA.Data)
		return e
	case a.Partial != nil || a.Limit > 0 && a.Limit < n || n == 0 || n > 1 && !turns:
		e.answer, e.zone = a, z
		return e
	}
	size := wire.RecordLen(a.Data[0])
	if turns {
		e.turnLen = size
	}
	e.section, e.records = wire.Answer, uint16(n)
	e.packed = make([]byte, 0, n*size)
	for _, d := range a.Data {
		e.packed = wire.AppendRecord(e.packed, wire.ToQuestion, a.Type, dns.ClassINET, a.TTL, d)
	}
	return e
}

func sameLength(data [][]byte) bool {
	for _, d := range data {
		if len(d) != len(data[0]) {
			return false
		}
	}
	return true
}

// replay writes a kept answer.
func (x *exchange) replay(dst []byte, k *kept) []byte {
	if k.answer != nil {
		return x.answer(dst, k.zone, k.answer, dns.ClassINET)
	}
	x.begin(dst, k.rcode)
	x.reply.Flags |= wire.AA
	first := 0
	if k.turnLen > 0 {
		first = rand.IntN(int(k.records)) * k.turnLen
	}
	if !x.reply.Packed(k.section, k.packed, first, k.turnLen, k.records) {
		x.reply.Flags |= wire.TC
	}
	return x.finish(k.ede)
}
