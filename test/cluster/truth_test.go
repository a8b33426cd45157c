package cluster

import "dnsd/test/internal/truth"

// The client's network and another one, of which no client may see anything.
const (
	netA = "fdaa:0:18::/48"
	netB = "fdaa:0:99::/48"

	home = truth.Network(netA)
)

type (
	object  = truth.Object
	machine = truth.Machine
	peer    = truth.Peer
	address = truth.Address
	app     = truth.App
	world   = truth.World
)
