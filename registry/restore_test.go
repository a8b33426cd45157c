package registry

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"testing"
)

// What has changed between two snapshots makes the one of the other, and holds nothing
// that has not changed.
func TestSince(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	nets := []Network{network(t, "fdaa:0:18::/48"), network(t, "fdaa:0:99::/48")}
	r, copied := New(), New()
	var old *Snapshot
	for step := range 1500 {
		var items []Item
		for range rng.IntN(4) {
			items = append(items, randomItems(t, rng, nets, []string{"a", "ab", "web"})...)
		}
		before := objects(r)
		r.Apply(items)
		now := r.Snapshot()
		var changes []Item
		seen := map[Key]bool{}
		now.Since(old, func(c FleetChange) bool {
			app := &App{Name: c.Name, Network: c.Network}
			if seen[app.Key()] {
				t.Fatalf("step %d: %s is there twice", step, c.Name)
			}
			seen[app.Key()] = true
			if changes = append(changes, Delete(app.Key())); c.Registered {
				changes[len(changes)-1] = Put(app)
			}
			for _, m := range c.Put {
				changes = append(changes, Put(m))
				if before[m.Key()] == fmt.Sprintf("%+v", m) && old != nil {
					was, _ := old.Fleet(c.Network, Lower(c.Name))
					if i, ok := was.Find(Lower(m.ID)); ok && was.all[i] == m {
						t.Fatalf("step %d: %s has not changed", step, m.ID)
					}
				}
			}
			for _, id := range c.Gone {
				changes = append(changes, Delete(Key{Kind: KindMachine, Network: c.Network, Name: Lower(c.Name), ID: id}))
			}
			return true
		}, func(i Item) bool { changes = append(changes, i); return true })
		copied.Apply(changes)
		if got, want := objects(copied), objects(r); !maps.Equal(got, want) {
			t.Fatalf("step %d: %d objects, want %d", step, len(got), len(want))
		}
		now.Since(now, func(c FleetChange) bool { t.Errorf("%s has not changed", c.Name); return true },
			func(i Item) bool { t.Errorf("%s has not changed", i.About()); return true })
		old = now
	}
	// It ends when it is told to.
	fleets, others := 0, 0
	r.Apply([]Item{Put(&App{Name: "one", Network: 1}), Put(&App{Name: "two", Network: 1}), Put(&Peer{Name: "p", Network: 1, Addr: testAddr(1, 1)}), Put(&Peer{Name: "q", Network: 1, Addr: testAddr(1, 2)}),
		Put(&Address{App: "one", Network: 1, Addr: testAddr(1, 3)})})
	v := r.Snapshot()
	v.Since(nil, func(FleetChange) bool { fleets++; return false }, func(Item) bool { others++; return false })
	v.Since(nil, func(FleetChange) bool { return true }, func(Item) bool { others++; return false })
	if fleets != 1 || others != 1 {
		t.Errorf("%d fleets and %d others, want one of each", fleets, others)
	}
}

// A fleet is made of machines of its own, in order.
func TestNewFleet(t *testing.T) {
	m := func(id string, edits ...func(*MachineSpec)) *Machine { return machine(t, id, edits...) }
	other := *m("c")
	other.Network = 7
	for _, c := range []struct {
		name     string
		machines []*Machine
		says     string
	}{
		{"web", nil, ""},
		{"WEB", []*Machine{m("a"), m("B", inApp("Web")), m("c")}, ""},
		{"web", []*Machine{m("b"), m("A")}, "machine A is out of order"},
		{"web", []*Machine{m("a"), m("A")}, "machine A is out of order"},
		{"web", []*Machine{m("a"), m("b", inApp("web2"))}, "machine b belongs to another app"},
		{"web", []*Machine{&other}, "machine c belongs to another app"},
		{"w.b", nil, "name"},
	} {
		f, err := NewFleet(24, c.name, true, c.machines)
		if c.says == "" && (err != nil || len(f.Machines()) != len(c.machines) || f.Name() != c.name || f.Network() != 24 || !f.Registered()) {
			t.Errorf("%s of %s: %v", c.name, ids(c.machines), err)
		}
		if c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s of %s: %v, want %q", c.name, ids(c.machines), err, c.says)
		}
	}
	var many []*Machine
	for i := range indexFrom {
		many = append(many, m(fmt.Sprintf("m%02d", i)))
	}
	for n := indexFrom - 1; n <= indexFrom; n++ {
		if f, err := NewFleet(24, "web", true, many[:n]); err != nil || f.Keeps() != (n == indexFrom) {
			t.Errorf("%d machines have an index: %t, %v", n, f.Keeps(), err)
		}
	}
}

// A fleet that was made at once is the one that came about by changes.
func TestNewFleetIsTheFleetOfItsMachines(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	for range 200 {
		changes := map[string]*Machine{}
		for range rng.IntN(80) {
			m := randomMachine(t, rng, 60)
			changes[Lower(m.ID)] = m
		}
		want := (*Fleet)(nil).with(24, "web", false, changes)
		got, err := NewFleet(24, "web", false, want.all)
		if err != nil {
			t.Fatal(err)
		}
		if fleetString(got) != fleetString(want) || ids(got.deployed) != ids(want.deployed) || got.started != want.started || (got.index == nil) != (want.index == nil) {
			t.Fatalf("%d of %s, want %d of %s", got.started, ids(got.deployed), want.started, ids(want.deployed))
		}
		if same := len(got.all) > 0 && len(got.all) == len(got.deployed); same && &got.all[0] != &got.deployed[0] {
			t.Fatal("two arrays of the same machines")
		}
	}
}

