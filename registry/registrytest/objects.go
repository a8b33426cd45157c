// Package registrytest holds what tests of the registry and of those around it
// share: objects, files that are none, a log.
package registrytest

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"testing"

	"dnsd/registry"
)

// Many returns n machines of apps of twenty, a tenth as many networks
// as apps, with two metadata pairs each.
func Many(n int) []registry.Item {
	items := make([]registry.Item, 0, n)
	regions := []string{"iad", "ams", "nrt", "syd", "gru"}
	for i := range n {
		app := i / 20
		net := app/10 + 1
		m, err := registry.NewMachine(registry.MachineSpec{
			ID: fmt.Sprintf("%014x", i*7919), App: fmt.Sprintf("app-%d", app), State: "started", Region: regions[i%5],
			PrivateIP: netip.AddrFrom16([16]byte{0xfd, 0xaa, 0, 0, byte(net >> 8), byte(net), 0, 1, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i), 0, 0, 0, 2}).String(),
			Metadata:  map[string]string{"fly_process_group": "app", "role": "primary"},
		})
		if err != nil {
			panic(err)
		}
		items = append(items, registry.Put(m))
	}
	return items
}

// Machine returns a started machine of app "web" in network fdaa:0:18::/48
// after edits to its spec.
func Machine(t testing.TB, id string, edits ...func(*registry.MachineSpec)) *registry.Machine {
	t.Helper()
	spec := registry.MachineSpec{ID: id, App: "web", State: "started", Region: "iad", Network: "fdaa:0:18::/48"}
	for _, edit := range edits {
		edit(&spec)
	}
	m, err := registry.NewMachine(spec)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// InApp, InState and At are edits of a machine.
func InApp(app string) func(*registry.MachineSpec) {
	return func(s *registry.MachineSpec) { s.App = app }
}
func InState(state string) func(*registry.MachineSpec) {
	return func(s *registry.MachineSpec) { s.State = state }
}
func At(ip string) func(*registry.MachineSpec) {
	return func(s *registry.MachineSpec) { s.PrivateIP, s.Network = ip, "" }
}

// Network reads a network.
func Network(t testing.TB, s string) registry.Network {
	t.Helper()
	n, err := registry.ParseNetwork(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// IDs returns the ids of machines, for comparison.
func IDs(machines []*registry.Machine) string {
	var list []string
	for _, m := range machines {
		list = append(list, m.ID)
	}
	return fmt.Sprint(list)
}

// Objects returns everything a registry holds as strings.
func Objects(r *registry.Registry) map[registry.Key]string {
	all := map[registry.Key]string{}
	v := r.Snapshot()
	for _, k := range registry.Kinds() {
		v.Each(k, func(o registry.Object) bool {
			all[o.Key()] = fmt.Sprintf("%+v", o)
			return true
		})
	}
	return all
}

// TextLog returns a log that writes to w.
func TextLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// Closed reports whether a channel is closed.
func Closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
