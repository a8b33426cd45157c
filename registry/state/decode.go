package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unique"

	"dnsd/registry"
)

// part is what a block says of a fleet.
type part struct {
	network    registry.Network
	name       string
	registered bool
	put        []*registry.Machine
	gone       []string
}

// The least bytes of what lists have, each number and each string with one.
const (
	leastPair     = 2 // two places
	leastMetadata = 1 + leastPair
	leastEntry    = 2 // flags, id
	leastFleet    = 4 // network, name, whether it is registered, how many entries
	leastOther    = 4 // flags, network, name, address

	// leastObjects is of an objects block: its kind, four lengths, and, since there is
	// none without any, an element.
	leastObjects = 1 + 4 + min(leastFleet, leastOther)
)

// decoder reads the payload of a block. After an error it reads zeroes.
type decoder struct {
	data []byte
	err  error
}

var errPayload = errors.New("a block holds what this dnsd cannot read: it is damaged, or the program that wrote it was")

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.data = nil
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.data)) {
		d.fail(errPayload)
		return nil
	}
	b := d.data[:n:n]
	d.data = d.data[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.bytes(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (d *decoder) number() uint64 {
	v, n := binary.Uvarint(d.data)
	if n <= 0 {
		d.fail(errPayload)
		return 0
	}
	d.data = d.data[n:]
	return v
}

func (d *decoder) text() []byte { return d.bytes(d.number()) }

// count reads how many elements follow, each of which has so many bytes at least: what
// is allocated for them is in proportion to the block.
func (d *decoder) count(least int) int {
	n := d.number()
	if n > uint64(len(d.data)/least) {
		d.fail(errPayload)
		return 0
	}
	return int(n)
}

func (d *decoder) network() registry.Network {
	n := d.number()
	if n > 1<<32-1 {
		d.fail(errPayload)
	}
	return registry.Network(n)
}

// element reads the place of an element of a list.
func element[T any](d *decoder, list []T) (v T) {
	i := d.number()
	if i >= uint64(len(list)) {
		d.fail(errPayload)
		return v
	}
	return list[i]
}

// objects reads an objects block behind its kind.
func (d *decoder) objects() (parts []*part, others []registry.Item, err error) {
	strings := make([]string, d.count(1))
	for i := 0; i < len(strings) && d.err == nil; i++ {
		strings[i] = unique.Make(string(d.text())).Value() // they recur in other blocks, and in what the source sends
	}
	metadata := make([][]registry.Pair, 1+d.count(leastMetadata)) // the first is none
	for i := 1; i < len(metadata) && d.err == nil; i++ {
		metadata[i] = d.pairs(strings)
	}
	parts = make([]*part, 0, d.count(leastFleet))
	for len(parts) < cap(parts) && d.err == nil {
		parts = append(parts, d.fleet(strings, metadata))
	}
	others = make([]registry.Item, 0, d.count(leastOther))
	for len(others) < cap(others) && d.err == nil {
		others = append(others, d.other())
	}
	if len(d.data) > 0 {
		d.fail(errPayload)
	}
	return parts, others, d.err
}

func (d *decoder) pairs(strings []string) []registry.Pair {
	pairs := make([]registry.Pair, d.count(leastPair))
	for i := 0; i < len(pairs) && d.err == nil; i++ {
		pairs[i] = registry.Pair{Key: element(d, strings), Value: element(d, strings)}
	}
	if len(pairs) == 0 || !registry.ValidMetadata(pairs) {
		d.fail(errPayload)
	}
	return pairs
}

func (d *decoder) fleet(strings []string, metadata [][]registry.Pair) *part {
	p := &part{network: d.network(), name: unique.Make(string(d.text())).Value(), registered: d.byte() == 1}
	n := d.count(leastEntry)
	p.put = make([]*registry.Machine, 0, n)
	for i := 0; i < n && d.err == nil; i++ {
		flags, id := d.byte(), d.text()
		if flags == flagGone {
			p.gone = append(p.gone, registry.Lower(string(id)))
			continue
		}
		if flags&^flagsOfEntry != 0 || flags&flagGone != 0 {
			d.fail(errPayload)
		}
		if d.err != nil {
			return p
		}
		m := &registry.Machine{ID: string(id), App: p.name, Network: p.network, Skip: flags&flagSkip != 0}
		if flags&flagSpelling != 0 {
			m.App = element(d, strings)
		}
		m.State, m.Region, m.Metadata = element(d, strings), element(d, strings), element(d, metadata)
		if flags&flagAddr != 0 {
			a := p.network.Prefix().Addr().As16()
			copy(a[openBytes:], d.bytes(uint64(len(a)-openBytes)))
			m.Addr = netip.AddrFrom16(a)
		}
		if err := m.Valid(); err != nil {
			d.fail(fmt.Errorf("machine %q: %w", m.ID, err))
		}
		p.put = append(p.put, m)
	}
	return p
}

func (d *decoder) other() registry.Item {
	flags, network, name, address := d.byte(), d.network(), string(d.text()), string(d.text())
	if flags&flagGone != 0 {
		key := registry.Key{Kind: registry.KindAddress, Network: network, Name: registry.Lower(name), ID: address}
		if flags&flagPeer != 0 {
			key.Kind = registry.KindPeer
		}
		return registry.Delete(key)
	}
	region := string(d.text())
	var o registry.Object
	var err error
	if flags&flagPeer != 0 {
		o, err = registry.NewPeer(registry.PeerSpec{Name: name, Network: network.String(), PrivateIP: address, Region: region})
	} else {
		o, err = registry.NewAddress(registry.AddressSpec{App: name, Network: network.String(), Address: address})
	}
	if err != nil {
		d.fail(err)
		return registry.Item{}
	}
	return registry.Put(o)
}
