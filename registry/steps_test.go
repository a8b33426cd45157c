package registry

import (
	"fmt"
	"testing"
)

// What a question costs does not grow with its app: once a fleet's indexes are
// there, a look-up, of what exists or not, looks at no machine but those that it
// returns. All others are taken away here, so that whoever walked would fall.
func TestALookUpWalksNoFleet(t *testing.T) {
	for _, n := range []int{indexFrom, 1000, 20_000} {
		var machines []*Machine
		for i := range n {
			machines = append(machines, machine(t, fmt.Sprintf("m%05d", i), at(fmt.Sprintf("fdaa:0:18::%x", i+1)), func(s *MachineSpec) {
				s.Region = []string{"iad", "ams"}[i%2]
				s.Metadata = map[string]string{processGroupKey: "web", "role": fmt.Sprintf("r%d.x", i)}
			}))
		}
		f := newFleet(24, "web", false, machines)
		look := func(have bool) (steps int) {
			region, key, value := "iad", "role", "r0.x"
			if !have {
				region, key, value = "fra", "rule", "r.x"
			}
			b := patient()
			var found []int
			if !have && f.HasValueEnd(key, "x", b) {
				t.Errorf("%d machines: a value of a key that none has", n)
			}
			for _, s := range []Selection{f.InRegion(region, b), f.InGroup(region, b), f.WithKey(key, b), f.WithPair("role", value, b)} {
				found = append(found, len(s.Machines(b)))
			}
			want := []int{n / 2, 0, n, 1}
			if !have {
				want = []int{0, 0, 0, 0}
			}
			if fmt.Sprint(found) != fmt.Sprint(want) || f.HasValueEnd("role", "x", b) == f.HasValueEnd("role", "y", b) {
				t.Errorf("%d machines: found %v, want %v", n, found, want)
			}
			return b.Steps()
		}
		b := patient()
		if f.InRegion("iad", b); b.Steps() != n {
			t.Errorf("the regions of %d machines are found in %d steps", n, b.Steps())
		}
		if f.WithKey("role", b); b.Steps() != n+2*n+2*n { // of each machine, and of its pairs
			t.Errorf("the metadata of %d machines are indexed in %d steps", n, b.Steps()-n)
		}
		if f.WithPair("role", "r1.x", b); b.Steps() != 5*n+n {
			t.Errorf("the values of %d machines are indexed in %d steps", n, b.Steps()-5*n)
		}
		look(true) // makes the other indexes
		for i := range f.deployed {
			f.deployed[i] = nil
		}
		// One for each set of metadata and each machine that has it; a set of its own here.
		if have, none := look(true), look(false); have != n+2 || none != 0 {
			t.Errorf("%d machines: %d steps for what is there, want %d; %d for what is not, want none", n, have, n+2, none)
		}
	}
}

// In an app too small for an index a look-up looks at each machine, and at each value of
// a key that it asks for.
func TestALookUpInASmallFleet(t *testing.T) {
	const n = indexFrom - 1
	f := fleetWith(t, n, map[string]string{"role": "a.b", "x": "y"})
	for what, test := range map[string]struct {
		look  func(b *Budget)
		steps int
	}{
		"region":      {func(b *Budget) { f.InRegion("ams", b) }, n},
		"key":         {func(b *Budget) { f.WithKey("role", b) }, n},
		"no key":      {func(b *Budget) { f.WithKey("rule", b) }, n},
		"pair":        {func(b *Budget) { f.WithPair("role", "c", b) }, 2 * n},
		"end":         {func(b *Budget) { f.HasValueEnd("role", "c", b) }, 2 * n},
		"end, no key": {func(b *Budget) { f.HasValueEnd("rule", "c", b) }, n},
	} {
		b, little, enough := patient(), NewBudget(n-1, nil), NewBudget(2*n, nil)
		if test.look(b); b.Steps() != test.steps {
			t.Errorf("%s: %d steps, want %d", what, b.Steps(), test.steps)
		}
		if test.look(&little); !little.Over() || little.Steps() != 0 {
			t.Errorf("%s: with little time: over %t after %d steps", what, little.Over(), little.Steps())
		}
		if test.look(&enough); enough.Over() {
			t.Errorf("%s: over after %d steps", what, enough.Steps())
		}
	}
}
