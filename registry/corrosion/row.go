package corrosion

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"

	"dnsd/registry"
	"dnsd/registry/contain"
)

// shape is how the rows of one kind of object look.
type shape struct {
	kind    registry.Kind
	table   string   // for logs and errors
	columns []string // the output columns that a query must have
	further []string // those that it may have

	query func(Queries) string
	// object and key read the cells of columns and further, in that order; a
	// column that the query does not have is empty.
	object func(cells []string) (registry.Object, error)
	key    func(cells []string) registry.Key // zero: unreadable
}

var shapes = [...]*shape{
	{
		kind: registry.KindMachine, table: "machines",
		columns: []string{"id", "network", "app", "region", "process_group", "state", "private_ip", "metadata"},
		further: []string{"skip_registration"},
		query:   func(q Queries) string { return q.Machines },
		object:  machine,
		// The id alone identifies a machine: any other cell may be what is wrong
		// with the row. Without an id it may be any machine of the app.
		key: func(c []string) registry.Key {
			if c[0] == "" {
				return keyOf(registry.KindMachine, c[1], c[6], c[2], "")
			}
			return registry.Key{Kind: registry.KindMachine, Name: registry.Lower(c[2]), ID: registry.Lower(c[0]), AnyNetwork: true}
		},
	}, {
		kind: registry.KindApp, table: "apps",
		columns: []string{"network", "name"},
		query:   func(q Queries) string { return q.Apps },
		object: func(c []string) (registry.Object, error) {
			return object(registry.NewApp(registry.AppSpec{Network: c[0], Name: c[1]}))
		},
		key: func(c []string) registry.Key { return keyOf(registry.KindApp, c[0], "", c[1], "") },
	}, {
		kind: registry.KindPeer, table: "peers",
		columns: []string{"network", "name", "private_ip", "region"},
		query:   func(q Queries) string { return q.Peers },
		object: func(c []string) (registry.Object, error) {
			return object(registry.NewPeer(registry.PeerSpec{Network: c[0], Name: c[1], PrivateIP: c[2], Region: c[3]}))
		},
		key: func(c []string) registry.Key { return keyOf(registry.KindPeer, c[0], c[2], c[1], "") },
	}, {
		kind: registry.KindAddress, table: "app_addresses",
		columns: []string{"network", "app", "address"},
		query:   func(q Queries) string { return q.Addresses },
		object: func(c []string) (registry.Object, error) {
			return object(registry.NewAddress(registry.AddressSpec{Network: c[0], App: c[1], Address: c[2]}))
		},
		key: func(c []string) registry.Key {
			addr, err := netip.ParseAddr(c[2])
			if err != nil {
				return registry.Key{}
			}
			return keyOf(registry.KindAddress, c[0], c[2], c[1], addr.String())
		},
	},
}

// object avoids an interface around a nil pointer.
func object[T registry.Object](o T, err error) (registry.Object, error) {
	if err != nil {
		return nil, err
	}
	return o, nil
}

// processGroup is the metadata key that the process_group column stands for.
const processGroup = "fly_process_group"

func machine(c []string) (registry.Object, error) {
	spec := registry.MachineSpec{
		ID: c[0], Network: c[1], App: c[2], Region: c[3], State: c[5], PrivateIP: c[6],
		SkipRegistration: c[8] != "" && c[8] != "0",
	}
	if c[7] != "" {
		if err := json.Unmarshal([]byte(c[7]), &spec.Metadata); err != nil {
			return nil, errors.New("metadata is not a JSON object of strings")
		}
	}
	if c[4] != "" {
		if spec.Metadata == nil {
			spec.Metadata = make(map[string]string, 1)
		}
		spec.Metadata[processGroup] = c[4]
	}
	return object(registry.NewMachine(spec))
}

// keyOf returns the key of a row that cannot be used. It is the zero Key if the
// name is missing, and has AnyNetwork set if the network cannot be read or
// disagrees with the address.
func keyOf(kind registry.Kind, network, address, name, id string) registry.Key {
	if name == "" {
		return registry.Key{}
	}
	key := registry.Key{Kind: kind, Name: registry.Lower(name), ID: id}
	n, err := registry.ParseNetwork(network)
	ok := err == nil
	if network == "" || ok && address != "" {
		if addr, err := netip.ParseAddr(address); err == nil {
			in, inside := registry.NetworkOf(addr)
			ok = inside && (network == "" || in == n)
			n = in
		}
	}
	if !ok {
		key.AnyNetwork = true
		return key
	}
	key.Network = n
	return key
}

