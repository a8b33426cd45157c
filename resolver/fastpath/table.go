package fastpath

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

const (
	// mostBlocks is how many answers there are at most. They take 23 MiB; a host has
	// some hundred machines, which ask for some dozens of names each.
	mostBlocks = 1 << 14
	// maxOffers is how many answers may wait to be placed, which takes a microsecond. Those
	// beyond are offered again by the next question that reaches the socket.
	maxOffers = 1024
	// evictedAtOnce is how many answers make room when there is none: waiting until no
	// program reads them takes some 10 ms, however many they are.
	evictedAtOnce = mostBlocks / 16
	// lease is for how long answers are given without a sign of life. It is many times
	// what dnsd needs to give one, and less than what a registry may be behind.
	lease = 3 * time.Second
)

// Table holds the answers of the kernel. Resolvers put them there; Generations end
// them. Its methods are safe for concurrent use.
type Table struct {
	Generations

	// Set once. The last three are what the programs read.
	limit   int // of a response, in bytes
	seed    uint64
	grace   func() error // returns when no program reads what it had found before
	blocks  []byte
	buckets []atomic.Uint64
	state   []atomic.Uint64

	offers chan *Answer
	placed atomic.Int64

	// Owned by Fill.
	index   map[key]*place
	places  []*place // by block; nil: not linked
	free    []uint32 // blocks that no program reads
	retired []uint32 // blocks that a program may still read
	hand    int      // the block to be evicted next
}

// memory is what a table shares with the programs, aligned to 8 bytes.
type memory struct{ generations, buckets, blocks, state []byte }

// key identifies a question.
type key struct {
	network [4]byte
	typ     uint16
	name    string
}

// place is where an answer is.
type place struct {
	key   key
	gen   Generation
	block uint32
	entry int // of buckets
	gone  atomic.Bool
}

// newTable returns an empty table in memory that is zero. The buckets are a power of
// two. limit is that of responses, in bytes.
func newTable(m memory, limit int, grace func() error) *Table {
	t := &Table{
		Generations: Generations{words: words(m.generations), seed: maphash.MakeSeed()},
		limit:       limit, seed: rand.Uint64(), grace: grace,
		blocks: m.blocks, buckets: words(m.buckets), state: words(m.state),
		offers: make(chan *Answer, maxOffers), index: make(map[key]*place), places: make([]*place, len(m.blocks)/blockSize),
	}
	for i := range t.places {
		t.free = append(t.free, uint32(len(t.places)-1-i))
	}
	binary.LittleEndian.PutUint64(m.state[offSeed:], t.seed)
	binary.LittleEndian.PutUint32(m.state[offLimit:], uint32(limit))
	binary.LittleEndian.PutUint32(m.state[offBucket:], uint32(len(m.buckets)/bucketSize-1))
	return t
}

// Put has the kernel give an answer that was seen to hold after its Generation was
// read, if it can. It does not wait. It returns false if too many wait.
func (t *Table) Put(a *Answer) bool {
	if !a.fits() {
		a.place.Store(&refused)
		return true
	}
	select {
	case t.offers <- a:
		return true
	default:
		return false
	}
}

// fill places what is put until ctx ends or blocks cannot be used again.
func (t *Table) fill(ctx context.Context) error {
	for {
		select {
		case a := <-t.offers:
			if err := t.insert(a); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// insert places an answer, unless it has ended since. One that is there and as good stays.
func (t *Table) insert(a *Answer) error {
	if now, ok := t.now(a.Generation.slot); !ok || now != a.Generation {
		return nil
	}
	k := key{networkOf(a), a.Type, string(a.Name)}
	old := t.index[k]
	if old != nil && old.gen == a.Generation {
		a.place.Store(old)
		return nil
	}
	if len(t.free) == 0 {
		if err := t.reclaim(); err != nil {
			return err
		}
		old = t.index[k]
	}
	block := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	encode(t.blocks[int(block)*blockSize:][:blockSize], a)

	h := hash(t.seed, k.network, k.typ, a.Name)
	entry := t.entryFor(h, old)
	// The program finds either the old or the new answer.
	was := t.buckets[entry].Swap(h>>32<<32 | uint64(block+1))
	if n := uint32(was); n != 0 {
		t.retire(n - 1)
	}
	p := &place{key: k, gen: a.Generation, block: block, entry: entry}
	t.places[block], t.index[k] = p, p
	t.placed.Add(1)
	a.place.Store(p)
	return nil
}

// entryFor returns where an answer of a hash is to be linked: in the place of its
// former version, if there is one, of nothing, of one that has ended, or of any.
func (t *Table) entryFor(h uint64, old *place) int {
	if old != nil {
		return old.entry
	}
	first := int(h%uint64(len(t.buckets)/bucketEntries)) * bucketEntries
	ended := first + rand.IntN(bucketEntries)
	for i := first; i < first+bucketEntries; i++ {
		n := uint32(t.buckets[i].Load())
		if n == 0 {
			return i
		}
		p := t.places[n-1]
		if now, _ := t.now(p.gen.slot); now != p.gen {
			ended = i
		}
	}
	return ended
}

// retire notes that a block is not linked any more.
func (t *Table) retire(block uint32) {
	p := t.places[block]
	p.gone.Store(true)
	delete(t.index, p.key)
	t.places[block] = nil
	t.retired = append(t.retired, block)
	t.placed.Add(-1)
}

// reclaim makes blocks free, first those that are retired. If those are few, others
// make room, in turns.
func (t *Table) reclaim() error {
	want := max(min(evictedAtOnce, len(t.places)/2), 1)
	for ; len(t.retired) < want; t.hand++ {
		if p := t.places[t.hand%len(t.places)]; p != nil {
			t.buckets[p.entry].Store(0)
			t.retire(p.block)
		}
	}
	if err := t.grace(); err != nil {
		return err
	}
	t.free, t.retired = t.retired, t.free[:0]
	return nil
}

// renew lets answers be given until a lease after now, CLOCK_MONOTONIC.
func (t *Table) renew(now time.Duration) { t.state[offLease/8].Store(uint64(now + lease)) }

// end ends all answers, for ever.
func (t *Table) end() { t.state[offLease/8].Store(0) }
