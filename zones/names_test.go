package zones

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// fleet is what the table test asks about.
func fleet() []registry.Item {
	return []registry.Item{
		machine(netA, "148e my-app iad started fdaa:0:18:a:1:0:1:2 group=web role=primary version=1.2.3 Team+Name=Blue+Sky fly.x=1"),
		machine(netA, "253f my-app fra started fdaa:0:18:a:1:0:2:2 group=web role=replica Team+Name=red"),
		machine(netA, "3a01 my-app fra stopped fdaa:0:18:a:1:0:3:2 group=worker role=spare x=a.b.C y=.z"),
		machine(netA, "4b02 my-app lhr destroyed fdaa:0:18:a:1:0:4:2 group=batch role=gone"),
		machine(netA, "5c03 my-app syd started fdaa:0:18:a:1:0:5:2 group=hidden role=hidden skip"),
		machine(netA, "6d04 my-app IAD started fdaa:0:18:a:1:0:6:2 group=web role=replica"),
		machine(netA, "71aa asleep gru stopped fdaa:0:18:a:1:0:7:2 group=web role=x"),
		machine(netA, "72aa asleep gru suspended fdaa:0:18:a:1:0:8:2"),
		machine(netA, "73aa asleep gru pondering fdaa:0:18:a:1:0:9:2"),
		machine(netA, "80aa noaddr gru started"),
		machine(netA, "90aa gone gru destroyed fdaa:0:18:a:1:0:a:2"),
		machine(netA, "91aa noplace - started fdaa:0:18:a:1:0:b:2"),
		machine(netA, "a1aa vm iad started fdaa:0:18:a:1:0:c:2"),
		app(netA, "my-db"),
		peer("My-Peer", "fdaa:0:18:a:9:0:1:2", "ord"),
		peer("interactive-42", "fdaa:0:18:a:9:0:2:2", "ams"),
		flycast("my-app", "fdaa:0:18:0:1::7"), flycast("my-app", "fdaa:0:18:0:1::8"),
		flycast("shared", "fdaa:0:18:0:1::9"),

		machine(netB, "b001 my-app nrt started fdaa:0:99:a:1:0:1:2 role=primary"),
		machine(netB, "b002 theirs nrt started fdaa:0:99:a:1:0:2:2"),
		peer("their-peer", "fdaa:0:99:a:9:0:1:2", ""),
		flycast("my-app", "fdaa:0:99:0:1::9"),
	}
}

const (
	m1 = "fdaa:0:18:a:1:0:1:2"
	m2 = "fdaa:0:18:a:1:0:2:2"
	m6 = "fdaa:0:18:a:1:0:6:2"
)

// reverse returns an address's reverse name without the final dot.
func reverse(addr string) string {
	r, err := dns.ReverseAddr(addr)
	if err != nil {
		panic(err)
	}
	return strings.TrimSuffix(r, ".")
}

