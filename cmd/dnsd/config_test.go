package main

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// environment is a getenv over a few variables.
func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for _, p := range pairs {
			if value, ok := strings.CutPrefix(p, name+"="); ok {
				return value
			}
		}
		return ""
	}
}

func TestDefaults(t *testing.T) {
	c, rest, err := parseConfig(nil, environment())
	if err != nil || len(rest) != 0 {
		t.Fatal(rest, err)
	}
	if !slices.Equal(c.Listen, []netip.AddrPort{netip.MustParseAddrPort("[fdaa::3]:53")}) ||
		c.Registry.source != fileURL("/etc/dnsd/registry.json") || c.Network.IsValid() || c.Allow != nil || c.Region != "" ||
		c.API.IsValid() || c.Advertise != netip.MustParseAddr("fdaa::3") || c.TTL != 5*time.Second ||
		c.MaxUDPSize != 1232 || c.StaleAfter != time.Minute || c.Metrics != netip.MustParseAddrPort("127.0.0.1:9153") ||
		c.LogLevel != slog.LevelInfo || c.LogFormat != "text" || c.NoIdentity || c.Upstreams.list != nil || c.Upstreams.none ||
		c.UpstreamTimeout != 5*time.Second || c.CacheSize != 64<<20 || c.CachePerNetwork || c.MaxInflight != 4096 {
		t.Errorf("defaults are not those of the table: %+v", c)
	}
}

func TestFlagsWinOverEnvironment(t *testing.T) {
	c, _, err := parseConfig(
		[]string{"--listen", "127.0.0.1:53", "--listen=[::1]:53", "--ttl=1s"},
		environment("DNSD_LISTEN=127.0.0.9:53", "DNSD_TTL=9s", "DNSD_ALLOW=10.0.0.0/8, 192.0.2.0/24",
			"DNSD_NO_IDENTITY=true", "DNSD_VERSION=1.2.3", "DNSD_HELP=true", "DNSD_CACHE_PER_NETWORK=false", "DNSD_METRICS_LISTEN=none"))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Listen) != 2 || c.Listen[0].String() != "127.0.0.1:53" || c.Listen[1].String() != "[::1]:53" {
		t.Errorf("listen: %v", c.Listen)
	}
	if c.TTL != time.Second || !c.NoIdentity || c.CachePerNetwork || c.Metrics.IsValid() {
		t.Errorf("%+v", c)
	}
	if len(c.Allow) != 2 || c.Allow[1] != netip.MustParsePrefix("192.0.2.0/24") {
		t.Errorf("allow: %v", c.Allow)
	}
}

// No state is kept where a flag says so, whatever the environment of a unit says.
func TestNoStateDir(t *testing.T) {
	for arg, want := range map[string]string{"--state-dir=none": "", "--state-dir=./none": "./none", "--log-level=info": "/var/lib/dnsd"} {
		c, _, err := parseConfig([]string{arg}, environment("DNSD_STATE_DIR=/var/lib/dnsd"))
		if err != nil || c.StateDir != want {
			t.Errorf("%s: %q, %v; want %q", arg, c.StateDir, err, want)
		}
	}
}

