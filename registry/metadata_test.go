package registry

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// A tenant writes its metadata; what answering from them costs all pay.
func TestLongMetadataCostNothing(t *testing.T) {
	value := strings.Repeat("a.", 20_000)
	var machines []*Machine
	for i := range indexFrom {
		machines = append(machines, machine(t, fmt.Sprintf("m%04d", i), func(s *MachineSpec) { s.Metadata = map[string]string{"k": value} }))
	}
	f, b := newFleet(24, "web", false, machines), patient()
	if allocs := testing.AllocsPerRun(1, func() { f.HasValueEnd("k", "a", b); f.WithPair("k", "a", b) }); allocs > 10 || f.HasValueEnd("k", "a", b) {
		t.Errorf("%v allocations for values that nobody can ask for", allocs)
	}
	if len(f.WithKey("k", b).Machines(b)) != indexFrom {
		t.Error("their key can be asked for")
	}
}

// The index of machines that share their metadata takes a few bytes for each,
// however many pairs those are.
func TestMetadataIndexIsNoLargerThanTheMetadata(t *testing.T) {
	pairs := map[string]string{}
	for i := range maxPairs {
		pairs[fmt.Sprint("key-", i)] = fmt.Sprint(i)
	}
	first := machine(t, "first", func(s *MachineSpec) { s.Metadata = pairs })
	var machines []*Machine
	for i := range 1000 {
		m := *first
		m.ID = fmt.Sprintf("m%04d", i)
		machines = append(machines, &m)
	}
	b := patient()
	x := indexMetadata(machines, b)
	if len(x.keys) != maxPairs || len(x.members) != 1000 || len(x.begin) != 2 || b.Steps() != 2*1000+maxPairs {
		t.Errorf("%d keys, %d places in %d classes, made in %d steps", len(x.keys), len(x.members), len(x.begin)-1, b.Steps())
	}
	for _, k := range x.keys {
		if len(k.classes) != 1 {
			t.Fatalf("key %s: %d classes", k.name, len(k.classes))
		}
	}
}

func TestMetadataBeyondTheBound(t *testing.T) {
	many := func(n, size int, more ...string) map[string]string {
		pairs := map[string]string{}
		for i := range n {
			pairs[fmt.Sprintf("k%05d", i)] = strings.Repeat("v", size-6)
		}
		for _, key := range more {
			pairs[key] = "web"
		}
		return pairs
	}
	for _, test := range []struct {
		name          string
		pairs         map[string]string
		kept, omitted int
		last          string // key of the last that is kept
	}{
		{"none", nil, 0, 0, ""},
		{"as many as may be", many(maxPairs, 10), maxPairs, 0, "k00255"},
		{"one more", many(maxPairs+1, 10), maxPairs, 1, "k00255"},
		{"a hundred times as many", many(100*maxPairs, 10), maxPairs, 99 * maxPairs, "k00255"},
		{"with a process group behind them", many(maxPairs, 10, "zzz"), maxPairs, 1, "k00255"},
		{"with a process group", many(maxPairs+7, 10, processGroupKey), maxPairs, 8, "k00254"},
		{"with a process group in the middle", many(maxPairs+7, 10, "a", processGroupKey), maxPairs, 9, "k00253"},
		{"as large as may be", many(64, 1024), 64, 0, "k00063"},
		{"one byte more", many(64, 1024, "x"), 64, 1, "k00063"},
		{"large, with a process group", many(64, 1024, processGroupKey), 64, 1, "k00062"},
		{"one too large of itself", map[string]string{"a": strings.Repeat("v", maxMetadata), "B": "1", "c": "2"}, 2, 1, "c"},
	} {
		m := machine(t, "m1", func(s *MachineSpec) { s.Metadata = test.pairs })
		last := ""
		if n := len(m.Metadata); n > 0 {
			last = m.Metadata[n-1].Key
		}
		if !slices.IsSortedFunc(m.Metadata, comparePairs) {
			t.Errorf("%s: not sorted", test.name)
		}
		if len(m.Metadata) != test.kept || last != test.last {
			t.Errorf("%s: %d pairs up to %q, want %d up to %q", test.name, len(m.Metadata), last, test.kept, test.last)
		}
		if _, had := test.pairs[processGroupKey]; had != (len(m.pairs(processGroupKey)) == 1) {
			t.Errorf("%s: the process group is lost", test.name)
		}
		want := "<nil>"
		if test.omitted > 0 {
			want = fmt.Sprintf("%d of its metadata pairs are left out: a machine has at most 256, and 64 KiB of them", test.omitted)
		}
		if got := fmt.Sprint(Put(m).Note); got != want {
			t.Errorf("%s: noted %s, want %s", test.name, got, want)
		}
		if again := machine(t, "m1", func(s *MachineSpec) { s.Metadata = test.pairs }); !again.equal(m) {
			t.Errorf("%s: two readings differ", test.name)
		}
	}
}

func TestPairsOfAKey(t *testing.T) {
	for _, more := range []int{0, 100} {
		testPairsOfAKey(t, more)
	}
}

