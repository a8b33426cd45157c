package registry

import (
	"fmt"
	"slices"
	"strings"
)

// Pair is one metadata entry of a machine.
type Pair struct{ Key, Value string }

// processGroupKey is the metadata key that holds a machine's process group
// (Machines API, config.metadata).
const processGroupKey = "fly_process_group"

// What a machine may have of metadata. The Machines API documents no bound, and
// who writes metadata is a tenant, while what they take and what it costs to
// look through them is paid by all. Machines have some five pairs.
const (
	maxPairs    = 256
	maxMetadata = 64 << 10 // bytes of keys and values
)

// newMetadata returns pairs in the order in which Machine holds them, and how
// many are left out because they are too many or too large: the last in that
// order, but never the process group for another's sake.
func newMetadata(pairs map[string]string) (sorted []Pair, omitted int) {
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
	return sorted, len(pairs) - len(sorted)
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

// Group returns the machine's process group, empty when it has none.
func (m *Machine) Group() string {
	for _, p := range m.Metadata {
		if p.Key == processGroupKey {
			return p.Value
		}
	}
	return ""
}
