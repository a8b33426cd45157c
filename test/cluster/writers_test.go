package cluster

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"dnsd/registry/corrosion/corrosiontest"
	"dnsd/registry/etcd/etcdtest"
	"dnsd/test/internal/lab"
	"dnsd/test/internal/truth"

	"github.com/miekg/dns"
)

// example builds a program of examples/ and returns how to run it.
func example(t *testing.T, name string) func(wantCode int, args ...string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), name)
	if err := lab.GoBuild(bin, "dnsd/examples/"+name); err != nil {
		t.Fatal(err)
	}
	return func(wantCode int, args ...string) string {
		t.Helper()
		cmd := exec.Command(bin, args...)
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != wantCode {
			t.Fatalf("%s %s ended with %d, want %d\n%s", name, strings.Join(args, " "), code, wantCode, out)
		}
		return string(out)
	}
}

// exported is what dnsd export prints.
func exported(t *testing.T, url string) string {
	t.Helper()
	code, out, stderr := lab.Host(t).Run(t, nil, "export", "--registry", url)
	if code != 0 {
		t.Fatal(stderr)
	}
	return out
}

// TestWritersOfEtcd runs the examples against a real etcd.
func TestWritersOfEtcd(t *testing.T) {
	t.Parallel()
	e := newEtcd(t, etcdtest.Options{})
	url, endpoint := e.c.URL(e.prefix), e.c.Endpoints()[0]
	put, load := example(t, "etcd-put"), example(t, "etcd-load")

	put(0, endpoint)
	if out := exported(t, url); !strings.Contains(out, `"id":"148e21dad76789"`) || !strings.Contains(out, "fdaa:0:18:a7b:7d:f066:b83b:2") {
		t.Errorf("what etcd-put put is not there:\n%s", out)
	}
	put(1, "127.0.0.1:1") // where nobody is

	// The machine that etcd-put made is in the file too, worded otherwise.
	path := filepath.Join(t.TempDir(), "registry.json")
	fleet := exported(t, "file:../../examples/registry.json")
	e.must(os.WriteFile(path, []byte(fleet), 0o600))
	says := func(want string, flags ...string) {
		t.Helper()
		if out := load(0, append([]string{"-endpoints", endpoint, "-prefix", e.prefix}, append(flags, path)...)...); out != want+"\n" {
			t.Errorf("etcd-load says %q, want %q", out, want)
		}
	}
	says("dry run: 25 written, 0 the same, 0 deleted, 0 left that the file lacks", "-dry-run")
	says("25 written, 0 the same, 0 deleted, 0 left that the file lacks")
	if out := exported(t, url); out != fleet {
		t.Errorf("loaded and exported:\n%s\nwant\n%s", differing(out, fleet), differing(fleet, out))
	}
	says("0 written, 25 the same, 0 deleted, 0 left that the file lacks")

	e.put(machineNumber(1))
	says("0 written, 25 the same, 0 deleted, 1 left that the file lacks")
	says("dry run: 0 written, 25 the same, 1 deleted, 0 left that the file lacks", "-prune", "-dry-run")
	if out := exported(t, url); !strings.Contains(out, machineNumber(1).Addr) {
		t.Error("a machine was deleted unasked")
	}
	says("0 written, 25 the same, 1 deleted, 0 left that the file lacks", "-prune")
	if out := exported(t, url); out != fleet {
		t.Error("what the file lacks is still there")
	}

	odd := world{}
	for _, o := range []object{&machine{ID: "M1", App: "Shop", Network: netA, State: "started", Region: "fra",
		Addr: "fdaa:0:18:a7b:1:2:3:2", Meta: map[string]string{"role": "a.b c"}, Skip: true}, &app{Name: "Shop", Network: netA}} {
		odd[o.Key()] = o
	}
	e.must(os.WriteFile(path, []byte(odd.File(nil)), 0o600))
	says("2 written, 0 the same, 25 deleted, 0 left that the file lacks", "-prune")
	if got, want := exported(t, url), exported(t, "file:"+path); got != want {
		t.Errorf("loaded and exported:\n%s\nwant\n%s", got, want)
	}

	e.must(os.WriteFile(path, []byte(strings.Replace(fleet, "fdaa:0:18:a7b", "fdaa:0:19:a7b", 1)), 0o600))
	out := load(1, "-endpoints", endpoint, "-prefix", e.prefix, "-prune", path)
	if !strings.Contains(out, "line ") || !strings.Contains(out, "private_ip") {
		t.Errorf("a file with a mistake: %s", out)
	}
	if got, want := exported(t, url), "Shop"; !strings.Contains(got, want) {
		t.Error("a file with a mistake was loaded in part")
	}
	load(1, "-endpoints", endpoint, "-prefix", "/dnsd", path)
	load(1, "-endpoints", endpoint)
	load(0, "-help")
}

