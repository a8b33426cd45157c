package zones

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// What a fleet keeps for one name is given for that name only, at once, and is
// what would be made anew.
func TestKeptBodies(t *testing.T) {
	w := newWorld(1, 1, true)
	items := w.settlers()
	_, keeps := serve(Config{}, items...)
	_, makes := serve(Config{}, items...)
	keeps.inline, makes.inline = 0, 1<<30
	for i := range 3000 {
		name, typ := w.question()
		view := resolver.View{Network: netip.MustParsePrefix(one(w, worldNetworks...)), Region: one(w, "iad", "fra", "nowhere", "")}
		got, want := ask(t, keeps, view, "", name, typ), ask(t, makes, view, "", name, typ)
		if !same(got, want) {
			t.Fatalf("%d, %s %s from %s: kept as %s, made as %s", i, name, typeName(typ), view.Region, render(t, got), render(t, want))
		}
	}
}

func TestKeysOfBodies(t *testing.T) {
	names := map[string]name{}
	for _, n := range []name{
		{kind: kindApp}, {kind: kindRegion}, {kind: kindRegion, arg: "all"}, {kind: kindRegion, arg: "a"}, {kind: kindGroup, arg: "a"},
		{kind: kindKey, arg: "a"}, {kind: kindPair, arg: "a"}, {kind: kindPair, arg: "a", value: "b.c"}, {kind: kindPair, arg: "ab", value: ".c"},
		{kind: kindPair, arg: "ab.c"}, {kind: kindNearest, arg: "a"}, {kind: kindVMs}, {kind: kindVMs, all: true}, {kind: kindRegions},
		{kind: kindRegions, all: true},
	} {
		if twin, ok := names[n.key()]; ok {
			t.Errorf("%+v and %+v have one key", n, twin)
		}
		names[n.key()] = n
	}
}

// The order of a large fleet is made once, whatever N is asked for; and what a
// socket keeps of it is its own.
func TestNearestOfALargeFleet(t *testing.T) {
	var items []registry.Item
	for i := range 3000 {
		region := "iad"
		switch {
		case i%300 == 0:
			region = "fra"
		case i%2 == 0:
			region = "ams"
		}
		items = append(items, machine(netA, fmt.Sprintf("m%04d web %s started fdaa:0:18::%x", i, region, i+1)))
	}
	_, z := serve(Config{}, items...)
	_, anew := serve(Config{}, items...)
	anew.inline = 1 << 30
	c := asked{name: "top1.nearest.of.web.internal", typ: dns.TypeAAAA, view: resolver.View{Network: netip.MustParsePrefix(netA), Region: "fra"}}
	if a, _ := stepsOf(t, z, c, nil); a != nil {
		t.Fatal("3,000 machines are put in order while a socket waits")
	}
	whole, _ := stepsOf(t, z, c, func() {})
	if len(whole.Data) != 10 || whole.Limit != 1 || fmt.Sprint(whole.Turns) != "[10]" {
		t.Fatalf("the nearest is one of %d, in turns %v, limit %d", len(whole.Data), whole.Turns, whole.Limit)
	}
	all, _ := stepsOf(t, z, asked{name: "top3000.nearest.of.web.internal", typ: dns.TypeAAAA, view: c.view}, nil)
	for _, test := range []struct {
		top     int
		data    int
		noStore bool
		shared  bool
	}{
		{1, 10, false, false}, {10, 10, false, false}, {11, 1500, true, true}, {999, 1500, true, true}, {1000, 1500, true, true},
		{1500, 1500, true, true}, {1501, 3000, true, true}, {3000, 3000, true, true}, {1 << 29, 3000, true, true},
	} {
		c.name = fmt.Sprintf("top%d.nearest.of.web.internal", test.top)
		a, steps := stepsOf(t, z, c, nil)
		if a == nil || steps != 0 {
			t.Fatalf("%s: refused %t, %d steps", c.name, a == nil, steps)
		}
		if shared := &a.Data[0][0] == &all.Data[0][0]; len(a.Data) != test.data || a.NoStore != test.noStore || shared != test.shared {
			t.Errorf("%s: %d addresses, NoStore %t, shared %t; want %+v", c.name, len(a.Data), a.NoStore, shared, test)
		}
		if want, _ := stepsOf(t, anew, c, nil); !same(a, want) {
			t.Errorf("%s: %d addresses in turns %v, made anew %d in %v", c.name, len(a.Data), a.Turns, len(want.Data), want.Turns)
		}
	}

	// A copy has no room that it does not need, and its records cannot grow into each other.
	rng := rand.New(rand.NewPCG(1, 1))
	for range 10 {
		data := all.Data[:1+rng.IntN(1000)]
		c := copied(data)
		for i := range data {
			if string(c[i]) != string(data[i]) || cap(c[i]) != 16 {
				t.Fatalf("record %d of %d is copied as %x", i, len(data), c[i])
			}
		}
	}
}

// All of a small fleet is kept by sockets, as long as N is one that may be.
func TestNearestIsKeptUpToAThousand(t *testing.T) {
	_, z := serve(Config{}, machine(netA, "m1 web iad started fdaa:0:18::1"), machine(netA, "m2 web fra started fdaa:0:18::2"))
	for top, noStore := range map[int]bool{1: false, 2: false, 999: false, 1000: true, 1001: true} {
		for _, typ := range []uint16{dns.TypeAAAA, dns.TypeA} {
			a := ask(t, z, resolver.View{Network: netip.MustParsePrefix(netA), Region: "fra"}, "", fmt.Sprintf("top%d.nearest.of.web.internal", top), typ)
			if a.NoStore != noStore {
				t.Errorf("top%d %s: NoStore %t", top, typeName(typ), a.NoStore)
			}
		}
	}
}
