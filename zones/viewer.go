package zones

import (
	"net/netip"

	"dnsd/registry"
	"dnsd/resolver"
)

// Viewer returns the resolver.Viewer of these zones.
func (z *Zones) Viewer() resolver.Viewer { return z }

// View implements resolver.Viewer. The source address alone decides: a client
// inside fdaa::/16 sees the network of its address, every other one that of
// --network, if there is one. The host of dnsd asks "dig @fdaa::3" from that very
// address, which is no machine's: it counts as outside.
func (z *Zones) View(addr netip.Addr) (resolver.View, []<-chan struct{}) {
	n, inside := registry.NetworkOf(addr)
	if !inside || n == 0 && addr == z.cfg.Advertise {
		if !z.cfg.Network.IsValid() {
			return resolver.View{}, nil
		}
		return resolver.View{Network: z.cfg.Network.Masked(), Region: z.cfg.Region}, nil
	}
	txn := z.reg.Snapshot()
	machine, machines := txn.MachineNear(addr)
	peer, peers := txn.PeerAt(addr)
	view := resolver.View{Network: n.Prefix(), Region: z.cfg.Region}
	switch {
	case machine != nil && machine.Region != "":
		view.Region = registry.Lower(machine.Region)
	case peer != nil && peer.Region != "":
		view.Region = registry.Lower(peer.Region)
	}
	return view, []<-chan struct{}{machines, peers}
}
