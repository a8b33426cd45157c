package registry

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestMetadataIsShared(t *testing.T) {
	r := New()
	put := func(id, role string) *Machine {
		m := machine(t, id, func(s *MachineSpec) { s.Metadata = map[string]string{"role": role, "tier": "1"} })
		r.Apply([]Item{Put(m)})
		return m
	}
	first, sibling, other := put("a", "db"), put("b", "db"), put("c", "web")
	if &first.Metadata[0] != &sibling.Metadata[0] {
		t.Error("siblings hold equal metadata twice")
	}
	if first.Metadata[0].Value != "db" || other.Metadata[0].Value != "web" {
		t.Error("metadata are another machine's")
	}
	moved := *other
	moved.Region, moved.Metadata = "ams", slices.Clone(other.Metadata)
	r.Apply([]Item{Put(&moved)})
	if &moved.Metadata[0] != &other.Metadata[0] {
		t.Error("a change of the region holds the metadata anew")
	}
}

// The machines of a few process groups, however they take turns, hold their
// groups' metadata; where there are more groups, nobody looks for them.
func TestMetadataAreSharedInGroups(t *testing.T) {
	for groups, want := range map[int]int{1: 1, maxShared: maxShared, maxShared + 1: 1000, 500: 1000} {
		r := New()
		var items []Item
		for i := range 1000 {
			items = append(items, Put(machine(t, fmt.Sprintf("m%04d", i), func(s *MachineSpec) { s.Metadata = map[string]string{"group": fmt.Sprint(i % groups)} })))
		}
		r.Apply(items)
		f, _ := r.Snapshot().Fleet(network(t, "fdaa:0:18::/48"), "web")
		held := map[*Pair]bool{}
		for i, m := range f.Deployed() {
			if held[&m.Metadata[0]] = true; m.Metadata[0].Value != fmt.Sprint(i%groups) {
				t.Fatalf("%s holds another machine's metadata", m.ID)
			}
		}
		if len(held) != want {
			t.Errorf("machines of %d groups hold %d metadata, want %d", groups, len(held), want)
		}
		if groups > 1 {
			continue
		}
		next := machine(t, "next", func(s *MachineSpec) { s.Metadata = map[string]string{"group": "0"} })
		if r.Apply([]Item{Put(next)}); !held[&next.Metadata[0]] {
			t.Error("a machine that comes later holds its metadata anew")
		}
	}
}

// A machine that comes later holds its group's, of as many groups as are looked for.
func TestMetadataAreSharedLater(t *testing.T) {
	r := New()
	const each = 100
	in := func(id string, group int) *Machine {
		return machine(t, id, func(s *MachineSpec) { s.Metadata = map[string]string{"group": fmt.Sprint(group)} })
	}
	var items []Item
	for i := range maxShared * each {
		items = append(items, Put(in(fmt.Sprintf("m%04d", i), i/each)))
	}
	r.Apply(items)
	for group := range maxShared {
		m := in(fmt.Sprint("next", group), group)
		r.Apply([]Item{Put(m)})
		if known := items[group*each].Object.(*Machine).Metadata; &m.Metadata[0] != &known[0] {
			t.Errorf("the next machine of group %d holds its metadata anew", group)
		}
	}
}

