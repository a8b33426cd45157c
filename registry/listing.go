package registry

import "time"

// listing is a complete listing under way: what the source has sent so far,
// compared on arrival with what the registry holds. Objects that are unchanged
// leave one bit behind, so listing again what is already known takes next to no
// memory. The source's goroutine fills it, the apply loop applies it.
type listing struct {
	began    time.Time
	view     *View
	fleets   map[fleetKey]*listedFleet
	others   map[Key]struct{} // peers and addresses that were listed
	puts     []Object         // what is new or differs
	late     []Item           // changes that arrived during the listing
	rejected []Key            // named but unusable: the versions known before stay
	doubt    string           // why it may lack what is there; empty: it is whole
}

// listedFleet marks what a listing has named of a fleet that was known when it
// began.
type listedFleet struct {
	fleet *Fleet
	app   bool     // the app object itself
	seen  []uint64 // one bit for each of fleet.all
}

func newListing(v *View) *listing {
	return &listing{began: time.Now(), view: v, fleets: map[fleetKey]*listedFleet{}, others: map[Key]struct{}{}}
}

// fleet returns the marks of a fleet, nil for one not known when the listing began.
func (l *listing) fleet(key fleetKey) *listedFleet {
	f, ok := l.fleets[key]
	if !ok {
		if known, _ := l.view.Fleet(key.network, key.app); known != nil {
			f = &listedFleet{fleet: known, seen: make([]uint64, (len(known.all)+63)/64)}
		}
		l.fleets[key] = f
	}
	return f
}

// machine marks a machine as named and returns it as it was known, nil for a
// new one, and whether it was named before.
func (f *listedFleet) machine(id string) (known *Machine, again bool) {
	if f == nil {
		return nil, false
	}
	i, ok := find(f.fleet.all, id)
	if !ok {
		return nil, false
	}
	again = f.seen[i/64]&(1<<(i%64)) != 0
	f.seen[i/64] |= 1 << (i % 64)
	return f.fleet.all[i], again
}

// add takes one item of the listing.
func (l *listing) add(item *Item) {
	key := item.key()
	if item.Err != nil {
		l.rejected = append(l.rejected, key)
		return
	}
	// An object named twice is put even where it is what is known, because the
	// one before may have differed: the last one wins.
	unchanged := false
	switch key.Kind {
	case KindMachine:
		known, again := l.fleet(fleetKey{key.Network, key.Name}).machine(key.ID)
		unchanged = known != nil && !again && known.equal(item.Object)
	case KindApp:
		if f := l.fleet(fleetKey{key.Network, key.Name}); f != nil {
			unchanged = !f.app && f.fleet.registered && f.fleet.name == item.Object.(*App).Name
			f.app = true
		}
	default: // few: those that are unchanged are found to be so when they are applied
		l.others[key] = struct{}{}
	}
	if !unchanged {
		l.puts = append(l.puts, item.Object)
	}
}

// keeper holds the keys of objects that the source named without their being
// usable: of those the versions known before stay. An object is known by what
// could be read of it: a machine or a flycast address by its id, whatever its app
// was to be, in any network where that could not be read; a peer by its name or
// its address; an app by its name. A machine without id keeps all of its app.
type keeper map[Key]struct{}

func (k keeper) add(key Key) {
	if key.ID != "" {
		named := key
		named.Name = ""
		k[named] = struct{}{}
	}
	if key.Name != "" && (key.ID == "" || key.Kind == KindPeer) {
		key.ID = ""
		k[key] = struct{}{}
	}
}

// has reports whether o is one of those named.
func (k keeper) has(o Object) bool {
	if len(k) == 0 {
		return false
	}
	key := o.Key()
	id := key.ID
	if p, ok := o.(*Peer); ok {
		id = p.Addr.String()
	}
	for _, named := range [...]Key{
		{Kind: key.Kind, Network: key.Network, ID: id},
		{Kind: key.Kind, Network: key.Network, Name: key.Name},
	} {
		anywhere := Key{Kind: named.Kind, Name: named.Name, ID: named.ID, AnyNetwork: true}
		for _, named := range [...]Key{named, anywhere} {
			if _, ok := k[named]; ok {
				return true
			}
		}
	}
	return false
}