// named reports whether the registry can hold an object under key.
func named(key registry.Key) bool { return key.Name != "" && !key.AnyNetwork }

// binding is the index in a row of each column of a shape; -1: the query lacks it.
type binding []int

// bind finds a shape's columns among those of a query.
func (s *shape) bind(have []string) (binding, error) {
	var missing []string
	b := make(binding, 0, len(s.columns)+len(s.further))
	for _, name := range s.columns {
		at := slices.Index(have, name)
		if at < 0 {
			missing = append(missing, name)
		}
		b = append(b, at)
	}
	if missing != nil {
		return nil, &columnError{table: s.table, missing: missing, have: have}
	}
	for _, name := range s.further {
		b = append(b, slices.Index(have, name))
	}
	return b, nil
}

// columnError says that a query lacks columns. Only another query or another
// schema mends it.
type columnError struct {
	table         string
	missing, have []string
}

func (e *columnError) Error() string {
	return fmt.Sprintf("the query for %s lacks the output column %s (it has %s): name it with AS if the table calls it otherwise",
		e.table, strings.Join(e.missing, ", "), strings.Join(e.have, ", "))
}

// entry is a row of a listing, or a change of one.
type entry struct {
	row  uint64
	gone bool          // the row is deleted; item is not set
	item registry.Item // put or reject
	sum  uint64        // of the columns that are read
}

// seed is that of all sums of this process.
var seed = maphash.MakeSeed()

// entry reads a row's cells. A row that cannot be used becomes a reject, with its
// key as far as that can be read.
func (s *shape) entry(b binding, row uint64, cells json.RawMessage) entry {
	texts, sum, err := b.read(cells)
	e := entry{row: row, sum: sum}
	if err != nil {
		e.item = s.reject(nil, row, err)
		return e
	}
	var o registry.Object
	err = contain.Run(func() (err error) {
		o, err = s.object(texts)
		return err
	})
	if err != nil {
		e.item = s.reject(texts, row, err)
		return e
	}
	if e.item = registry.Put(o); e.item.Note != nil {
		e.item.Where = s.place(row)
	}
	return e
}

// read returns a row's texts and their sum; the sum is that of the cells if they
// cannot be read.
func (b binding) read(cells json.RawMessage) ([]string, uint64, error) {
	texts, err := b.texts(cells)
	if err != nil {
		return nil, maphash.Bytes(seed, cells), err
	}
	return texts, sum(texts), nil
}

// sum returns the sum of a row's texts. Columns that are selected and not read are
// not part of it: a change of those alone is no change.
func sum(texts []string) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	var length [4]byte
	for _, text := range texts {
		binary.LittleEndian.PutUint32(length[:], uint32(len(text)))
		h.Write(length[:])
		h.WriteString(text)
	}
	return h.Sum64()
}

// reject returns the rejection of a row, with its key as far as the texts have it;
// nil: there are none.
func (s *shape) reject(texts []string, row uint64, err error) registry.Item {
	var key registry.Key
	if texts != nil {
		key = s.key(texts)
	}
	key.Kind = s.kind // so that it is counted under its kind, even without a name
	return registry.Reject(key, s.place(row), err)
}

func (s *shape) place(row uint64) string { return fmt.Sprintf("%s row %d", s.table, row) }

// tooLong is the entry of a row that is too long to be read.
func (s *shape) tooLong(b binding, h head, err error) entry {
	texts := b.pick(h.cells)
	return entry{row: h.row, item: s.reject(texts, h.row, err), sum: sum(texts)}
}

// pick returns the texts of a row in the order of its shape. A cell that is not
// there is empty.
func (b binding) pick(cells []cell) []string {
	texts := make([]string, len(b))
	for i, at := range b {
		if at >= 0 && at < len(cells) {
			texts[i] = string(cells[at])
		}
	}
	return texts
}

// texts returns the texts of a row that has all cells.
func (b binding) texts(raw json.RawMessage) ([]string, error) {
	cells := make([]cell, 0, len(b)+1)
	if err := json.Unmarshal(raw, &cells); err != nil {
		return nil, err
	}
	if len(cells) <= slices.Max(b) {
		return nil, fmt.Errorf("the row has %d cells, fewer than its columns", len(cells))
	}
	return b.pick(cells), nil
}
