package zones

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// write gives back the labels that a name was read from, with their dots: the
// grammar the other way round.
func (n *name) write() string {
	all := ""
	if n.all {
		all = "all."
	}
	switch n.kind {
	case kindApex:
		return ""
	case kindAPI:
		return "_api"
	case kindWhoami:
		return "_whoami"
	case kindInfo:
		return "_dnsd"
	case kindApps:
		return "_apps"
	case kindInstances:
		return all + "_instances"
	case kindPeers:
		return "_peer"
	case kindPeer:
		return n.arg + "._peer"
	case kindApp:
		return n.app
	case kindRegion:
		return n.arg + "." + n.app
	case kindMachine:
		return n.arg + ".vm." + n.app
	case kindGroup:
		return n.arg + ".process." + n.app
	case kindNearest:
		return "top" + strconv.Itoa(n.top) + ".nearest.of." + n.app
	case kindKey:
		return n.arg + ".kv._metadata." + n.app
	case kindPair:
		return n.value + "." + n.arg + ".kv._metadata." + n.app
	case kindVMs:
		return all + "vms." + n.app
	case kindRegions:
		return all + "regions." + n.app
	}
	return "?"
}

// seeds are names with every kind and every way of being none.
var seeds = strings.Fields(`my-app global.my-app iad.my-app 148e.vm.my-app web.process.my-app top1.nearest.of.my-app
	top0.nearest.of.my-app top99999999999999999999.nearest.of.my-app topx.nearest.of.my-app primary.role.kv._metadata.my-app
	1.2.3.version.kv._metadata.my-app role.kv._metadata.my-app kv._metadata.my-app _metadata.my-app my-peer._peer _peer x.y._peer
	_api _whoami _dnsd _apps x._apps _instances all._instances all.all._instances vms.my-app all.vms.my-app regions.my-app
	all.regions.my-app x.vms.my-app vm.my-app process.my-app of.my-app nearest.of.my-app x.iad.my-app vm.vm.vm global.global
	all.vms vms of.of top1.nearest.of.of kv.kv._metadata._metadata _metadata top1.nearest.of`)

func FuzzParseName(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Add("")
	f.Add("\xff\x00.ROLE.kv._metadata.my-app")
	f.Fuzz(func(t *testing.T, s string) {
		labels := split(s)
		for _, l := range labels {
			if l == "" || len(l) > 63 {
				t.Skip("no label of a name is empty or longer than 63 bytes")
			}
		}
		n := parseName(labels)
		whole := strings.Join(labels, ".")
		switch back := n.write(); {
		case n.kind == kindNone:
		case n.kind == kindBetween:
			between := []string{"vm", "process", "of", "nearest.of", "_metadata", "kv._metadata"}
			if !slices.Contains(between, strings.TrimSuffix(whole, "."+n.app)) {
				t.Errorf("%q is between others", whole)
			}
		case n.kind == kindApp && whole == "global."+n.app:
		case n.kind == kindNearest && n.top == maxTop && strings.HasSuffix(whole, ".nearest.of."+n.app):
		case back != whole:
			t.Errorf("%q is read as %+v, which is %q", whole, n, back)
		}
		if n.kind != kindNone && n.kind != kindBetween && n.kind != kindPair && len(labels) > 4 {
			t.Errorf("%q is read as %+v", whole, n)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	for _, s := range seeds {
		f.Add(s+".internal", dns.TypeAAAA, true)
		f.Add(s+".internal", dns.TypeTXT, false)
	}
	f.Add("my-app.flycast", dns.TypeAAAA, true)
	f.Add(reverse(m1), dns.TypePTR, true)
	f.Add(reverse(m1), dns.TypeANY, false)
	f.Add("g.0.a.a.d.f.ip6.arpa", dns.TypePTR, true)
	_, z := serve(Config{}, fleet()...)
	views := map[bool]resolver.View{
		true:  {Network: netip.MustParsePrefix(netA), Region: "iad"},
		false: {Network: netip.MustParsePrefix(netB)},
	}
	f.Fuzz(func(t *testing.T, s string, typ uint16, first bool) {
		low := registry.Lower(s)
		labels := split(s)
		for _, l := range labels {
			if l == "" || len(l) > 63 {
				t.Skip("no label of a name is empty or longer than 63 bytes")
			}
		}
		if !slices.ContainsFunc(z.Zones(), func(zone resolver.Zone) bool {
			return strings.HasSuffix("."+low+".", "."+zone.Origin()) && !strings.Contains(s, `\.`)
		}) {
			t.Skip("a name of no zone")
		}
		a := ask(t, z, views[first], m1, s, typ) // checks that it is well formed
		text := render(t, a)
		if !first && strings.Contains(text, "fdaa:0:18:a:") && !strings.Contains(low, "fdaa") {
			t.Errorf("%q gives a client of %s %s", s, netB, text)
		}
		for _, e := range a.EDE {
			if len(e.Text) > 600 || strings.ContainsFunc(e.Text, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
				t.Errorf("%q: unfit for a terminal: %q", s, e.Text)
			}
		}
	})
}
