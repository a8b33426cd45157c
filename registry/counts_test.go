package registry

import (
	"math/rand/v2"
	"testing"
)

func TestClassOf(t *testing.T) {
	skip := func(s *MachineSpec) { s.SkipRegistration = true }
	a := at("fdaa:0:18::1")
	for _, c := range []struct {
		o    Object
		want Class
	}{
		{machine(t, "m", a), StartedMachines}, {machine(t, "m", a, skip), OtherMachines}, {machine(t, "m", a, inState("stopped")), OtherMachines},
		{machine(t, "m", a, inState("stopped"), skip), OtherMachines}, {machine(t, "m", a, inState("destroyed")), Unseen},
		{&Peer{Name: "p"}, Peers}, {&Peer{Name: "interactive-x"}, Unseen}, {&Address{App: "a"}, Addresses}, {&App{Name: "a"}, Apps},
	} {
		if got := ClassOf(c.o); got != c.want {
			t.Errorf("%+v: class %d, want %d", c.o, got, c.want)
		}
	}
}

// Whatever happened, the counts of a network are those of what is there; and a
// change that counts nothing writes none.
func TestCountsAreOfWhatIsThere(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 9))
	r := New()
	nets := []Network{network(t, "fdaa:0:18::/48"), network(t, "fdaa:0:99::/48")}
	apps := []string{"a", "b", "interactive-x"}
	row := func(v *Snapshot, n Network) any {
		row, err := v.txn.First(tableNetworks, indexID, networkKey(n))
		must(err)
		return row
	}
	same, changed := 0, 0
	for step := range 5000 {
		before := r.Snapshot()
		r.Apply(randomItems(t, rng, nets, apps))
		v := r.Snapshot()
		var kinds [4]int
		var sizes [Classes + 1]int
		for _, kind := range Kinds() {
			v.Each(kind, func(o Object) bool { kinds[kind]++; sizes[ClassOf(o)]++; return true })
			if r.Count(kind) != kinds[kind] {
				t.Fatalf("step %d: %d of kind %s are counted, want %d", step, r.Count(kind), kind, kinds[kind])
			}
		}
		for class := range Class(Classes) {
			if r.Size(class) != sizes[class] {
				t.Fatalf("step %d: %d %s are counted, want %d", step, r.Size(class), class.Plural(), sizes[class])
			}
		}
		for _, n := range nets {
			want := Counts{network: n}
			for _, f := range rowsOf(v.Fleets(n)) {
				want.Machines += len(f.Deployed())
				want.Apps += count(f.Exists())
			}
			for _, p := range rowsOf(v.Peers(n)) {
				want.Peers += count(!p.Interactive())
			}
			if got := v.Counts(n); got != want {
				t.Fatalf("step %d: %+v, want %+v", step, got, want)
			}
			if (row(v, n) == nil) != (want == Counts{network: n}) {
				t.Fatalf("step %d: a row of nothing, or none of %+v", step, want)
			}
			if before.Counts(n) == want {
				if same++; row(before, n) != row(v, n) {
					t.Fatalf("step %d: the counts are written anew and are what they were", step)
				}
			} else {
				changed++
			}
		}
	}
	if same < 1000 || changed < 1000 {
		t.Errorf("only %d steps changed no count, and %d one", same, changed)
	}
}
