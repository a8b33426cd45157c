package registry

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// randomMachine returns one of few ids, which meet, in some state.
func randomMachine(t testing.TB, rng *rand.Rand, ids int) *Machine {
	pick := func(from ...string) string { return from[rng.IntN(len(from))] }
	return machine(t, pick("m", "M")+fmt.Sprintf("%04d", rng.IntN(ids)), func(s *MachineSpec) {
		s.Region, s.State = pick("iad", "IAD", "ams", ""), pick("started", "stopped", "destroyed")
		s.SkipRegistration = rng.IntN(9) == 0
		if rng.IntN(9) > 0 {
			s.PrivateIP = fmt.Sprintf("fdaa:0:18::%x", 1+rng.IntN(1000))
		}
		s.Metadata = map[string]string{}
		for range rng.IntN(4) {
			s.Metadata[pick("Role", "role", "ROLE", "x", processGroupKey)] = pick("a.b", "A.B", "a.-b", "c", ".b", "x.a.b", "web", strings.Repeat("x", 300))
		}
	})
}

// A fleet that came about by changes is the one that its machines make.
func TestFleetByChangesIsTheFleetOfItsMachines(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 10 {
		var f *Fleet
		have := map[string]*Machine{}
		for step := range 60 {
			changes := map[string]*Machine{}
			for range rng.IntN(12) {
				m := randomMachine(t, rng, 60)
				id := Lower(m.ID)
				if changes[id], have[id] = m, m; rng.IntN(3) == 0 {
					changes[id] = nil
					delete(have, id)
				}
			}
			before := fleetString(f)
			next := f.with(7, "web", step%2 == 0, changes)
			if fleetString(f) != before {
				t.Fatalf("step %d: the fleet before has changed", step)
			}
			f = next
			var all, deployed []*Machine
			started := 0
			for _, m := range have {
				all = append(all, m)
			}
			slices.SortFunc(all, func(a, b *Machine) int { return strings.Compare(Lower(a.ID), Lower(b.ID)) })
			for _, m := range all {
				if m.Deployed() && !m.Skip {
					deployed = append(deployed, m)
					started += count(m.Started())
				}
			}
			if !slices.Equal(f.all, all) || !slices.Equal(f.deployed, deployed) || f.Started() != started {
				t.Fatalf("step %d: %d started of %s of %s\nwant %d of %s of %s", step, f.Started(), ids(f.deployed), ids(f.all), started, ids(deployed), ids(all))
			}
			if same := len(f.all) > 0 && len(all) == len(deployed); same && &f.all[0] != &f.deployed[0] {
				t.Fatalf("step %d: two arrays of the same machines", step)
			}
			if cap(f.all) > len(f.all) || cap(f.deployed) > len(f.deployed) {
				t.Fatalf("step %d: room for %d and %d machines, of %d and %d", step, cap(f.all), cap(f.deployed), len(f.all), len(f.deployed))
			}
			if f.name != "web" || f.network != 7 || f.registered != (step%2 == 0) || (f.index != nil) != (len(deployed) >= indexFrom) {
				t.Fatalf("step %d: %s", step, fleetString(f))
			}
		}
	}
}

// Where no machine is hidden any more there is one array again.
func TestFleetWithoutHiddenMachines(t *testing.T) {
	f := newFleet(1, "web", false, []*Machine{machine(t, "m1", inState("destroyed")), machine(t, "m2"), machine(t, "m3", inState("destroyed"))})
	f = f.with(1, "web", false, map[string]*Machine{"m1": machine(t, "m1"), "m3": nil})
	if ids(f.deployed) != "[m1 m2]" || &f.deployed[0] != &f.all[0] {
		t.Errorf("deployed %s of %s, in two arrays", ids(f.deployed), ids(f.all))
	}
}

// A fleet whose machines do not change keeps them where they are.
func TestFleetWithoutChanges(t *testing.T) {
	f := newFleet(1, "web", false, []*Machine{machine(t, "m1"), machine(t, "m2")})
	if next := f.with(1, "Web", true, nil); &next.all[0] != &f.all[0] || len(next.all) != 2 || next.name != "Web" || !next.registered {
		t.Errorf("%+v, was %+v", next, f)
	}
}

// An app exists that is registered or has a machine with a name.
func TestExists(t *testing.T) {
	hidden := machine(t, "m2", func(s *MachineSpec) { s.SkipRegistration = true })
	for _, test := range []struct {
		registered bool
		machines   []*Machine
		want       bool
	}{
		{false, nil, false}, {true, nil, true}, {false, []*Machine{machine(t, "m1")}, true},
		{false, []*Machine{hidden, machine(t, "m1", inState("destroyed"))}, false}, {true, []*Machine{hidden}, true},
	} {
		if f := newFleet(1, "web", test.registered, test.machines); f.Exists() != test.want {
			t.Errorf("registered %t with %s: exists %t", test.registered, ids(test.machines), f.Exists())
		}
	}
}

