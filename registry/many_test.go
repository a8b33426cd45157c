package registry

import (
	"fmt"
	"net/netip"
)

// benchMachines returns n machines of apps of twenty, a tenth as many networks
// as apps, with two metadata pairs each.
func benchMachines(n int) []Item {
	items := make([]Item, 0, n)
	regions := []string{"iad", "ams", "nrt", "syd", "gru"}
	for i := range n {
		app := i / 20
		net := app/10 + 1
		m, err := NewMachine(MachineSpec{
			ID: fmt.Sprintf("%014x", i*7919), App: fmt.Sprintf("app-%d", app), State: "started", Region: regions[i%5],
			PrivateIP: netip.AddrFrom16([16]byte{0xfd, 0xaa, 0, 0, byte(net >> 8), byte(net), 0, 1, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i), 0, 0, 0, 2}).String(),
			Metadata:  map[string]string{"fly_process_group": "app", "role": "primary"},
		})
		if err != nil {
			panic(err)
		}
		items = append(items, Put(m))
	}
	return items
}
