package registry

// Class is a kind of what answers hold. A machine may change its class: one of a
// higher number is in fewer answers.
type class uint8

// The classes.
const (
	startedMachines class = iota // what AAAA answers hold
	otherMachines                // deployed, but not started or hidden: what lists of all hold, and what tells NODATA from NXDOMAIN
	peers                        // but for people's passing sessions
	addresses
	apps   // registered
	unseen // in no answer: neither counted nor guarded
)

// Classes is how many classes there are.
const classes = int(unseen)

var classNames = [classes]struct{ label, plural string }{
	startedMachines: {"started_machine", "started machines"},
	otherMachines:   {"other_machine", "other machines"},
	peers:           {"peer", "peers"},
	addresses:       {"address", "flycast addresses"},
	apps:            {"app", "apps"},
}

// Label returns the class in the singular, as a metric's label.
func (c class) Label() string { return classNames[c].label }

// Plural returns the class in the plural, as in a sentence.
func (c class) Plural() string { return classNames[c].plural }

// ClassOf returns the class that an object is of.
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