// Names are compared as DNS does, whatever bytes they have.
func TestCompareFold(t *testing.T) {
	for c := range 256 {
		for d := range 256 {
			s, lower := string([]byte{byte(c)}), Lower(string([]byte{byte(d)}))
			if got, want := cmp.Compare(compareFold(s, lower), 0), strings.Compare(Lower(s), lower); got != want || equalFold(s, lower) != (want == 0) {
				t.Fatalf("%q and %q: %d, want %d", s, lower, got, want)
			}
		}
	}
	for _, c := range [][2]string{{"", ""}, {"", "a"}, {"A", ""}, {"Ab", "abc"}, {"ABC", "ab"}, {"aB", "ac"}, {"AD", "ac"}} {
		if got, want := cmp.Compare(compareFold(c[0], c[1]), 0), strings.Compare(Lower(c[0]), c[1]); got != want || equalFold(c[0], c[1]) != (want == 0) {
			t.Errorf("%q: %d, want %d", c, got, want)
		}
	}
}

// Small fleets are scanned and large ones indexed: both must find the same, and
// so must a look-up while another one makes a part of the index.
func TestFleetFindsTheSameWithAndWithoutIndex(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range append(slices.Repeat([]int{2 * indexFrom}, 20), 0, 1, indexFrom-1, indexFrom, 200) {
		var machines []*Machine
		for len(machines) < n {
			m := randomMachine(t, rng, 100_000)
			if len(machines) > 0 && rng.IntN(2) == 0 { // as fleetEdit.share does
				m.Metadata = machines[rng.IntN(len(machines))].Metadata
			}
			machines = append(machines, m)
		}
		for _, busy := range []string{"none", "index", "values", "ends"} {
			f := newFleet(1, "web", false, machines)
			if f.index != nil {
				f.index.regions.busy.Store(busy == "index")
				f.index.metadata.busy.Store(busy == "index")
				f.WithKey("role", patient())
				if x := f.index.metadata.value.Load(); x != nil {
					for _, k := range (*x).keys {
						k.values.busy.Store(busy == "values")
						k.ends.busy.Store(busy == "ends")
					}
				}
			}
			checkFleet(t, f)
		}
	}
}

func checkFleet(t *testing.T, f *Fleet) {
	t.Helper()
	b := patient()
	scan := func(want func(*Machine) bool) []*Machine {
		return slices.DeleteFunc(slices.Clone(f.Deployed()), func(m *Machine) bool { return !want(m) })
	}
	has := func(want func(key, value string) bool) func(*Machine) bool {
		return func(m *Machine) bool {
			return slices.ContainsFunc(m.Metadata, func(p Pair) bool { return want(Lower(p.Key), Lower(p.Value)) })
		}
	}
	pair := func(key, value string) []*Machine {
		return scan(has(func(k, v string) bool { return k == key && v == value }))
	}
	for what, test := range map[string]struct {
		got  Selection
		want []*Machine
	}{
		"all":    {f.All(), f.Deployed()},
		"region": {f.InRegion("iad", b), scan(func(m *Machine) bool { return Lower(m.Region) == "iad" })},
		"group":  {f.InGroup("web", b), pair(processGroupKey, "web")},
		"key":    {f.WithKey("role", b), scan(has(func(k, _ string) bool { return k == "role" }))},
		"pair":   {f.WithPair("role", "a.b", b), pair("role", "a.b")},
		"none":   {f.InRegion("fra", b), nil},
		"no key": {f.WithPair("rol", "a.b", b), nil},
		"long":   {f.WithPair("role", strings.Repeat("x", 300), b), nil},
	} {
		if got, want := ids(test.got.Machines(b)), ids(test.want); got != want || test.got.Empty() != (len(test.want) == 0) {
			t.Errorf("%d machines by %s: %s, want %s", len(f.deployed), what, got, want)
		}
	}
	for _, key := range []string{"role", "x", "none"} {
		for _, end := range []string{"b", "c", "a.b", ""} {
			want := len(scan(has(func(k, v string) bool {
				return k == key && len(v) > len(end)+1 && strings.HasSuffix(v, "."+end)
			}))) > 0
			if got := f.HasValueEnd(key, end, b); got != want {
				t.Errorf("%d machines: a value of %s ends in .%s: %t, want %t", len(f.deployed), key, end, got, want)
			}
		}
	}
}

