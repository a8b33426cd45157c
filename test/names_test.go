package test

import (
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// The started machines of my-app in network A, and all of the near app's.
const (
	started = "148e21dad76789 4d89699c030518 784ee20a6ed658"
	nearAll = "near-iad-1 near-iad-2 near-ewr-1 near-lhr-1 near-lhr-2 near-xyz-1"
)

// TestNames asks for every name of the contract.
func TestNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--api-address", "fdaa:0:18::a")
	for name, rows := range map[string][]row{
		"AAAA": aaaaRows, "TXT": txtRows, "Metadata": metadataRows, "Flycast": flycastRows,
		"PTR": ptrRows, "Apex": apexRows, "Negative": negativeRows, "Who": whoRows,
	} {
		t.Run(name, func(t *testing.T) { w.check(t, rows) })
	}
	t.Run("NearestIsFair", w.nearestIsFair)
	t.Run("OrderIsFair", w.orderIsFair)
	t.Run("Lists", w.lists)
	t.Run("Whoami", w.whoami)
	t.Run("Status", w.status)
	t.Run("Any", w.any)
	t.Run("NothingOfOthersShows", w.nothingOfOthersShows)
	t.Run("Sizes", w.sizes)
	t.Run("Message", w.message)
	t.Run("TCP", w.tcp)
	t.Run("Identity", w.identity)
	t.Run("Fuzz", w.fuzz)
}

