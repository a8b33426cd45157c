package registry

import (
	"slices"
	"strings"
	"sync"
)

// Fleet is one app of one network with its machines, as one transaction saw
// them. It is immutable and safe for concurrent use; the slices it returns are
// shared and must not be changed. Arguments are in lower case and match without
// regard to case, as all of DNS does.
type Fleet struct {
	name       string
	network    Network
	registered bool       // the source holds the app as an object of its own
	all        []*Machine // every machine, sorted by lower-case id
	deployed   []*Machine // those that names speak of; the same array where that is all

	once  sync.Once // guards index, which the first look-up in a large fleet builds
	index *fleetIndex
}

// indexFrom is the number of machines from which on a fleet is indexed: below
// it a scan is cheaper than the maps and their memory.
const indexFrom = 32

// fleetIndex finds the machines of a large fleet, so that a question costs the
// same in an app of ten machines and of ten thousand. Keys are in lower case.
type fleetIndex struct {
	region map[string][]*Machine
	group  map[string][]*Machine
	key    map[string][]*Machine
	pair   map[Pair][]*Machine
	ends   map[Pair]struct{} // see HasValueEnd
}

// newFleet returns a fleet of machines, which it sorts and keeps.
func newFleet(network Network, name string, registered bool, machines []*Machine) *Fleet {
	f := &Fleet{name: name, network: network, registered: registered, all: machines}
	if !slices.IsSortedFunc(machines, compareIDs) {
		slices.SortFunc(machines, compareIDs)
	}
	named := func(m *Machine) bool { return m.Deployed() && !m.Skip }
	n := 0
	for _, m := range machines {
		if named(m) {
			n++
		}
	}
	if n == len(machines) {
		f.deployed = machines
		return f
	}
	f.deployed = make([]*Machine, 0, n)
	for _, m := range machines {
		if named(m) {
			f.deployed = append(f.deployed, m)
		}
	}
	return f
}

func compareIDs(a, b *Machine) int { return strings.Compare(Lower(a.ID), Lower(b.ID)) }

// Name returns the app's name as the source writes it.
func (f *Fleet) Name() string { return f.name }

// Network returns the network whose app this is.
func (f *Fleet) Network() Network { return f.network }

// Registered reports whether the source holds the app as an object of its own,
// machines or none.
func (f *Fleet) Registered() bool { return f.registered }

// Exists reports whether the app is one that names speak of: it is registered
// or has a deployed machine that is not hidden.
func (f *Fleet) Exists() bool { return f.registered || len(f.deployed) > 0 }

// Deployed returns the machines that names speak of, sorted by id: deployed and
// without skip_registration. Whether one is started is the caller's question.
func (f *Fleet) Deployed() []*Machine { return f.deployed }

// Machine returns the deployed machine of that id, nil where there is none.
func (f *Fleet) Machine(id string) *Machine {
	if i, ok := find(f.deployed, id); ok {
		return f.deployed[i]
	}
	return nil
}

// find returns where in machines, which are sorted, the id is or would be.
func find(machines []*Machine, id string) (int, bool) {
	return slices.BinarySearchFunc(machines, id, func(m *Machine, id string) int {
		return strings.Compare(Lower(m.ID), id)
	})
}

// InRegion returns the deployed machines of a region, sorted by id.
func (f *Fleet) InRegion(code string) []*Machine {
	if i := f.indexed(); i != nil {
		return i.region[code]
	}
	return f.filter(func(m *Machine) bool { return Lower(m.Region) == code })
}

// InGroup returns the deployed machines of a process group, sorted by id.
func (f *Fleet) InGroup(group string) []*Machine {
	if i := f.indexed(); i != nil {
		return i.group[group]
	}
	return f.filter(func(m *Machine) bool { return Lower(m.Group()) == group })
}

// WithKey returns the deployed machines that have the metadata key, sorted by id.
func (f *Fleet) WithKey(key string) []*Machine {
	if i := f.indexed(); i != nil {
		return i.key[key]
	}
	return f.filter(func(m *Machine) bool { return m.has(func(k, _ string) bool { return k == key }) })
}

// WithPair returns the deployed machines that have the metadata pair, sorted by id.
func (f *Fleet) WithPair(key, value string) []*Machine {
	if i := f.indexed(); i != nil {
		return i.pair[Pair{key, value}]
	}
	return f.filter(func(m *Machine) bool {
		return m.has(func(k, v string) bool { return k == key && v == value })
	})
}

// HasValueEnd reports whether a deployed machine has a metadata value under key
// of which end is what follows a dot: "b.c" and "c" of "a.b.c".
func (f *Fleet) HasValueEnd(key, end string) bool {
	if i := f.indexed(); i != nil {
		_, ok := i.ends[Pair{key, end}]
		return ok
	}
	return slices.ContainsFunc(f.deployed, func(m *Machine) bool {
		return m.has(func(k, v string) bool { return k == key && len(v) > len(end)+1 && strings.HasSuffix(v, "."+end) })
	})
}

// has reports whether a metadata pair, in lower case, satisfies want.
func (m *Machine) has(want func(key, value string) bool) bool {
	for _, p := range m.Metadata {
		if want(Lower(p.Key), Lower(p.Value)) {
			return true
		}
	}
	return false
}

func (f *Fleet) filter(want func(*Machine) bool) []*Machine {
	var found []*Machine
	for _, m := range f.deployed {
		if want(m) {
			found = append(found, m)
		}
	}
	return found
}

// indexed returns the fleet's index, nil for a fleet too small to need one.
func (f *Fleet) indexed() *fleetIndex {
	if len(f.deployed) < indexFrom {
		return nil
	}
	f.once.Do(func() {
		i := &fleetIndex{
			region: map[string][]*Machine{}, group: map[string][]*Machine{},
			key: map[string][]*Machine{}, pair: map[Pair][]*Machine{}, ends: map[Pair]struct{}{},
		}
		for _, m := range f.deployed {
			addMachine(i.region, Lower(m.Region), m)
			addMachine(i.group, Lower(m.Group()), m)
			for _, p := range m.Metadata {
				key, value := Lower(p.Key), Lower(p.Value)
				addMachine(i.key, key, m)
				addMachine(i.pair, Pair{key, value}, m)
				for at := 1; at < len(value); at++ { // no label is empty, so nothing ends behind a dot at 0
					if value[at] == '.' {
						i.ends[Pair{key, value[at+1:]}] = struct{}{}
					}
				}
			}
		}
		f.index = i
	})
	return f.index
}

// addMachine appends m under key, once: two metadata keys of one machine may
// differ in case alone.
func addMachine[K comparable](index map[K][]*Machine, key K, m *Machine) {
	if list := index[key]; len(list) == 0 || list[len(list)-1] != m {
		index[key] = append(list, m)
	}
}
