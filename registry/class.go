package registry

// Class is a kind of what answers hold. A machine may change its class: one of a
// higher number is in fewer answers.
type class uint8

const (
	startedMachines class = iota // what AAAA answers hold
	otherMachines                // deployed, but not started or hidden: what lists of all hold, and what tells NODATA from NXDOMAIN
	peers                        // but for people's passing sessions
	addresses
	apps   // registered
	unseen // in no answer: neither counted nor guarded
)

const classes = int(unseen)

// classNames are the classes in the singular, as metric labels have them, and in
// the plural, as sentences do.
var classNames = [classes]struct{ label, plural string }{
	startedMachines: {"started_machine", "started machines"},
	otherMachines:   {"other_machine", "other machines"},
	peers:           {"peer", "peers"},
	addresses:       {"address", "flycast addresses"},
	apps:            {"app", "apps"},
}

func classOf(o Object) class {
	switch o := o.(type) {
	case *Machine:
		switch {
		case o.Started() && !o.Skip:
			return startedMachines
		case o.Deployed():
			return otherMachines
		}
	case *Peer:
		if !o.Interactive() {
			return peers
		}
	case *Address:
		return addresses
	case *App:
		return apps
	}
	return unseen
}
