package zones

import (
	"testing"

	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// The answers that say on which app they depend watch that app and the status and
// nothing else, and are the same wherever the client is; all others say nothing.
func TestAnswersThatDependOnOneApp(t *testing.T) {
	_, z := serve(Config{TTL: 5}, fleet()...)
	network := must(registry.ParseNetwork(netA)).Prefix()
	named := 0
	for _, c := range []struct{ name, app string }{
		{"my-app.internal", "my-app"}, {"global.my-app.internal", "my-app"}, {"iad.my-app.internal", "my-app"}, {"vms.my-app.internal", "my-app"},
		{"all.vms.my-app.internal", "my-app"}, {"regions.my-app.internal", "my-app"}, {"vm.my-app.internal", "my-app"}, {"process.my-app.internal", "my-app"},
		{"role.kv._metadata.my-app.internal", "my-app"}, {"nearest.of.my-app.internal", "my-app"},
		{"top1.nearest.of.my-app.internal", ""}, {"top2000.nearest.of.my-app.internal", ""},
		{"internal", ""}, {"_api.internal", ""}, {"_apps.internal", ""}, {"_instances.internal", ""}, {"all._instances.internal", ""}, {"_peer.internal", ""},
		{"_whoami.internal", ""}, {"_dnsd.internal", ""}, {"nothing.internal", ""}, {"my-app.flycast", ""}, {"d.f.ip6.arpa", ""},
	} {
		for _, typ := range []uint16{dns.TypeAAAA, dns.TypeTXT, dns.TypeA, dns.TypeANY} {
			var texts []string
			for _, region := range []string{"iad", "fra", "nowhere", ""} {
				a := ask(t, z, resolver.View{Network: network, Region: region}, "", c.name, typ)
				if a.App != c.app {
					t.Errorf("%s %s: depends on %q, want %q", c.name, typeName(typ), a.App, c.app)
				}
				if a.App != "" {
					named++
					if len(a.Watch) != 2 || a.NoStore {
						t.Errorf("%s %s: %d channels are watched, want that of the status and that of the app", c.name, typeName(typ), len(a.Watch))
					}
					texts = append(texts, render(t, a))
				}
			}
			for _, text := range texts {
				if text != texts[0] {
					t.Errorf("%s %s: depends on the region: %s, %s", c.name, typeName(typ), text, texts[0])
				}
			}
		}
	}
	if named == 0 {
		t.Error("no answer depends on one app")
	}
}
