package registry

import (
	"bytes"
	"cmp"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
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
	a, b := m.Addr.As16(), n.Addr.As16()
	return cmp.Or(
		bytes.Compare(a[:ownBytes], b[:ownBytes]),
		cmp.Compare(m.rank(), n.rank()),
		bytes.Compare(a[ownBytes:], b[ownBytes:]),
		strings.Compare(Lower(m.App), Lower(n.App)),
		strings.Compare(Lower(m.ID), Lower(n.ID)))
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
	compare := func(m *Machine, r rank) int {
		a := m.Addr.As16()
		return cmp.Or(bytes.Compare(a[:ownBytes], want[:ownBytes]), cmp.Compare(m.rank(), r), bytes.Compare(a[ownBytes:], want[ownBytes:]))
	}
	from, _ := slices.BinarySearchFunc(b.machines, r, compare)
	to := from
	for to < len(b.machines) && compare(b.machines[to], r) == 0 {
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
