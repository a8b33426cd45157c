package follow

import (
	"time"

	"dnsd/registry"
)

// listing is a complete listing under way: what the source has sent so far,
// compared on arrival with what the registry holds. Objects that are unchanged
// leave one bit behind, so listing again what is already known takes next to no
// memory. The source's goroutine fills it, the apply loop applies it.
type listing struct {
	began    time.Time
	view     *registry.Snapshot
	fleets   map[app]*listedFleet
	others   map[registry.Key]struct{} // peers and addresses that were listed
	puts     []registry.Object         // what is new or differs
	rejected []registry.Key            // named but unusable, also by changes: the versions known before stay
	decided  map[registry.Key]struct{} // changes have come of them since the listing began, and win over it
	doubt    string                    // why it may lack what is there; empty: it is whole
}

// app is the identity of an app, registered or not.
type app struct {
	network registry.Network
	name    string // lower case
}

func appOf(key registry.Key) app { return app{key.Network, key.Name} }

// listedFleet marks what a listing has named of a fleet that was known when the
// listing began.
type listedFleet struct {
	fleet *registry.Fleet
	named bool     // the app object itself
	seen  []uint64 // one bit for each of fleet.Machines()
}

func newListing(v *registry.Snapshot) *listing {
	return &listing{began: time.Now(), view: v, fleets: map[app]*listedFleet{}, others: map[registry.Key]struct{}{}, decided: map[registry.Key]struct{}{}}
}

// decide notes that a change comes while the listing is under way.
func (l *listing) decide(item *registry.Item) {
	if item.Err != nil {
		l.rejected = append(l.rejected, item.Key)
	} else {
		l.decided[item.About()] = struct{}{}
	}
}

// open reports whether the listing still decides on an object.
func (l *listing) open(key registry.Key) bool {
	_, decided := l.decided[key]
	return !decided
}

// fleet returns the marks of a fleet, nil for one not known when the listing began.
func (l *listing) fleet(key app) *listedFleet {
	f, ok := l.fleets[key]
	if !ok {
		if known, _ := l.view.Fleet(key.network, key.name); known != nil {
			f = &listedFleet{fleet: known, seen: make([]uint64, (len(known.Machines())+63)/64)}
		}
		l.fleets[key] = f
	}
	return f
}

// machine marks a machine as named and returns it as it was known, nil for a
// new one, and whether it was named before.
func (f *listedFleet) machine(id string) (known *registry.Machine, again bool) {
	if f == nil {
		return nil, false
	}
	i, ok := f.fleet.Find(id)
	if !ok {
		return nil, false
	}
	again = f.seen[i/64]&(1<<(i%64)) != 0
	f.seen[i/64] |= 1 << (i % 64)
	return f.fleet.Machines()[i], again
}

// add takes one item of the listing.
func (l *listing) add(item *registry.Item) {
	key := item.About()
	if item.Err != nil {
		l.rejected = append(l.rejected, key)
		return
	}
	// An object named twice is put even if it is what is known, because the first
	// one may have differed: the last one wins.
	unchanged := false
	switch key.Kind {
	case registry.KindMachine:
		known, again := l.fleet(appOf(key)).machine(key.ID)
		unchanged = known != nil && !again && registry.Equal(known, item.Object)
	case registry.KindApp:
		if f := l.fleet(appOf(key)); f != nil {
			unchanged = !f.named && f.fleet.Registered() && f.fleet.Name() == item.Object.(*registry.App).Name
			f.named = true
		}
	default: // few: whether they are unchanged is found out when they are applied
		l.others[key] = struct{}{}
	}
	if !unchanged {
		l.puts = append(l.puts, item.Object)
	}
}

// keeper holds the keys of objects that the source named and that cannot be used:
// the versions known before stay. A machine or a flycast address is recognized by
// its id, whatever its app, and in any network if that could not be read; a peer by
// its name or its address; an app by its name. A machine without an id keeps all
// machines of its app.
type keeper map[registry.Key]struct{}

func (k keeper) add(key registry.Key) {
	if key.ID != "" {
		named := key
		named.Name = ""
		k[named] = struct{}{}
	}
	if key.Name != "" && (key.ID == "" || key.Kind == registry.KindPeer) {
		key.ID = ""
		k[key] = struct{}{}
	}
}

