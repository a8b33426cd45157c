package test

import (
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

// TestSidecar runs dnsd as a container or a developer does: clients outside
// fdaa::/16 belong to a network, some more may ask, and answers have other
// settings than by default.
func TestSidecar(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--network", netA, "--region", "fra", "--allow", "2001:db8:a::/48", "--allow", "203.0.113.0/24",
		"--no-identity", "--max-udp-size", "4096", "--ttl", "30s", "--advertise", "fdaa:0:18::3")
	w.ttl, w.maxUDP = 30, 4096
	w.check(t, []row{
		{"loop", "my-app.internal", "AAAA", started, ""},
		{"loop4", "my-app.internal", "AAAA", started, ""},
		{"loop4-9", "my-app.internal", "AAAA", started, ""}, // answered from the address asked
		{"friend", "my-app.internal", "AAAA", started, ""},
		{"friend4", "my-app.internal", "AAAA", started, ""},
		{"friend4", "vms.my-app.internal", "TXT", "148e21dad76789 iad,4d89699c030518 ams,784ee20a6ed658 sjc", ""},
		{"loop", "my-app.flycast", "AAAA", "fdaa:0:18:0:1::7", ""},
		{"loop", nibbles("fdaa:0:18:a7b:7d:f066:b83b:2", 32), "PTR", "148e21dad76789.vm.my-app.internal.", ""},
		{"loop", nibbles("fdaa:0:99:a7b:1:1:1:2", 32), "PTR", "NXDOMAIN", ""},
		{"loop", "mixed-case.internal", "AAAA", "NXDOMAIN", ""},
		{"loop", "internal", "AAAA", "fdaa:0:18::3", ""},
		{"loop", "flycast", "AAAA", "fdaa:0:18::3", ""},
		{"loop", "_api.internal", "AAAA", "NXDOMAIN", ""}, // not set
		{"a", "_api.internal", "AAAA", "NXDOMAIN", ""},
		{"a", "my-app.internal", "AAAA", started, ""},
		{"b", "my-app.internal", "AAAA", "b1111111111111", ""}, // --network is not for those inside
		{"empty", "my-app.internal", "AAAA", "NXDOMAIN", ""},
		{"out", "my-app.internal", "AAAA", "REFUSED", ""},
		{"out4", "my-app.internal", "AAAA", "REFUSED", ""},
		{"next-ula", "my-app.internal", "AAAA", "REFUSED", ""},

		// The location: the machine's or peer's that asks, else --region.
		{"loop", "top2.nearest.of.near.internal", "AAAA", "near-lhr-1 near-lhr-2", ""},
		{"friend4", "top2.nearest.of.near.internal", "AAAA", "near-lhr-1 near-lhr-2", ""},
		{"a-anon", "top2.nearest.of.near.internal", "AAAA", "near-lhr-1 near-lhr-2", ""},
		{"a-remote", "top2.nearest.of.near.internal", "AAAA", "near-lhr-1 near-lhr-2", ""},
		{"a", "top2.nearest.of.near.internal", "AAAA", "near-iad-1 near-iad-2", ""},
		{"a-peer", "top2.nearest.of.near.internal", "AAAA", "near-iad-1 near-iad-2", ""},
	})
	for client, want := range map[string][]string{
		"loop":    {"network=" + netA, "region=fra"},
		"friend4": {"network=" + netA, "region=fra"},
		"a":       {"network=" + netA, "app=my-app", "machine=148e21dad76789", "region=iad"},
		"a-anon":  {"network=" + netA, "region=fra"},
	} {
		if got := w.strings(t, client, "udp", "_whoami.internal"); !slices.Equal(got, want) {
			t.Errorf("_whoami of %s is %q, want %q", client, got, want)
		}
	}
	for _, name := range []string{"version.bind", "version.server", "hostname.bind", "id.server"} {
		req := question(name, dns.TypeTXT, true)
		req.Question[0].Qclass = dns.ClassCHAOS
		req.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{Code: dns.EDNS0NSID}}
		if resp := w.ask(t, "loop", "udp", req); resp.Rcode != dns.RcodeRefused || nsid(resp) != "" {
			t.Errorf("%s with --no-identity: %v", name, resp)
		}
	}
	for _, field := range w.strings(t, "loop", "udp", "_dnsd.internal") {
		if key, _, _ := strings.Cut(field, "="); key == "version" || key == "source" {
			t.Errorf("_dnsd with --no-identity holds %q", field)
		}
	}
	const name = hugeApp + ".internal"
	for _, size := range []uint16{512, 1232, 4000, 4096, 4097, 65535} {
		req := question(name, dns.TypeAAAA, true)
		req.IsEdns0().SetUDPSize(size)
		wantCut(t, w.ask(t, "large", "udp", req), fits(min(int(size), 4096), name, true))
	}
}

