package registry

import (
	"bytes"
	"cmp"
	"hash/maphash"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// Machines are found by address through buckets: rows of the database that hold
// the machines whose /112 has one hash. A row costs some 400 bytes whatever it
// holds, so that a row for each machine would be most of what a machine takes. The
// channel of a look-up closes when a machine of the same bucket changes, which costs
// a reader who was not concerned another look-up.
type bucket struct {
	key      bucketKey
	machines []*Machine // sorted by compareAddr; immutable
}

// bucketKey is a hash of 14 bits: 60 machines a bucket where there are a million, six
// where there are 100,000. No byte has more than four of them, so that the nodes that
// a change of the database's tree copies are small.
type bucketKey [4]byte

// ownBytes are the bytes of an address that name a machine's /112.
const ownBytes = 14

var bucketSeed = maphash.MakeSeed()

func bucketOf(addr netip.Addr) bucketKey {
	a := addr.As16()
	h := maphash.Bytes(bucketSeed, a[:ownBytes])
	return bucketKey{byte(h & 15), byte(h >> 4 & 15), byte(h >> 8 & 15), byte(h >> 12 & 3)}
}

// compareAddr orders the machines of a bucket by /112, rank and address: so the
// first of a /112 is the machine that most likely owns it, and those of one
// address and rank are together. App and id tell apart two machines of one address.
func compareAddr(m, n *Machine) int {
	if c := m.compareTo(n.Addr.As16(), n.rank()); c != 0 {
		return c
	}
	if c := strings.Compare(Lower(m.App), Lower(n.App)); c != 0 {
		return c
	}
	return strings.Compare(Lower(m.ID), Lower(n.ID))
}

// compareTo compares a machine with an address and a rank.
func (m *Machine) compareTo(addr [16]byte, r rank) int {
	a := m.Addr.As16()
	if c := bytes.Compare(a[:ownBytes], addr[:ownBytes]); c != 0 {
		return c
	}
	if c := cmp.Compare(m.rank(), r); c != 0 {
		return c
	}
	return bytes.Compare(a[ownBytes:], addr[ownBytes:])
}

// near returns the first machine of the /112 of addr, nil where there is none.
func (b *bucket) near(addr netip.Addr) *Machine {
	want := addr.As16()
	i, ok := slices.BinarySearchFunc(b.machines, want[:ownBytes], func(m *Machine, want []byte) int {
		a := m.Addr.As16()
		return bytes.Compare(a[:ownBytes], want)
	})
	if !ok {
		return nil
	}
	return b.machines[i]
}

// at returns the machines with exactly that address and rank.
func (b *bucket) at(addr netip.Addr, r rank) []*Machine {
	want := addr.As16()
	from, _ := slices.BinarySearchFunc(b.machines, want, func(m *Machine, want [16]byte) int { return m.compareTo(want, r) })
	to := from
	for to < len(b.machines) && b.machines[to].compareTo(want, r) == 0 {
		to++
	}
	return b.machines[from:to:to]
}

// bucket returns the machines of a bucket as the edit has them so far.
func (e *edit) bucket(key bucketKey) []*Machine {
	machines, ok := e.buckets[key]
	if !ok {
		row, err := e.txn.First(tableMachines, indexID, key[:])
		must(err)
		if row != nil {
			machines = slices.Clone(row.(*bucket).machines)
		}
	}
	return machines
}

// placeAll makes the machines of fleets, which nothing is known of, found by their
// addresses. It uses all processors.
func (e *edit) placeAll(fleets []*Fleet) {
	for _, f := range fleets {
		for _, m := range f.all {
			if m.Addr.IsValid() {
				key := bucketOf(m.Addr)
				e.buckets[key] = append(e.buckets[key], m)
			}
		}
	}
	buckets := slices.Collect(maps.Values(e.buckets))
	var sorting sync.WaitGroup
	for part := range slices.Chunk(buckets, len(buckets)/runtime.GOMAXPROCS(0)+1) {
		sorting.Go(func() {
			for _, machines := range part {
				slices.SortFunc(machines, compareAddr)
			}
		})
	}
	sorting.Wait()
}

// place makes a machine found by its address, and no longer by that of old, its
// former version. Either may be nil or without an address.
func (e *edit) place(m, old *Machine) {
	if old != nil && old.Addr.IsValid() {
		key := bucketOf(old.Addr)
		machines := e.bucket(key)
		i, ok := slices.BinarySearchFunc(machines, old, compareAddr)
		if !ok {
			panic("registry: a machine is not where its address says: it was changed after it was handed over")
		}
		e.buckets[key] = slices.Delete(machines, i, i+1)
	}
	if m != nil && m.Addr.IsValid() {
		key := bucketOf(m.Addr)
		machines := e.bucket(key)
		i, _ := slices.BinarySearchFunc(machines, m, compareAddr)
		e.buckets[key] = slices.Insert(machines, i, m)
	}
}

// writeBuckets writes the row of each bucket that changes.
func (e *edit) writeBuckets() {
	for key, machines := range e.buckets {
		row := &bucket{key, machines}
		if len(machines) > 0 {
			must(e.txn.Insert(tableMachines, row))
		} else {
			_, err := e.txn.DeleteAll(tableMachines, indexID, key[:]) // there may be none
			must(err)
		}
	}
}
