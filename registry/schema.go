package registry

import (
	"errors"
	"net/netip"

	"github.com/hashicorp/go-memdb"
)

// The database has one table a kind, with a fleet standing for an app and its
// machines:
//
//	fleets     by network and app       *Fleet: the app and all its machines
//	networks   by network               *Counts, of what the network has
//	machines   by a hash of the address   *bucket, of a few machines
//	peers      by network and name, and by address
//	addresses  by network, app and address, and by address
//
// A machine is found through its app's fleet, never by an index of its own:
// names always come with their app, an app is small against a radix tree's
// node, and a million machines then fit in some two hundred bytes each (a memdb
// index costs some 400 bytes a row). The machines table serves the questions
// that start from an address: who is asking, and PTR.
const (
	tableFleets    = "fleets"
	tableNetworks  = "networks"
	tableMachines  = "machines"
	tablePeers     = "peers"
	tableAddresses = "addresses"

	indexID     = "id"
	indexPrefix = "id_prefix" // memdb's name for a prefix search of "id"
	indexAddr   = "addr"
)

func schema() *memdb.DBSchema {
	table := func(name string, indexes ...*memdb.IndexSchema) *memdb.TableSchema {
		t := &memdb.TableSchema{Name: name, Indexes: map[string]*memdb.IndexSchema{}}
		for _, i := range indexes {
			t.Indexes[i.Name] = i
		}
		return t
	}
	id := func(key func(any) []byte) *memdb.IndexSchema {
		return &memdb.IndexSchema{Name: indexID, Unique: true, Indexer: indexer(key)}
	}
	addr := func(key func(any) []byte) *memdb.IndexSchema {
		return &memdb.IndexSchema{Name: indexAddr, Indexer: indexer(key)}
	}
	return &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
		tableFleets: table(tableFleets,
			id(func(o any) []byte { f := o.(*Fleet); return nameKey(f.network, Lower(f.name)) })),
		tableNetworks: table(tableNetworks,
			id(func(o any) []byte { return networkKey(o.(*Counts).network) })),
		tableMachines: table(tableMachines,
			id(func(o any) []byte { b := o.(*bucket); return b.key[:] })),
		tablePeers: table(tablePeers,
			id(func(o any) []byte { p := o.(*Peer); return nameKey(p.Network, Lower(p.Name)) }),
			addr(func(o any) []byte { return addrKey(o.(*Peer).Addr) })),
		tableAddresses: table(tableAddresses,
			id(func(o any) []byte { a := o.(*Address); return addressKey(a.Network, Lower(a.App), a.Addr) }),
			addr(func(o any) []byte { return addrKey(o.(*Address).Addr) })),
	}}
}

// indexer is a memdb index over a key that the object computes and that
// look-ups give as bytes.
type indexer func(object any) []byte

// FromObject implements memdb.SingleIndexer.
func (key indexer) FromObject(object any) (bool, []byte, error) { return true, key(object), nil }

// FromArgs implements memdb.Indexer.
func (indexer) FromArgs(args ...any) ([]byte, error) {
	if len(args) == 1 {
		if key, ok := args[0].([]byte); ok {
			return key, nil
		}
	}
	return nil, errors.New("an index takes one key of bytes")
}

// PrefixFromArgs implements memdb.PrefixIndexer.
func (key indexer) PrefixFromArgs(args ...any) ([]byte, error) { return key.FromArgs(args...) }

// networkKey is the prefix of all keys of one network.
func networkKey(n Network) []byte { return []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)} }

// nameKey is the key of a name (in lower case) within a network. The zero byte,
// which no name holds, keeps one name from being the prefix of another and makes
// the key's order that of the names.
func nameKey(n Network, name string) []byte {
	b := make([]byte, 0, 4+len(name)+1+16)
	b = append(b, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	b = append(b, name...)
	return append(b, 0)
}

func addrKey(addr netip.Addr) []byte { b := addr.As16(); return b[:] }

// addressKey is the key of an app's address, the app in lower case.
func addressKey(n Network, app string, addr netip.Addr) []byte {
	return append(nameKey(n, app), addrKey(addr)...)
}

// rank orders machines by how alive they are. Where two records claim one
// address (one of them has been renamed or is long gone), the machine that runs
// is the one that asks.
type rank byte

const (
	rankStarted rank = iota
	rankDeployed
	rankGone
)

func (m *Machine) rank() rank {
	switch {
	case m.Started():
		return rankStarted
	case m.Deployed():
		return rankDeployed
	}
	return rankGone
}
