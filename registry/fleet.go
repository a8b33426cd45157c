package registry

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// Fleet is one app of one network with its machines, as one transaction saw
// them. It is immutable and safe for concurrent use; the slices it returns are
// shared and must not be changed. Arguments are in lower case and match without
// regard to case, as all of DNS does. The result of a method that takes a budget
// is incomplete if the budget is over afterwards.
type Fleet struct {
	name       string
	network    Network
	registered bool       // the source holds the app as an object of its own
	started    int        // how many of deployed are
	all        []*Machine // every machine, sorted by lower-case id
	deployed   []*Machine // those that have names; the same array where that is all
	index      *index     // of deployed; nil for a small fleet
}

// indexFrom is the number of machines from which on a fleet is indexed: below
// it a scan is cheaper than the maps and their memory.
const indexFrom = 32

// index is what questions have computed about a fleet. The first question that
// needs a part makes it, so a change costs only what is asked for afterwards.
type index struct {
	regions  lazy[map[string][]*Machine]
	metadata lazy[*metadataIndex]
	answers  answers
}

// lazy is a part of an index.
type lazy[T any] struct {
	value atomic.Pointer[T]
	busy  atomic.Bool
}

// get returns the value, which work makes at the first call in at least the
// given number of steps. It returns false if the budget is over, or while another
// goroutine makes the value: that one may itself be waiting for this goroutine's
// turn to end. The caller then does without.
func (l *lazy[T]) get(b *Budget, steps int, work func(*Budget) T) (v T, ok bool) {
	if p := l.value.Load(); p != nil {
		return *p, true
	}
	if !b.Need(steps) || !l.busy.CompareAndSwap(false, true) {
		return v, false
	}
	defer l.busy.Store(false)
	if v = work(b); b.Over() {
		return v, false
	}
	l.value.Store(&v)
	return v, true
}

// named reports whether the machine has a name.
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
	ids := slices.Sorted(maps.Keys(changes))
	hidden := len(old.all) - len(old.deployed) // machines without a name
	next.started = old.started
	at := spots(old.all, ids)
	for i, id := range ids {
		if at[i].has {
			was := old.all[at[i].index]
			hidden -= count(!was.named())
			next.started -= count(was.named() && was.Started())
		}
		if m := changes[id]; m != nil {
			hidden += count(!m.named())
			next.started += count(m.named() && m.Started())
		}
	}
	next.all = splice(old.all, at, ids, func(id string) *Machine { return changes[id] })
	if next.deployed = next.all; hidden > 0 {
		next.deployed = splice(old.deployed, spots(old.deployed, ids), ids, func(id string) *Machine {
			if m := changes[id]; m != nil && m.named() {
				return m
			}
			return nil
		})
	}
	if len(next.deployed) >= indexFrom {
		next.index = new(index)
	}
	return next
}

func count(is bool) int {
	if is {
		return 1
	}
	return 0
}

// spot is where an id is, or would be, among machines.
type spot struct {
	index int
	has   bool
}

// spots returns where to find ids in machines; both are sorted.
func spots(machines []*Machine, ids []string) []spot {
	at, from := make([]spot, len(ids)), 0
	for i, id := range ids {
		j, ok := find(machines[from:], id)
		from += j
		at[i] = spot{from, ok}
	}
	return at
}

