package registry

import (
	"net/netip"
	"strings"
	"testing"
)

func TestStates(t *testing.T) {
	for state, want := range map[string][2]bool{ // deployed, started
		"started": {true, true}, "stopped": {true, false}, "created": {true, false}, "suspended": {true, false}, "replacing": {true, false},
		"destroying": {false, false}, "destroyed": {false, false}, "replaced": {false, false}, "migrated": {false, false}, "unheard-of": {true, false}, "Started": {true, false},
	} {
		m := machine(t, "a", inState(state), at("fdaa:0:18::2"))
		if m.Deployed() != want[0] || m.Started() != want[1] {
			t.Errorf("%s: deployed %t, started %t; want %v", state, m.Deployed(), m.Started(), want)
		}
	}
}

func TestParseNetwork(t *testing.T) {
	for text, want := range map[string]string{
		"fdaa:0:18::/48":      "",
		"fdaa:0:18::":         "",
		"fdaa:ffff:ffff::/48": "",
		"fdaa:0:18::/47":      "is not a /48 inside fdaa::/16",
		"fdaa:0:18::/49":      "is not a /48 inside fdaa::/16",
		"fdab:0:18::/48":      "is not a /48 inside fdaa::/16",
		"fcaa:0:18::":         "is not a /48 inside fdaa::/16",
		"::ffff:10.0.0.1":     "is not a /48 inside fdaa::/16",
		"10.0.0.0/8":          "is not a /48 inside fdaa::/16",
		"fdaa:0:18::%lo":      "is not an IPv6 prefix",
		"web":                 "is not an IPv6 prefix",
		"":                    "is not an IPv6 prefix",
		"/48":                 "is not a prefix",
		"fdaa:0:18::/129":     "is not a prefix",
		"fdaa:0:18:1::/48":    "want fdaa:0:18::/48",
		"fdaa:0:18::1":        "want fdaa:0:18::/48",
	} {
		n, err := ParseNetwork(text)
		if want == "" {
			if err != nil || n.String() != strings.TrimSuffix(text, "/48")+"/48" {
				t.Errorf("%s: %s, %v", text, n, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) || n != 0 {
			t.Errorf("%s: %s, %v; want an error that says %q", text, n, err, want)
		}
	}
}

// What is wrong with an object is said; a good one of each kind is made.
func TestSpecs(t *testing.T) {
	made := func(o Object, err error) string {
		if err != nil {
			return err.Error()
		}
		return o.Key().String()
	}
	long := strings.Repeat("x", 63)
	app := func(name, network string) string { o, err := NewApp(AppSpec{name, network}); return made(o, err) }
	peer := func(s PeerSpec) string { o, err := NewPeer(s); return made(o, err) }
	address := func(s AddressSpec) string { o, err := NewAddress(s); return made(o, err) }
	of := func(s MachineSpec) string { o, err := NewMachine(s); return made(o, err) }
	for _, c := range []struct{ got, want string }{
		{app("Web", "fdaa:0:18::/48"), "app web in fdaa:0:18::/48"},
		{app(long, "fdaa:0:18::"), "app " + long + " in fdaa:0:18::/48"},
		{app(long+"x", "fdaa:0:18::"), `name "` + long + `"… has 64 bytes: a DNS label holds at most 63`},
		{app("!~", "fdaa:0:18::"), "app !~ in fdaa:0:18::/48"},
		{app("a b", "fdaa:0:18::"), `name "a b" has the character ' ' at byte 2: use letters, digits, '-' and '_'`},
		{app("\x7f", "fdaa:0:18::"), `name "\x7f" has the character '\x7f' at byte 1: use letters, digits, '-' and '_'`},
		{app("a.b", ""), `name "a.b" has the character '.' at byte 2: use letters, digits, '-' and '_'; network is missing: want a /48 such as fdaa:0:18::/48`},
		{app("a,", "fdaa:0:18::"), `name "a," has the character ',' at byte 2: use letters, digits, '-' and '_'`},
		{app(";", "fdaa:0:18::"), `name ";" has the character ';' at byte 1: use letters, digits, '-' and '_'`},
		{app("=", "fdaa:0:18::"), `name "=" has the character '=' at byte 1: use letters, digits, '-' and '_'`},
		{app("", "web"), `name is missing; network "web" is not an IPv6 prefix: want a /48 inside fdaa::/16, such as fdaa:0:18::/48`},
		{peer(PeerSpec{Name: "P", PrivateIP: "fdaa:0:18::1"}), "peer p in fdaa:0:18::/48"},
		{peer(PeerSpec{Name: "p", Network: "fdaa:0:18::"}), "private_ip is missing"},
		{peer(PeerSpec{Name: "p"}), "network and private_ip are both missing: one of them must name the network"},
		{peer(PeerSpec{Name: "p", Region: "a.b", PrivateIP: "fdaa:0:18::1"}), `region "a.b" has the character '.' at byte 2: use letters, digits, '-' and '_'`},
		{address(AddressSpec{App: "Web", Network: "fdaa:0:18::", Address: "fdaa:0:18::0:1"}), "address web/fdaa:0:18::1 in fdaa:0:18::/48"},
		{address(AddressSpec{App: "web", Network: "fdaa:0:18::"}), "address is missing"},
		{address(AddressSpec{App: "web", Network: "fdaa:0:18::", Address: "fdaa:0:19::1"}), "address fdaa:0:19::1 lies in fdaa:0:19::/48, not in its network fdaa:0:18::/48"},
		{address(AddressSpec{App: "web", Address: "fd00::1"}), "address fd00::1 lies outside fdaa::/16, where private networks are"},
		{address(AddressSpec{App: "web", Address: "fdaa::1%lo"}), `address "fdaa::1%lo" is not an IPv6 address`},
		{address(AddressSpec{App: "web", Address: "here"}), `address "here" is not an IPv6 address`},
		{of(MachineSpec{ID: "M1", App: "Web", State: "x", PrivateIP: "fdaa:0:18::1"}), "machine web/m1 in fdaa:0:18::/48"},
		{of(MachineSpec{ID: "m1", App: "web", State: long, PrivateIP: "fdaa:0:18::1"}), "machine web/m1 in fdaa:0:18::/48"},
		{of(MachineSpec{ID: "m1", App: "web", State: long + "x", PrivateIP: "fdaa:0:18::1"}), `state "` + long + `"… has 64 bytes: want at most 63`},
		{of(MachineSpec{}), `id is missing; app is missing; network and private_ip are both missing: one of them must name the network; state is missing: want "started", "stopped" or another of the Machines API's states`},
	} {
		if c.got != c.want {
			t.Errorf("%s\nwant %s", c.got, c.want)
		}
	}
}

func TestKeyInWords(t *testing.T) {
	for want, key := range map[string]Key{
		"machine web/m1 in fdaa:0:18::/48": {Kind: KindMachine, Network: 0x18, Name: "web", ID: "m1"},
		"machine m1 in fdaa:0:18::/48":     {Kind: KindMachine, Network: 0x18, ID: "m1"},
		"app web":                          {Kind: KindApp, Name: "web", AnyNetwork: true},
		"peer without a name":              {Kind: KindPeer, Network: 0x18},
	} {
		if key.String() != want {
			t.Errorf("%s, want %s", key, want)
		}
	}
}

// Two objects are equal where all of them is.
func TestEqual(t *testing.T) {
	with := func(edit func(*MachineSpec)) Object {
		return machine(t, "m1", at("fdaa:0:18::1"), func(s *MachineSpec) { s.Metadata = map[string]string{"k": "v"} }, edit)
	}
	addr := netip.MustParseAddr("fdaa:0:18::1")
	all := []Object{
		with(func(*MachineSpec) {}),
		with(func(s *MachineSpec) { s.ID = "M1" }), with(func(s *MachineSpec) { s.App = "Web" }), with(func(s *MachineSpec) { s.State = "stopped" }),
		with(func(s *MachineSpec) { s.Region = "ams" }), with(func(s *MachineSpec) { s.SkipRegistration = true }),
		with(func(s *MachineSpec) { s.PrivateIP = "fdaa:0:18::2" }), with(func(s *MachineSpec) { s.PrivateIP = "fdaa:0:19::1" }),
		with(func(s *MachineSpec) { s.Network, s.PrivateIP = "fdaa:0:18::", "" }), with(func(s *MachineSpec) { s.Network, s.PrivateIP = "fdaa:0:19::", "" }),
		with(func(s *MachineSpec) { s.Metadata = nil }), with(func(s *MachineSpec) { s.Metadata["k"] = "w" }),
		with(func(s *MachineSpec) { s.Metadata = map[string]string{"K": "v"} }), with(func(s *MachineSpec) { s.Metadata["l"] = "v" }),
		&App{Name: "a", Network: 0x18}, &App{Name: "A", Network: 0x18}, &App{Name: "a", Network: 0x19},
		&Peer{Name: "a", Network: 0x18, Addr: addr}, &Peer{Name: "a", Network: 0x18, Addr: addr, Region: "ams"},
		&Address{App: "a", Network: 0x18, Addr: addr}, &Address{App: "a", Network: 0x19, Addr: addr},
	}
	for i, a := range all {
		for j, b := range all {
			if Equal(a, b) != (i == j) {
				t.Errorf("%+v and %+v: %t", a, b, Equal(a, b))
			}
		}
	}
	if !Equal(all[0], with(func(*MachineSpec) {})) {
		t.Error("a machine read twice is not the same")
	}
}

// Whoever watches the status is woken when what answers say of it changes, and by Wake.
func TestStatus(t *testing.T) {
	r := New()
	for _, c := range []struct {
		to                   State
		synced, stale, wakes bool
	}{
		{Listing, false, false, false}, {Cached, true, true, true}, {Stale, true, true, false},
		{CatchingUp, true, true, true},
		{Live, true, false, true}, {CatchingUp, true, true, true}, {Held, true, false, true}, {Live, true, false, false}, {Listing, false, false, true},
	} {
		watch, epoch := r.Status().Changed(), r.Epoch()
		r.SetStatus(Status{State: c.to, Source: string(c.to)})
		s := r.Status()
		if s.State != c.to || s.Source != string(c.to) || s.Synced() != c.synced || s.Stale() != c.stale || closed(watch) != c.wakes || (r.Epoch() > epoch) != c.wakes {
			t.Errorf("%s: %+v, synced %t, stale %t, watchers are woken %t, want %+v", c.to, s, s.Synced(), s.Stale(), closed(watch), c)
		}
	}
	before, epoch := r.Status(), r.Epoch()
	r.Wake()
	r.SetStatus(*r.Status()) // which it does not keep waiting
	if after := r.Status(); !closed(before.Changed()) || closed(after.Changed()) || r.Epoch() <= epoch || after.State != Listing || after.Source != before.Source {
		t.Errorf("woken: %+v, was %+v", after, before)
	}
}
