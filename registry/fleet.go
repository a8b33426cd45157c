package registry

import (
	"net/netip"
	"slices"
	"sort"
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
	started    int        // how many of deployed are
	all        []*Machine // every machine, sorted by lower-case id
	deployed   []*Machine // those that names speak of; the same array where that is all

	regions lazy[map[string][]*Machine]
	groups  lazy[map[string][]*Machine]
	keys    lazy[map[string]*keyIndex]
	shared  lazy[bool]
}

// indexFrom is the number of machines from which on a fleet is indexed: below
// it a scan is cheaper than the maps and their memory.
const indexFrom = 32

// maxNameable is more than any metadata value that can be asked for has: with
// its key, its app and the rest the whole name must fit into 255 bytes (RFC
// 1035, section 2.3.4). Longer values are in no index, since who writes
// metadata is a tenant, and what answering costs is paid by all.
const maxNameable = 240

// lazy is what the first look-up that needs it works out, for all after it. A
// large fleet's indexes are of this kind, one for each sort of name, so that a
// change costs only what is asked for afterwards.
type lazy[T any] struct {
	once  sync.Once
	value T
}

func (l *lazy[T]) get(work func() T) T {
	l.once.Do(func() { l.value = work() })
	return l.value
}

// keyIndex finds the machines that have one metadata key, by its value.
type keyIndex struct {
	key      string
	machines []*Machine
	values   lazy[map[string][]*Machine]
	ends     lazy[[]string] // the values backwards, sorted: what they end in is what these begin with
}

// named reports whether names speak of the machine.
func (m *Machine) named() bool { return m.Deployed() && !m.Skip }

// with returns the fleet with other machines under some ids (in lower case; nil:
// none any more). A nil fleet has no machines. It looks at those that change and
// copies the others, so that one change of a large fleet is a copy of pointers.
func (f *Fleet) with(network Network, name string, registered bool, changes map[string]*Machine) *Fleet {
	next := &Fleet{name: name, network: network, registered: registered}
	old := f
	if old == nil {
		old = &Fleet{}
	}
	ids := make([]string, 0, len(changes))
	hidden := len(old.all) - len(old.deployed) // machines that no name speaks of
	next.started = old.started
	for id, m := range changes {
		ids = append(ids, id)
		if i, ok := find(old.all, id); ok {
			hidden -= count(!old.all[i].named())
			next.started -= count(old.all[i].named() && old.all[i].Started())
		}
		if m != nil {
			hidden += count(!m.named())
			next.started += count(m.named() && m.Started())
		}
	}
	slices.Sort(ids)
	next.all = splice(old.all, ids, func(id string) *Machine { return changes[id] })
	if next.deployed = next.all; hidden > 0 {
		next.deployed = splice(old.deployed, ids, func(id string) *Machine {
			if m := changes[id]; m != nil && m.named() {
				return m
			}
			return nil
		})
	}
	return next
}

func count(is bool) int {
	if is {
		return 1
	}
	return 0
}

// splice returns machines, which are sorted, with those under ids (sorted)
// replaced by what with has for them; nil removes one.
func splice(machines []*Machine, ids []string, with func(id string) *Machine) []*Machine {
	if len(ids) == 0 {
		return machines
	}
	at, size := make([]int, len(ids)), len(machines)
	for i, id := range ids {
		from := 0
		if i > 0 {
			from = at[i-1]
		}
		j, ok := find(machines[from:], id)
		at[i] = from + j
		size += count(with(id) != nil) - count(ok)
	}
	spliced, from := make([]*Machine, 0, size), 0
	for i, id := range ids {
		spliced = append(spliced, machines[from:at[i]]...)
		if from = at[i]; from < len(machines) && compareFold(machines[from].ID, id) == 0 {
			from++
		}
		if m := with(id); m != nil {
			spliced = append(spliced, m)
		}
	}
	return append(spliced, machines[from:]...)
}

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

// Started returns how many of the deployed machines are started.
func (f *Fleet) Started() int { return f.started }

// Machine returns the deployed machine of that id, nil where there is none.
func (f *Fleet) Machine(id string) *Machine {
	if i, ok := find(f.deployed, id); ok {
		return f.deployed[i]
	}
	return nil
}

// find returns where in machines, which are sorted, the id is or would be.
func find(machines []*Machine, id string) (int, bool) {
	return slices.BinarySearchFunc(machines, id, func(m *Machine, id string) int { return compareFold(m.ID, id) })
}

// InRegion returns the deployed machines of a region, sorted by id.
func (f *Fleet) InRegion(code string) []*Machine {
	of := func(m *Machine) string { return m.Region }
	if len(f.deployed) < indexFrom {
		return f.filter(code, of)
	}
	return f.regions.get(func() map[string][]*Machine { return indexBy(f.deployed, of) })[code]
}

