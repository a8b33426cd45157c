package registry

// listing is a complete listing under way: what the source has sent so far,
// compared on arrival with what the registry holds. Objects that are unchanged
// leave one bit behind, so listing again what is already known takes next to no
// memory. The source's goroutine fills it, the apply loop applies it.
type listing struct {
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
	return &listing{view: v, fleets: map[fleetKey]*listedFleet{}, others: map[Key]struct{}{}}
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

// keeper tells which objects a listing named without being readable: of those
// the versions known before stay. An object is known by what could be read of
// it: a machine or a flycast address by its id, whatever its app was to be, in
// any network where that could not be read; a peer by its name or its address;
// an app by its name. A machine without id keeps all of its app.
func (l *listing) keeper() func(Object) bool {
	kept := make(map[Key]struct{}, len(l.rejected))
	for _, key := range l.rejected {
		if key.ID != "" {
			named := key
			named.Name = ""
			kept[named] = struct{}{}
		}
		if key.Name != "" && (key.ID == "" || key.Kind == KindPeer) {
			key.ID = ""
			kept[key] = struct{}{}
		}
	}
	return func(o Object) bool {
		key := o.Key()
		id := key.ID
		if p, ok := o.(*Peer); ok {
			id = p.Addr.String()
		}
		for _, k := range [...]Key{
			{Kind: key.Kind, Network: key.Network, ID: id},
			{Kind: key.Kind, Network: key.Network, Name: key.Name},
		} {
			anywhere := Key{Kind: k.Kind, Name: k.Name, ID: k.ID, AnyNetwork: true}
			for _, k := range [...]Key{k, anywhere} {
				if _, ok := kept[k]; ok {
					return true
				}
			}
		}
		return false
	}
}

// absent returns the keys that the registry holds and the listing lacks.
func (l *listing) absent(v *View) []Key {
	kept := l.keeper()
	var gone []Key
	lacks := func(o Object) {
		if !kept(o) {
			gone = append(gone, o.Key())
		}
	}
	each(v, tableFleets, func(f *Fleet) bool {
		key := fleetKey{f.network, Lower(f.name)}
		listed := l.fleet(key)
		if listed == nil { // it came after the listing began
			return true
		}
		if f.registered && listed.fleet.registered && !listed.app {
			lacks(&App{Name: f.name, Network: f.network})
		}
		for _, m := range f.all {
			if i, ok := find(listed.fleet.all, Lower(m.ID)); ok && listed.seen[i/64]&(1<<(i%64)) == 0 {
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
	l.view.Each(KindPeer, other)
	l.view.Each(KindAddress, other)
	return gone
}

// undone returns what the listing found unchanged and what has left the
// registry since: removals that were held and let through meanwhile.
func (l *listing) undone(v *View) []Object {
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
			here := false
			if now != nil {
				_, here = find(now.all, Lower(m.ID))
			}
			if !here {
				gone = append(gone, m)
			}
		}
	}
	return gone
}
