package test

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

var negativeRows = []row{
	// The name exists, the type does not.
	{"a", "my-app.internal", "A", "NODATA", ""},
	{"a", "my-app.internal", "MX", "NODATA", ""},
	{"a", "my-app.internal", "HTTPS", "NODATA", ""},
	{"a", "my-app.internal", "SVCB", "NODATA", ""},
	{"a", "my-app.internal", "SRV", "NODATA", ""},
	{"a", "my-app.internal", "DS", "NODATA", ""},
	{"a", "my-app.internal", "DNSKEY", "NODATA", ""},
	{"a", "my-app.internal", "CNAME", "NODATA", ""},
	{"a", "my-app.internal", "NS", "NODATA", ""},
	{"a", "my-app.internal", "SOA", "NODATA", ""},
	{"a", "my-app.internal", "PTR", "NODATA", ""},
	{"a", "my-app.internal", "TXT", "NODATA", ""},
	{"a", "my-db.internal", "A", "NODATA", ""},
	{"a", "global.my-app.internal", "A", "NODATA", ""},
	{"a", "iad.my-app.internal", "A", "NODATA", ""},
	{"a", "148e21dad76789.vm.my-app.internal", "A", "NODATA", ""},
	{"a", "web.process.my-app.internal", "A", "NODATA", ""},
	{"a", "top1.nearest.of.my-app.internal", "A", "NODATA", ""},
	{"a", "my-peer._peer.internal", "A", "NODATA", ""},
	{"a", "_api.internal", "A", "NODATA", ""},
	{"a", "vms.my-app.internal", "AAAA", "NODATA", ""},
	{"a", "all.vms.my-app.internal", "AAAA", "NODATA", ""},
	{"a", "regions.my-app.internal", "AAAA", "NODATA", ""},
	{"a", "all.regions.my-app.internal", "AAAA", "NODATA", ""},
	{"a", "_apps.internal", "AAAA", "NODATA", ""},
	{"a", "_peer.internal", "AAAA", "NODATA", ""},
	{"a", "_instances.internal", "AAAA", "NODATA", ""},
	{"a", "all._instances.internal", "AAAA", "NODATA", ""},
	{"a", "_whoami.internal", "AAAA", "NODATA", ""},
	{"a", "_dnsd.internal", "AAAA", "NODATA", ""},
	{"a", "no-app.internal", "A", "NXDOMAIN", ""}, // a type changes nothing about what exists
	{"a", "no-app.internal", "DS", "NXDOMAIN", ""},

	// It exists, but nothing of it is started.
	{"a", "idle.internal", "AAAA", "NODATA", "idle: 3 machines, none started"},
	{"a", "my-db.internal", "AAAA", "NODATA", "my-db"},
	{"a", "ghost.internal", "AAAA", "NODATA", "ghost"},
	{"a", "corpse.internal", "AAAA", "NODATA", "corpse"},
	{"a", "fra.my-app.internal", "AAAA", "NODATA", "none started"},
	{"a", "syd.my-app.internal", "AAAA", "NODATA", "none started"},
	{"a", "gru.my-app.internal", "AAAA", "NODATA", "none started"}, // a state that dnsd does not know
	{"a", "lhr.my-app.internal", "AAAA", "NODATA", "none started"}, // created
	{"a", "worker.process.my-app.internal", "AAAA", "NODATA", "none started"},
	{"a", "web.process.idle.internal", "AAAA", "NODATA", "none started"},
	{"b", "iad.my-app.internal", "AAAA", "NODATA", "none started"},
	{"b", "batch.process.my-app.internal", "AAAA", "NODATA", "none started"},

	// It does not exist.
	{"a", "no-app.internal", "AAAA", "NXDOMAIN", "no-app"},
	{"a", "mixed-case.internal", "AAAA", "NXDOMAIN", ""}, // B's
	{"empty", "my-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "ord.my-app.internal", "AAAA", "NXDOMAIN", ""}, // only a destroyed machine
	{"a", "jnb.my-app.internal", "AAAA", "NXDOMAIN", ""}, // destroying
	{"a", "bom.my-app.internal", "AAAA", "NXDOMAIN", ""}, // replaced
	{"a", "cdg.my-app.internal", "AAAA", "NXDOMAIN", ""}, // migrated
	{"a", "nrt.my-app.internal", "AAAA", "NXDOMAIN", ""}, // skip_registration
	{"a", "ewr.my-app.internal", "AAAA", "NXDOMAIN", ""}, // B's my-app is there
	{"a", "iad.my-db.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "old.process.my-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "hidden.process.my-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "nogroup.process.my-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "x.iad.my-app.internal", "AAAA", "NXDOMAIN", ""}, // below a leaf
	{"a", "x.global.my-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "x.all.vms.my-app.internal", "TXT", "NXDOMAIN", ""},
	{"a", "x.vms.my-app.internal", "TXT", "NXDOMAIN", ""},
	{"a", "x.web.process.my-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "x.my-peer._peer.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "x._api.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "x._apps.internal", "TXT", "NXDOMAIN", ""},
	{"a", "x._instances.internal", "TXT", "NXDOMAIN", ""},
	{"a", "_unknown.internal", "TXT", "NXDOMAIN", ""},
	{"a", `my\.app.internal`, "AAAA", "NXDOMAIN", ""}, // one label with a dot in it
	{"a", `\000.internal`, "AAAA", "NXDOMAIN", ""},
	{"a", `\255\254.my-app.internal`, "AAAA", "NXDOMAIN", ""},
	{"a", `*.internal`, "AAAA", "NXDOMAIN", ""},
	{"a", `*.my-app.internal`, "AAAA", "NXDOMAIN", ""},

	// A name between.
	{"a", "vm.my-app.internal", "AAAA", "NODATA", ""},
	{"a", "process.my-app.internal", "AAAA", "NODATA", ""},
	{"a", "of.my-app.internal", "AAAA", "NODATA", ""},
	{"a", "nearest.of.my-app.internal", "AAAA", "NODATA", ""},
	{"a", "_metadata.my-app.internal", "AAAA", "NODATA", ""},
	{"a", "kv._metadata.my-app.internal", "AAAA", "NODATA", ""},
	{"a", "kv._metadata.my-app.internal", "TXT", "NODATA", ""},
	{"a", "vm.no-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "process.no-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "nearest.of.no-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "kv._metadata.no-app.internal", "AAAA", "NXDOMAIN", ""},
	{"a", "vm.mixed-case.internal", "AAAA", "NXDOMAIN", ""},
}

// Who is asking, for a server without --network, --allow and --upstream.
var whoRows = []row{
	{"a-cross", "my-app.internal", "AAAA", started, ""}, // the source address decides, not the one asked
	{"b-cross", "my-app.internal", "AAAA", "b1111111111111", ""},
	{"a-anon", "my-app.internal", "AAAA", started, ""},
	{"loop", "my-app.internal", "AAAA", "REFUSED", "#18"},
	{"loop", "no-app.internal", "AAAA", "REFUSED", "#18"},
	{"loop", "my-app.flycast", "AAAA", "REFUSED", "#18"},
	{"loop", nibbles("fdaa:0:18:a7b:7d:f066:b83b:2", 32), "PTR", "REFUSED", "#18"},
	{"loop", "_whoami.internal", "TXT", "REFUSED", "#18"},
	{"loop4", "my-app.internal", "AAAA", "REFUSED", "#18"},
	{"loop4-9", "my-app.internal", "AAAA", "REFUSED", "#18"},
	{"out", "my-app.internal", "AAAA", "REFUSED", ""},
	{"out", "internal", "SOA", "REFUSED", ""},
	{"out", "example.com", "A", "REFUSED", ""},
	{"out", nibbles("fdaa:0:18:a7b:7d:f066:b83b:2", 32), "PTR", "REFUSED", ""},
	{"out4", "my-app.internal", "AAAA", "REFUSED", ""},
	{"out4", "example.com", "A", "REFUSED", ""},
	{"friend", "my-app.internal", "AAAA", "REFUSED", ""},
	{"next-ula", "my-app.internal", "AAAA", "REFUSED", ""},
	{"next-ula", "example.com", "A", "REFUSED", ""},
	{"a", "example.com", "A", "REFUSED", ""}, // no upstream
	{"a", "com", "NS", "REFUSED", ""},
	{"a", ".", "NS", "REFUSED", ""},
	{"a", "notinternal", "AAAA", "REFUSED", ""},
	{"a", "my-app.internal.example.com", "AAAA", "REFUSED", ""},
}

// whoami checks what dnsd says about the client itself.
func (w *world) whoami(t *testing.T) {
	for client, want := range map[string][]string{
		"a":        {"network=" + netA, "app=my-app", "machine=148e21dad76789", "region=iad"},
		"a-other":  {"network=" + netA, "app=my-app", "machine=148e21dad76789", "region=iad"},
		"a-laptop": {"network=" + netA, "region=fra"},
		"a-remote": {"network=" + netA},
		"a-anon":   {"network=" + netA},
		"b":        {"network=" + netB, "app=my-app", "machine=b1111111111111", "region=ewr"},
		"b-cross":  {"network=" + netB, "app=my-app", "machine=b1111111111111", "region=ewr"},
		"empty":    {"network=" + netEmpty},
	} {
		for _, proto := range []string{"udp", "tcp"} {
			if got := w.strings(t, client, proto, "_whoami.internal"); !slices.Equal(got, want) {
				t.Errorf("_whoami of %s over %s is %q, want %q", client, proto, got, want)
			}
		}
	}
}

// strings returns the character-strings of a TXT answer of one record.
func (w *world) strings(t *testing.T, client, proto, name string) []string {
	t.Helper()
	resp := w.ask(t, client, proto, question(name, dns.TypeTXT, true))
	if len(resp.Answer) != 1 {
		t.Fatalf("%s has %d records, want one:\n%v", name, len(resp.Answer), resp)
	}
	return resp.Answer[0].(*dns.TXT).Txt
}

// status checks _dnsd.internal: the server's state, and counts of the client's
// network only.
func (w *world) status(t *testing.T) {
	counts := make(map[string]map[string]int)
	for _, client := range []string{"a", "b", "large", "empty"} {
		fields := make(map[string]string)
		for _, s := range w.strings(t, client, "udp", "_dnsd.internal") {
			k, v, ok := strings.Cut(s, "=")
			if !ok {
				t.Errorf("_dnsd has the string %q, want key=value", s)
			}
			fields[k] = v
		}
		for _, k := range []string{"version", "source", "synced", "age"} {
			if fields[k] == "" {
				t.Errorf("_dnsd has no %s: %v", k, fields)
			}
		}
		if age, ok := strings.CutSuffix(fields["age"], "s"); !ok {
			t.Errorf("age=%s, want seconds with an s", fields["age"])
		} else if _, err := strconv.ParseFloat(age, 64); err != nil {
			t.Errorf("age=%s: %v", fields["age"], err)
		}
		counts[client] = make(map[string]int)
		for _, k := range []string{"apps", "machines", "peers"} {
			n, err := strconv.Atoi(fields[k])
			if err != nil {
				t.Errorf("_dnsd: %s=%s: %v", k, fields[k], err)
			}
			counts[client][k] = n
		}
	}
	for what, ok := range map[string]bool{
		"8 apps in A":            counts["a"]["apps"] == 8,
		"2 apps in B":            counts["b"]["apps"] == 2,
		"3 machines in B":        counts["b"]["machines"] == 3,
		"2 peers in B":           counts["b"]["peers"] == 2,
		"3080 machines in large": counts["large"]["machines"] == hugeMachines+manyMachines,
		"nothing in empty":       counts["empty"]["apps"]+counts["empty"]["machines"]+counts["empty"]["peers"] == 0,
	} {
		if !ok {
			t.Errorf("_dnsd does not count %s: %v", what, counts)
		}
	}
}

// nothingOfOthersShows checks that a client cannot tell what another network
// has from what nobody has.
func (w *world) nothingOfOthersShows(t *testing.T) {
	// Pairs of names of equal length: B's, and nobody's.
	pairs := []struct{ theirs, nobodys, typ string }{
		{"mixed-case.internal.", "mixed-casf.internal.", "AAAA"},
		{"vms.mixed-case.internal.", "vms.mixed-casf.internal.", "TXT"},
		{"b1111111111111.vm.my-app.internal.", "b1111111111112.vm.my-app.internal.", "AAAA"},
		{"ewr.my-app.internal.", "ewx.my-app.internal.", "AAAA"},
		{"batch.process.my-app.internal.", "botch.process.my-app.internal.", "AAAA"},
		{"b.only.kv._metadata.my-app.internal.", "b.onlx.kv._metadata.my-app.internal.", "AAAA"},
		{"b-peer._peer.internal.", "b-peex._peer.internal.", "AAAA"},
		{"interactive-joe._peer.internal.", "interactive-jox._peer.internal.", "AAAA"},
		{"mixed-case.flycast.", "mixed-casf.flycast.", "AAAA"},
		{nibbles("fdaa:0:99:a7b:1:1:1:2", 32), nibbles("fdaa:0:77:a7b:1:1:1:2", 32), "PTR"},
		{nibbles("fdaa:0:99:a7b:1:1:1:2", 28), nibbles("fdaa:0:77:a7b:1:1:1:2", 28), "PTR"},
		{nibbles("fdaa:0:99:a7b:1:1:1:2", 20), nibbles("fdaa:0:77:a7b:1:1:1:2", 20), "PTR"},
		{nibbles("fdaa:0:99:a7b:1:1:1:2", 12), nibbles("fdaa:0:77:a7b:1:1:1:2", 12), "PTR"},
		{nibbles("fdaa:0:99:0:1::9", 32), nibbles("fdaa:0:77:0:1::9", 32), "PTR"},
	}
	for _, p := range pairs {
		var seen [2]string
		for i, name := range []string{p.theirs, p.nobodys} {
			req := question(name, dns.StringToType[p.typ], true)
			// Client subnet is no way to become somebody else.
			req.IsEdns0().Option = append(req.IsEdns0().Option, &dns.EDNS0_SUBNET{
				Code: dns.EDNS0SUBNET, Family: 2, SourceNetmask: 128, Address: net.ParseIP(clients["b"].from),
			})
			seen[i] = signature(w.ask(t, "a", "udp", req))
		}
		// What a response repeats of the question may differ, and nothing else.
		ours, others := dns.SplitDomainName(p.theirs), dns.SplitDomainName(p.nobodys)
		for i, label := range ours {
			if len(label) > 1 && label != others[i] {
				seen[0] = strings.ReplaceAll(seen[0], label, others[i])
			}
		}
		if seen[0] != seen[1] {
			t.Errorf("%s can be told from %s:\n%s\n%s", p.theirs, p.nobodys, seen[0], seen[1])
		}
	}
}

// signature is all that a response says beside the question's own words.
func signature(resp *dns.Msg) string {
	s := fmt.Sprintf("%s, %d answers, %v", dns.RcodeToString[resp.Rcode], len(resp.Answer), resp.Ns)
	for _, e := range edes(resp) {
		s += fmt.Sprintf(", EDE %d %q", e.InfoCode, e.ExtraText)
	}
	return s
}

// identity checks CHAOS and NSID.
func (w *world) identity(t *testing.T) {
	for _, name := range []string{"version.bind", "version.server", "hostname.bind", "id.server", "VERSION.Bind"} {
		for _, proto := range []string{"udp", "tcp"} {
			req := question(name, dns.TypeTXT, true)
			req.Question[0].Qclass = dns.ClassCHAOS
			resp := w.ask(t, "a", proto, req)
			if resp.Rcode != dns.RcodeSuccess || len(resp.Answer) != 1 || resp.Answer[0].Header().Class != dns.ClassCHAOS {
				t.Errorf("%s CH TXT over %s: want one record\n%v", name, proto, resp)
			}
			if resp := w.ask(t, "out", proto, req); resp.Rcode != dns.RcodeRefused {
				t.Errorf("%s CH TXT of a client who is not served: %v", name, resp)
			}
		}
	}
	req := question("my-app.internal", dns.TypeAAAA, true)
	req.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{Code: dns.EDNS0NSID}}
	if resp := w.ask(t, "a", "udp", req); nsid(resp) == "" {
		t.Errorf("no NSID for a client that asks: %v", resp)
	}
	if resp := w.ask(t, "a", "udp", question("my-app.internal", dns.TypeAAAA, true)); nsid(resp) != "" {
		t.Errorf("NSID for a client that does not ask: %v", resp)
	}
}

// nsid returns the NSID of a response, empty without one.
func nsid(resp *dns.Msg) string {
	for _, o := range resp.IsEdns0().Option {
		if n, ok := o.(*dns.EDNS0_NSID); ok {
			return n.Nsid
		}
	}
	return ""
}

// lists checks the shape of long lists: one record, cut right after separators,
// read alike by clients that join strings and by those that parse each alone.
func (w *world) lists(t *testing.T) {
	large := large()
	var vms, regions, apps, peers, long []string
	for _, m := range large.Apps[1].Machines {
		vms = append(vms, m.ID+" "+m.Region)
		regions = append(regions, m.Region)
	}
	for _, a := range large.Apps {
		if a.Network == netLarge {
			apps = append(apps, a.Name)
		} else {
			for _, m := range a.Machines {
				long = append(long, fmt.Sprintf("instance=%s,app=%s,ip=%s,region=%s", m.ID, a.Name, m.PrivateIP, m.Region))
			}
		}
	}
	for _, p := range large.Peers {
		peers = append(peers, p.Name)
	}
	slices.Sort(apps)
	for _, c := range []struct {
		client, name, sep string
		want              []string
	}{
		{"large", "vms.many.internal", ",", vms},
		{"large", "all.vms.many.internal", ",", vms},
		{"large", "regions.many.internal", ",", regions},
		{"large", "_apps.internal", ",", apps},
		{"large", "_peer.internal", ",", peers},
		{"long", "_instances.internal", ";", long},
		{"long", "all._instances.internal", ";", long},
	} {
		parts := w.strings(t, c.client, "tcp", c.name)
		if got := strings.Split(strings.Join(parts, ""), c.sep); !slices.Equal(got, c.want) {
			t.Errorf("%s joined: got %d entries %q, want %d %q", c.name, len(got), got, len(c.want), c.want)
		}
		var alone []string
		for i, s := range parts {
			alone = append(alone, strings.Split(strings.TrimSuffix(s, c.sep), c.sep)...)
			if last := i == len(parts)-1; last == strings.HasSuffix(s, c.sep) {
				t.Errorf("%s: string %d of %d ends in %q", c.name, i+1, len(parts), s[len(s)-1:])
			}
		}
		if !slices.Equal(alone, c.want) {
			t.Errorf("%s string by string: got %q, want %q", c.name, alone, c.want)
		}
		if len(parts) < 2 {
			t.Errorf("%s is too short to show anything", c.name)
		}
	}
}

// marks are bytes that only one network's objects have.
func marks(b []byte, words ...string) error {
	lower := bytes.ToLower(b)
	for _, word := range words {
		if bytes.Contains(lower, []byte(strings.ToLower(word))) {
			return fmt.Errorf("the response holds %q", word)
		}
	}
	return nil
}
