package zones

import (
	"net/netip"
	"testing"

	"dnsd/registry"
)

func TestViewer(t *testing.T) {
	own := netip.MustParseAddr("fdaa::3")
	reg, z := serve(Config{Region: "LHR", Advertise: own}, append(fleet(),
		machine(netA, "old1 gone ams destroyed fdaa:0:18:c::2"),
		machine(netA, "old2 gone cdg destroyed fdaa:0:18:d::2"), machine(netA, "old3 web fra stopped fdaa:0:18:d::2"),
		machine(netA, "old4 zeb sin started fdaa:0:18:d::3"))...)
	none, inNetwork := z.Viewer(), New(reg, Config{Network: netip.MustParsePrefix("fdaa:0:99:1::/48"), Region: "lhr", Advertise: own}).Viewer()
	for _, test := range []struct{ addr, network, region string }{
		{m1, netA, "iad"},
		{"fdaa:0:18:a:1:0:1:ffff", netA, "iad"}, // anywhere in the machine's /112
		{m6, netA, "iad"},                       // lower case, whatever the source writes
		{"fdaa:0:18:a:1:0:5:2", netA, "syd"},    // hidden in DNS, still somewhere
		{"fdaa:0:18:c::2", netA, "ams"},         // the registry thinks it gone, but it asks
		{"fdaa:0:18:d::2", netA, "sin"},         // of several in one /112, the one that runs
		{"fdaa:0:18:a:1:0:b:2", netA, "lhr"},    // a machine without a region
		{"fdaa:0:18:a:9:0:1:2", netA, "ord"},    // a peer
		{"fdaa:0:18:a:9:0:2:2", netA, "ams"},    // an interactive one
		{"fdaa:0:99:a:9:0:1:2", netB, "lhr"},    // a peer without a region
		{"fdaa:0:18::dead", netA, "lhr"},        // unknown
		{"fdaa::1", "fdaa::/48", "lhr"},
		{"fdaa::3", "", ""}, // the host itself
		{"127.0.0.1", "", ""}, {"::1", "", ""}, {"fd00::1", "", ""}, {"2001:db8::1", "", ""},
	} {
		view, watch := none.View(netip.MustParseAddr(test.addr))
		got := ""
		if view.Network.IsValid() {
			got = view.Network.String()
		}
		if got != test.network || view.Region != test.region {
			t.Errorf("%s is in %q, region %q; want %q, %q", test.addr, got, view.Region, test.network, test.region)
		}
		if test.network != "" && len(watch) == 0 {
			t.Errorf("%s: nothing says when the view changes", test.addr)
		}
		view, _ = inNetwork.View(netip.MustParseAddr(test.addr))
		if test.network == "" && (view.Network.String() != netB || view.Region != "lhr") {
			t.Errorf("%s with --network is in %s, region %q", test.addr, view.Network, view.Region)
		} else if test.network != "" && view.Network.String() != test.network {
			t.Errorf("--network takes %s out of its own network into %s", test.addr, view.Network)
		}
	}

	within, _ := New(reg, Config{Advertise: netip.MustParseAddr("fdaa:0:18::3")}).Viewer().View(netip.MustParseAddr("fdaa:0:18::3"))
	if within.Network.String() != netA {
		t.Errorf("dnsd's address in a network is in %s", within.Network)
	}

	for _, change := range []registry.Item{
		machine(netA, "f001 new nrt started fdaa:0:18::dead"),
		peer("new", "fdaa:0:18::dead", "sea"),
	} {
		addr := netip.MustParseAddr("fdaa:0:18::dead")
		before, watch := none.View(addr)
		reg.Apply([]registry.Item{change})
		if !isClosed(watch) {
			t.Errorf("%v changes the client, and no channel closes", change.Object)
		}
		if after, _ := none.View(addr); after == before {
			t.Errorf("%v does not change the view", change.Object)
		}
		reg.Apply([]registry.Item{registry.Delete(change.Object.Key())})
	}
}