func TestNames(t *testing.T) {
	const (
		aaaaOnly = "NODATA; 0 this name has AAAA records only"
		txtOnly  = "NODATA; 0 this name has a TXT record only"
		between  = "NODATA; 0 this name has no records, only names below it"
		hinfo    = `"RFC8482" ""`
		soa      = " hostmaster.internal. 1 3600 600 86400 5"
	)
	tests := []struct{ name, typ, want string }{
		// The table of AAAA.
		{"my-app.internal", "AAAA", m1 + " " + m2 + " " + m6},
		{"MY-App.internal", "AAAA", m1 + " " + m2 + " " + m6},
		{"global.my-app.internal", "AAAA", m1 + " " + m2 + " " + m6},
		{"iad.my-app.internal", "AAAA", m1 + " " + m6},
		{"fra.my-app.internal", "AAAA", m2},
		{"148e.vm.my-app.internal", "AAAA", m1},
		{"web.process.my-app.internal", "AAAA", m1 + " " + m2 + " " + m6},
		{"top1.nearest.of.my-app.internal", "AAAA", m1 + " " + m6 + " (1)"},
		{"top2.nearest.of.my-app.internal", "AAAA", m1 + " " + m6},
		{"top3.nearest.of.my-app.internal", "AAAA", m1 + " " + m6 + " " + m2},
		{"top99999999999999999999999.nearest.of.my-app.internal", "AAAA", m1 + " " + m6 + " " + m2},
		{"replica.role.kv._metadata.my-app.internal", "AAAA", m2 + " " + m6},
		{"REPLICA.Role.kv._metadata.my-app.internal", "AAAA", m2 + " " + m6},
		{"1.2.3.version.kv._metadata.my-app.internal", "AAAA", m1},
		{`1\.2\.3.version.kv._metadata.my-app.internal`, "AAAA", m1},
		{`1.fly\.x.kv._metadata.my-app.internal`, "AAAA", m1},
		{"blue sky.team name.kv._metadata.my-app.internal", "AAAA", m1},
		{"role.kv._metadata.my-app.internal", "AAAA", m1 + " " + m2 + " " + m6},
		{"version.kv._metadata.my-app.internal", "AAAA", m1},
		{"my-peer._peer.internal", "AAAA", "fdaa:0:18:a:9:0:1:2"},
		{"_api.internal", "AAAA", "fdaa::5"},
		{"my-app.flycast", "AAAA", "fdaa:0:18:0:1::7 fdaa:0:18:0:1::8"},
		{"shared.flycast", "AAAA", "fdaa:0:18:0:1::9"},
		{"vm.internal", "AAAA", "fdaa:0:18:a:1:0:c:2"},
		{"a1aa.vm.vm.internal", "AAAA", "fdaa:0:18:a:1:0:c:2"},

		// The table of TXT.
		{"vms.my-app.internal", "TXT", `"148e iad,253f fra,6d04 iad"`},
		{"all.vms.my-app.internal", "TXT", `"148e iad,253f fra,3a01 fra,6d04 iad"`},
		{"regions.my-app.internal", "TXT", `"fra,iad"`},
		{"all.regions.my-app.internal", "TXT", `"fra,iad"`},
		{"all.regions.asleep.internal", "TXT", `"gru"`},
		{"_apps.internal", "TXT", `"asleep,my-app,my-db,noaddr,noplace,vm"`},
		{"_peer.internal", "TXT", `"My-Peer"`},
		{"_instances.internal", "TXT", `"instance=148e,app=my-app,ip=` + m1 + `,region=iad;instance=253f,app=my-app,ip=` + m2 +
			`,region=fra;instance=6d04,app=my-app,ip=` + m6 + `,region=iad;instance=91aa,app=noplace,ip=fdaa:0:18:a:1:0:b:2,region=;" ` +
			`"instance=a1aa,app=vm,ip=fdaa:0:18:a:1:0:c:2,region=iad"`},

		// Another type than the name has.
		{"my-app.internal", "A", aaaaOnly}, {"my-app.internal", "MX", aaaaOnly}, {"my-app.internal", "HTTPS", aaaaOnly},
		{"my-app.internal", "SRV", aaaaOnly}, {"my-app.internal", "DS", aaaaOnly}, {"my-app.internal", "CNAME", aaaaOnly},
		{"my-app.internal", "SOA", aaaaOnly}, {"my-app.internal", "TXT", aaaaOnly}, {"my-app.internal", "TYPE65280", aaaaOnly},
		{"iad.my-app.internal", "A", aaaaOnly}, {"top1.nearest.of.my-app.internal", "A", aaaaOnly},
		{"148e.vm.my-app.internal", "A", aaaaOnly}, {"my-peer._peer.internal", "A", aaaaOnly}, {"_api.internal", "A", aaaaOnly},
		{"my-app.flycast", "A", aaaaOnly}, {"my-app.flycast", "TXT", aaaaOnly},
		{"vms.my-app.internal", "AAAA", txtOnly}, {"all.vms.my-app.internal", "A", txtOnly},
		{"regions.my-app.internal", "AAAA", txtOnly}, {"_apps.internal", "AAAA", txtOnly}, {"_peer.internal", "AAAA", txtOnly},
		{"_instances.internal", "AAAA", txtOnly}, {"_whoami.internal", "AAAA", txtOnly}, {"_dnsd.internal", "AAAA", txtOnly},

		// Nothing started: NODATA that says so.
		{"asleep.internal", "AAAA", "NODATA; 0 asleep: 3 machines, none started"},
		{"gru.asleep.internal", "AAAA", "NODATA; 0 asleep in region gru: 3 machines, none started"},
		{"fra.my-app.internal", "A", aaaaOnly},
		{"worker.process.my-app.internal", "AAAA", "NODATA; 0 my-app in process group worker: 1 machine, none started"},
		{"spare.role.kv._metadata.my-app.internal", "AAAA", "NODATA; 0 my-app with the metadata role=spare: 1 machine, none started"},
		{"x.kv._metadata.my-app.internal", "AAAA", "NODATA; 0 my-app with the metadata key x: 1 machine, none started"},
		{"3a01.vm.my-app.internal", "AAAA", "NODATA; 0 machine 3a01 of my-app is stopped, not started"},
		{"73aa.vm.asleep.internal", "AAAA", "NODATA; 0 machine 73aa of asleep is pondering, not started"},
		{"80aa.vm.noaddr.internal", "AAAA", "NODATA; 0 machine 80aa of noaddr is started but has no address"},
		{"noaddr.internal", "AAAA", "NODATA; 0 noaddr: 1 machine, 1 started but without an address"},
		{"top1.nearest.of.asleep.internal", "AAAA", "NODATA; 0 asleep: 3 machines, none started"},
		{"my-db.internal", "AAAA", "NODATA; 0 my-db: no machines"},
		{"vms.asleep.internal", "TXT", "NODATA; 0 asleep: 3 machines, none started"},
		{"all.vms.my-db.internal", "TXT", "NODATA; 0 my-db: no machines"},
		{"regions.asleep.internal", "TXT", "NODATA; 0 asleep: 3 machines, none started"},
		{"regions.noplace.internal", "TXT", "NODATA; 0 noplace: no machine says its region"},
		{"vms.noaddr.internal", "TXT", "NODATA; 0 noaddr: 1 machine, 1 started but without an address"},

		// No such name.
		{"my-ap.internal", "AAAA", "NXDOMAIN; 0 no app my-ap in your network"},
		{"theirs.internal", "AAAA", "NXDOMAIN; 0 no app theirs in your network"},
		{"iad.theirs.internal", "AAAA", "NXDOMAIN; 0 no app theirs in your network"},
		{"vm.theirs.internal", "AAAA", "NXDOMAIN; 0 no app theirs in your network"},
		{"my-ap.internal", "A", "NXDOMAIN; 0 no app my-ap in your network"},
		{"gone.internal", "AAAA", "NXDOMAIN; 0 no app gone in your network"},
		{"vms.gone.internal", "TXT", "NXDOMAIN; 0 no app gone in your network"},
		{"lhr.my-app.internal", "AAAA", "NXDOMAIN; 0 no machine of my-app in region lhr"},
		{"syd.my-app.internal", "AAAA", "NXDOMAIN; 0 no machine of my-app in region syd"},
		{"nrt.my-app.internal", "AAAA", "NXDOMAIN; 0 no machine of my-app in region nrt"},
		{"all.my-app.internal", "AAAA", "NXDOMAIN; 0 no machine of my-app in region all"},
		{"batch.process.my-app.internal", "AAAA", "NXDOMAIN; 0 no machine of my-app in process group batch"},
		{"hidden.process.my-app.internal", "AAAA", "NXDOMAIN; 0 no machine of my-app in process group hidden"},
		{"b001.vm.my-app.internal", "AAAA", "NXDOMAIN; 0 no machine of my-app with the id b001"},
		{"4b02.vm.my-app.internal", "AAAA", "NXDOMAIN; 0 no machine of my-app with the id 4b02"},
		{"5c03.vm.my-app.internal", "AAAA", "NXDOMAIN; 0 no machine of my-app with the id 5c03"},
		{"148e.vm.asleep.internal", "AAAA", "NXDOMAIN; 0 no machine of asleep with the id 148e"},
		{"gone.role.kv._metadata.my-app.internal", "AAAA", "NXDOMAIN; 0 no machine of my-app with the metadata role=gone"},
		{"nokey.kv._metadata.my-app.internal", "AAAA", "NXDOMAIN; 0 no machine of my-app with the metadata key nokey"},
		{"\xff\x01 \x7f.role.kv._metadata.my-app.internal", "AAAA", `NXDOMAIN; 0 no machine of my-app with the metadata role=\255\001\032\127`},
		{strings.Repeat("v", 63) + "ww.role.kv._metadata.my-app.internal", "AAAA",
			"NXDOMAIN; 0 no machine of my-app with the metadata role=" + strings.Repeat("v", 63) + "…"},
		{"top0.nearest.of.my-app.internal", "AAAA", "NXDOMAIN; 0 top0 is no name here: want top1, top2, top3 …"},
		{"top01.nearest.of.my-app.internal", "AAAA", "NXDOMAIN; 0 top01 is no name here: want top1, top2, top3 …"},
		{"topx.nearest.of.my-app.internal", "AAAA", "NXDOMAIN; 0 topx is no name here: want top1, top2, top3 …"},
		{"top.nearest.of.my-app.internal", "AAAA", "NXDOMAIN; 0 top is no name here: want top1, top2, top3 …"},
		{"top-1.nearest.of.my-app.internal", "AAAA", "NXDOMAIN; 0 top-1 is no name here: want top1, top2, top3 …"},
		{"x.iad.my-app.internal", "AAAA", "NXDOMAIN; 0 my-app has no such name below it"},
		{"x.global.my-app.internal", "AAAA", "NXDOMAIN; 0 my-app has no such name below it"},
		{"x.148e.vm.my-app.internal", "AAAA", "NXDOMAIN; 0 my-app has no such name below it"},
		{"x.web.process.my-app.internal", "AAAA", "NXDOMAIN; 0 my-app has no such name below it"},
		{"x.top1.nearest.of.my-app.internal", "AAAA", "NXDOMAIN; 0 my-app has no such name below it"},
		{"x.of.my-app.internal", "AAAA", "NXDOMAIN; 0 my-app has no such name below it"},
		{"x._metadata.my-app.internal", "AAAA", "NXDOMAIN; 0 my-app has no such name below it"},
		{"x.vms.my-app.internal", "TXT", "NXDOMAIN; 0 my-app has no such name below it"},
		{"x.all.vms.my-app.internal", "TXT", "NXDOMAIN; 0 my-app has no such name below it"},
		{"your-peer._peer.internal", "AAAA", "NXDOMAIN; 0 no peer your-peer in your network"},
		{"their-peer._peer.internal", "AAAA", "NXDOMAIN; 0 no peer their-peer in your network"},
		{"interactive-42._peer.internal", "AAAA", "NXDOMAIN; 0 peers called interactive-… are in no answer"},
		{"x.my-peer._peer.internal", "AAAA", "NXDOMAIN; 0 there is no such name under internal."},
		{"x._api.internal", "AAAA", "NXDOMAIN; 0 there is no such name under internal."},
		{"x._apps.internal", "TXT", "NXDOMAIN; 0 there is no such name under internal."},
		{"x._instances.internal", "TXT", "NXDOMAIN; 0 there is no such name under internal."},
		{"all._apps.internal", "TXT", "NXDOMAIN; 0 there is no such name under internal."},
		{"my-db.flycast", "AAAA", "NXDOMAIN; 0 my-db has no flycast address for your network"},
		{"iad.my-app.flycast", "AAAA", "NXDOMAIN; 0 names under flycast. have one label: want my-app.flycast"},

		// Names between.
		{"vm.my-app.internal", "AAAA", between}, {"process.my-app.internal", "A", between}, {"of.my-app.internal", "AAAA", between},
		{"nearest.of.my-app.internal", "AAAA", between}, {"_metadata.my-app.internal", "TXT", between},
		{"kv._metadata.my-app.internal", "AAAA", between}, {"kv._metadata.my-db.internal", "AAAA", between},
		{"vm.my-app.internal", "ANY", between}, {"3.version.kv._metadata.my-app.internal", "AAAA", between},
		{"2.3.version.kv._metadata.my-app.internal", "AAAA", between}, {"c.x.kv._metadata.my-app.internal", "AAAA", between},
		{".3.version.kv._metadata.my-app.internal", "AAAA", "NXDOMAIN; 0 no machine of my-app with the metadata version=.3"},
		{"z.y.kv._metadata.my-app.internal", "AAAA", "NXDOMAIN; 0 no machine of my-app with the metadata y=z"},
		{"2.version.kv._metadata.my-app.internal", "AAAA", "NXDOMAIN; 0 no machine of my-app with the metadata version=2"},

		// The apexes.
		{"internal", "SOA", "internal." + soa}, {"internal", "NS", "internal."}, {"internal", "AAAA", "fdaa::3"},
		{"internal", "A", "NODATA"}, {"internal", "ANY", hinfo},
		{"flycast", "SOA", "flycast." + soa}, {"flycast", "NS", "flycast."}, {"flycast", "AAAA", "fdaa::3"},
		{"a.a.d.f.ip6.arpa", "SOA", "internal." + soa}, {"a.a.d.f.ip6.arpa", "NS", "internal."},
		{"a.a.d.f.ip6.arpa", "AAAA", "NODATA"}, {"d.f.ip6.arpa", "SOA", "internal." + soa},

		// ANY.
		{"my-app.internal", "ANY", hinfo}, {"vms.my-app.internal", "ANY", hinfo}, {"_dnsd.internal", "ANY", hinfo},
		{"top1.nearest.of.my-app.internal", "ANY", hinfo}, {"my-ap.internal", "ANY", "NXDOMAIN; 0 no app my-ap in your network"},
		{"asleep.internal", "ANY", "NODATA; 0 asleep: 3 machines, none started"}, {reverse(m1), "ANY", hinfo},

		// Reverse names.
		{reverse(m1), "PTR", "148e.vm.my-app.internal."},
		{strings.ToUpper(reverse(m1)), "PTR", "148e.vm.my-app.internal."},
		{reverse("fdaa:0:18:a:1:0:3:2"), "PTR", "3a01.vm.my-app.internal."},
		{reverse("fdaa:0:18:a:9:0:1:2"), "PTR", "My-Peer._peer.internal."},
		{reverse("fdaa:0:18:0:1::7"), "PTR", "my-app.flycast."},
		{reverse(m1), "AAAA", "NODATA; 0 this name has PTR records only"},
		{reverse("fdaa:0:18:a:1:0:1:3"), "PTR", "NXDOMAIN; 0 no machine, peer or flycast address of your network is fdaa:0:18:a:1:0:1:3"},
		{reverse("fdaa:0:18:a:1:0:4:2"), "PTR", "NXDOMAIN; 0 no machine, peer or flycast address of your network is fdaa:0:18:a:1:0:4:2"},
		{reverse("fdaa:0:18:a:1:0:5:2"), "PTR", "NXDOMAIN; 0 no machine, peer or flycast address of your network is fdaa:0:18:a:1:0:5:2"},
		{reverse("fdaa:0:18:a:9:0:2:2"), "PTR", "NXDOMAIN; 0 no machine, peer or flycast address of your network is fdaa:0:18:a:9:0:2:2"},
		{reverse("fdaa:0:99:a:1:0:1:2"), "PTR", "NXDOMAIN; 0 not an address of your network"},
		{reverse("fdaa:0:98::1"), "PTR", "NXDOMAIN; 0 not an address of your network"},
		{"0.a.a.d.f.ip6.arpa", "PTR", between},
		{"8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa", "PTR", between},
		{"0.8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa", "PTR", between},
		{"9.0.0.0.0.0.0.a.a.d.f.ip6.arpa", "PTR", "NXDOMAIN; 0 not an address of your network"},
		{"1.a.a.d.f.ip6.arpa", "PTR", "NXDOMAIN; 0 not an address of your network"},
		{"g.a.a.d.f.ip6.arpa", "PTR", "NXDOMAIN; 0 this is not the reverse name of an address: want 32 hexadecimal digits before ip6.arpa"},
		{"00.a.a.d.f.ip6.arpa", "PTR", "NXDOMAIN; 0 this is not the reverse name of an address: want 32 hexadecimal digits before ip6.arpa"},
		{"0." + reverse(m1), "PTR", "NXDOMAIN; 0 this is not the reverse name of an address: want 32 hexadecimal digits before ip6.arpa"},
		{"a.d.f.ip6.arpa", "PTR", between},
		{reverse("fd00::1"), "PTR", "NXDOMAIN; 0 only fdaa::/16 has names here, and nothing of fd00::/8 is forwarded"},
		{reverse("fdab::1"), "PTR", "NXDOMAIN; 0 only fdaa::/16 has names here, and nothing of fd00::/8 is forwarded"},
		{"b.d.f.ip6.arpa", "PTR", "NXDOMAIN; 0 only fdaa::/16 has names here, and nothing of fd00::/8 is forwarded"},

		// Who asks, and who answers.
		{"_whoami.internal", "TXT", `"network=fdaa:0:18::/48" "app=my-app" "machine=148e" "region=iad"`},
		{"_dnsd.internal", "TXT", `"version=1.2" "source=test:" "synced=true" "state=live" "apps=6" "machines=10" "peers=1"`},
	}
	reg, z := serve(Config{Advertise: netip.MustParseAddr("fdaa::3"), API: netip.MustParseAddr("fdaa::5"), Version: "1.2"}, fleet()...)
	client := netip.MustParseAddr(m1)
	view, _ := z.Viewer().View(client)
	stringToType := func(s string) uint16 {
		if s == "TYPE65280" {
			return 65280
		}
		return dns.StringToType[s]
	}
	for _, test := range tests {
		a := ask(t, z, view, m1, test.name, stringToType(test.typ))
		if got := render(t, a); got != test.want {
			t.Errorf("%s %s:\n got %s\nwant %s", test.name, test.typ, got, test.want)
		}
		// RFC 8020: what lies above an existing name exists.
		for above := test.name; a.Rcode == dns.RcodeSuccess && !isOrigin(above); {
			_, above, _ = strings.Cut(strings.ReplaceAll(above, `\.`, "_"), ".")
			if up := ask(t, z, view, m1, above, dns.TypeA); !strings.Contains(test.name, `\.`) && up.Rcode != dns.RcodeSuccess {
				t.Errorf("%s exists and %s, above it, does not", test.name, above)
			}
		}
	}

	// The same questions before the first listing, and from a client of no network.
	unsynced := registry.New()
	empty := New(unsynced, z.cfg)
	early := map[string]bool{"internal": true, "flycast": true, "a.a.d.f.ip6.arpa": true, "d.f.ip6.arpa": true,
		"_api.internal": true, "_whoami.internal": true, "_dnsd.internal": true}
	for _, test := range tests {
		typ := stringToType(test.typ)
		got := ask(t, empty, view, m1, test.name, typ)
		static := early[test.name] || strings.HasSuffix(test.name, "d.f.ip6.arpa") && !strings.HasSuffix(registry.Lower(test.name), "a.a.d.f.ip6.arpa")
		if !static && render(t, got) != "SERVFAIL; 14 dnsd has not read its registry yet: ask again in a moment" {
			t.Errorf("%s %s before the first listing: %s", test.name, test.typ, render(t, got))
		}
		if static && got.Rcode == dns.RcodeServerFailure {
			t.Errorf("%s %s does not depend on the registry: %s", test.name, test.typ, render(t, got))
		}
		if !static && (len(got.Watch) == 0 || isClosed(got.Watch)) {
			t.Errorf("%s %s before the first listing: nothing says when that ends", test.name, test.typ)
		}
		if got := render(t, ask(t, z, resolver.View{}, "127.0.0.1", test.name, typ)); got != "REFUSED; 18 "+noNetwork.Text {
			t.Errorf("%s %s for a client without network: %s", test.name, test.typ, got)
		}
		if got := render(t, ask(t, empty, resolver.View{}, "127.0.0.1", test.name, typ)); got != "REFUSED; 18 "+noNetwork.Text+"; 14 "+notReady.Text {
			t.Errorf("%s %s for a client without network, before the first listing: %s", test.name, test.typ, got)
		}
	}
	wide := resolver.View{Network: netip.MustParsePrefix("fdaa::/16")}
	if got := ask(t, z, wide, m1, "my-app.internal", dns.TypeAAAA); got.Rcode != dns.RcodeRefused {
		t.Errorf("a view that is no /48 is answered: %s", render(t, got))
	}
	before := ask(t, empty, view, m1, "my-app.internal", dns.TypeAAAA)
	unsynced.SetStatus(registry.Status{State: registry.Live})
	if !isClosed(before.Watch) {
		t.Error("the end of \"not ready\" closes no channel")
	}

	// And once more with a source that has fallen silent, and one that is caught up with.
	for _, marked := range []struct {
		state registry.State
		text  string
	}{
		{registry.Stale, "the registry's source is silent: this is the last known state"},
		{registry.CatchingUp, "the registry is catching up with its source: this is an earlier state"},
	} {
		before := ask(t, z, view, m1, "my-app.internal", dns.TypeAAAA)
		reg.SetStatus(registry.Status{State: marked.state, Source: "test:"})
		if !isClosed(before.Watch) {
			t.Errorf("that the registry is %s closes no channel", marked.state)
		}
		for _, test := range tests {
			if early[test.name] || strings.Contains(test.want, "fd00::/8") || test.name == "a.d.f.ip6.arpa" {
				continue
			}
			want := test.want + "; 3 " + marked.text
			if got := render(t, ask(t, z, view, m1, test.name, stringToType(test.typ))); got != want {
				t.Errorf("%s %s, %s:\n got %s\nwant %s", test.name, test.typ, marked.state, got, want)
			}
		}
	}
}

