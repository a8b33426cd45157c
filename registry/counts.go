package registry

// Counts are the numbers of objects of a network that have names.
type Counts struct {
	Apps     int // that exist
	Machines int // deployed and not hidden
	Peers    int // without the interactive ones

	network Network
}

// Counts returns the counts of a network, in constant time. They change only when
// a channel of Fleets or Peers closes.
func (v *Snapshot) Counts(n Network) Counts {
	row, err := v.txn.First(tableNetworks, indexID, networkKey(n))
	must(err)
	if row == nil {
		return Counts{network: n}
	}
	return *row.(*Counts)
}

// plus returns the sum of the counts of one network.
func (c Counts) plus(d Counts) Counts {
	return Counts{c.Apps + d.Apps, c.Machines + d.Machines, c.Peers + d.Peers, c.network}
}

// add notes that the transaction changes the counts of a network. Most changes
// are of a machine's state and change none.
func (e *edit) add(n Network, by Counts) {
	if by == (Counts{}) {
		return
	}
	sum := e.networks[n]
	sum.network = n
	e.networks[n] = sum.plus(by)
}

// countFleet counts that next, which may have nothing, takes the place of old,
// which may be nil.
func (e *edit) countFleet(old, next *Fleet) {
	by := Counts{Apps: count(next.Exists()), Machines: len(next.deployed)}
	if old != nil {
		by = by.plus(Counts{Apps: -count(old.Exists()), Machines: -len(old.deployed)})
	}
	e.add(next.network, by)
}

// countPeer counts a peer that came (1) or went (-1).
func (e *edit) countPeer(o Object, by int) {
	if p, ok := o.(*Peer); ok && !p.Interactive() {
		e.add(p.Network, Counts{Peers: by})
	}
}

// writeCounts writes the row of each network whose counts change.
func (e *edit) writeCounts() {
	v := Snapshot{e.txn}
	for n, by := range e.networks {
		switch sum := v.Counts(n).plus(by); {
		case by == (Counts{network: n}):
		case sum == (Counts{network: n}):
			must(e.txn.Delete(tableNetworks, &sum))
		default:
			must(e.txn.Insert(tableNetworks, &sum))
		}
	}
}