// Every mistake has its sentence, which says what to write instead.
func TestMistakes(t *testing.T) {
	tests := []struct {
		name, args, env, want string
	}{
		{"unknown_flag", "--colour red", "", "unknown flag --colour: dnsd --help lists them all"},
		{"misspelt_flag", "--lisen 127.0.0.1:53", "", "unknown flag --lisen: did you mean --listen?"},
		{"far_from_any_flag", "--netw x", "", "unknown flag --netw: dnsd --help lists them all"},
		{"near_two_flags", "--regionx x", "", "unknown flag --regionx: did you mean --region?"},
		{"one_dash", "-listen 127.0.0.1:53", "", "unknown flag -listen: flags have two dashes, as in --listen"},
		{"one_letter", "-v", "", "unknown flag -v: flags have two dashes, as in --version"},
		{"one_letter_of_several", "-l x", "", "unknown flag -l: flags have two dashes, and dnsd --help lists them all"},
		{"no_value", "--listen", "", "--listen needs a value"},
		{"empty_value", "--region=", "", "--region is empty: give it a value or leave it out"},
		{"twice", "--ttl 1s --ttl 2s", "", "--ttl is given 2 times: give it once"},
		{"one_dash_and_a_beginning", "-region x", "", "unknown flag -region: flags have two dashes, as in --region"},
		{"region_with_a_space", "--region a=b", "", "--region a=b: not a region's code: write one such as fra"},
		{"listen_without_port", "--listen fdaa::3", "", "--listen fdaa::3: no port: write [fdaa::3]:53"},
		{"listen_without_port_v4", "--listen 127.0.0.1", "", "no port: write 127.0.0.1:53"},
		{"listen_without_address", "--listen :53", "", "no address: write [::]:53 for every address"},
		{"listen_without_brackets", "--listen fdaa:0:18::3:53", "", "an IPv6 address without brackets: write [fdaa:0:18::3]:53"},
		{"listen_unspecified_without_port", "--listen ::", "", "no port: write [::]:53"},
		{"listen_name", "--listen localhost:53", "", "not an address and port: write one such as [fdaa::3]:53"},
		{"listen_same", "--listen [::1]:53 --listen [::1]:53", "", "given twice: once is enough"},
		{"network_not_48", "--network fdaa:0:18::/64", "", "want one such as fdaa:0:18::/48"},
		{"network_outside", "--network 10.0.0.0/8", "", "is not a /48 inside fdaa::/16"},
		{"network_host_bits", "--network fdaa:0:18::1/48", "", "want fdaa:0:18::/48"},
		{"allow_address", "--allow 10.1.2.3", "", "not a prefix: write 10.1.2.3/32 for this one address"},
		{"allow_host_bits", "--allow 10.1.2.3/8", "", "bits are set after the first 8: write 10.0.0.0/8"},
		{"allow_all", "--allow 0.0.0.0/0", "", "would serve the whole Internet"},
		{"allow_zone", "--allow fe80::1%eth0", "", "not a prefix: write one such as 10.0.0.0/8"},
		{"allow_junk", "--allow home", "", "not a prefix: write one such as 10.0.0.0/8"},
		{"allow_environment", "", "DNSD_ALLOW=10.0.0.0/8,home", "DNSD_ALLOW=home: not a prefix"},
		{"registry_without_scheme", "--registry fleet.json", "", "no scheme: write file:fleet.json for a file"},
		{"registry_scheme", "--registry consul://h:1/", "", `unknown scheme "consul": write file:PATH, etcd://`},
		{"registry_file_host", "--registry file://etc/x", "", "a file has no host: write file:etc/x"},
		{"registry_file_empty", "--registry file:", "", "no path: write one such as file:/etc/dnsd/registry.json"},
		{"api_address", "--api-address 10.0.0.1", "", "it becomes an AAAA record: write an IPv6 address"},
		{"api_address_mapped", "--api-address ::ffff:10.0.0.1", "", "it becomes an AAAA record"},
		{"api_address_zone", "--api-address fe80::1%eth0", "", "it becomes an AAAA record"},
		{"advertise", "--advertise nowhere", "", "it becomes an AAAA record: write an IPv6 address"},
		{"ttl_unit", "--ttl 5", "", "not a duration: write a number with its unit, such as 5s"},
		{"ttl_fine", "--ttl 1500ms", "", "too fine: write a multiple of 1s"},
		{"ttl_range", "--ttl 25h", "", "out of range: write a duration from 0s to 24h"},
		{"listen_within", "--listen [::]:5399 --listen 127.0.0.1:5399", "", "--listen 127.0.0.1:5399: cannot stand beside [::]:5399"},
		{"listen_around", "--listen 127.0.0.1:5399 --listen 0.0.0.0:5399", "", "--listen 0.0.0.0:5399: cannot stand beside 127.0.0.1:5399"},
		{"stale_after", "--stale-after 1ms", "", "out of range: write a duration from 1s to 24h"},
		{"stale_after_of_corrosion", "--stale-after 14999ms --registry corrosion://h:1", "", "--stale-after 14999ms: out of range: write a duration from 15s to 24h"},
		{"stale_after_of_corrosion_far_off", "--stale-after 1ms", "DNSD_REGISTRY=corrosion://h:1", "out of range: write a duration from 15s to 24h"},
		{"stale_after_of_etcd", "--registry etcd://h:1/x/", "DNSD_STALE_AFTER=14s", "DNSD_STALE_AFTER=14s: out of range: write a duration from 15s to 24h"},
		{"udp_size", "--max-udp-size 100", "", "write a whole number from 512 to 4096"},
		{"cache_size", "--cache-size 64M", "", "write a number with its unit, such as 64MiB"},
		{"cache_size_small", "--cache-size 64KiB", "", "too small: write at least 1MiB"},
		{"max_inflight", "--max-inflight 0", "", "write a whole number from 1 to"},
		{"toggle", "--no-identity=maybe", "", "write true or false"},
		{"log_level", "--log-level loud", "", "write debug, info, warn or error"},
		{"log_format", "", "DNSD_LOG_FORMAT=xml", "DNSD_LOG_FORMAT=xml: write text or json"},
		{"metrics_listen", "--metrics-listen :9153", "", "no address: write [::]:9153"},
		{"metrics_listen_without_port", "--metrics-listen 127.0.0.1", "", "no port: write 127.0.0.1:9153"},
		{"metrics_listen_without_port_v6", "--metrics-listen ::1", "", "no port: write [::1]:9153"},
		{"metrics_listen_name", "--metrics-listen localhost", "", "not an address and port: write one such as 127.0.0.1:9153"},
		{"upstream_none_and_more", "--upstream none --upstream 192.0.2.1", "", "leave it or them out"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := parseConfig(strings.Fields(tt.args), environment(tt.env))
			var usage usageError
			if err == nil || !errors.As(err, &usage) {
				t.Fatalf("error %v, want a usageError", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want %q in it", err, tt.want)
			}
			if n := strings.Count(err.Error(), "\n"); n != 0 {
				t.Errorf("%d further lines for one mistake: %q", n, err)
			}
		})
	}
}

