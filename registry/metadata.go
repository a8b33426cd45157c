package registry

import (
	"fmt"
	"math/bits"
	"slices"
	"sort"
	"strings"
)

// Pair is one metadata entry of a machine.
type Pair struct{ Key, Value string }

// processGroupKey is the metadata key that holds a machine's process group
// (Machines API, config.metadata).
const processGroupKey = "fly_process_group"

// The bounds of a machine's metadata. The Machines API documents none. Tenants
// write metadata, and all tenants share what they cost in memory and time. Machines
// have some five pairs.
const (
	maxPairs    = 256
	maxMetadata = 64 << 10 // bytes of keys and values
)

// maxNameable is the length of the longest metadata value that is looked at. None
// longer can be asked for: with its key, its app and the rest the whole name must
// fit into 255 bytes (RFC 1035, section 2.3.4).
const maxNameable = 240

// newMetadata returns pairs in the order in which Machine holds them, and how
// many are left out because they are too many or too large: the last in that
// order, but the process group only if it is itself too large.
func newMetadata(pairs map[string]string) (sorted []Pair, omitted int32) {
	if len(pairs) == 0 {
		return nil, 0
	}
	sorted, size := make([]Pair, 0, len(pairs)), 0
	for k, v := range pairs {
		sorted = append(sorted, Pair{k, v})
		size += len(k) + len(v)
	}
	slices.SortFunc(sorted, comparePairs)
	if len(sorted) > maxPairs || size > maxMetadata {
		sorted = cut(sorted)
	}
	for i, p := range sorted {
		sorted[i] = Pair{intern(p.Key), intern(p.Value)}
	}
	return sorted, int32(len(pairs) - len(sorted))
}

// cut returns those of the pairs that a machine may have.
func cut(pairs []Pair) []Pair {
	var kept []Pair
	size := 0
	for _, group := range []bool{true, false} {
		for _, p := range pairs {
			if n := len(p.Key) + len(p.Value); (p.Key == processGroupKey) == group && len(kept) < maxPairs && size+n <= maxMetadata {
				kept, size = append(kept, p), size+n
			}
		}
	}
	slices.SortFunc(kept, comparePairs)
	return slices.Clip(kept)
}

// comparePairs puts keys that differ in case alone side by side.
func comparePairs(a, b Pair) int {
	if c := compareFold(a.Key, Lower(b.Key)); c != 0 {
		return c
	}
	return strings.Compare(a.Key, b.Key)
}

// omission says that some of a machine's metadata are not used.
func omission(pairs int32) error {
	return fmt.Errorf("%d of its metadata pairs are left out: a machine has at most %d, and %d KiB of them", pairs, maxPairs, maxMetadata>>10)
}

// pairs returns the machine's metadata under a key: mostly one pair, more where
// keys differ in case alone.
func (m *Machine) pairs(key string) []Pair {
	const few = 8 // a scan, which compares lengths first, is cheaper than a search among so many
	from := 0
	if len(m.Metadata) > few {
		from, _ = slices.BinarySearchFunc(m.Metadata, key, func(p Pair, key string) int { return compareFold(p.Key, key) })
	} else {
		for from < len(m.Metadata) && !equalFold(m.Metadata[from].Key, key) {
			from++
		}
	}
	to := from
	for to < len(m.Metadata) && equalFold(m.Metadata[to].Key, key) {
		to++
	}
	return m.Metadata[from:to]
}

// metadataIndex finds machines by their metadata. Machines that share their
// metadata (see fleetEdit.share) are a class and are indexed once, so the index
// takes no more memory than the metadata.
type metadataIndex struct {
	fleet   []*Machine
	members []int32 // machines, as places in fleet, class by class
	begin   []int32 // where in members each class begins, and the end of the last
	keys    map[string]*metadataKey
}

// metadataKey is the index of one key. Nil: no machine has it.
type metadataKey struct {
	index   *metadataIndex
	name    string                   // in lower case
	classes []int32                  // those that have the key
	values  lazy[map[string][]int32] // classes by value, in lower case
	ends    lazy[[]string]           // values with a dot, sorted by compareEnds
}

// indexMetadata takes two steps for each machine and one for each pair of each class.
func indexMetadata(fleet []*Machine, b *Budget) *metadataIndex {
	x := &metadataIndex{fleet: fleet, keys: map[string]*metadataKey{}}
	classes := map[*Pair]int32{} // by where their metadata are
	class := make([]int32, len(fleet))
	var last []Pair         // of the last new class
	var keys []*metadataKey // of each of last
	for i, m := range fleet {
		if !b.Step(1) {
			return nil
		}
		if len(m.Metadata) == 0 {
			class[i] = -1
			continue
		}
		id, ok := classes[&m.Metadata[0]]
		if !ok {
			id = int32(len(classes))
			classes[&m.Metadata[0]] = id
			keys = x.add(id, m.Metadata, last, keys, b)
			last = m.Metadata
		}
		class[i] = id
	}
	x.begin = make([]int32, len(classes)+1)
	for _, id := range class {
		if id >= 0 {
			x.begin[id+1]++
		}
	}
	for i := range len(classes) {
		x.begin[i+1] += x.begin[i]
	}
	x.members = make([]int32, x.begin[len(classes)])
	next := slices.Clone(x.begin)
	for i, id := range class {
		if !b.Step(1) {
			return nil
		}
		if id >= 0 {
			x.members[next[id]] = int32(i)
			next[id]++
		}
	}
	return x
}

