package zones

import (
	"net/netip"

	"dnsd/registry"
	"dnsd/resolver"
)

// Viewer returns what tells clients apart.
func (z *Zones) Viewer() resolver.Viewer { return viewer{z} }

type viewer struct{ *Zones }

// View implements resolver.Viewer. The source address alone decides: a client
// inside fdaa::/16 sees the network of its address, every other one that of
// --network, if there is one.
func (v viewer) View(addr netip.Addr) (resolver.View, []<-chan struct{}) {
	n, inside := registry.NetworkOf(addr)
	if !inside {
		if !v.cfg.Network.IsValid() {
			return resolver.View{}, nil
		}
		return resolver.View{Network: v.cfg.Network.Masked(), Region: v.cfg.Region}, nil
	}
	txn := v.reg.View()
	machine, machines := machineOf(txn, addr)
	peers, peer := txn.PeersAt(addr)
	view := resolver.View{Network: n.Prefix(), Region: v.cfg.Region}
	switch {
	case machine != nil && machine.Region != "":
		view.Region = registry.Lower(machine.Region)
	case len(peers) > 0 && peers[0].Region != "":
		view.Region = registry.Lower(peers[0].Region)
	}
	return view, []<-chan struct{}{machines, peer}
}

// machineOf returns the machine that owns addr by its /112, nil for none, and
// the channel of that. Whatever the machine's state says, something there is
// asking; but where two records claim one address (one of them has been renamed
// or is long gone), the one that runs is the one that asks.
func machineOf(v *registry.View, addr netip.Addr) (*registry.Machine, <-chan struct{}) {
	near, ch := v.MachinesNear(addr)
	var best *registry.Machine
	for _, m := range near {
		if best == nil || liveliness(m) > liveliness(best) {
			best = m
		}
	}
	return best, ch
}

func liveliness(m *registry.Machine) int {
	switch {
	case m.Started():
		return 2
	case m.Deployed():
		return 1
	}
	return 0
}