func TestApplyAndLookUp(t *testing.T) {
	r := New()
	n := network(t, "fdaa:0:18::/48")
	peer, _ := NewPeer(PeerSpec{Name: "My-Peer", PrivateIP: "fdaa:0:18:a7b:d6b:0:a:102", Region: "ord"})
	address, _ := NewAddress(AddressSpec{App: "web", Network: "fdaa:0:99::/48", Address: "fdaa:0:99:0:1::9"})
	app, _ := NewApp(AppSpec{Name: "empty", Network: "fdaa:0:18::/48"})
	items := []Item{
		Put(machine(t, "b2", at("fdaa:0:18:a7b:7d:f066:b83b:2"))), Put(machine(t, "A1")),
		Put(machine(t, "c3", inState("destroyed"))), Put(peer), Put(address), Put(app),
	}
	if got := r.Apply(items); got != len(items) {
		t.Fatalf("changed %d objects, want %d", got, len(items))
	}
	if got := r.Apply(items); got != 0 {
		t.Errorf("the same again changed %d objects, want 0", got)
	}
	v := r.Snapshot()
	f, _ := v.Fleet(n, "web")
	if got := ids(f.Deployed()); got != "[A1 b2]" {
		t.Errorf("deployed %s, want [A1 b2]", got)
	}
	if f.Machine("a1") == nil || f.Machine("c3") != nil {
		t.Error("a machine is found by its lower-case id if it is deployed")
	}
	if f.Deployed()[0].Started() {
		t.Error("a machine without an address counts as started")
	}
	if m, _ := v.MachineNear(netip.MustParseAddr("fdaa:0:18:a7b:7d:f066:b83b:ffff")); m == nil || m.ID != "b2" {
		t.Errorf("the owner of the /112 is %+v, want b2", m)
	}
	if m, _ := v.MachineNear(netip.MustParseAddr("fdaa:0:18:a7b:7d:f066:b83c:2")); m != nil {
		t.Errorf("the neighbouring /112 belongs to %s, want nobody", m.ID)
	}
	if p, _ := v.Peer(n, "my-peer"); p != peer {
		t.Error("the peer is not found by its lower-case name")
	}
	if p := rowsOf(v.PeersAt(peer.Addr)); len(p) != 1 {
		t.Error("the peer is not found by its address")
	}
	if a := rowsOf(v.Addresses(address.Network, "web")); len(a) != 1 {
		t.Error("the flycast address is not found in the network it is allocated for")
	}
	if a := rowsOf(v.Addresses(n, "web")); len(a) != 0 {
		t.Error("the flycast address is found in a network it is not allocated for")
	}
	if f, _ := v.Fleet(n, "empty"); f == nil || !f.Exists() {
		t.Error("an app without machines does not exist")
	}
	if fleets := rowsOf(v.Fleets(n)); len(fleets) != 2 || fleets[0].Name() != "empty" || fleets[1].Name() != "web" {
		t.Errorf("the network's apps are %v", fleets)
	}
	var fleets []string
	v.EachFleet(func(f *Fleet) bool { fleets = append(fleets, f.Name()); return true })
	if fmt.Sprint(fleets) != "[empty web]" {
		t.Errorf("all apps are %v", fleets)
	}
	for kind, want := range map[Kind]int{KindApp: 1, KindMachine: 3, KindPeer: 1, KindAddress: 1} {
		if got := r.Count(kind); got != want {
			t.Errorf("%d of kind %s, want %d", got, kind, want)
		}
	}
	var deletes []Item
	for key := range objects(r) {
		deletes = append(deletes, Delete(key))
	}
	if got := r.Apply(deletes); got != len(items) {
		t.Errorf("deleting everything changed %d objects, want %d", got, len(items))
	}
	if left := objects(r); len(left) != 0 {
		t.Errorf("left after deleting everything: %v", left)
	}
	if f, _ := r.Snapshot().Fleet(n, "web"); f != nil {
		t.Error("a fleet without machines is left")
	}
	for table := range schema().Tables {
		if row, err := r.Snapshot().txn.First(table, indexPrefix, []byte{}); row != nil || err != nil {
			t.Errorf("the table %s has %+v, %v", table, row, err)
		}
	}
	for _, kind := range Kinds() {
		if r.Count(kind) != 0 {
			t.Errorf("%d of kind %s left", r.Count(kind), kind)
		}
	}
}

// Every bit of a network counts.
func TestNetworksAreApart(t *testing.T) {
	r := New()
	var nets []Network
	for bit := range 32 {
		nets = append(nets, 1<<bit)
		r.Apply([]Item{Put(&App{Name: "a", Network: 1 << bit}), Put(&Peer{Name: "p", Network: 1 << bit, Addr: testAddr(1<<bit, 1)})})
	}
	for _, n := range nets {
		f, _ := r.Snapshot().Fleet(n, "a")
		p, _ := r.Snapshot().Peer(n, "p")
		if f == nil || f.Network() != n || p == nil || p.Network != n {
			t.Fatalf("%s: %+v, %+v", n, f, p)
		}
		if got := r.Snapshot().Counts(n); got.Apps != 1 || got.Peers != 1 || len(rowsOf(r.Snapshot().Fleets(n))) != 1 {
			t.Errorf("%s: %+v", n, got)
		}
	}
}

// The machines of a large registry lie in 2^14 buckets, whose keys have no byte of more
// than four bits.
func TestBuckets(t *testing.T) {
	keys := map[bucketKey]bool{}
	for i := range 1 << 18 {
		addr := network(t, "fdaa:0:18::/48").Prefix().Addr().As16()
		addr[11], addr[12], addr[13] = byte(i>>16), byte(i>>8), byte(i)
		key := bucketOf(netip.AddrFrom16(addr))
		if keys[key] = true; max(key[0], key[1], key[2]) > 15 || key[3] > 3 {
			t.Fatalf("%v has a digit that is too large", key)
		}
	}
	if n := len(keys); n < 1<<14-10 {
		t.Errorf("%d buckets are used, want 2^14", n)
	}
}