func isOrigin(name string) bool {
	return name == "internal" || name == "flycast" || strings.EqualFold(name, "d.f.ip6.arpa")
}

// isClosed reports whether one of the channels is.
func isClosed(channels []<-chan struct{}) bool {
	for _, ch := range channels {
		select {
		case <-ch:
			return true
		default:
		}
	}
	return false
}

// The same names for a client of the other network, whose app has the same name.
func TestOtherNetwork(t *testing.T) {
	_, z := serve(Config{Version: "1.2"}, fleet()...)
	const client = "fdaa:0:99:a:1:0:1:2"
	view, _ := z.Viewer().View(netip.MustParseAddr(client))
	for _, test := range []struct{ name, typ, want string }{
		{"my-app.internal", "AAAA", "fdaa:0:99:a:1:0:1:2"},
		{"iad.my-app.internal", "AAAA", "NXDOMAIN; 0 no machine of my-app in region iad"},
		{"my-db.internal", "AAAA", "NXDOMAIN; 0 no app my-db in your network"},
		{"my-app.flycast", "AAAA", "fdaa:0:99:0:1::9"},
		{"shared.flycast", "AAAA", "NXDOMAIN; 0 shared has no flycast address for your network"},
		{"_apps.internal", "TXT", `"my-app,theirs"`},
		{"_peer.internal", "TXT", `"their-peer"`},
		{"my-peer._peer.internal", "AAAA", "NXDOMAIN; 0 no peer my-peer in your network"},
		{reverse(m1), "PTR", "NXDOMAIN; 0 not an address of your network"},
		{reverse("fdaa:0:99:a:1:0:1:2"), "PTR", "b001.vm.my-app.internal."},
		{"_whoami.internal", "TXT", `"network=fdaa:0:99::/48" "app=my-app" "machine=b001" "region=nrt"`},
		{"_dnsd.internal", "TXT", `"version=1.2" "source=test:" "synced=true" "state=live" "apps=2" "machines=2" "peers=1"`},
		{"_api.internal", "AAAA", "NXDOMAIN; 0 dnsd runs without --api-address"},
		{"internal", "AAAA", "NODATA"},
	} {
		if got := render(t, ask(t, z, view, client, test.name, dns.StringToType[test.typ])); got != test.want {
			t.Errorf("%s %s:\n got %s\nwant %s", test.name, test.typ, got, test.want)
		}
	}
	empty := resolver.View{Network: netip.MustParsePrefix("fdaa:0:42::/48")}
	for name, want := range map[string]string{
		"_apps.internal":          "NODATA; 0 no apps in your network",
		"_peer.internal":          "NODATA; 0 no peers in your network",
		"_instances.internal":     "NODATA; 0 no machine in your network is started and has an address",
		"all._instances.internal": "NODATA; 0 no machines in your network",
		"_whoami.internal":        `"network=fdaa:0:42::/48"`,
	} {
		if got := render(t, ask(t, z, empty, "::1", name, dns.TypeTXT)); got != want {
			t.Errorf("%s in an empty network:\n got %s\nwant %s", name, got, want)
		}
	}
	// A machine of one network that is shown another is nobody there.
	if got := render(t, ask(t, z, empty, m1, "_whoami.internal", dns.TypeTXT)); got != `"network=fdaa:0:42::/48"` {
		t.Errorf("a machine of another network is %s", got)
	}
}

