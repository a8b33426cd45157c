package resolver

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

const (
	// keptBytes bounds the answers that all sockets together keep. Most are of
	// some 600 bytes, so that this is 200,000 of them: more names than the
	// machines of one host ask for.
	keptBytes = 128 << 20

	// maxViews bounds the clients, and the views, that a socket remembers. A
	// host has some hundred machines; more are a scan of made-up addresses,
	// and forgetting all of them costs each real one a look-up.
	maxViews = 1 << 16

	// keptOverhead is what a kept answer takes beside its records and its key:
	// Answer, packed, slice headers, channels and a map's slot; in bytes.
	keptOverhead = 500
)

// keeper holds the answers that one socket has given, packed and ready to go out
// again. An answer is kept with the channels that close when it may have
// changed, and looked at before it is used: so it is never stale, and nobody has
// to tell the keeper of anything. Names that do not exist are not kept, so that
// random ones cannot push real ones out. The socket's goroutine owns it.
type keeper struct {
	clients map[netip.Addr]*knownClient
	views   map[View]uint32 // a number for each view: what keys begin with

	// Two generations: what is used moves to the young one, and when that is
	// full it becomes the old one, whose unused rest is dropped. A hit in the
	// young one writes nothing.
	young, old map[string]*kept
	size       int // of young, in bytes
	limit      int // of young and of old, in bytes

	key [keyPrefix + wire.MaxName]byte
}

// keyPrefix is a view's number and a type.
const keyPrefix = 4 + 2

// knownClient is a client with its view.
type knownClient struct {
	view   View
	number uint32
	watch  []<-chan struct{}
}

// kept is an answer and its records in wire form, as a response has them.
type kept struct {
	*Answer
	zone *zone

	section int
	packed  []byte // the section's records; nil: they are written one by one
	records uint16
	turn    int // length of each of the records, all of which take turns; 0: the order is fixed
}

func newKeeper(limit int) *keeper {
	k := &keeper{limit: limit / 2}
	k.forget()
	return k
}

// forget drops everything.
func (k *keeper) forget() {
	k.clients, k.views = make(map[netip.Addr]*knownClient), make(map[View]uint32)
	k.young, k.old, k.size = make(map[string]*kept), nil, 0
}

// client returns what is known of a client.
func (k *keeper) client(addr netip.Addr, viewer Viewer) *knownClient {
	c := k.clients[addr]
	if c != nil && open(c.watch) {
		return c
	}
	if len(k.views) >= maxViews {
		k.forget() // keys begin with a view's number
	} else if len(k.clients) >= maxViews {
		clear(k.clients)
	}
	c = new(knownClient)
	if viewer != nil {
		c.view, c.watch = viewer.View(addr)
	}
	number, ok := k.views[c.view]
	if !ok {
		number = uint32(len(k.views))
		k.views[c.view] = number
	}
	c.number = number
	k.clients[addr] = c
	return c
}

// open reports whether none of the channels has closed.
func open(watch []<-chan struct{}) bool {
	for _, ch := range watch {
		select {
		case <-ch:
			return false
		default:
		}
	}
	return true
}

// keyOf returns the key of a question, which lives in the keeper until the next.
func (k *keeper) keyOf(c *knownClient, q *wire.Request) []byte {
	b := k.key[:keyPrefix+copy(k.key[keyPrefix:], q.Name())]
	binary.NativeEndian.PutUint32(b, c.number)
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
		if open(a.Watch) {
			k.insert(string(key), a)
			return a
		}
		return nil
	}
	if !open(a.Watch) {
		k.size -= a.bytes(len(key))
		delete(k.young, string(key))
		return nil
	}
	return a
}

// put keeps a zone's answer, if it is one to keep.
func (k *keeper) put(key []byte, z *zone, a *Answer, nameLen int) {
	if a.NoStore || a.Rcode != dns.RcodeSuccess {
		return
	}
	e := pack(z, a, nameLen)
	if e.bytes(len(key)) > k.limit/8 {
		return // one giant would push out all others
	}
	k.insert(string(key), e)
}

func (k *keeper) insert(key string, a *kept) {
	n := a.bytes(len(key))
	if k.size+n > k.limit {
		k.young, k.old, k.size = make(map[string]*kept, len(k.young)), k.young, 0
	}
	k.young[key] = a
	k.size += n
}

// bytes is about what the answer takes, with a key of that length.
func (a *kept) bytes(keyLen int) int {
	n := keptOverhead + keyLen + len(a.packed)
	for _, d := range a.Data {
		n += len(d) + 24 // a slice header
	}
	return n
}

// pack puts an answer's records into wire form. What depends on more than the
// question is left to the writer: runs that are turned one by one, limits that
// cut through them, sets that are larger than a message.
func pack(z *zone, a *Answer, nameLen int) *kept {
	e := &kept{Answer: a, zone: z}
	if a.Partial != nil {
		return e
	}
	if len(a.Data) == 0 {
		if a.SOA != nil {
			e.section, e.records = wire.Authority, 1
			e.packed = wire.AppendRecord(nil, soaOwner(z, nameLen), dns.TypeSOA, dns.ClassINET, a.SOA.TTL, a.SOA.Data)
		}
		return e
	}
	turns := len(a.Turns) == 1 && len(a.Data) > 1
	if len(a.Turns) > 1 || a.Limit > 0 && a.Limit < len(a.Data) || len(a.Data) > maxPacked {
		return e
	}
	for _, d := range a.Data {
		if turns && len(d) != len(a.Data[0]) {
			return e
		}
		e.packed = wire.AppendRecord(e.packed, wire.ToQuestion, a.Type, dns.ClassINET, a.TTL, d)
	}
	e.section, e.records = wire.Answer, uint16(len(a.Data))
	if turns {
		e.turn = wire.RecordLen(a.Data[0])
	}
	return e
}

// maxPacked is how many records are packed: those of larger sets go out by
// the dozen, cut off, and over TCP, which keeps nothing.
const maxPacked = 256

// replay writes a kept answer: a copy where it is packed and fits.
func (x *exchange) replay(dst []byte, k *kept) []byte {
	if k.packed != nil {
		x.begin(dst, k.Rcode)
		x.reply.Flags |= wire.AA
		first := 0
		if k.turn > 0 {
			first = rand.IntN(int(k.records)) * k.turn
		}
		if x.reply.Packed(k.section, k.packed, first, k.records) {
			return x.finish(k.EDE)
		}
	}
	return x.answer(dst, k.zone, k.Answer, dns.ClassINET)
}
