package forward

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParseUpstream(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"10.0.0.1", "10.0.0.1:53"},
		{"10.0.0.1:5353", "10.0.0.1:5353"},
		{"fd00::1", "[fd00::1]:53"},
		{"[fd00::1]", "[fd00::1]:53"},
		{"[fd00::1]:5353", "[fd00::1]:5353"},
		{"::ffff:10.0.0.1", "10.0.0.1:53"},
		{"fe80::1%eth0", "[fe80::1%eth0]:53"},
		{"tls://9.9.9.9#dns.quad9.net", "tls://9.9.9.9:853#dns.quad9.net"},
		{"tls://[2620:fe::fe]:8853#dns.quad9.net", "tls://[2620:fe::fe]:8853#dns.quad9.net"},
		{"corp.example=10.0.0.1", "corp.example=10.0.0.1:53"},
		{"Corp.Example.=tls://10.0.0.1#ns.corp.example", "corp.example=tls://10.0.0.1:853#ns.corp.example"},
		{".=10.0.0.1", "10.0.0.1:53"},
	} {
		u, err := ParseUpstream(c.in)
		if err != nil || u.String() != c.want {
			t.Errorf("%s: got %s, %v", c.in, u, err)
			continue
		}
		if again, err := ParseUpstream(u.String()); err != nil || again != u {
			t.Errorf("%s: read again as %s, %v", c.in, again, err)
		}
	}
	for in, want := range map[string]string{
		"":                             "want 10.0.0.1",
		"dns.example":                  "want 10.0.0.1",
		"10.0.0.1:0":                   "port 0",
		"[fd00::1":                     "want 10.0.0.1",
		"10.0.0.1:99999":               "want 10.0.0.1",
		"tls://9.9.9.9":                "tls://9.9.9.9#dns.quad9.net",
		"tls://dns.quad9.net#x":        "want 10.0.0.1",
		"=10.0.0.1":                    "no domain",
		"a..b=10.0.0.1":                "no domain",
		"internal=10.0.0.1":            "never forwarded",
		"corp.internal=10.0.0.1":       "never forwarded",
		"8.1.0.0.d.f.ip6.arpa=fd00::1": "never forwarded",
		"localhost=127.0.0.1":          "never forwarded",
	} {
		if u, err := ParseUpstream(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %s, %v; want an error with %q", in, u, err, want)
		}
	}
}

func TestParseResolvConf(t *testing.T) {
	const conf = `# nameserver 192.0.2.66
search example.com
nameserver 10.0.0.1
nameserver   fd00::1
nameserver nonsense
nameserver fdaa::3
nameserver 10.0.0.1
options edns0
nameserver 10.0.0.2 # spare`
	self := netip.MustParseAddrPort("[fdaa::3]:53")
	var got []string
	for _, u := range ParseResolvConf(conf, func(a netip.AddrPort) bool { return a == self }) {
		got = append(got, u.String())
	}
	if want := "10.0.0.1:53 [fd00::1]:53 10.0.0.2:53"; strings.Join(got, " ") != want {
		t.Errorf("got %v", got)
	}
	if got := ParseResolvConf("search example.com\n", nil); got != nil {
		t.Errorf("nameservers in a file that names none: %v", got)
	}
}

func TestNewRejects(t *testing.T) {
	for _, cfg := range []Config{{Timeout: -1}, {TryTimeout: -1}, {MaxInflight: -1}, {Descriptors: -1}, {Upstreams: []Upstream{{Domain: "."}}}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("accepted %+v", cfg)
		}
	}
}