// name, type, expectation: "a" is a machine in iad of network A, "b" one in ewr
// of network B, see clients.
var aaaaRows = []row{
	{"a", "my-app.internal", "AAAA", started, ""},
	{"a", "MY-aPP.InTeRnAl", "AAAA", started, ""},
	{"a-other", "my-app.internal", "AAAA", started, ""},
	{"a-own", "my-app.internal", "AAAA", started, ""},
	{"a-peer", "my-app.internal", "AAAA", started, ""},
	{"b", "my-app.internal", "AAAA", "b1111111111111", ""},
	{"b", "mixed-case.internal", "AAAA", "ABCdef01234567", ""},
	{"b", "Mixed-Case.internal", "AAAA", "ABCdef01234567", ""},

	{"a", "global.my-app.internal", "AAAA", started, ""},
	{"a", "GLOBAL.my-app.internal", "AAAA", started, ""},
	{"b", "global.my-app.internal", "AAAA", "b1111111111111", ""},
	{"a", "global.idle.internal", "AAAA", "NODATA", "none started"},
	{"a", "global.no-app.internal", "AAAA", "NXDOMAIN", ""},

	{"a", "iad.my-app.internal", "AAAA", "148e21dad76789", ""},
	{"a", "IAD.my-app.internal", "AAAA", "148e21dad76789", ""},
	{"a", "ams.my-app.internal", "AAAA", "4d89699c030518", ""},
	{"a", "sjc.my-app.internal", "AAAA", "784ee20a6ed658", ""}, // only an incomplete_config
	{"a", "iad.near.internal", "AAAA", "near-iad-1 near-iad-2", ""},
	{"a", "xyz.near.internal", "AAAA", "near-xyz-1", ""},
	{"b", "ewr.my-app.internal", "AAAA", "b1111111111111", ""},
	{"b", "lhr.mixed-case.internal", "AAAA", "ABCdef01234567", ""},

	{"a", "148e21dad76789.vm.my-app.internal", "AAAA", "148e21dad76789", ""},
	{"a", "148E21DAD76789.VM.my-app.internal", "AAAA", "148e21dad76789", ""},
	{"b", "b1111111111111.vm.my-app.internal", "AAAA", "b1111111111111", ""},
	{"b", "abcdef01234567.vm.mixed-case.internal", "AAAA", "ABCdef01234567", ""},
	{"a", "3d8d9014b32d68.vm.my-app.internal", "AAAA", "NODATA", ""},     // stopped
	{"a", "5683977b1ed48e.vm.my-app.internal", "AAAA", "NODATA", ""},     // suspended
	{"a", "6e82dd92f42108.vm.my-app.internal", "AAAA", "NODATA", ""},     // a state dnsd does not know
	{"a", "7811e1e0a05d68.vm.my-app.internal", "AAAA", "NODATA", ""},     // created, no address yet
	{"a", "1781973f03d489.vm.my-app.internal", "AAAA", "NXDOMAIN", ""},   // destroyed
	{"a", "e784079b449483.vm.my-app.internal", "AAAA", "NXDOMAIN", ""},   // destroying
	{"a", "d891234b567890.vm.my-app.internal", "AAAA", "NXDOMAIN", ""},   // replaced
	{"a", "9080e3dcd50998.vm.my-app.internal", "AAAA", "NXDOMAIN", ""},   // migrated
	{"a", "9185e55b611683.vm.my-app.internal", "AAAA", "NXDOMAIN", ""},   // skip_registration
	{"a", "148e21dad76789.vm.near.internal", "AAAA", "NXDOMAIN", ""},     // another app's
	{"a", "b1111111111111.vm.my-app.internal", "AAAA", "NXDOMAIN", ""},   // another network's
	{"b", "148e21dad76789.vm.my-app.internal", "AAAA", "NXDOMAIN", ""},   // another network's
	{"a", "x.148e21dad76789.vm.my-app.internal", "AAAA", "NXDOMAIN", ""}, // below a leaf
	{"a", "148e21dad76789.vm.my-app.internal.internal", "AAAA", "NXDOMAIN", ""},

	{"a", "web.process.my-app.internal", "AAAA", "148e21dad76789 4d89699c030518", ""},
	{"a", "Web.Process.my-app.internal", "AAAA", "148e21dad76789 4d89699c030518", ""},
	{"a", "cron.process.my-app.internal", "AAAA", "784ee20a6ed658", ""},
	{"b", "web.process.my-app.internal", "AAAA", "b1111111111111", ""},
	{"b", "web-api.process.mixed-case.internal", "AAAA", "ABCdef01234567", ""},
	{"a", "batch.process.my-app.internal", "AAAA", "NXDOMAIN", ""}, // B's group

	{"a", "top1.nearest.of.my-app.internal", "AAAA", "148e21dad76789", ""},
	{"a", "TOP1.Nearest.OF.my-app.internal", "AAAA", "148e21dad76789", ""},
	{"a", "top3.nearest.of.my-app.internal", "AAAA", started, ""},
	{"a", "top99.nearest.of.my-app.internal", "AAAA", started, ""},
	{"a", "top2.nearest.of.near.internal", "AAAA", "near-iad-1 near-iad-2", ""},
	{"a", "top3.nearest.of.near.internal", "AAAA", "near-iad-1 near-iad-2 near-ewr-1", ""},
	{"a", "top5.nearest.of.near.internal", "AAAA", "near-iad-1 near-iad-2 near-ewr-1 near-lhr-1 near-lhr-2", ""},
	{"a", "top6.nearest.of.near.internal", "AAAA", nearAll, ""},
	{"a", "top100000000000000000000.nearest.of.near.internal", "AAAA", nearAll, ""},
	{"a-other", "top2.nearest.of.near.internal", "AAAA", "near-iad-1 near-iad-2", ""},
	{"a-peer", "top2.nearest.of.near.internal", "AAAA", "near-iad-1 near-iad-2", ""}, // Chicago: Ashburn before Secaucus
	{"a-laptop", "top2.nearest.of.near.internal", "AAAA", "near-lhr-1 near-lhr-2", ""},
	{"a-laptop", "top3.nearest.of.near.internal", "AAAA", "near-lhr-1 near-lhr-2 near-ewr-1", ""},
	{"a-laptop", "top6.nearest.of.near.internal", "AAAA", nearAll, ""},
	{"b", "top1.nearest.of.my-app.internal", "AAAA", "b1111111111111", ""},
	{"a-anon", "top99.nearest.of.near.internal", "AAAA", nearAll, "region"},
	{"a-remote", "top99.nearest.of.near.internal", "AAAA", nearAll, "region"},
	{"a-lost", "top99.nearest.of.near.internal", "AAAA", nearAll, ""},
	{"a", "top0.nearest.of.my-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "top01.nearest.of.my-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "topx.nearest.of.my-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "top.nearest.of.my-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "top-1.nearest.of.my-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "top+1.nearest.of.my-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "top1x.nearest.of.my-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "1.nearest.of.my-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "top1.nearest.of.no-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "top1.nearest.of.idle.internal", "AAAA", "NODATA", "none started"},
	{"a", "top1.nearest.my-app.internal", "AAAA", "NXDOMAIN", ""},

	{"a", "my-peer._peer.internal", "AAAA", "my-peer", ""},
	{"a", "MY-peer._PEER.internal", "AAAA", "my-peer", ""},
	{"a", "remote._peer.internal", "AAAA", "remote", ""},
	{"a", "interactive-joe._peer.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "b-peer._peer.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "no-peer._peer.internal", "AAAA", "NXDOMAIN", ""},
	{"b", "my-peer._peer.internal", "AAAA", "my-peer", ""}, // B's own of that name
	{"b", "laptop._peer.internal", "AAAA", "NXDOMAIN", ""},

	{"a", "_api.internal", "AAAA", "fdaa:0:18::a", ""},
	{"b", "_api.internal", "AAAA", "fdaa:0:18::a", ""},
	{"a", "_API.internal", "AAAA", "fdaa:0:18::a", ""},

	// An app may be called what the grammar uses elsewhere.
	{"a", "vm.internal", "AAAA", "vmone", ""},
	{"a", "iad.vm.internal", "AAAA", "vmone", ""},
	{"a", "vmone.vm.vm.internal", "AAAA", "vmone", ""},
	{"a", "vm.vm.internal", "AAAA", "NODATA", ""},
	{"a", "vmone.vm.internal", "AAAA", "NXDOMAIN", ""},
}

var txtRows = []row{
	{"a", "vms.my-app.internal", "TXT", "148e21dad76789 iad,4d89699c030518 ams,784ee20a6ed658 sjc", ""},
	{"a", "VMS.My-App.internal", "TXT", "148e21dad76789 iad,4d89699c030518 ams,784ee20a6ed658 sjc", ""},
	{"a", "all.vms.my-app.internal", "TXT", "148e21dad76789 iad,3d8d9014b32d68 fra,4d89699c030518 ams," +
		"5683977b1ed48e syd,6e82dd92f42108 gru,7811e1e0a05d68 lhr,784ee20a6ed658 sjc", ""},
	{"a", "regions.my-app.internal", "TXT", "ams,iad,sjc", ""},
	{"a", "all.regions.my-app.internal", "TXT", "ams,fra,gru,iad,lhr,sjc,syd", ""},
	{"a", "regions.near.internal", "TXT", "ewr,iad,lhr,xyz", ""},
	{"a", "all.regions.near.internal", "TXT", "ewr,fra,iad,lhr,xyz", ""},
	{"b", "vms.my-app.internal", "TXT", "b1111111111111 ewr", ""},
	{"b", "all.vms.my-app.internal", "TXT", "b1111111111111 ewr,b2222222222222 iad", ""},
	{"b", "regions.my-app.internal", "TXT", "ewr", ""},
	{"b", "all.regions.my-app.internal", "TXT", "ewr,iad", ""},
	{"b", "vms.mixed-case.internal", "TXT", "ABCdef01234567 lhr", ""}, // as it is registered

	{"a", "vms.idle.internal", "TXT", "NODATA", "idle: 3 machines, none started"},
	{"a", "all.vms.idle.internal", "TXT", "idle-1 iad,idle-2 ams,idle-3 ams", ""},
	{"a", "regions.idle.internal", "TXT", "NODATA", "idle: 3 machines, none started"},
	{"a", "all.regions.idle.internal", "TXT", "ams,iad", ""},
	{"a", "vms.my-db.internal", "TXT", "NODATA", ""},
	{"a", "all.vms.my-db.internal", "TXT", "NODATA", ""},
	{"a", "regions.my-db.internal", "TXT", "NODATA", ""},
	{"a", "all.regions.my-db.internal", "TXT", "NODATA", ""},
	{"a", "all.vms.ghost.internal", "TXT", "NODATA", ""},
	{"a", "vms.no-app.internal", "TXT", "NXDOMAIN", ""},
	{"a", "all.regions.no-app.internal", "TXT", "NXDOMAIN", ""},

	{"a", "_apps.internal", "TXT", "corpse,ghost,idle,my-app,my-db,near,shared,vm", ""},
	{"b", "_apps.internal", "TXT", "Mixed-Case,my-app", ""},
	{"empty", "_apps.internal", "TXT", "NODATA", ""},

	{"a", "_peer.internal", "TXT", "laptop,my-peer,nowhere,remote", ""},
	{"b", "_peer.internal", "TXT", "b-peer,my-peer", ""},
	{"empty", "_peer.internal", "TXT", "NODATA", ""},

	{"b", "_instances.internal", "TXT", "instance=ABCdef01234567,app=Mixed-Case,ip=fdaa:0:99:a7b:2:2:2:2,region=lhr;" +
		"instance=b1111111111111,app=my-app,ip=fdaa:0:99:a7b:1:1:1:2,region=ewr", ""},
	{"b", "all._instances.internal", "TXT", "instance=ABCdef01234567,app=Mixed-Case,ip=fdaa:0:99:a7b:2:2:2:2,region=lhr;" +
		"instance=b1111111111111,app=my-app,ip=fdaa:0:99:a7b:1:1:1:2,region=ewr;" +
		"instance=b2222222222222,app=my-app,ip=fdaa:0:99:a7b:1:1:2:2,region=iad", ""},
	{"empty", "_instances.internal", "TXT", "NODATA", ""},
	{"empty", "all._instances.internal", "TXT", "NODATA", ""},
}

var metadataRows = []row{
	{"a", "primary.role.kv._metadata.my-app.internal", "AAAA", "148e21dad76789", ""},
	{"a", "PRIMARY.Role.KV._MetaData.my-app.internal", "AAAA", "148e21dad76789", ""},
	{"a", "replica.role.kv._metadata.my-app.internal", "AAAA", "4d89699c030518", ""},
	{"a", "web.fly_process_group.kv._metadata.my-app.internal", "AAAA", "148e21dad76789 4d89699c030518", ""},
	{"a", "v1.2.3.version.kv._metadata.my-app.internal", "AAAA", "784ee20a6ed658", ""},
	{"a", "V1.2.3.VERSION.kv._metadata.my-app.internal", "AAAA", "784ee20a6ed658", ""},
	{"a", `data\032platform.team.kv._metadata.my-app.internal`, "AAAA", "784ee20a6ed658", ""},
	{"a", `Data\032Platform.Team.kv._metadata.my-app.internal`, "AAAA", "784ee20a6ed658", ""},
	{"a", "role.kv._metadata.my-app.internal", "AAAA", "148e21dad76789 4d89699c030518", ""},
	{"a", "ROLE.kv._metadata.my-app.internal", "AAAA", "148e21dad76789 4d89699c030518", ""},
	{"a", "team.kv._metadata.my-app.internal", "AAAA", "784ee20a6ed658", ""},
	{"a", "version.kv._metadata.my-app.internal", "AAAA", "784ee20a6ed658", ""},
	{"b", "primary.role.kv._metadata.my-app.internal", "AAAA", "b1111111111111", ""},
	{"b", "b.only.kv._metadata.my-app.internal", "AAAA", "b1111111111111", ""},

	{"a", "standby.role.kv._metadata.my-app.internal", "AAAA", "NODATA", "none started"},
	{"a", "v1.2.2.version.kv._metadata.my-app.internal", "AAAA", "NODATA", "none started"},
	{"a", "gone.role.kv._metadata.my-app.internal", "AAAA", "NXDOMAIN", ""},    // a destroyed machine's
	{"a", "yes.secret.kv._metadata.my-app.internal", "AAAA", "NXDOMAIN", ""},   // a skipped machine's
	{"a", "secret.kv._metadata.my-app.internal", "AAAA", "NXDOMAIN", ""},       // the same
	{"a", "nobody.role.kv._metadata.my-app.internal", "AAAA", "NXDOMAIN", ""},  // no such value
	{"a", "primary.rule.kv._metadata.my-app.internal", "AAAA", "NXDOMAIN", ""}, // no such key
	{"a", "rule.kv._metadata.my-app.internal", "AAAA", "NXDOMAIN", ""},         //
	{"a", "b.only.kv._metadata.my-app.internal", "AAAA", "NXDOMAIN", ""},       // B's pair
	{"a", "only.kv._metadata.my-app.internal", "AAAA", "NXDOMAIN", ""},         // B's key
	{"a", "v1.2.version.kv._metadata.my-app.internal", "AAAA", "NXDOMAIN", ""}, // the front of a value is no value
	{"a", "x.v1.2.3.version.kv._metadata.my-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "2.3.version.kv._metadata.my-app.internal", "AAAA", "NODATA", ""}, // a name between (RFC 8020)
	{"a", "primary.role.kv._metadata.no-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "primary.role.kv._metadata.my-app.internal", "A", "NODATA", ""},
	{"a", "primary.role.kv._metadata.my-app.internal", "TXT", "NODATA", ""},
}

var flycastRows = []row{
	{"a", "my-app.flycast", "AAAA", "fdaa:0:18:0:1::7", ""},
	{"a", "My-App.Flycast", "AAAA", "fdaa:0:18:0:1::7", ""},
	{"b", "my-app.flycast", "AAAA", "fdaa:0:99:0:1::9", ""},
	{"b", "shared.flycast", "AAAA", "fdaa:0:99:0:1::a", ""}, // A's app, allocated for B
	{"b", "shared.internal", "AAAA", "NXDOMAIN", ""},        // which does not show the app itself
	{"a", "shared.flycast", "AAAA", "NEGATIVE", ""},         // nothing allocated for its own network
	{"a", "my-db.flycast", "AAAA", "NEGATIVE", ""},          //
	{"a", "no-app.flycast", "AAAA", "NXDOMAIN", ""},         //
	{"empty", "my-app.flycast", "AAAA", "NXDOMAIN", ""},     //
	{"a", "iad.my-app.flycast", "AAAA", "NXDOMAIN", ""},     //
	{"a", "vms.my-app.flycast", "TXT", "NXDOMAIN", ""},      //
	{"a", "my-app.flycast", "A", "NODATA", ""},              //
	{"a", "my-app.flycast", "TXT", "NODATA", ""},            //
	{"a", "my-app.flycast", "HTTPS", "NODATA", ""},          //
	{"a", "my-app.flycast", "CNAME", "NODATA", ""},          //
}

// nibbles returns the reverse name of an address, or of its first n nibbles.
func nibbles(addr string, n int) string {
	name, err := dns.ReverseAddr(addr)
	if err != nil {
		panic(err)
	}
	return name[2*(32-n):]
}

var ptrRows = []row{
	{"a", nibbles("fdaa:0:18:a7b:7d:f066:b83b:2", 32), "PTR", "148e21dad76789.vm.my-app.internal.", ""},
	{"a", strings.ToUpper(nibbles("fdaa:0:18:a7b:7d:f066:b83b:2", 32)), "PTR", "148e21dad76789.vm.my-app.internal.", ""},
	{"a", nibbles("fdaa:0:18:a7b:d6b:0:a:102", 32), "PTR", "my-peer._peer.internal.", ""},
	{"a", nibbles("fdaa:0:18:0:1::7", 32), "PTR", "my-app.flycast.", ""},
	{"b", nibbles("fdaa:0:99:a7b:1:1:1:2", 32), "PTR", "b1111111111111.vm.my-app.internal.", ""},
	{"b", nibbles("fdaa:0:99:a7b:2:2:2:2", 32), "PTR", "ABCdef01234567.vm.Mixed-Case.internal.", ""},
	{"b", nibbles("fdaa:0:99:0:1::9", 32), "PTR", "my-app.flycast.", ""},
	{"b", nibbles("fdaa:0:99:0:1::a", 32), "PTR", "shared.flycast.", ""},
	{"a", nibbles("fdaa:0:18:a7b:7d:f066:b83b:2", 32), "AAAA", "NODATA", ""},
	{"a", nibbles("fdaa:0:18:a7b:7d:f066:b83b:3", 32), "PTR", "NXDOMAIN", ""}, // free part of a machine's /112
	{"a", nibbles("fdaa:0:18:a7b:d6b:0:a:200", 32), "PTR", "NXDOMAIN", ""},    // interactive
	{"a", nibbles("fdaa:0:18:a7b:a2:a:a00a:2", 32), "PTR", "NXDOMAIN", ""},    // skip_registration
	{"a", nibbles("fdaa:0:18:a7b:9e:6:a006:2", 32), "PTR", "NXDOMAIN", ""},    // destroyed
	{"a", nibbles("fdaa:0:18:dead::1", 32), "PTR", "NXDOMAIN", ""},
	{"a", nibbles("fdaa:0:99:a7b:1:1:1:2", 32), "PTR", "NXDOMAIN", ""}, // B's machine
	{"a", nibbles("fdaa:0:99:a7b:d6b:0:a:102", 32), "PTR", "NXDOMAIN", ""},
	{"a", nibbles("fdaa:0:99:0:1::9", 32), "PTR", "NXDOMAIN", ""},
	{"b", nibbles("fdaa:0:18:a7b:7d:f066:b83b:2", 32), "PTR", "NXDOMAIN", ""},
	{"empty", nibbles("fdaa:0:18:a7b:7d:f066:b83b:2", 32), "PTR", "NXDOMAIN", ""},
	{"a", nibbles("fdaa:0:18::", 12), "PTR", "NODATA", ""},                  // the network
	{"a", nibbles("fdaa:0:18:a7b:7d:f066:b83b:2", 16), "PTR", "NODATA", ""}, // between
	{"a", nibbles("fdaa:0:18:a7b:7d:f066:b83b:2", 28), "PTR", "NODATA", ""}, // the machine's /112
	{"a", nibbles("fdaa:0:18:a7b:7d:f066:b83b:2", 31), "PTR", "NODATA", ""}, //
	{"a", nibbles("fdaa::", 5), "PTR", "NODATA", ""},
	{"a", nibbles("fdaa::", 4), "PTR", "NODATA", ""}, // the zone's apex
	{"a", nibbles("fdaa::", 3), "PTR", "NODATA", ""},
	{"a", nibbles("fdab::", 4), "PTR", "NXDOMAIN", ""},
	{"a", "d.f.ip6.arpa", "PTR", "NODATA", ""},                         //
	{"a", nibbles("fdaa:0:99:a7b:1:1:1:2", 28), "PTR", "NEGATIVE", ""}, // B's: see NothingOfOthersShows
	{"a", "zz." + nibbles("fdaa:0:18::", 12), "PTR", "NXDOMAIN", ""},   // no nibbles
	{"a", "g." + nibbles("fdaa:0:18::", 12), "PTR", "NXDOMAIN", ""},    //
	{"a", "00." + nibbles("fdaa:0:18::", 12), "PTR", "NXDOMAIN", ""},   //
	{"a", "1." + nibbles("fdaa:0:18:a7b:7d:f066:b83b:2", 32), "PTR", "NXDOMAIN", ""},
	{"a", nibbles("fd00::1", 32), "PTR", "NXDOMAIN", ""}, // the rest of d.f.ip6.arpa is ours to deny
	{"a", nibbles("fdab:0:18::1", 32), "PTR", "NXDOMAIN", ""},
}

var apexRows = []row{
	{"a", "internal", "NS", "internal.", ""},
	{"a", "internal", "AAAA", "fdaa::3", ""},
	{"a", "INTERNAL", "AAAA", "fdaa::3", ""},
	{"a", "internal", "A", "NODATA", ""},
	{"a", "internal", "TXT", "NODATA", ""},
	{"a", "internal", "DS", "NODATA", ""},
	{"a", "internal", "MX", "NODATA", ""},
	{"a", "flycast", "NS", "flycast.", ""},
	{"a", "flycast", "AAAA", "fdaa::3", ""},
	{"a", "flycast", "A", "NODATA", ""},
	{"b", "internal", "AAAA", "fdaa::3", ""},
	{"empty", "internal", "AAAA", "fdaa::3", ""},
}

// any is asked apart, because it has no one answer.
func (w *world) any(t *testing.T) {
	for _, proto := range []string{"udp", "tcp"} {
		for _, name := range []string{"my-app.internal", "vms.my-app.internal", "my-app.flycast", "internal", "idle.internal"} {
			resp := w.ask(t, "a", proto, question(name, dns.TypeANY, true))
			if resp.Rcode != dns.RcodeSuccess || len(resp.Answer) > 1 || len(resp.Answer) == 0 && name != "idle.internal" {
				t.Errorf("ANY %s over %s: want one record or HINFO (RFC 8482)\n%v", name, proto, resp)
			}
		}
		resp := w.ask(t, "a", proto, question("no-app.internal", dns.TypeANY, true))
		if resp.Rcode != dns.RcodeNameError {
			t.Errorf("ANY of a name that does not exist over %s: %v", proto, resp)
		}
	}
	for _, zone := range []string{"internal.", "flycast."} {
		resp := w.ask(t, "a", "udp", question(zone, dns.TypeSOA, true))
		if len(resp.Answer) != 1 || resp.Answer[0].Header().Rrtype != dns.TypeSOA {
			t.Fatalf("SOA %s: %v", zone, resp)
		}
		if soa := resp.Answer[0].(*dns.SOA); soa.Minttl != w.ttl {
			t.Errorf("SOA %s has the minimum %d, want the TTL", zone, soa.Minttl)
		}
	}
}
