package state

import (
	"encoding/binary"
	"net/netip"

	"dnsd/registry"
)

// An objects block has three lists, each with its length before it:
//
//	strings    that machines have in common: apps, states, regions, metadata
//	metadata   of one or more machines: pairs of strings, by their place in the list
//	fleets     network, name, whether it is registered, and entries
//
// and, after them, peers and addresses. An entry is flags, an id, and, of a machine
// that is there, its app where it spells it otherwise, state, region, metadata (0:
// none) and the last 10 bytes of its address, which its network leaves open.
const (
	flagGone     = 1 << iota // of an entry, peer or address: it is there no longer
	flagSkip                 // skip_registration
	flagAddr                 // the machine has an address
	flagSpelling             // the machine's app is written otherwise than its fleet's
	flagPeer                 // of the list after the fleets: a peer, no address

	flagsOfEntry = flagGone | flagSkip | flagAddr | flagSpelling
)

// openBytes is where the bytes of an address begin that its network leaves open.
const openBytes = 6

// encoder makes objects blocks.
type encoder struct {
	emit func(body []byte) error
	err  error // of emit: nothing is encoded after it

	strings  table
	metadata table
	known    map[*registry.Pair]uint64 // places in metadata by where they are in memory
	fleets   list
	others   list
	scratch  []byte
}

// list is elements and how many they are.
type list struct {
	n    uint64
	text []byte
}

func (l *list) append(b []byte) []byte { return append(binary.AppendUvarint(b, l.n), l.text...) }

// table is a list without equal elements.
type table struct {
	list
	places map[string]uint64
}

// add appends an element that key stands for, and returns its place.
func (t *table) add(key string, element []byte) uint64 {
	i := t.n
	t.places[key] = i
	t.text = append(t.text, element...)
	t.n++
	return i
}

func newEncoder(emit func([]byte) error) *encoder {
	e := &encoder{emit: emit}
	e.clear()
	return e
}

func (e *encoder) clear() {
	for _, t := range []*table{&e.strings, &e.metadata} {
		*t = table{list{text: t.text[:0]}, map[string]uint64{}}
	}
	e.known = map[*registry.Pair]uint64{}
	e.fleets, e.others = list{text: e.fleets.text[:0]}, list{text: e.others.text[:0]}
}

func (e *encoder) size() int {
	return len(e.strings.text) + len(e.metadata.text) + len(e.fleets.text) + len(e.others.text)
}

// flush ends the block, unless it is empty.
func (e *encoder) flush() error {
	if e.err != nil || e.fleets.n == 0 && e.others.n == 0 {
		return e.err
	}
	b := e.strings.append(nil)
	b = e.metadata.append(b)
	b = e.fleets.append(b)
	b = e.others.append(b)
	e.err = e.emit(b)
	e.clear()
	return e.err
}

func (e *encoder) string(s string) uint64 {
	if i, ok := e.strings.places[s]; ok {
		return i
	}
	return e.strings.add(s, appendString(nil, s))
}

// fleet encodes what changed of a fleet, in as many blocks as it takes.
func (e *encoder) fleet(c registry.FleetChange) bool {
	machines, gone := c.Put, c.Gone
	for first := true; first || len(machines)+len(gone) > 0; first = false {
		if e.size() >= blockSize && e.flush() != nil {
			return false
		}
		var entries list
		for ; len(machines) > 0 && e.size()+len(entries.text) < blockSize; machines = machines[1:] {
			e.machine(&entries, machines[0], c.Name)
		}
		for ; len(gone) > 0 && e.size()+len(entries.text) < blockSize; gone = gone[1:] {
			entries.n++
			entries.text = appendString(append(entries.text, flagGone), gone[0])
		}
		b := binary.AppendUvarint(e.fleets.text, uint64(c.Network))
		b = appendString(b, c.Name)
		registered := byte(0)
		if c.Registered {
			registered = 1
		}
		e.fleets.text = entries.append(append(b, registered))
		e.fleets.n++
	}
	return e.err == nil
}

func (e *encoder) machine(entries *list, m *registry.Machine, fleet string) {
	flags := byte(0)
	if m.Skip {
		flags |= flagSkip
	}
	if m.Addr.IsValid() {
		flags |= flagAddr
	}
	if m.App != fleet {
		flags |= flagSpelling
	}
	b := appendString(append(entries.text, flags), m.ID)
	if m.App != fleet {
		b = binary.AppendUvarint(b, e.string(m.App))
	}
	b = binary.AppendUvarint(b, e.string(m.State))
	b = binary.AppendUvarint(b, e.string(m.Region))
	b = binary.AppendUvarint(b, e.pairs(m.Metadata))
	if m.Addr.IsValid() {
		a := m.Addr.As16()
		b = append(b, a[openBytes:]...)
	}
	entries.text = b
	entries.n++
}

// pairs returns 0 for no metadata, and otherwise one more than their place.
func (e *encoder) pairs(pairs []registry.Pair) uint64 {
	if len(pairs) == 0 {
		return 0
	}
	if i, ok := e.known[&pairs[0]]; ok {
		return i
	}
	b := binary.AppendUvarint(e.scratch[:0], uint64(len(pairs)))
	for _, p := range pairs {
		b = binary.AppendUvarint(b, e.string(p.Key))
		b = binary.AppendUvarint(b, e.string(p.Value))
	}
	e.scratch = b
	i, ok := e.metadata.places[string(b)]
	if !ok {
		i = e.metadata.add(string(b), b)
	}
	e.known[&pairs[0]] = i + 1
	return i + 1
}

// other encodes a peer or an address that changed.
func (e *encoder) other(i registry.Item) bool {
	if e.size() >= blockSize && e.flush() != nil {
		return false
	}
	flags, key, region := byte(0), i.About(), ""
	var addr netip.Addr
	switch o := i.Object.(type) {
	case *registry.Peer:
		key.Name, addr, region = o.Name, o.Addr, o.Region
	case *registry.Address:
		key.Name, addr = o.App, o.Addr
	default:
		flags |= flagGone
	}
	if key.Kind == registry.KindPeer {
		flags |= flagPeer
	}
	b := binary.AppendUvarint(append(e.others.text, flags), uint64(key.Network))
	b = appendString(b, key.Name)
	if flags&flagGone != 0 {
		b = appendString(b, key.ID)
	} else {
		b = appendString(b, addr.String())
		b = appendString(b, region)
	}
	e.others.text = b
	e.others.n++
	return e.err == nil
}