// The ends of each range are taken, and what is next to them is not.
func TestRanges(t *testing.T) {
	for _, tt := range []struct {
		flag            string
		taken, nottaken []string
	}{
		{"region", []string{"azAZ-09"}, []string{"a`", "a{", "a@", "a[", "a/", "a:", "a_"}},
		{"allow", []string{"128.0.0.0/1"}, []string{"::/0"}},
		{"stale-after", []string{"1s", "24h"}, []string{"999ms", "86401s"}},
		{"upstream-timeout", []string{"100ms", "100000001ns", "1m"}, []string{"99ms", "61s"}},
		{"cache-size", []string{"1MiB", "1048576", "1024KiB", "1GiB", "1024GiB"}, []string{"1048575", "1025GiB", "1099511627777", "-1MiB", "5iB", "5GMiB", "MiB"}},
		{"max-inflight", []string{"1", "1048576"}, []string{"0", "1048577"}},
		{"ttl", []string{"0s", "24h"}, []string{"-1s", "86401s"}},
		{"max-udp-size", []string{"512", "4096"}, []string{"511", "4097"}},
		{"sockets", []string{"1", "256"}, []string{"0", "257"}},
		{"fast-path", []string{"eth0", "tap*", "to-?", "wg[0-9]", "lo1"}, []string{"lo", "a/b", "tap[", "tap[a-"}},
	} {
		for _, value := range append(tt.taken, tt.nottaken...) {
			_, _, err := parseConfig([]string{"--" + tt.flag + "=" + value}, environment())
			if taken := slices.Contains(tt.taken, value); (err == nil) != taken {
				t.Errorf("--%s=%s: %v, want it taken: %v", tt.flag, value, err, taken)
			}
		}
	}
	for size, want := range map[string]int64{"1048577": 1048577, "1025KiB": 1049600, "3MiB": 3 << 20, "2GiB": 2 << 30} {
		if got, err := memory(size); err != nil || got != want {
			t.Errorf("%s: %d, %v", size, got, err)
		}
	}
}

// Listeners that can all be bound stand beside each other.
func TestListenersBeside(t *testing.T) {
	for listen, want := range map[string]bool{
		"127.0.0.1:0,127.0.0.1:0": true, "127.0.0.1:53,127.0.0.1:54": true, "127.0.0.1:53,127.0.0.2:53": true, "[::]:1,127.0.0.1:0": true,
		"127.0.0.1:1,127.0.0.1:1": false,
		"[::]:53,0.0.0.0:53":      true, "0.0.0.0:53,[::1]:53": true,
		"[::]:53,[::1]:53": false, "[::]:53,127.0.0.1:53": false, "0.0.0.0:53,127.0.0.1:53": false, "127.0.0.1:53,0.0.0.0:53": false,
	} {
		if _, _, err := parseConfig(nil, environment("DNSD_LISTEN="+listen)); (err == nil) != want {
			t.Errorf("%s: %v", listen, err)
		}
	}
}

func TestEditDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"xabc", "abc", 1}, {"abc", "xabc", 1}, {"abxc", "abc", 1},
		{"abc", "abd", 1}, {"ab", "ba", 2}, {"kitten", "sitting", 3}, {"xxabc", "abc", 2},
	} {
		if got := editDistance(tt.a, tt.b); got != tt.want {
			t.Errorf("%s to %s: %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestPollWithin(t *testing.T) {
	for stale, want := range map[time.Duration]time.Duration{time.Second: time.Second / 3, time.Minute: 3 * time.Second} {
		if got := pollWithin(stale); got != want {
			t.Errorf("%v: %v, want %v", stale, got, want)
		}
	}
}

// What the message about --stale-after says to write is what is taken.
func TestLeastStaleAfter(t *testing.T) {
	for registry, least := range map[string]string{"file:/x": "1s", "corrosion://h:1": "15s", "etcd://h:1/x/": "15s"} {
		if _, _, err := parseConfig([]string{"--stale-after", least, "--registry", registry}, environment()); err != nil {
			t.Errorf("%s: %v", registry, err)
		}
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	_, _, err := parseConfig(
		[]string{"--lisen", "127.0.0.1:53", "--ttl", "5", "--nonsense=1", "--network", "10.0.0.0/8", "--allow=x", "--allow=y"},
		environment("DNSD_LOG_LEVEL=loud"))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 7 {
		t.Errorf("%d lines for 7 mistakes:\n%v", len(lines), err)
	}
	for i, want := range []string{"--lisen", "--nonsense", "--network", "--allow x", "--allow y", "--ttl", "DNSD_LOG_LEVEL"} {
		if i < len(lines) && !strings.Contains(lines[i], want) {
			t.Errorf("line %d is %q, want one about %s", i, lines[i], want)
		}
	}
}

func TestPasswordStaysOutOfMessages(t *testing.T) {
	for _, url := range []string{"consul://me:secret@h/x", "consul://h/x?password=secret", "corrosion:secret@h", "etcd:me:secret@h"} {
		_, _, err := parseConfig([]string{"--registry", url}, environment())
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("error %q tells the password of %s", err, url)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add("--listen [::1]:53\x00--ttl=5s\x00check", "10.0.0.0/8,x")
	f.Add("-h", "")
	f.Add("--\x00--x\x00-", ",")
	f.Fuzz(func(t *testing.T, args, allow string) {
		_, _, err := parseConfig(strings.Split(args, "\x00"), environment("DNSD_ALLOW="+allow))
		var usage usageError
		if err != nil && !errors.As(err, &usage) {
			t.Errorf("%v is no usageError", err)
		}
	})
}

// Variables that are nearly a setting's are told with the one that was meant, and
// never with their value.
func TestStrangers(t *testing.T) {
	tests := []struct {
		name, variable, want string // want: what follows the name; empty: nothing is said
	}{
		{"misspelt", "DNSD_LISTN=secret", ": did you mean DNSD_LISTEN?"},
		{"misspelt_secret", "DNSD_ETCD_PASWORD=secret", ": did you mean DNSD_ETCD_PASSWORD?"},
		{"far_from_any", "DNSD_COLOUR=secret", " is ignored"},
		{"port", "DNSD_PORT=53", " is ignored"},
		{"setting", "DNSD_LISTEN=127.0.0.1:53", ""},
		{"password", "DNSD_ETCD_PASSWORD=secret", ""},
		{"token", "DNSD_CORROSION_TOKEN=secret", ""},
		{"of_another_program", "DNSDIST_LISTEN=x", ""},
		{"kubernetes_host", "DNSD_SERVICE_HOST=10.0.0.1", ""},
		{"kubernetes_named_port", "DNSD_METRICS_SERVICE_PORT_HTTP=80", ""},
		{"kubernetes_link", "DNSD_PORT=udp://10.0.0.1:53", ""},
		{"kubernetes_link_part", "DNSD_PORT_53_UDP_ADDR=10.0.0.1", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name, _, _ := strings.Cut(tt.variable, "=")
			got := strings.Join(strangers(new(config).settings(), []string{"HOME=/", tt.variable}), "\n")
			if (got == "") != (tt.want == "") || !strings.HasSuffix(got, tt.want) || got != "" && !strings.HasPrefix(got, name+" ") {
				t.Errorf("%q, want %q after the name", got, tt.want)
			}
			if strings.Contains(got, "secret") {
				t.Errorf("%q tells the value", got)
			}
		})
	}
}