// losses returns what the listing takes away from answers, by key, and the keys
// of what it lacks besides, which is in none. What changes that arrived later
// decide on is their affair.
func (l *listing) losses(v *View) (losses map[Key]loss, rest []Key) {
	losses = map[Key]loss{}
	l.worse(v, losses)
	kept := keeper{}
	for _, key := range l.rejected {
		kept.add(key)
	}
	for i := range l.late {
		if l.late[i].Err != nil {
			kept.add(l.late[i].Key)
		}
	}
	l.absent(v, func(o Object) {
		switch {
		case kept.has(o):
		case classOf(o) == unseen:
			rest = append(rest, o.Key())
		default:
			losses[o.Key()] = loss{old: o}
		}
	})
	for i := range l.late {
		if l.late[i].Err == nil {
			delete(losses, l.late[i].key())
		}
	}
	return losses, rest
}

// worse adds the machines that the listing has in a class of fewer answers. Of
// one that is listed twice the last version counts.
func (l *listing) worse(v *View, losses map[Key]loss) {
	var fleet *Fleet
	var of fleetKey
	for _, o := range l.puts {
		m, ok := o.(*Machine)
		if !ok {
			continue
		}
		key := m.Key()
		app := fleetKey{key.Network, key.Name}
		if l.fleets[app] == nil { // nothing was known of it
			continue
		}
		if fleet == nil || of != app {
			fleet, _ = v.Fleet(app.network, app.app)
			of = app
		}
		if fleet == nil {
			continue
		}
		i, ok := find(fleet.all, key.ID)
		if !ok {
			continue
		}
		if old := fleet.all[i]; classOf(m) > classOf(old) {
			losses[key] = loss{old: old, put: m}
		} else {
			delete(losses, key)
		}
	}
}

// absent calls lacks with every object that the registry holds and the listing
// has not named, but for those that came after it began.
func (l *listing) absent(v *View, lacks func(Object)) {
	each(v, tableFleets, func(f *Fleet) bool {
		listed := l.fleet(fleetKey{f.network, Lower(f.name)})
		if listed == nil {
			return true
		}
		if f.registered && listed.fleet.registered && !listed.app {
			lacks(&App{Name: f.name, Network: f.network})
		}
		for i, m := range f.all {
			known := true
			if f != listed.fleet {
				i, known = find(listed.fleet.all, Lower(m.ID))
			}
			if known && listed.seen[i/64]&(1<<(i%64)) == 0 {
				lacks(m)
			}
		}
		return true
	})
	other := func(o Object) bool {
		if _, ok := l.others[o.Key()]; !ok {
			lacks(o)
		}
		return true
	}
	v.Each(KindPeer, other)
	v.Each(KindAddress, other)
}

// undone returns what the listing found unchanged and what is no longer so:
// losses that were held have been let through meanwhile. What the listing has as
// another version may be among it, but none of its own losses.
func (l *listing) undone(v *View, losses map[Key]loss) []Object {
	var gone []Object
	for key, listed := range l.fleets {
		if listed == nil {
			continue
		}
		now, _ := v.Fleet(key.network, key.app)
		if now == listed.fleet {
			continue
		}
		if listed.app && listed.fleet.registered && (now == nil || !now.registered) {
			gone = append(gone, &App{Name: listed.fleet.name, Network: key.network})
		}
		for i, m := range listed.fleet.all {
			if listed.seen[i/64]&(1<<(i%64)) == 0 {
				continue
			}
			if now != nil {
				if j, here := find(now.all, Lower(m.ID)); here && now.all[j] == m {
					continue
				}
			}
			if _, ok := losses[m.Key()]; !ok {
				again := *m // readers may hold m, and what is put may come to share its metadata
				gone = append(gone, &again)
			}
		}
	}
	return gone
}