// Nobody who looks something up waits for who makes an index, at a pause or not.
func TestIndexIsMadeByOneAndAwaitedByNone(t *testing.T) {
	var machines []*Machine
	for i := range 3 * pauseEvery {
		machines = append(machines, machine(t, fmt.Sprintf("m%05d", i), func(s *MachineSpec) { s.Metadata = map[string]string{"n": fmt.Sprint(i)} }))
	}
	f := newFleet(1, "web", false, machines)
	lookUp := func(b *Budget) string {
		return ids(f.WithPair("n", "77", b).Machines(b)) + fmt.Sprint(f.HasValueEnd("n", "77", b)) + ids(f.InRegion("ams", b).Machines(b))
	}
	const want = "[m00077]false[]"
	pauses := 0
	b := NewBudget(0, func() {
		if pauses++; pauses > 1 {
			return // the look-ups below pause, too
		}
		if got := lookUp(patient()); got != want {
			t.Errorf("while another makes the index: %s, want %s", got, want)
		}
		if f.index.metadata.value.Load() != nil {
			t.Error("another one makes the index, too")
		}
		inline := NewBudget(100, nil)
		if lookUp(&inline); !inline.Over() || inline.Steps() != 0 {
			t.Errorf("without an index and time: over %t after %d steps", inline.Over(), inline.Steps())
		}
	})
	if got := lookUp(&b); got != want || pauses < 3 {
		t.Errorf("%s after %d pauses, want %s", got, pauses, want)
	}
	inline := NewBudget(100, nil)
	if got := lookUp(&inline); got != want || inline.Over() || inline.Steps() > 10 {
		t.Errorf("with an index: %s in %d steps, want %s", got, inline.Steps(), want)
	}
	var wg sync.WaitGroup
	g := newFleet(1, "web", false, machines)
	inline = NewBudget(100, nil)
	if g.WithKey("n", &inline); !inline.Over() || inline.Steps() != 0 || g.index.metadata.value.Load() != nil {
		t.Errorf("an index that takes too much is begun: over %t after %d steps", inline.Over(), inline.Steps())
	}
	for range 4 {
		wg.Go(func() {
			b := patient()
			if got := g.WithPair("n", "77", b).Machines(b); ids(got) != "[m00077]" {
				t.Errorf("among others: %s", ids(got))
			}
		})
	}
	wg.Wait()
}

// Who has no time to end what it began leaves nothing half done.
func TestIndexIsNotHalfMade(t *testing.T) {
	var machines []*Machine
	for i := range indexFrom {
		machines = append(machines, machine(t, fmt.Sprintf("m%05d", i), func(s *MachineSpec) {
			s.Metadata = map[string]string{}
			for j := range maxPairs {
				s.Metadata[fmt.Sprintf("k%d-%d", i, j)] = "v"
			}
		}))
	}
	f := newFleet(1, "web", false, machines)
	inline := NewBudget(10*indexFrom, nil)
	if f.WithKey("k0-0", &inline); !inline.Over() || f.index.metadata.value.Load() != nil {
		t.Fatalf("%d pairs are indexed in %d steps", indexFrom*maxPairs, inline.Steps())
	}
	b := patient()
	if s := f.WithKey("k3-0", b); ids(s.Machines(b)) != "[m00003]" || f.index.metadata.value.Load() == nil {
		t.Errorf("found %s; indexed %t", ids(s.Machines(b)), f.index.metadata.value.Load() != nil)
	}
}

// What a fleet keeps is bounded by its machines, and goes with it.
func TestFleetKeepsAFewAnswers(t *testing.T) {
	var machines []*Machine
	for i := range indexFrom {
		machines = append(machines, machine(t, fmt.Sprintf("m%05d", i)))
	}
	f := newFleet(1, "web", false, machines)
	for i := range 100 {
		for j := range i {
			if kept := f.Kept(fmt.Sprint(j)); kept != nil && kept != j {
				t.Fatalf("under %d: %v", j, kept)
			}
		}
		f.Keep(fmt.Sprint(i), i, indexFrom)
		if f.Kept(fmt.Sprint(i)) != i {
			t.Fatalf("the last answer of %d is not kept", i+1)
		}
		if n := len(f.index.answers.made); n != i%maxKept+1 {
			t.Fatalf("after %d answers of the fleet's size %d are kept", i+1, n)
		}
	}
	for i := range 10_000 {
		f.Keep(fmt.Sprint("nothing", i), i, 0)
	}
	if n := len(f.index.answers.made); n > maxKept*(indexFrom+1) {
		t.Errorf("%d answers of nothing are kept", n)
	}
	f.Keep("huge", "x", 1<<20)
	if f.Kept("huge") != "x" || len(f.index.answers.made) != 1 {
		t.Error("one that is larger than the bound is not kept alone")
	}
	if next := f.with(1, "web", false, nil); next.Kept("huge") != nil {
		t.Error("the next fleet has the answers of this one")
	}
	small := newFleet(1, "web", false, machines[1:])
	if small.Keep("x", 1, 1); small.Kept("x") != nil {
		t.Error("a small fleet keeps answers")
	}
}
