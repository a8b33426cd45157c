package registry

import (
	"net/netip"

	"github.com/hashicorp/go-memdb"
)

// Snapshot is one read transaction: everything read from it is of one moment. A
// method that returns a channel promises that the channel closes when what was
// read may have changed; it is never nil. A snapshot is shared by all that read between
// two changes; it takes no lock.
type Snapshot struct{ txn *memdb.Txn }

// Fleet returns the app (name in lower case) of a network with its machines,
// nil where neither is known.
func (v *Snapshot) Fleet(n Network, app string) (*Fleet, <-chan struct{}) {
	watch, row, err := v.txn.FirstWatch(tableFleets, indexID, nameKey(n, app))
	must(err)
	f, _ := row.(*Fleet)
	return f, watch
}

// Rows are what a snapshot found: for row := range rows.All, once.
type Rows[T any] struct{ it memdb.ResultIterator }

// All yields the rows, in their order.
func (r Rows[T]) All(yield func(T) bool) {
	for row := r.it.Next(); row != nil && yield(row.(T)); row = r.it.Next() {
	}
}

func rows[T any](v *Snapshot, table, index string, key []byte) (Rows[T], <-chan struct{}) {
	it, err := v.txn.Get(table, index, key)
	must(err)
	return Rows[T]{it}, it.WatchCh()
}

// Fleets returns the apps of a network, sorted by lower-case name.
func (v *Snapshot) Fleets(n Network) (Rows[*Fleet], <-chan struct{}) {
	return rows[*Fleet](v, tableFleets, indexPrefix, networkKey(n))
}

// Peer returns the peer of that name (lower case), nil where there is none.
func (v *Snapshot) Peer(n Network, name string) (*Peer, <-chan struct{}) {
	watch, row, err := v.txn.FirstWatch(tablePeers, indexID, nameKey(n, name))
	must(err)
	p, _ := row.(*Peer)
	return p, watch
}

// Peers returns the peers of a network, sorted by lower-case name.
func (v *Snapshot) Peers(n Network) (Rows[*Peer], <-chan struct{}) {
	return rows[*Peer](v, tablePeers, indexPrefix, networkKey(n))
}

// Addresses returns the flycast addresses of an app (name in lower case)
// allocated for the clients of a network, in the order of addresses.
func (v *Snapshot) Addresses(n Network, app string) (Rows[*Address], <-chan struct{}) {
	return rows[*Address](v, tableAddresses, indexPrefix, nameKey(n, app))
}

// MachineNear returns the machine that owns addr by its /112, nil where there is
// none. Whatever its state, something there is asking; of several it is one
// that runs, else one that is deployed.
func (v *Snapshot) MachineNear(addr netip.Addr) (*Machine, <-chan struct{}) {
	b, watch := v.bucket(addr)
	return b.near(addr), watch
}

// MachinesAt returns the machines with exactly that address, hidden ones
// included: those that are started, or those that are deployed and not started.
func (v *Snapshot) MachinesAt(addr netip.Addr, started bool) ([]*Machine, <-chan struct{}) {
	r := rankDeployed
	if started {
		r = rankStarted
	}
	b, watch := v.bucket(addr)
	return b.at(addr, r), watch
}

// bucket returns the bucket of an address, an empty one where there is none.
func (v *Snapshot) bucket(addr netip.Addr) (*bucket, <-chan struct{}) {
	key := bucketOf(addr)
	watch, row, err := v.txn.FirstWatch(tableMachines, indexID, key[:])
	must(err)
	if row == nil {
		return &bucket{}, watch
	}
	return row.(*bucket), watch
}

// PeerAt returns the first peer with exactly that address, nil where there is none.
func (v *Snapshot) PeerAt(addr netip.Addr) (*Peer, <-chan struct{}) {
	watch, row, err := v.txn.FirstWatch(tablePeers, indexAddr, addrKey(addr))
	must(err)
	p, _ := row.(*Peer)
	return p, watch
}

// PeersAt returns the peers with exactly that address.
func (v *Snapshot) PeersAt(addr netip.Addr) (Rows[*Peer], <-chan struct{}) {
	return rows[*Peer](v, tablePeers, indexAddr, addrKey(addr))
}

// AddressesAt returns the flycast addresses equal to addr.
func (v *Snapshot) AddressesAt(addr netip.Addr) (Rows[*Address], <-chan struct{}) {
	return rows[*Address](v, tableAddresses, indexAddr, addrKey(addr))
}

// Each calls fn with every object of a kind, sorted by network, app or name, and
// id, until fn returns false.
func (v *Snapshot) Each(kind Kind, fn func(Object) bool) {
	switch kind {
	case KindPeer:
		each(v, tablePeers, func(p *Peer) bool { return fn(p) })
	case KindAddress:
		each(v, tableAddresses, func(a *Address) bool { return fn(a) })
	case KindApp:
		each(v, tableFleets, func(f *Fleet) bool {
			return !f.registered || fn(&App{Name: f.name, Network: f.network})
		})
	case KindMachine:
		each(v, tableFleets, func(f *Fleet) bool {
			for _, m := range f.all {
				if !fn(m) {
					return false
				}
			}
			return true
		})
	}
}

// EachFleet calls fn with every app of every network until fn returns false.
func (v *Snapshot) EachFleet(fn func(*Fleet) bool) { each(v, tableFleets, fn) }

func each[T any](v *Snapshot, table string, fn func(T) bool) {
	it, err := v.txn.Get(table, indexPrefix, []byte{})
	must(err)
	for row := it.Next(); row != nil && fn(row.(T)); row = it.Next() {
	}
}

// must panics on what memdb reports only for a table, index or argument that
// the schema does not know: a mistake in this package.
func must(err error) {
	if err != nil {
		panic("registry: " + err.Error())
	}
}
