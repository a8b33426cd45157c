package registry

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
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
			s.Metadata[pick("Role", "role", "ROLE", "x", processGroupKey)] = pick("a.b", "A.B", "c", ".b", "x.a.b", "web", strings.Repeat("x", 300))
		}
	})
}

// A fleet that came about by changes is the one that its machines make.
func TestFleetByChangesIsTheFleetOfItsMachines(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 20 {
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
			if f.name != "web" || f.network != 7 || f.registered != (step%2 == 0) {
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
