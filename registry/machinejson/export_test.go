package machinejson

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"dnsd/registry"
	"dnsd/registry/registrytest"
)

// export returns a registry's file and checks that it reads back as the same
// objects.
func export(t *testing.T, r *registry.Registry) string {
	t.Helper()
	var b bytes.Buffer
	if err := Export(&b, r.Snapshot()); err != nil {
		t.Fatal(err)
	}
	items, err := Parse(b.Bytes())
	if err != nil {
		t.Fatalf("%v in\n%s", err, &b)
	}
	for _, i := range items {
		if i.Err != nil {
			t.Fatalf("%s: %v in\n%s", i.Where, i.Err, &b)
		}
	}
	again := registry.New()
	again.Apply(items)
	if was, is := registrytest.Objects(r), registrytest.Objects(again); !maps.Equal(was, is) {
		t.Fatalf("read back as\n%v\nwas\n%v\nin\n%s", is, was, &b)
	}
	var c bytes.Buffer
	if err := Export(&c, again.Snapshot()); err != nil || c.String() != b.String() {
		t.Fatalf("exported again (%v):\n%s\nwas\n%s", err, &c, &b)
	}
	return b.String()
}

func TestExport(t *testing.T) {
	items, err := Parse([]byte(`{"apps": [
  {"name": "web", "network": "fdaa:0:18::/48", "flycast": ["fdaa:0:18:0:1::7", "fdaa:0:18:0:1::8"], "machines": [
    {"id": "m2", "state": "stopped", "region": "ams"},
    {"id": "m1", "state": "started", "private_ip": "fdaa:0:18::1", "config": {"metadata": {"z": "<&>", "a": "\"\n"}, "dns": {"skip_registration": true}}},
    {"id": "m3", "app": "WEB", "state": "started"}]},
  {"name": "bare", "network": "fdaa:0:18::/48"}],
 "machines": [{"id": "l", "app": "loose", "state": "started", "network": "fdaa:0:18::/48"}],
 "addresses": [{"app": "web", "address": "fdaa:0:99::7"}, {"app": "Web", "address": "fdaa:0:18::7"}],
 "peers": [{"name": "interactive-x", "private_ip": "fdaa:0:99::9"}, {"name": "p", "private_ip": "fdaa:0:18::9", "region": "ord"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	r := registry.New()
	if n := r.Apply(items); n != 12 {
		t.Fatalf("%d objects", n)
	}
	want := `{
"apps": [
  {"name":"bare","network":"fdaa:0:18::/48"},
  {"name":"web","network":"fdaa:0:18::/48","flycast":["fdaa:0:18:0:1::7","fdaa:0:18:0:1::8"],"machines":[
    {"id":"m1","state":"started","private_ip":"fdaa:0:18::1","config":{"metadata":{"a":"\"\n","z":"<&>"},"dns":{"skip_registration":true}}},
    {"id":"m2","state":"stopped","region":"ams"},
    {"id":"m3","app":"WEB","state":"started"}]}
],
"machines": [
  {"id":"l","app":"loose","network":"fdaa:0:18::/48","state":"started"}
],
"peers": [
  {"name":"p","network":"fdaa:0:18::/48","private_ip":"fdaa:0:18::9","region":"ord"},
  {"name":"interactive-x","network":"fdaa:0:99::/48","private_ip":"fdaa:0:99::9"}
],
"addresses": [
  {"app":"Web","network":"fdaa:0:18::/48","address":"fdaa:0:18::7"},
  {"app":"web","network":"fdaa:0:99::/48","address":"fdaa:0:99::7"}
]
}
`
	if got := export(t, r); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestExportEmpty(t *testing.T) {
	if got, want := export(t, registry.New()), "{\n\"apps\": [\n]\n}\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	r := registry.New()
	r.Apply([]registry.Item{registry.Put(&registry.Address{App: "a", Network: net18, Addr: netip.MustParseAddr("fdaa:0:18::7")})})
	if got := export(t, r); !strings.HasPrefix(got, "{\n\"addresses\": [\n  {") {
		t.Errorf("%s", got)
	}
}

// TestExportRoundTrip exports registries of random objects, among them apps
// that are not registered, and names and values that JSON must quote.
func TestExportRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[rng.IntN(len(from))] }
	for range 300 {
		r := registry.New()
		for range rng.IntN(60) {
			n := registry.Network(rng.IntN(3)) << 15
			b := n.Prefix().Addr().As16()
			b[15] = byte(1 + rng.IntN(20))
			ip, app := netip.AddrFrom16(b).String(), pick("a", "A", `b"`, `c\d`, "<e>", "_")
			m := registry.MachineSpec{ID: pick("m1", "m2", `"`, `\`), App: app, Network: n.String(), Region: pick("", "ams", "IAD"),
				State: pick("started", "stopped", "destroyed", "\x00\u2028"), SkipRegistration: rng.IntN(4) == 0}
			if rng.IntN(3) > 0 {
				m.PrivateIP = ip
			}
			if rng.IntN(2) > 0 {
				m.Metadata = map[string]string{pick("", "k", "é.\"\n"): pick("", "v", "\u2028</script>")}
			}
			machine, err := registry.NewMachine(m)
			if err != nil {
				t.Fatal(err)
			}
			peer, err := registry.NewPeer(registry.PeerSpec{Name: app, PrivateIP: ip, Region: pick("", "ams")})
			if err != nil {
				t.Fatal(err)
			}
			address, err := registry.NewAddress(registry.AddressSpec{App: app, Address: ip})
			if err != nil {
				t.Fatal(err)
			}
			all := []registry.Object{machine, peer, address, &registry.App{Name: app, Network: n}}
			r.Apply([]registry.Item{registry.Put(all[rng.IntN(len(all))])})
		}
		export(t, r)
	}
}

// full is a writer whose disk is full after n bytes.
type full struct{ n int }

var errFull = errors.New("no space left")

func (f *full) Write(p []byte) (int, error) {
	if f.n -= len(p); f.n < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestExportWriteError(t *testing.T) {
	r := registry.New()
	for i := range 3000 {
		r.Apply([]registry.Item{registry.Put(&registry.App{Name: fmt.Sprint("app-", i), Network: net18})})
	}
	for _, n := range []int{0, 70_000, 100_000} {
		if err := Export(&full{n}, r.Snapshot()); !errors.Is(err, errFull) {
			t.Errorf("full after %d bytes: %v", n, err)
		}
	}
}
