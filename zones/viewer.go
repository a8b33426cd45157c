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
// --network, if there is one. The host of dnsd asks "dig @fdaa::3" from that very
// address, which is no machine's: it counts as outside.
func (v viewer) View(addr netip.Addr) (resolver.View, []<-chan struct{}) {
	n, inside := registry.NetworkOf(addr)
	if !inside || n == 0 && addr == v.cfg.Advertise {
		if !v.cfg.Network.IsValid() {
			return resolver.View{}, nil
		}
		return resolver.View{Network: v.cfg.Network.Masked(), Region: v.cfg.Region}, nil
	}
	txn := v.reg.Snapshot()
	machine, machines := txn.MachineNear(addr)
	peer, peers := txn.PeerAt(addr)
	view := resolver.View{Network: n.Prefix(), Region: v.cfg.Region}
	switch {
	case machine != nil && machine.Region != "":
		view.Region = registry.Lower(machine.Region)
	case peer != nil && peer.Region != "":
		view.Region = registry.Lower(peer.Region)
	}
	return view, []<-chan struct{}{machines, peers}
}