// Machines without an address or that are not started, and several of one address:
// that is one record, and all their names.
func TestOddMachines(t *testing.T) {
	stopped := []registry.Item{
		machine(netA, "b2 zeta fra stopped fdaa:0:18::2"), machine(netA, "B1 zeta fra started fdaa:0:18::1"),
		machine(netA, "c1 alpha lhr created"), machine(netA, "d1 alpha lhr migrated fdaa:0:18::3")}
	shared := []registry.Item{
		machine(netA, "aa old iad stopped fdaa:0:18::1"), machine(netA, "bb web iad started fdaa:0:18::1"),
		machine(netA, "cc web fra started fdaa:0:18::1")}
	for _, test := range []struct {
		items           []registry.Item
		name, typ, want string
	}{
		{[]registry.Item{machine(netA, "c1 alpha lhr started")}, "_instances.internal", "TXT",
			"NODATA; 0 no machine in your network is started and has an address"},
		{stopped, "all._instances.internal", "TXT", `"instance=c1,app=alpha,ip=,region=lhr;` +
			`instance=B1,app=zeta,ip=fdaa:0:18::1,region=fra;instance=b2,app=zeta,ip=fdaa:0:18::2,region=fra"`},
		{shared, "web.internal", "AAAA", "fdaa:0:18::1"},
		{shared, "top2.nearest.of.web.internal", "AAAA", "fdaa:0:18::1"},
		{shared, reverse("fdaa:0:18::1"), "PTR", "bb.vm.web.internal. cc.vm.web.internal. aa.vm.old.internal."},
	} {
		_, z := serve(Config{}, test.items...)
		view := resolver.View{Network: netip.MustParsePrefix(netA), Region: "iad"}
		if got := render(t, ask(t, z, view, "", test.name, dns.StringToType[test.typ])); got != test.want {
			t.Errorf("%s: got %s\nwant %s", test.name, got, test.want)
		}
	}
}

