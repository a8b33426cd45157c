package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/corrosion/corrosiontest"
)

func TestCheck(t *testing.T) {
	const good = `{"apps": [{"name": "a", "network": "fdaa:0:18::/48"}]}`
	tests := []struct {
		name, text string
		want       []string // in what is printed
		err        string   // after the path; empty: none
	}{
		{"good", good, []string{": 1 app, 0 machines, 0 peers, 0 addresses in 1 network\n"}, ""},
		{"empty", "", []string{":1:1: "}, " has 1 problem"},
		{"cut_off", "{\"apps\": [\n  {\"name\": \"a\",\n", []string{":3:1: "}, " has 1 problem"},
		{"not_json", "{\n  \"apps\": [],\n  oops\n}", []string{":3:3: "}, " has 1 problem"},
		{"machine_outside_its_network", "{\"apps\": [{\"name\": \"a\", \"network\": \"fdaa:0:18::/48\", \"machines\": [\n" +
			"  {\"id\": \"m1\", \"state\": \"started\", \"private_ip\": \"fdaa:0:99::2\"},\n" +
			"  {\"id\": \"m2\", \"state\": \"started\", \"private_ip\": \"fdaa:0:18::2\"}]}]}",
			[]string{":2:3: ", "fdaa:0:99::2 lies in fdaa:0:99::/48, not in its network fdaa:0:18::/48", ": 1 app, 1 machine, "}, " has 1 problem"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "registry.json")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			var out, errs strings.Builder
			status := report(&errs, run(t.Context(), []string{"check", path}, environment(), &out, nil))
			for _, want := range tt.want {
				if !strings.Contains(out.String(), path+want) && !strings.Contains(out.String(), want) {
					t.Errorf("printed %q, want %q in it", out.String(), want)
				}
			}
			if tt.err == "" && (status != 0 || errs.Len() > 0) ||
				tt.err != "" && (status != 1 || errs.String() != "dnsd: "+path+tt.err+"\n") {
				t.Errorf("status %d, %q", status, errs.String())
			}
		})
	}
}

// Without a file, that of --registry is checked; and the flags always are.
func TestCheckOfFlags(t *testing.T) {
	tests := []struct {
		name, args, out, err string
		status               int
	}{
		{"no_file", "check --registry file:/nowhere/registry.json", "",
			"dnsd: reading registry file: open /nowhere/registry.json: no such file or directory\n", 1},
		{"file_url", "check file:/nowhere/registry.json", "",
			"dnsd: reading registry file: open /nowhere/registry.json: no such file or directory\n", 1},
		{"file_url_without_path", "check file:", "", "dnsd: file:: no path: ", 2},
		{"two_files", "check a b", "", "dnsd: unexpected argument \"b\": dnsd check takes one file\n", 2},
		{"stream", "check --registry etcd://h:2379/dnsd/v1/", "the flags are good; the registry is no file, so there is none to check\n", "", 0},
		{"upstream", "check --upstream 300.0.0.1 --ttl 5", "", "dnsd: --upstream 300.0.0.1: ", 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out, errs strings.Builder
			status := report(&errs, run(t.Context(), strings.Fields(tt.args), environment(), &out, nil))
			if status != tt.status || out.String() != tt.out || !strings.HasPrefix(errs.String(), tt.err) {
				t.Errorf("%d %q %q", status, out.String(), errs.String())
			}
		})
	}
}

func TestExport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "registry.json")
	fleet(t, path, 3)
	var out, log strings.Builder
	args := []string{"export", "--log-level=error", "--registry", "file:" + path}
	if err := run(t.Context(), args, environment(), &out, &log); err != nil {
		t.Fatal(err, log.String())
	}
	// The state directory is the serving dnsd's: whatever it is, export leaves it alone.
	var same strings.Builder
	if err := run(t.Context(), append(args, "--state-dir", path), environment(), &same, &log); err != nil || same.String() != out.String() {
		t.Errorf("with a state directory: %v %q", err, same.String())
	}
	again := filepath.Join(dir, "again.json")
	if err := os.WriteFile(again, []byte(out.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var second strings.Builder
	if err := run(t.Context(), []string{"export", "--log-level=error", "--registry", "file:" + again}, environment(), &second, &log); err != nil {
		t.Fatal(err, log.String())
	}
	if out.String() != second.String() || strings.Count(out.String(), "private_ip") != 3 {
		t.Errorf("exported\n%s\nand again\n%s", out.String(), second.String())
	}

	var errs strings.Builder
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := run(ctx, []string{"export", "--log-level=error", "--registry", "file:" + dir + "/none.json"}, environment(), &out, &log)
	if ctx.Err() != nil {
		t.Error("a missing file is waited for")
	}
	if status := report(&errs, err); status != 1 || !strings.Contains(errs.String(), "none.json: the file does not exist") {
		t.Errorf("%d %q", status, errs.String())
	}
}

// A registry of which the source doubts that it is whole is none to export.
func TestExportOfADoubtedListing(t *testing.T) {
	reg := registry.New()
	reg.SetStatus(registry.Status{State: registry.Listing, Doubt: "the agent has gaps"})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c := &config{}
	if err := c.Registry.set("corrosion://127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	source, err := c.Registry.source.open(c, environment(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := awaitSync(ctx, reg, source); err == nil || err.Error() != "the agent has gaps" || ctx.Err() == nil {
		t.Errorf("awaitSync: %v, and the context: %v", err, ctx.Err())
	}
}

func TestStateDirIsTried(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	if err := errors.Join(os.Mkdir(state, 0o700), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"state":  "",
		"absent": ": there is no such directory: create it, or leave the flag out\n",
		"file":   ": this is no directory: name one, or leave the flag out\n",
	} {
		path = filepath.Join(dir, path)
		if want != "" {
			want = "dnsd: --state-dir " + path + want
		}
		var out, errs strings.Builder
		report(&errs, run(t.Context(), []string{"check", "--registry=file:../../examples/registry.json", "--state-dir", path}, environment(), &out, nil))
		if errs.String() != want {
			t.Errorf("%s: %q, want %q", path, errs.String(), want)
		}
	}
	if left, err := os.ReadDir(state); err != nil || len(left) > 0 {
		t.Errorf("the trial left %v (%v)", left, err)
	}
	// /sys takes no file, from root either.
	if err := checkStateDir("/sys/kernel"); err == nil || !strings.Contains(err.Error(), "dnsd cannot write there: ") {
		t.Errorf("/sys/kernel: %v", err)
	}
}

// The queries for a Corrosion agent are checked where it can be asked.
func TestCheckOfAgent(t *testing.T) {
	t.Parallel()
	agent, err := corrosiontest.New(corrosiontest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	deaf := filepath.Join(t.TempDir(), "queries.json")
	if err := os.WriteFile(deaf, []byte(`{"apps": "SELECT network, name FROM apps"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(status int, want string, args ...string) {
		t.Helper()
		var out, errs strings.Builder
		args = append([]string{"check", "--registry", "corrosion://" + agent.Addr()}, args...)
		if got := report(&errs, run(t.Context(), args, environment(), &out, nil)); got != status || !strings.Contains(out.String(), want) {
			t.Errorf("status %d, printed %q and %q; want %d and %q", got, out.String(), errs.String(), status, want)
		}
	}
	check(0, "the flags are good, and so are the queries")
	check(1, "the query for apps names no column of the table apps but its key", "--corrosion-queries", deaf)
	agent.Stop()
	check(0, "the queries could not be checked: corrosion agent at "+agent.Addr(), "--corrosion-queries", deaf)
}