// add adds a class to the index and returns the index's keys of its pairs. Most
// classes have the keys of the last one at the same places; keys are those.
func (x *metadataIndex) add(class int32, pairs, last []Pair, keys []*metadataKey, b *Budget) []*metadataKey {
	for i, p := range pairs {
		if !b.Step(1) {
			break
		}
		if i == len(keys) {
			keys = append(keys, nil)
		}
		if i >= len(last) || last[i].Key != p.Key {
			keys[i] = x.key(p.Key)
		}
		k := keys[i]
		if n := len(k.classes); n == 0 || k.classes[n-1] != class { // not yet by the same key in other letters
			k.classes = append(k.classes, class)
		}
	}
	return keys
}

// key returns the index's key for a pair's.
func (x *metadataIndex) key(key string) *metadataKey {
	name := Lower(key)
	k := x.keys[name]
	if k == nil {
		k = &metadataKey{index: x, name: name}
		x.keys[name] = k
	}
	return k
}

// machines returns the machines of classes, sorted by id.
func (x *metadataIndex) machines(classes []int32, b *Budget) []*Machine {
	n := 0
	if !b.Need(len(classes)) {
		return nil
	}
	for _, c := range classes {
		b.Step(1)
		n += int(x.begin[c+1] - x.begin[c])
	}
	if n == len(x.fleet) {
		return x.fleet
	}
	if !b.Need(n) {
		return nil
	}
	in := make([]uint64, (len(x.fleet)+63)/64) // a bit for each place in fleet: cheaper than to sort them
	for _, c := range classes {
		for _, i := range x.members[x.begin[c]:x.begin[c+1]] {
			b.Step(1)
			in[i/64] |= 1 << (i % 64)
		}
	}
	machines := make([]*Machine, 0, n)
	for i, word := range in {
		for ; word != 0; word &= word - 1 {
			machines = append(machines, x.fleet[64*i+bits.TrailingZeros64(word)])
		}
	}
	return machines
}

func (k *metadataKey) all() Selection {
	if k == nil {
		return Selection{}
	}
	return Selection{index: k.index, classes: k.classes}
}

// with returns the machines that have a value of the key, and false if the caller
// has to scan.
func (k *metadataKey) with(value string, b *Budget) (Selection, bool) {
	if k == nil {
		return Selection{}, true
	}
	values, ok := k.values.get(b, len(k.classes), k.byValue)
	return Selection{index: k.index, classes: values[value]}, ok
}

func (k *metadataKey) byValue(b *Budget) map[string][]int32 {
	values := make(map[string][]int32)
	for _, c := range k.classes {
		for _, p := range k.index.fleet[k.index.members[k.index.begin[c]]].pairs(k.name) {
			if !b.Step(1) {
				return nil
			}
			if len(p.Value) > maxNameable {
				continue
			}
			v := Lower(p.Value)
			if list := values[v]; len(list) == 0 || list[len(list)-1] != c {
				values[v] = append(list, c)
			}
		}
	}
	return values
}

// hasEnd is Fleet.HasValueEnd for the key. ok is false if the caller has to scan.
func (k *metadataKey) hasEnd(end string, b *Budget) (has, ok bool) {
	if k == nil {
		return false, true
	}
	values, ok := k.values.get(b, len(k.classes), k.byValue)
	if !ok {
		return false, false
	}
	const compares = 10 // for each value, to sort a thousand
	ends, ok := k.ends.get(b, compares*len(values), func(b *Budget) []string { return withDots(values, b) })
	// The first that is greater ends in want, with something before it, if any does.
	want := "." + end
	i := sort.Search(len(ends), func(i int) bool { return compareEnds(ends[i], want) > 0 })
	return i < len(ends) && strings.HasSuffix(ends[i], want), ok
}

// withDots returns the values that have a dot, sorted by what they end in.
func withDots(values map[string][]int32, b *Budget) []string {
	var ends []string
	for v := range values {
		if !b.Step(1) {
			return nil
		}
		if strings.IndexByte(v, '.') >= 0 {
			ends = append(ends, v)
		}
	}
	slices.SortFunc(ends, func(v, w string) int {
		b.Step(1)
		return compareEnds(v, w)
	})
	return ends
}

// compareEnds compares two strings from their last byte to their first.
func compareEnds(s, t string) int {
	for i, j := len(s)-1, len(t)-1; i >= 0 && j >= 0; i, j = i-1, j-1 {
		if s[i] != t[j] {
			return int(s[i]) - int(t[j])
		}
	}
	return len(s) - len(t)
}

// endsIn reports whether end, in lower case, is what follows a dot of value that
// is not its first byte, without regard to case.
func endsIn(value, end string) bool {
	dot := len(value) - len(end) - 1
	return dot > 0 && value[dot] == '.' && len(value) <= maxNameable && equalFold(value[dot+1:], end)
}