func testPairsOfAKey(t *testing.T, more int) {
	m := machine(t, "m1", func(s *MachineSpec) {
		s.Metadata = map[string]string{"b": "1", "B": "2", "a": "3", "ab": "4", "Bb": "5", "_": "6", "": "7"}
		for i := range more {
			s.Metadata[fmt.Sprint("bbb", i)] = "8"
		}
	})
	for key, want := range map[string]string{
		"b": "[{B 2} {b 1}]", "a": "[{a 3}]", "ab": "[{ab 4}]", "bb": "[{Bb 5}]", "_": "[{_ 6}]", "": "[{ 7}]", "c": "[]", "aa": "[]", "bbb": "[]",
	} {
		if got := fmt.Sprint(m.pairs(key)); got != want {
			t.Errorf("under %q, with %d others: %s, want %s", key, more, got, want)
		}
	}
}

func fleetWith(t *testing.T, n int, metadata map[string]string) *Fleet {
	var machines []*Machine
	for i := range n {
		machines = append(machines, machine(t, fmt.Sprintf("m%04d", i), func(s *MachineSpec) { s.Metadata = metadata }))
	}
	return newFleet(1, "web", false, machines)
}

func TestValueEnds(t *testing.T) {
	long := strings.Repeat("x", maxNameable-1)
	for _, test := range []struct {
		value string
		ends  string // of those below, which it has
	}{
		{"", "[]"}, {"b", "[]"}, {".b", "[]"}, {"a.b", "[b]"}, {"A.B", "[b]"}, {"ab", "[]"}, {"x.a.b", "[b a.b]"}, {".a.b", "[b]"},
		{"a.", "[]"}, {"a.b.", "[]"}, {"xa.b", "[b]"}, {long + ".b", "[]"}, {long[2:] + ".b", "[b]"},
	} {
		for _, n := range []int{1, indexFrom} {
			f, b := fleetWith(t, n, map[string]string{"k": test.value}), patient()
			var have []string
			for _, end := range []string{"b", "a.b"} {
				if f.HasValueEnd("k", end, b) {
					have = append(have, end)
				}
			}
			if got := fmt.Sprint(have); got != test.ends {
				t.Errorf("%q in %d machines has %s, want %s", test.value, n, got, test.ends)
			}
		}
	}
}

// The longest value that can be asked for is found, and what is longer hides no other.
func TestTheLongestValue(t *testing.T) {
	longest := strings.Repeat("x", maxNameable-2) + ".b"
	for _, n := range []int{1, indexFrom} {
		f, b := fleetWith(t, n, map[string]string{"k": longest, "L": longest + "b", "l": "c.d"}), patient()
		if len(f.WithPair("k", longest, b).Machines(b)) != n || !f.HasValueEnd("k", "b", b) {
			t.Errorf("%d machines: a value of %d bytes is not found", n, maxNameable)
		}
		if len(f.WithPair("l", longest+"b", b).Machines(b)) != 0 || f.HasValueEnd("l", "bb", b) {
			t.Errorf("%d machines: a value of %d bytes is found", n, maxNameable+1)
		}
		if len(f.WithPair("l", "c.d", b).Machines(b)) != n || !f.HasValueEnd("l", "d", b) {
			t.Errorf("%d machines: a value is hidden by one that is too long", n)
		}
	}
}

// Among many values the one with an end is found, and none where there is none.
func TestValueEndsAmongMany(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	word := func(most int) string {
		b := make([]byte, rng.IntN(most+1))
		for i := range b {
			b[i] = "ab."[rng.IntN(3)]
		}
		return string(b)
	}
	for range 300 {
		var machines []*Machine
		for i := range indexFrom {
			value := word(6)
			machines = append(machines, machine(t, fmt.Sprintf("m%04d", i), func(s *MachineSpec) { s.Metadata = map[string]string{"k": value} }))
		}
		f, b := newFleet(1, "web", false, machines), patient()
		for range 10 {
			end := word(4)
			want := slices.ContainsFunc(machines, func(m *Machine) bool { return endsIn(m.Metadata[0].Value, end) })
			if got := f.HasValueEnd("k", end, b); got != want {
				t.Fatalf("one of the values ends in .%s: %t, want %t", end, got, want)
			}
		}
	}
}

// Two keys or values that differ in case alone are one, and count a machine once.
func TestIndexOfKeysThatDifferInCase(t *testing.T) {
	both := fleetWith(t, indexFrom, map[string]string{"Role": "DB", "role": "db"}).all
	none := fleetWith(t, 2*indexFrom, nil).all[indexFrom:]
	f, b := newFleet(1, "web", false, append(slices.Clone(both), none...)), patient()
	for _, s := range []Selection{f.WithKey("role", b), f.WithPair("role", "db", b)} {
		if n := len(s.Machines(b)); n != indexFrom {
			t.Errorf("%d machines, want %d", n, indexFrom)
		}
	}
}

// To sort values is dear: who has little time does not begin it.
func TestValueEndsAreNotSortedInline(t *testing.T) {
	var machines []*Machine
	for i := range 300 {
		machines = append(machines, machine(t, fmt.Sprintf("m%04d", i), func(s *MachineSpec) { s.Metadata = map[string]string{"k": fmt.Sprint("v.", i)} }))
	}
	f, b := newFleet(1, "web", false, machines), patient()
	f.WithPair("k", "v.7", b)
	inline := NewBudget(2000, nil)
	if f.HasValueEnd("k", "7", &inline); !inline.Over() || inline.Steps() > 0 {
		t.Errorf("over %t after %d steps", inline.Over(), inline.Steps())
	}
	before := b.Steps()
	if !f.HasValueEnd("k", "7", b) || b.Steps()-before < 3*300 {
		t.Errorf("sorted in %d steps", b.Steps()-before)
	}
}