// TestRegions gives another table of coordinates: it replaces what it names and
// adds what is new.
func TestRegions(t *testing.T) {
	t.Parallel()
	regions := writeFile(t, filepath.Join(t.TempDir(), "regions.csv"),
		"code,name,latitude,longitude,status\nxyz,Next door,39.1,-77.5,current\nlhr,Moved,39.2,-77.6,current\n")
	w := newWorld(t, "--regions", regions)
	w.check(t, []row{
		{"a", "top3.nearest.of.near.internal", "AAAA", "near-iad-1 near-iad-2 near-xyz-1", ""},
		{"a", "top5.nearest.of.near.internal", "AAAA", "near-iad-1 near-iad-2 near-xyz-1 near-lhr-1 near-lhr-2", ""},
	})
}

// upstream is a resolver that answers everything with one address and remembers
// what it was asked.
type upstream struct {
	mu    sync.Mutex
	asked []string
}

const upstreamAt = "127.0.0.1:5300"

func (u *upstream) ServeDNS(rw dns.ResponseWriter, req *dns.Msg) {
	u.mu.Lock()
	u.asked = append(u.asked, req.Question[0].String())
	u.mu.Unlock()
	resp := new(dns.Msg).SetReply(req)
	resp.RecursionAvailable = true
	if req.Question[0].Qtype == dns.TypeA {
		resp.Answer = append(resp.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: req.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
			A:   net.IPv4(192, 0, 2, 99),
		})
	}
	rw.WriteMsg(resp)
}

// startUpstream runs an upstream in the lab until the test ends.
func startUpstream(t testing.TB, l *lab.Lab) *upstream {
	t.Helper()
	u := new(upstream)
	serveUpstream(t, l, u)
	return u
}

// serveUpstream has a handler answer at upstreamAt until the test ends.
func serveUpstream(t testing.TB, l *lab.Lab, h dns.Handler) {
	t.Helper()
	udp, err := l.ListenUDP(upstreamAt)
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := l.ListenTCP(upstreamAt)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: h}, {Listener: tcp, Handler: h}} {
		up, down := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		go func() { defer close(down); s.ActivateAndServe() }()
		<-up
		t.Cleanup(func() { s.Shutdown(); <-down })
	}
}

// TestForwarding checks what docs/names.md says of other names: they go to the
// upstream, even while the registry is not there, and ours never do.
func TestForwarding(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "registry.json") // not there yet
	l := newLab(t)
	u := startUpstream(t, l)
	w := &world{ttl: 5, maxUDP: 1232, upstream: true, path: path}
	w.Server = l.Launch(t, lab.Command(lab.Binary(t), nil, "--listen", "[::]:53", "--registry", "file:"+path,
		"--upstream", upstreamAt, "--api-address", "fdaa:0:18::a", "--metrics-listen", lab.Admin))
	if !lab.Until(lab.Patience, func() bool { s, _ := l.Get("http://" + lab.Admin + "/healthz"); return s == 200 }) {
		t.Fatalf("not alive without a registry file:\n%s", w.Stderr.String())
	}

	// Not synced: SERVFAIL, never NXDOMAIN.
	var rows []row
	for _, name := range []string{"my-app.internal", "no-app.internal", "iad.my-app.internal", "my-app.flycast",
		"my-peer._peer.internal", "vm.my-app.internal"} {
		rows = append(rows, row{"a", name, "AAAA", "SERVFAIL", "#14"}, row{"a", name, "A", "SERVFAIL", "#14"})
	}
	rows = append(rows, row{"a", "_apps.internal", "TXT", "SERVFAIL", "#14"},
		row{"a", "vms.my-app.internal", "TXT", "SERVFAIL", "#14"},
		row{"a", nibbles("fdaa:0:18:a7b:7d:f066:b83b:2", 32), "PTR", "SERVFAIL", "#14"},
		row{"out", "my-app.internal", "AAAA", "REFUSED", ""},
		row{"loop", "my-app.internal", "AAAA", "REFUSED", "#18"})
	t.Run("NotSynced", func(t *testing.T) { w.check(t, rows) })
	if status, body := l.Get("http://" + lab.Admin + "/readyz"); status != 503 || strings.TrimSpace(body) == "" {
		t.Errorf("/readyz is %d %q, want 503 with the reason", status, body)
	}

	outside := []row{
		{"a", "example.com", "A", "192.0.2.99", ""},
		{"a", "EXAMPLE.com", "A", "192.0.2.99", ""},
		{"b", "example.org", "A", "192.0.2.99", ""},
		{"loop", "example.com", "A", "192.0.2.99", ""}, // an outside name needs no network
		{"out", "example.com", "A", "REFUSED", ""},
		{"next-ula", "example.com", "A", "REFUSED", ""},
	}
	t.Run("OutsideWhileNotSynced", func(t *testing.T) { w.check(t, outside) })

	writeFile(t, path+".new", mustRead(t, fixture(t)))
	rename(t, path+".new", path)
	w.Ready(t)
	w.book = addressBook(t, path)
	t.Run("Synced", func(t *testing.T) {
		w.check(t, append(slices.Clone(outside), row{"a", "my-app.internal", "AAAA", started, ""},
			row{"a", "no-app.internal", "AAAA", "NXDOMAIN", ""}))
	})

	// Ours, whatever the type and whoever asks.
	for _, client := range []string{"a", "loop", "out", "empty"} {
		for _, name := range []string{"internal", "my-app.internal", "no-app.internal", "x.y.z.internal", "flycast",
			"no-app.flycast", "x.my-app.flycast", nibbles("fdaa:0:18:a7b:7d:f066:b83b:2", 32), nibbles("fdaa::", 4),
			nibbles("fd00::1", 32), nibbles("fdff:1:2::3", 32), "d.f.ip6.arpa", "_dns.my-app.INTERNAL"} {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeDS, dns.TypeHTTPS, dns.TypePTR, dns.TypeANY,
				dns.TypeNS, dns.TypeSOA, dns.TypeAXFR, dns.TypeIXFR, dns.TypeDNSKEY, 65280} {
				req := question(name, qtype, true)
				resp := w.ask(t, client, "udp", req)
				if client != "a" && client != "empty" && resp.Rcode != dns.RcodeRefused && strings.HasSuffix(name, "internal") {
					t.Errorf("%s for %s: %v", req.Question[0].String(), client, resp)
				}
			}
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, q := range u.asked {
		if lower := strings.ToLower(q); !strings.Contains(lower, "example.") {
			// A server may ask its upstream for something of its own, such as
			// whether it is alive, but not for a name of ours.
			if strings.Contains(lower, "internal") || strings.Contains(lower, "flycast") || strings.Contains(lower, "d.f.ip6.arpa") {
				t.Errorf("the upstream was asked for %s", q)
			}
		}
	}
}