// A key is renamed by inserting the new one and deleting the old, and for a
// moment two machines have one address.
func TestTwoMachinesOfOneAddress(t *testing.T) {
	r := New()
	ip := "fdaa:0:18:a7b:7d:f066:b83b:2"
	old, renamed := machine(t, "m1", at(ip), inApp("old")), machine(t, "m1", at(ip), inApp("new"))
	r.Apply([]Item{Put(old)})
	r.Apply([]Item{Put(renamed)})
	if near := first(r.Snapshot().MachinesAt(old.Addr, true)); len(near) != 2 {
		t.Fatalf("%d machines at the address, want both", len(near))
	}
	r.Apply([]Item{Delete(old.Key())})
	if near := first(r.Snapshot().MachinesAt(old.Addr, true)); len(near) != 1 || near[0] != renamed {
		t.Fatalf("machines at the address: %s, want the renamed one", ids(near))
	}
}

// An address has the machines that it has, in one order whatever they were.
func TestMachinesOfOneAddressByState(t *testing.T) {
	r := New()
	const ip = "fdaa:0:18:a7b:7d:f066:b83b:2"
	put := func(id, state string) { r.Apply([]Item{Put(machine(t, id, at(ip), inState(state)))}) }
	for _, step := range []struct{ id, state, want string }{
		{"m1", "stopped", "[m1]"}, {"m2", "started", "[m2 m1]"}, {"m0", "destroyed", "[m2 m1]"}, {"m1", "started", "[m1 m2]"},
		{"m1", "destroyed", "[m2]"}, {"m2", "stopped", "[m2]"}, {"m2", "destroyed", "[]"}, {"m0", "odd", "[m0]"},
	} {
		put(step.id, step.state)
		addr := netip.MustParseAddr(ip)
		got := ids(append(first(r.Snapshot().MachinesAt(addr, true)), first(r.Snapshot().MachinesAt(addr, false))...))
		owner, _ := r.Snapshot().MachineNear(addr)
		if got != step.want || !strings.HasPrefix(got, "["+owner.ID) && got != "[]" {
			t.Fatalf("with %s %s: %s, of which %s owns the /112; want %s", step.id, step.state, got, owner.ID, step.want)
		}
	}
	r.Apply([]Item{Delete(machine(t, "m0").Key()), Delete(machine(t, "m1").Key()), Delete(machine(t, "m2").Key())})
	if m, _ := r.Snapshot().MachineNear(netip.MustParseAddr(ip)); m != nil {
		t.Errorf("%+v is left", m)
	}
}

// What a key does not name for sure, it does not delete.
func TestDeleteWithoutANetwork(t *testing.T) {
	r := New()
	peer, _ := NewPeer(PeerSpec{Name: "p", PrivateIP: "fdaa::1"})
	address, _ := NewAddress(AddressSpec{App: "web", Address: "fdaa::2"})
	r.Apply([]Item{Put(peer), Put(address)})
	for _, o := range []Object{peer, address} {
		key := o.Key()
		key.AnyNetwork = true
		r.Apply([]Item{Delete(key), Delete(Key{Kind: key.Kind, Name: key.Name, ID: "nonsense"})})
	}
	if len(objects(r)) != 2 {
		t.Errorf("left: %v", objects(r))
	}
}

func TestAddressMovesOverARestart(t *testing.T) {
	r := New()
	before, after := machine(t, "m1", at("fdaa:0:18:1::2")), machine(t, "m1", at("fdaa:0:18:2::2"))
	r.Apply([]Item{Put(before)})
	_, watch := r.Snapshot().MachinesAt(after.Addr, true)
	r.Apply([]Item{Put(after)})
	if !closed(watch) {
		t.Error("nobody heard that the new address is taken")
	}
	if near := first(r.Snapshot().MachinesAt(before.Addr, true)); len(near) != 0 {
		t.Error("the old address still has an owner")
	}
	without := machine(t, "m1")
	r.Apply([]Item{Put(without)})
	if near := first(r.Snapshot().MachinesAt(after.Addr, true)); len(near) != 0 {
		t.Error("an address taken away still has an owner")
	}
}

