package registry

import (
	"fmt"
	"slices"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine returns a started machine of app "web" in network fdaa:0:18::/48
// after edits to its spec.
func machine(t testing.TB, id string, edits ...func(*MachineSpec)) *Machine {
	t.Helper()
	spec := MachineSpec{ID: id, App: "web", State: "started", Region: "iad", Network: "fdaa:0:18::/48"}
	for _, edit := range edits {
		edit(&spec)
	}
	m, err := NewMachine(spec)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func inApp(app string) func(*MachineSpec)     { return func(s *MachineSpec) { s.App = app } }
func inState(state string) func(*MachineSpec) { return func(s *MachineSpec) { s.State = state } }
func at(ip string) func(*MachineSpec) {
	return func(s *MachineSpec) { s.PrivateIP, s.Network = ip, "" }
}

func network(t testing.TB, s string) Network {
	t.Helper()
	n, err := ParseNetwork(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// ids returns the ids of machines, for comparison.
func ids(machines []*Machine) string {
	var list []string
	for _, m := range machines {
		list = append(list, m.ID)
	}
	return fmt.Sprint(list)
}

// rowsOf returns a view's rows.
func first[T any](v T, _ <-chan struct{}) T { return v }

func rowsOf[T any](rows Rows[T], _ <-chan struct{}) []T { return slices.Collect(rows.All) }

// newFleet returns a fleet of machines.
func newFleet(network Network, name string, registered bool, machines []*Machine) *Fleet {
	byID := make(map[string]*Machine, len(machines))
	for _, m := range machines {
		byID[Lower(m.ID)] = m
	}
	return (*Fleet)(nil).with(network, name, registered, byID)
}

// patient returns a budget without end.
func patient() *Budget { b := NewBudget(0, func() {}); return &b }

// objects returns everything a registry holds as strings.
func objects(r *Registry) map[Key]string {
	all := map[Key]string{}
	v := r.Snapshot()
	for _, k := range Kinds() {
		v.Each(k, func(o Object) bool {
			all[o.Key()] = fmt.Sprintf("%+v", o)
			return true
		})
	}
	return all
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