// splice returns machines, which are sorted, with those under ids (sorted), which are
// at some spots, replaced by what with has for them; nil removes one.
func splice(machines []*Machine, at []spot, ids []string, with func(id string) *Machine) []*Machine {
	if len(ids) == 0 {
		return machines
	}
	size := len(machines)
	for i, id := range ids {
		size += count(with(id) != nil) - count(at[i].has)
	}
	spliced, from := make([]*Machine, 0, size), 0
	for i, id := range ids {
		spliced = append(spliced, machines[from:at[i].index]...)
		if from = at[i].index; at[i].has {
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

// Registered reports whether the source holds the app as an object of its own.
func (f *Fleet) Registered() bool { return f.registered }

// Machines returns every machine that the registry holds of the app, with or
// without a name, sorted by lower-case id.
func (f *Fleet) Machines() []*Machine { return f.all }

// Find returns where in Machines the id is, or would be.
func (f *Fleet) Find(id string) (place int, ok bool) { return find(f.all, id) }

// Exists reports whether the app has a name: it is registered or has a deployed
// machine that is not hidden.
func (f *Fleet) Exists() bool { return f.registered || len(f.deployed) > 0 }

// Deployed returns the machines that have names, sorted by id: deployed and without
// skip_registration, started or not.
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

// Selection is some of a fleet's machines. The zero value has none.
type Selection struct {
	machines []*Machine // sorted by id
	index    *metadataIndex
	classes  []int32 // of index, where machines is nil; none twice
}

// Empty reports whether no machine is selected.
func (s Selection) Empty() bool { return len(s.machines) == 0 && len(s.classes) == 0 }

// Machines returns the selected machines, sorted by id.
func (s Selection) Machines(b *Budget) []*Machine {
	if len(s.classes) == 0 {
		return s.machines
	}
	return s.index.machines(s.classes, b)
}

// All returns all deployed machines.
func (f *Fleet) All() Selection { return Selection{machines: f.deployed} }

// InRegion returns the deployed machines of a region.
func (f *Fleet) InRegion(code string, b *Budget) Selection {
	if f.index != nil {
		if regions, ok := f.index.regions.get(b, len(f.deployed), f.byRegion); ok {
			return Selection{machines: regions[code]}
		}
	}
	return f.scan(b, func(m *Machine) bool { return equalFold(m.Region, code) })
}

// byRegion sorts the deployed machines by region, in lower case.
func (f *Fleet) byRegion(b *Budget) map[string][]*Machine {
	regions := make(map[string][]*Machine)
	for _, m := range f.deployed {
		if !b.Step(1) {
			break
		}
		code := Lower(m.Region)
		regions[code] = append(regions[code], m)
	}
	return regions
}

// InGroup returns the deployed machines of a process group.
func (f *Fleet) InGroup(group string, b *Budget) Selection {
	return f.WithPair(processGroupKey, group, b)
}

// WithKey returns the deployed machines that have the metadata key.
func (f *Fleet) WithKey(key string, b *Budget) Selection {
	if k, ok := f.metadataKey(key, b); ok {
		return k.all()
	}
	return f.scan(b, func(m *Machine) bool { return len(m.pairs(key)) > 0 })
}

// WithPair returns the deployed machines that have the metadata pair.
func (f *Fleet) WithPair(key, value string, b *Budget) Selection {
	if k, ok := f.metadataKey(key, b); ok {
		if s, ok := k.with(value, b); ok {
			return s
		}
	}
	return f.scan(b, func(m *Machine) bool {
		for _, p := range m.pairs(key) {
			if b.Step(1) && len(p.Value) <= maxNameable && equalFold(p.Value, value) {
				return true
			}
		}
		return false
	})
}

// HasValueEnd reports whether a deployed machine has a metadata value under key
// of which end is what follows a dot: "b.c" and "c" of "a.b.c".
func (f *Fleet) HasValueEnd(key, end string, b *Budget) bool {
	if k, ok := f.metadataKey(key, b); ok {
		if has, ok := k.hasEnd(end, b); ok {
			return has
		}
	}
	return !f.scan(b, func(m *Machine) bool {
		for _, p := range m.pairs(key) {
			if b.Step(1) && endsIn(p.Value, end) {
				return true
			}
		}
		return false
	}).Empty()
}

// metadataKey returns the index of a metadata key, nil if no machine has it, and
// false if the caller has to scan.
func (f *Fleet) metadataKey(key string, b *Budget) (*metadataKey, bool) {
	if f.index == nil {
		return nil, false
	}
	index, ok := f.index.metadata.get(b, 2*len(f.deployed), func(b *Budget) *metadataIndex { return indexMetadata(f.deployed, b) })
	if !ok {
		return nil, false
	}
	return index.keys[key], true
}

func (f *Fleet) scan(b *Budget, wanted func(*Machine) bool) Selection {
	var found []*Machine
	if !b.Need(len(f.deployed)) {
		return Selection{}
	}
	for i, m := range f.deployed {
		if !b.Step(1) {
			break
		}
		if !wanted(m) {
			continue
		}
		if found == nil {
			found = make([]*Machine, 0, len(f.deployed)-i)
		}
		found = append(found, m)
	}
	return Selection{machines: found}
}

// answers are results for a fleet that are expensive to compute again.
type answers struct {
	mu   sync.Mutex // held for a look into the map, no longer
	made map[string]any
	size int
}

// maxKept is how many entries of answers a fleet keeps for each of its machines:
// enough for some of its names, asked from one region, as on one host.
const maxKept = 4

// Keeps reports whether the fleet is large enough to keep anything.
func (f *Fleet) Keeps() bool { return f.index != nil }

// Kept returns what was kept under key, nil where there is nothing.
func (f *Fleet) Kept(key string) any {
	if f.index == nil {
		return nil
	}
	a := &f.index.answers
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.made[key]
}

// Keep keeps made, which depends on the fleet and key alone and must not change;
// size is how many entries it has. Beyond maxKept for each machine everything older
// is dropped, and a small fleet keeps nothing.
func (f *Fleet) Keep(key string, made any, size int) {
	if f.index == nil {
		return
	}
	a := &f.index.answers
	size++ // its place in the map
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.size += size; a.made == nil || a.size > maxKept*(len(f.deployed)+1) {
		a.made, a.size = make(map[string]any), size
	}
	a.made[key] = made
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