// Whatever is read with its channel stays true until the channel closes.
func TestChannelsCloseWhenWhatWasReadChanges(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	r := New()
	type read struct {
		again func() (any, <-chan struct{})
		value any
		watch <-chan struct{}
	}
	nets := []Network{network(t, "fdaa:0:18::/48"), network(t, "fdaa:0:99::/48")}
	apps := []string{"a", "ab", "b", "web"}
	reads := func() []*read {
		var all []*read
		add := func(again func() (any, <-chan struct{})) {
			value, watch := again()
			all = append(all, &read{again, value, watch})
		}
		for _, n := range nets {
			for _, app := range apps {
				add(func() (any, <-chan struct{}) { f, w := r.Snapshot().Fleet(n, app); return fleetString(f), w })
				add(func() (any, <-chan struct{}) {
					l, w := r.Snapshot().Addresses(n, app)
					return fmt.Sprint(len(slices.Collect(l.All))), w
				})
				add(func() (any, <-chan struct{}) { p, w := r.Snapshot().Peer(n, app); return p, w })
			}
			add(func() (any, <-chan struct{}) {
				l, w := r.Snapshot().Fleets(n)
				return fleetsString(slices.Collect(l.All)), w
			})
			add(func() (any, <-chan struct{}) {
				l, w := r.Snapshot().Peers(n)
				return fmt.Sprint(len(slices.Collect(l.All))), w
			})
			for i := range 8 {
				addr := testAddr(n, i)
				add(func() (any, <-chan struct{}) {
					l, w := r.Snapshot().MachinesAt(addr, i%2 == 0)
					return ids(l), w
				})
				add(func() (any, <-chan struct{}) { m, w := r.Snapshot().MachineNear(addr); return m, w })
				add(func() (any, <-chan struct{}) {
					l, w := r.Snapshot().PeersAt(addr)
					return fmt.Sprint(len(slices.Collect(l.All))), w
				})
				add(func() (any, <-chan struct{}) { p, w := r.Snapshot().PeerAt(addr); return p, w })
				add(func() (any, <-chan struct{}) {
					l, w := r.Snapshot().AddressesAt(addr)
					return fmt.Sprint(len(slices.Collect(l.All))), w
				})
			}
		}
		return all
	}
	kept := reads()
	for step := range 1000 {
		r.Apply(randomItems(t, rng, nets, apps))
		for _, k := range kept {
			value, watch := k.again()
			if !reflect.DeepEqual(value, k.value) && !closed(k.watch) {
				t.Fatalf("step %d: read %v before and %v now, and the channel is open", step, k.value, value)
			}
			k.value, k.watch = value, watch
		}
	}
}

func testAddr(n Network, i int) netip.Addr {
	b := n.Prefix().Addr().As16()
	b[13] = byte(i)
	b[15] = 2
	return netip.AddrFrom16(b)
}

// randomItems returns one to three random changes.
func randomItems(t testing.TB, rng *rand.Rand, nets []Network, apps []string) []Item {
	var items []Item
	for range 1 + rng.IntN(3) {
		n, app := nets[rng.IntN(len(nets))], apps[rng.IntN(len(apps))]
		addr := testAddr(n, rng.IntN(8)).String()
		var o Object
		var err error
		switch rng.IntN(5) {
		case 0:
			o, err = NewApp(AppSpec{Name: app, Network: n.String()})
		case 1:
			o, err = NewPeer(PeerSpec{Name: app, PrivateIP: addr})
		case 2:
			o, err = NewAddress(AddressSpec{App: app, Address: addr})
		default:
			states := []string{"started", "stopped", "destroyed"}
			o, err = NewMachine(MachineSpec{ID: fmt.Sprint("m", rng.IntN(6)), App: app, PrivateIP: addr, State: states[rng.IntN(3)], Region: "iad"})
		}
		if err != nil {
			t.Fatal(err)
		}
		if rng.IntN(2) == 0 {
			items = append(items, Put(o))
		} else {
			items = append(items, Delete(o.Key()))
		}
	}
	return items
}

func fleetString(f *Fleet) string {
	if f == nil {
		return "none"
	}
	s := fmt.Sprint(f.name, f.registered)
	for _, m := range f.all {
		s += fmt.Sprintf(" %+v", *m)
	}
	return s
}

func fleetsString(fleets []*Fleet) string {
	s := ""
	for _, f := range fleets {
		s += fleetString(f) + "\n"
	}
	return s
}