// InGroup returns the deployed machines of a process group, sorted by id.
func (f *Fleet) InGroup(group string) []*Machine {
	if len(f.deployed) < indexFrom {
		return f.filter(group, (*Machine).Group)
	}
	return f.groups.get(func() map[string][]*Machine { return indexBy(f.deployed, (*Machine).Group) })[group]
}

// WithKey returns the deployed machines that have the metadata key, sorted by id.
func (f *Fleet) WithKey(key string) []*Machine { return f.withKey(key).machines }

// WithPair returns the deployed machines that have the metadata pair, sorted by id.
func (f *Fleet) WithPair(key, value string) []*Machine {
	k := f.withKey(key)
	return k.values.get(func() map[string][]*Machine {
		values := make(map[string][]*Machine)
		for _, m := range k.machines {
			m.eachValue(key, func(v string) { addMachine(values, v, m) })
		}
		return values
	})[value]
}

// HasValueEnd reports whether a deployed machine has a metadata value under key
// of which end is what follows a dot: "b.c" and "c" of "a.b.c".
func (f *Fleet) HasValueEnd(key, end string) bool {
	k := f.withKey(key)
	ends := k.ends.get(func() []string {
		var ends []string
		for _, m := range k.machines {
			m.eachValue(key, func(v string) {
				if strings.IndexByte(v, '.') > 0 {
					ends = append(ends, backwards(v))
				}
			})
		}
		slices.Sort(ends)
		return slices.Compact(ends)
	})
	// The first that is greater begins with want, and goes on behind it (no
	// label is empty), if any does.
	want := backwards(end) + "."
	i := sort.Search(len(ends), func(i int) bool { return ends[i] > want })
	return i < len(ends) && strings.HasPrefix(ends[i], want)
}

func backwards(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}

// withKey returns what is known of a metadata key; never nil.
func (f *Fleet) withKey(key string) *keyIndex {
	if len(f.deployed) < indexFrom {
		k := &keyIndex{key: key}
		for _, m := range f.deployed {
			has := false
			for _, p := range m.Metadata {
				has = has || equalFold(p.Key, key)
			}
			if has {
				k.machines = append(k.machines, m)
			}
		}
		return k
	}
	k := f.keys.get(func() map[string]*keyIndex {
		keys := make(map[string]*keyIndex)
		for _, m := range f.deployed {
			for _, p := range m.Metadata {
				if len(p.Key) > maxNameable {
					continue
				}
				lower := Lower(p.Key)
				k := keys[lower]
				if k == nil {
					k = &keyIndex{key: lower}
					keys[lower] = k
				}
				if n := len(k.machines); n == 0 || k.machines[n-1] != m { // two keys may differ in case alone
					k.machines = append(k.machines, m)
				}
			}
		}
		return keys
	})[key]
	if k == nil {
		return &keyIndex{key: key}
	}
	return k
}

// eachValue calls fn with the values, in lower case, that the machine has under
// a key and that can be asked for.
func (m *Machine) eachValue(key string, fn func(value string)) {
	for _, p := range m.Metadata {
		if len(p.Value) <= maxNameable && equalFold(p.Key, key) {
			fn(Lower(p.Value))
		}
	}
}

// equalFold reports whether s is lower, which is in lower case, without regard
// to case.
func equalFold(s, lower string) bool { return len(s) == len(lower) && compareFold(s, lower) == 0 }

// compareFold compares s, its letters A to Z in lower case, with lower.
func compareFold(s, lower string) int {
	n := min(len(s), len(lower))
	for i := 0; i < n; i++ {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return int(c) - int(lower[i])
		}
	}
	return len(s) - len(lower)
}

// SharesAddresses reports whether two deployed machines have one address, as is
// so for a moment while one is renamed.
func (f *Fleet) SharesAddresses() bool {
	return f.shared.get(func() bool {
		seen := make(map[netip.Addr]struct{}, len(f.deployed))
		for _, m := range f.deployed {
			if _, twice := seen[m.Addr]; twice && m.Addr.IsValid() {
				return true
			}
			seen[m.Addr] = struct{}{}
		}
		return false
	})
}

func (f *Fleet) filter(want string, of func(*Machine) string) []*Machine {
	var found []*Machine
	for _, m := range f.deployed {
		if equalFold(of(m), want) {
			found = append(found, m)
		}
	}
	return found
}

// indexBy sorts machines by what of says of them, in lower case.
func indexBy(machines []*Machine, of func(*Machine) string) map[string][]*Machine {
	index := make(map[string][]*Machine)
	for _, m := range machines {
		addMachine(index, Lower(of(m)), m)
	}
	return index
}

// addMachine appends m under key, once: two metadata keys of one machine may
// differ in case alone.
func addMachine(index map[string][]*Machine, key string, m *Machine) {
	if list := index[key]; len(list) == 0 || list[len(list)-1] != m {
		index[key] = append(list, m)
	}
}