// has reports whether o is one of those named.
func (k keeper) has(o registry.Object) bool {
	if len(k) == 0 {
		return false
	}
	key := o.Key()
	id := key.ID
	if p, ok := o.(*registry.Peer); ok {
		id = p.Addr.String()
	}
	for _, named := range [...]registry.Key{
		{Kind: key.Kind, Network: key.Network, ID: id},
		{Kind: key.Kind, Network: key.Network, Name: key.Name},
		{Kind: key.Kind, AnyNetwork: true, ID: id},
		{Kind: key.Kind, AnyNetwork: true, Name: key.Name},
	} {
		if _, ok := k[named]; ok {
			return true
		}
	}
	return false
}

// losses returns what the listing takes away from answers, by key, and the keys
// of what else it lacks. Objects that changes have decided on are left out.
func (l *listing) losses(v *registry.Snapshot) (losses map[registry.Key]loss, rest []registry.Key) {
	losses = map[registry.Key]loss{}
	l.worse(v, losses)
	kept := keeper{}
	for _, key := range l.rejected {
		kept.add(key)
	}
	l.absent(v, func(o registry.Object) {
		switch key := o.Key(); {
		case !l.open(key) || kept.has(o):
		case registry.ClassOf(o) == registry.Unseen:
			rest = append(rest, key)
		default:
			losses[key] = loss{old: o}
		}
	})
	return losses, rest
}

// worse adds the machines that the listing has in a class of fewer answers. Of a
// machine that is listed twice the last version counts.
func (l *listing) worse(v *registry.Snapshot, losses map[registry.Key]loss) {
	var fleet *registry.Fleet
	var of app
	for _, o := range l.puts {
		m, ok := o.(*registry.Machine)
		if !ok {
			continue
		}
		key := m.Key()
		name := appOf(key)
		if l.fleets[name] == nil || !l.open(key) { // nothing was known of it, or more is by now
			continue
		}
		if fleet == nil || of != name {
			fleet, _ = v.Fleet(name.network, name.name)
			of = name
		}
		if fleet == nil {
			continue
		}
		i, ok := fleet.Find(key.ID)
		if !ok {
			continue
		}
		if old := fleet.Machines()[i]; registry.ClassOf(m) > registry.ClassOf(old) {
			losses[key] = loss{old: old, put: m}
		} else {
			delete(losses, key)
		}
	}
}

// absent calls lacks with every object that the registry holds and the listing
// has not named, except those that came after it began.
func (l *listing) absent(v *registry.Snapshot, lacks func(registry.Object)) {
	v.EachFleet(func(f *registry.Fleet) bool {
		listed := l.fleet(app{f.Network(), registry.Lower(f.Name())})
		if listed == nil {
			return true
		}
		if f.Registered() && listed.fleet.Registered() && !listed.named {
			lacks(&registry.App{Name: f.Name(), Network: f.Network()})
		}
		for i, m := range f.Machines() {
			known := true
			if f != listed.fleet {
				i, known = listed.fleet.Find(registry.Lower(m.ID))
			}
			if known && listed.seen[i/64]&(1<<(i%64)) == 0 {
				lacks(m)
			}
		}
		return true
	})
	other := func(o registry.Object) bool {
		if _, ok := l.others[o.Key()]; !ok {
			lacks(o)
		}
		return true
	}
	v.Each(registry.KindPeer, other)
	v.Each(registry.KindAddress, other)
}

// changedSince returns the objects that the listing found unchanged and that have
// changed since, because held losses were let through; what changes have decided on
// is not among them. Objects of which the listing
// has another version may be among them, but none of its losses.
func (l *listing) changedSince(v *registry.Snapshot, losses map[registry.Key]loss) []registry.Object {
	var gone []registry.Object
	for key, listed := range l.fleets {
		if listed == nil {
			continue
		}
		now, _ := v.Fleet(key.network, key.name)
		if now == listed.fleet {
			continue
		}
		if listed.named && listed.fleet.Registered() && (now == nil || !now.Registered()) {
			if o := (&registry.App{Name: listed.fleet.Name(), Network: key.network}); l.open(o.Key()) {
				gone = append(gone, o)
			}
		}
		for i, m := range listed.fleet.Machines() {
			if listed.seen[i/64]&(1<<(i%64)) == 0 {
				continue
			}
			if now != nil {
				if j, here := now.Find(registry.Lower(m.ID)); here && now.Machines()[j] == m {
					continue
				}
			}
			if _, ok := losses[m.Key()]; !ok && l.open(m.Key()) {
				again := *m // readers may hold m, and what is put may come to share its metadata
				gone = append(gone, &again)
			}
		}
	}
	return gone
}