var processors = runtime.GOMAXPROCS(0)

// A registry that was restored is the one that was saved, in all that it counts and finds.
func TestRestore(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 14))
	nets := []Network{network(t, "fdaa:0:18::/48"), network(t, "fdaa:0:99::/48")}
	for range 100 {
		r, again := New(), New()
		for range rng.IntN(60) {
			r.Apply(randomItems(t, rng, nets, []string{"a", "ab", "web", "interactive-x"}))
		}
		var fleets []*Fleet
		var others []Object
		v := r.Snapshot()
		v.EachFleet(func(f *Fleet) bool { fleets = append(fleets, f); return true })
		for _, kind := range []Kind{KindPeer, KindAddress} {
			v.Each(kind, func(o Object) bool { others = append(others, o); return true })
		}
		epoch := again.Epoch()
		if again.Restore(fleets, others); runtime.GOMAXPROCS(0) != processors {
			t.Fatalf("%d processors are left of %d", runtime.GOMAXPROCS(0), processors)
		}
		if got, want := objects(again), objects(r); !maps.Equal(got, want) || (again.Epoch() > epoch) != (len(want) > 0) {
			t.Fatalf("restored are %v, in epoch %d, want %v", got, again.Epoch(), want)
		}
		for _, kind := range Kinds() {
			if again.Count(kind) != r.Count(kind) {
				t.Errorf("%d of kind %s are counted, want %d", again.Count(kind), kind, r.Count(kind))
			}
		}
		for class := range Class(Classes) {
			if again.Size(class) != r.Size(class) {
				t.Errorf("%d %s are counted, want %d", again.Size(class), class.Plural(), r.Size(class))
			}
		}
		for _, n := range nets {
			if got, want := again.Snapshot().Counts(n), r.Snapshot().Counts(n); got != want {
				t.Errorf("%+v are counted, want %+v", got, want)
			}
			for i := range 8 {
				got, _ := again.Snapshot().MachineNear(testAddr(n, i))
				if want, _ := r.Snapshot().MachineNear(testAddr(n, i)); got != want {
					t.Errorf("%s belongs to %+v, want %+v", testAddr(n, i), got, want)
				}
			}
		}
	}
}

// A change that panics leaves the registry as it was, and able to change.
func TestAChangeThatPanics(t *testing.T) {
	r := New()
	moved := machine(t, "m1", at("fdaa:0:18::1:2"))
	r.Apply([]Item{Put(moved), Put(&App{Name: "db", Network: 24})})
	want := objects(r)
	key := moved.Key()
	was := moved.Addr
	moved.Addr = netip.MustParseAddr("fdaa:0:18::2:2") // which nobody may do
	panics := func(what string, change func()) {
		t.Helper()
		defer func() {
			if s, _ := recover().(string); what != "" && !strings.Contains(s, what) {
				t.Errorf("it panics with %q, want %q", s, what)
			}
		}()
		change()
		t.Error("it does not panic")
	}
	panics("it was changed after it was handed over", func() { r.Apply([]Item{Delete(Key{Kind: KindApp, Network: 24, Name: "db"}), Delete(key)}) })
	moved.Addr = was
	if got := objects(r); !maps.Equal(got, want) {
		t.Errorf("%v is left of %v", got, want)
	}
	if n := r.Apply([]Item{Delete(key)}); n != 1 {
		t.Errorf("%d objects are changed afterwards, want 1", n)
	}
	again := New()
	panics("", func() { again.Restore([]*Fleet{nil}, nil) })
	if n := again.Apply([]Item{Put(moved)}); n != 1 {
		t.Errorf("%d objects are changed after a restoring that panicked, want 1", n)
	}
}

// A machine that NewMachine would not have made is not valid.
func TestValid(t *testing.T) {
	for says, edit := range map[string]func(*Machine){
		"":                   func(*Machine) {},
		"id ":                func(m *Machine) { m.ID = "a.b" },
		"app ":               func(m *Machine) { m.App = "" },
		"region ":            func(m *Machine) { m.Region = "i d" },
		"state is missing":   func(m *Machine) { m.State = "" },
		"state \"xx":         func(m *Machine) { m.State = strings.Repeat("x", maxState+1) },
		"in another network": func(m *Machine) { m.Network = 7 },
	} {
		m := *machine(t, "m1", at("fdaa:0:18::1:2"))
		edit(&m)
		if err := m.Valid(); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	many := make([]Pair, maxPairs+1)
	for i := range many {
		many[i] = Pair{fmt.Sprintf("k%04d", i), "v"}
	}
	for _, c := range []struct {
		pairs []Pair
		want  bool
	}{
		{nil, true}, {[]Pair{{"a", "1"}, {"B", "2"}}, true}, {[]Pair{{"B", "1"}, {"a", "2"}}, false}, {[]Pair{{"a", "1"}, {"a", "2"}}, false},
		{[]Pair{{"A", "1"}, {"a", "2"}}, true}, {many[:maxPairs], true}, {many, false},
		{[]Pair{{"a", strings.Repeat("x", maxMetadata-1)}}, true}, {[]Pair{{"a", strings.Repeat("x", maxMetadata)}}, false},
	} {
		if got := ValidMetadata(c.pairs); got != c.want {
			t.Errorf("%d pairs: %t", len(c.pairs), got)
		}
	}
}