// In a fleet that is indexed as in one that is not, a record is there once, in the
// first run that has it, and a sentence says what was asked for.
func TestSharedAddressesAndNoneStarted(t *testing.T) {
	for _, n := range []int{4, 64} {
		var items []registry.Item
		for i := range n {
			region := []string{"iad", "fra"}[i%2]
			items = append(items, machine(netA, fmt.Sprintf("m%03d web %s started fdaa:0:18::%x", i, region, i/4+1)),
				machine(netA, fmt.Sprintf("s%03d asleep gru stopped fdaa:0:18:1::%x group=web", i, i+1)))
		}
		_, z := serve(Config{}, items...)
		view := resolver.View{Network: netip.MustParsePrefix(netA), Region: "fra"}
		for name, records := range map[string]int{"web.internal": n / 4, "fra.web.internal": n / 4, "top999.nearest.of.web.internal": n / 4} {
			a := ask(t, z, view, "", name, dns.TypeAAAA)
			seen := map[string]bool{}
			for _, d := range a.Data {
				seen[string(d)] = true
			}
			if len(a.Data) != records || len(seen) != records || fmt.Sprint(a.Turns) != fmt.Sprint([]int{records}) {
				t.Errorf("%s of %d machines: %d records, %d different, in turns %v, want %d", name, n, len(a.Data), len(seen), a.Turns, records)
			}
		}
		for name, what := range map[string]string{"asleep": "asleep", "gru.asleep": "asleep in region gru", "web.process.asleep": "asleep in process group web",
			"top1.nearest.of.asleep": "asleep"} {
			want := fmt.Sprintf("NODATA; 0 %s: %d machines, none started", what, n)
			if got := render(t, ask(t, z, view, "", name+".internal", dns.TypeAAAA)); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
	}
}
