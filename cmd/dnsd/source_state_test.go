package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// A state is exported as what it was saved from, checked, and served.
func TestState(t *testing.T) {
	path, dir := filepath.Join(t.TempDir(), "registry.json"), t.TempDir()
	fleet(t, path, 3)
	d := start(t, "--registry", "file:"+path, "--state-dir", dir)
	d.ready()
	d.stop()
	<-d.ended
	command := func(args ...string) (status int, out, errs string) {
		var stdout, stderr strings.Builder
		status = report(&stderr, run(t.Context(), args, environment(), &stdout, &stderr))
		return status, stdout.String(), stderr.String()
	}
	_, want, _ := command("export", "--log-level=error", "--registry", "file:"+path)
	for _, url := range []string{"state:" + dir, "state:" + dir + "/registry.state"} {
		if status, out, errs := command("export", "--log-level=error", "--registry", url); status != 0 || out != want || strings.Count(out, "private_ip") != 3 {
			t.Errorf("%s: %d %q %q", url, status, out, errs)
		}
		for _, args := range [][]string{{"check", url}, {"check", "--registry", url}} {
			if status, out, errs := command(args...); status != 0 || !strings.Contains(out, "registry.state: 1 app, 3 machines, 0 peers, 0 addresses\n  saved at 2") ||
				!strings.Contains(out, " from file:"+path+", with 0 batches of changes in 0 bytes\n") || strings.Contains(out, "not used") {
				t.Errorf("%v: %d %q %q", args, status, out, errs)
			}
		}
	}
	served := start(t, "--registry", "state:"+dir, "--network", "fdaa:0:18::/48")
	served.ready()
	if m := served.ask("udp", "my-app.internal.", dns.TypeAAAA); len(m.Answer) != 3 {
		t.Errorf("%v", m)
	}

	state := filepath.Join(dir, "registry.state")
	data, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what   string
		data   []byte
		status int
		check  string // what check says
		export string // what export says; empty: it exports
	}{
		{"more behind the end", append(data[:len(data):len(data)], 1, 2, 3), 0, "  the last 3 bytes are not used: it is cut short\n", ""},
		{"damaged", append(data[:len(data)-1:len(data)-1], data[len(data)-1]^1), 1, "registry.state: its checksum does not match: it is damaged\n", "it is damaged"},
		{"of a newer dnsd", []byte(strings.Replace(string(data), "#dnsd-state 2", "#dnsd-state 3", 1)), 1, "a newer dnsd wrote it", "a newer dnsd wrote it"},
	} {
		if err := os.WriteFile(state, c.data, 0o600); err != nil {
			t.Fatal(err)
		}
		if status, out, errs := command("check", "state:"+dir); status != c.status || !strings.Contains(out, c.check) {
			t.Errorf("check of what is %s: %d %q %q", c.what, status, out, errs)
		}
		status, out, errs := command("export", "--log-level=error", "--registry", "state:"+dir)
		if ok := c.export == ""; ok != (status == 0) || ok && out != want || !strings.Contains(errs, c.export) {
			t.Errorf("export of what is %s: %d %q %q", c.what, status, out, errs)
		}
	}
	if status, out, errs := command("export", "--registry", "state:"+dir+"/none"); status != 1 || out != "" || strings.Contains(errs, "level=") {
		t.Errorf("export of what is not there: %d %q %q", status, out, errs)
	}
	for _, args := range [][]string{{"check", "state:" + dir + "/none"}, {"export", "--log-level=error", "--registry", "state:" + dir + "/none"}} {
		if status, out, errs := command(args...); status != 1 || !strings.Contains(out+errs, "no such file") {
			t.Errorf("%v: %d %q %q", args, status, out, errs)
		}
	}
	if status, _, errs := command("check", "state:"); status != 2 || !strings.Contains(errs, "no directory") {
		t.Errorf("%d %q", status, errs)
	}
}
