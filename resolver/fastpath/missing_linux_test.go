//go:build amd64 || arm64

package fastpath

import (
	"net"
	"strings"
	"testing"
)

func TestWhatIsMissing(t *testing.T) {
	status := func(caps string) string { return "Name:\tdnsd\nCapPrm:\t0\nCapEff:\t" + caps + "\nCapBnd:\tff\n" }
	for _, c := range []struct{ name, got, want string }{
		{"old", tooOld("6.5.0-41-generic"), "Linux 6.6 or newer is needed, and this is 6.5.0-41-generic"},
		{"older", tooOld("5.15.0"), "and this is 5.15.0"},
		{"new_enough", tooOld("6.6.1"), ""},
		{"newer", tooOld("7.0.0-rc1"), ""},
		{"odd", tooOld("unknown"), ""},
		{"nothing", lacking(status("0000000000000000")), "this process lacks CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"},
		{"net", lacking(status("0000000000001000")), "this process lacks CAP_BPF, CAP_PERFMON"},
		{"what_is_needed", lacking(status("000000c000001000")), ""},
		{"admin", lacking(status("0000000000201000")), ""},
		{"admin_without_net", lacking(status("0000000000200000")), "this process lacks CAP_NET_ADMIN"},
		{"no_status", lacking(""), "cannot be told"},
		{"host's_clock", shifted("monotonic           0         0\nboottime            5         0\n"), ""},
		{"no_namespaces", shifted(""), ""},
		{"another_clock", shifted("monotonic           -5        0\nboottime            0         0\n"), "time namespace"},
		{"another_clock_by_little", shifted("monotonic           0        7\n"), "time namespace"},
	} {
		if (c.want == "") != (c.got == "") || !strings.Contains(c.got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, c.got, c.want)
		}
	}
}

func TestPatterns(t *testing.T) {
	p := &Path{cfg: Config{Devices: []string{"tap*", "wg[01]", "l?"}}}
	for name, want := range map[string]bool{"tap": true, "tap12": true, "wg0": true, "wg2": false, "wg01": false, "eth0": false, "l1": true} {
		if got := p.matches(net.Interface{Name: name}); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if p.matches(net.Interface{Name: "lo", Flags: net.FlagLoopback}) {
		t.Error("loopback")
	}
}