// TestEmptyRegistry starts on an empty registry: everybody's names do
// not exist, and nothing is refused.
func TestEmptyRegistry(t *testing.T) {
	path := writeFile(t, filepath.Join(t.TempDir(), "registry.json"), `{"apps": []}`)
	l := newLab(t)
	w := &world{ttl: 5, maxUDP: 1232, path: path}
	w.Server = l.Serve(t, "--listen", "[::]:53", "--registry", "file:"+path, "--upstream", "none")
	w.check(t, []row{
		{"a", "my-app.internal", "AAAA", "NXDOMAIN", ""},
		{"a", "_apps.internal", "TXT", "NODATA", ""},
		{"a", "_peer.internal", "TXT", "NODATA", ""},
		{"a", "_instances.internal", "TXT", "NODATA", ""},
		{"a", "internal", "AAAA", "fdaa::3", ""},
		{"a", nibbles("fdaa:0:18:a7b:7d:f066:b83b:2", 32), "PTR", "NXDOMAIN", ""},
	})
}

// TestListenAddresses binds what it is told to, and nothing else.
func TestListenAddresses(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := fixture(t)
	w := &world{ttl: 5, maxUDP: 1232, path: path, book: addressBook(t, path)}
	w.Server = l.Serve(t, "--listen", "[fdaa::3]:53", "--listen", "127.0.0.1:5353", "--registry", "file:"+path, "--upstream", "none")
	w.check(t, []row{{"a", "my-app.internal", "AAAA", started, ""}, {"b", "my-app.internal", "AAAA", "b1111111111111", ""}})
	raw := packed(t, 5, "my-app.internal", dns.TypeAAAA)
	at := lab.Client{Lab: l, From: netip.MustParseAddr("127.0.0.1"), To: netip.MustParseAddrPort("127.0.0.1:5353")}
	for _, proto := range []string{"udp", "tcp"} {
		resp, err := at.Exchange(proto, raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.lawful(t, proto, raw, resp); got.Rcode != dns.RcodeRefused {
			t.Errorf("loopback without --network over %s: %v", proto, got)
		}
		start := time.Now()
		if resp, err := clientOf(l, "a-own").Exchange(proto, raw); err == nil {
			t.Errorf("an answer from an address that is not listened on, after %v: %x", time.Since(start), resp)
		}
	}
}

// TestWildcardIPv4 asks several addresses of an IPv4 wildcard listener: the
// answer comes from the one that was asked, or the connected socket of the
// client does not get it.
func TestWildcardIPv4(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := fixture(t)
	w := &world{ttl: 5, maxUDP: 1232, path: path, book: addressBook(t, path)}
	w.Server = l.Serve(t, "--listen", "0.0.0.0:53", "--listen", "[::]:53", "--registry", "file:"+path, "--upstream", "none",
		"--network", netA, "--allow", "203.0.113.0/24")
	w.check(t, []row{
		{"loop4", "my-app.internal", "AAAA", started, ""},
		{"loop4-9", "my-app.internal", "AAAA", started, ""},
		{"friend4", "my-app.internal", "AAAA", started, ""},
		{"a-own", "my-app.internal", "AAAA", started, ""},
		{"b-cross", "my-app.internal", "AAAA", "b1111111111111", ""},
		{"loop", "my-app.internal", "AAAA", started, ""},
	})
}