var (
	createTable = regexp.MustCompile(`(?s)CREATE TABLE (\w+) \((.*?)\n\) WITHOUT ROWID;`)
	column      = regexp.MustCompile(`(?m)^\s+([a-z_]+)\s+(?:TEXT|INTEGER)`)
	compositeID = regexp.MustCompile(`PRIMARY KEY \(([^)]*)\)`)
	singleID    = regexp.MustCompile(`(?m)^\s+([a-z_]+)\s.*PRIMARY KEY`)
)

// TestSchemaOfCorrosion makes the tables of schema.sql and reads them with the
// queries that are dnsd's own.
func TestSchemaOfCorrosion(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../examples/corrosion/schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	a := &agentStore{newAgent(t, corrosiontest.Options{}), t}
	var tables []string
	for _, m := range createTable.FindAllStringSubmatch(string(text), -1) {
		var key, others []string
		if id := compositeID.FindStringSubmatch(m[2]); id != nil {
			key = strings.Split(id[1], ", ")
		} else {
			key = singleID.FindStringSubmatch(m[2])[1:]
		}
		for _, c := range column.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(key, c[1]) {
				others = append(others, c[1])
			}
		}
		a.CreateTable(m[1], key, others...)
		tables = append(tables, m[1])
	}
	if want := []string{"machines", "apps", "peers", "app_addresses"}; !slices.Equal(tables, want) {
		t.Fatalf("tables %v, want %v", tables, want)
	}
	s := play(t, a, "corrosion://"+a.Addr())
	s.turn()
	s.heals()

	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Log("sqlite3 is missing: the schema is not run as SQL")
		return
	}
	cmd := exec.Command("sqlite3", "-bail", ":memory:")
	cmd.Stdin = strings.NewReader(string(text) + `
INSERT INTO machines (id, network, app) VALUES ('m1', '', 'a');
SELECT id, network, app, region, process_group, state, private_ip, metadata FROM machines;`)
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "m1||a|||||{}\n" {
		t.Errorf("%v: %s", err, out)
	}
}

// TestQueriesOfCorrosion reads a table of another shape with queries.json.
func TestQueriesOfCorrosion(t *testing.T) {
	t.Parallel()
	const file = "../../examples/corrosion/queries.json"
	var queries map[string]string
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &queries); err != nil {
		t.Fatal(err)
	}
	a := newAgent(t, corrosiontest.Options{})
	a.CreateTable("vms", []string{"vm_id"}, "tenant_net", "app_name", "region", "grp", "status", "ip6", "labels", "hidden")
	row := corrosiontest.Row{"vm_id": "m1", "tenant_net": netA, "app_name": "my-app", "region": "fra", "grp": "web",
		"status": "started", "ip6": "fdaa:0:18:a7b:1:1:1:2", "labels": `{"role":"primary"}`, "hidden": 0}
	a.Put("vms", row)
	a.Put(rowOf(&peer{Name: "office", Network: netA, Addr: "fdaa:0:18::9", Region: "ams"})) // not read
	s := serve(t, lab.Binary(t), "--registry", "corrosion://"+a.Addr(), "--corrosion-queries", file)
	s.awaitState(t, "live")
	says := func(name, want string) {
		t.Helper()
		s.await(t, name+" "+want, func() bool {
			resp, err := s.ask(name, dns.TypeAAAA)
			return err == nil && truth.Said(resp) == want
		})
	}
	says("primary.role.kv._metadata.my-app.internal", "fdaa:0:18:a7b:1:1:1:2")
	says("web.process.my-app.internal", "fdaa:0:18:a7b:1:1:1:2")
	says("office._peer.internal", "NXDOMAIN")
	row["hidden"] = 1
	a.Put("vms", row)
	says("my-app.internal", "NXDOMAIN")
}
