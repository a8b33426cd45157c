package registry

// Class is a kind of object as answers hold it. A machine may change its class: the
// higher, the fewer answers hold it.
type Class uint8

// The classes.
const (
	StartedMachines Class = iota // what AAAA answers hold
	OtherMachines                // deployed, but not started or hidden: what lists of all hold, and what tells NODATA from NXDOMAIN
	Peers                        // except interactive ones
	Addresses
	Apps   // registered
	Unseen // in no answer: neither counted nor guarded
)

// Classes is how many classes there are.
const Classes = int(Unseen)

var classNames = [Classes]struct{ label, plural string }{
	StartedMachines: {"started_machine", "started machines"},
	OtherMachines:   {"other_machine", "other machines"},
	Peers:           {"peer", "peers"},
	Addresses:       {"address", "flycast addresses"},
	Apps:            {"app", "apps"},
}

// Label returns the class in the singular, as a metric's label.
func (c Class) Label() string { return classNames[c].label }

// Plural returns the class in the plural, as in a sentence.
func (c Class) Plural() string { return classNames[c].plural }

// ClassOf returns an object's class.
func ClassOf(o Object) Class {
	switch o := o.(type) {
	case *Machine:
		switch {
		case o.Started() && !o.Skip:
			return StartedMachines
		case o.Deployed():
			return OtherMachines
		}
	case *Peer:
		if !o.Interactive() {
			return Peers
		}
	case *Address:
		return Addresses
	case *App:
		return Apps
	}
	return Unseen
}
