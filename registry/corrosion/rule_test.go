package corrosion

import (
	"slices"
	"strings"
	"testing"

	"dnsd/registry/corrosion/corrosiontest"
)

func TestNames(t *testing.T) {
	for sql, want := range map[string]string{
		"SELECT a, B FROM t": "select a b from t",
		`SELECT "odd name", [x y], ` + "`z`" + ` FROM main.t AS u WHERE u.c1 > 12`:    "select odd name x y z from main t as where u c1",
		"SELECT 'updated_at' AS a, x AS updated_at FROM t -- updated_at\nWHERE b = 1": "select as x from t where b",
		"SELECT a /* updated_at */ FROM t":                                            "select a from t",
		"SELECT größe FROM t /* no end":                                               "select größe from t",
		"SELECT 'it''s' , \"no end":                                                   "select no end",
		"SELECT count(*) FROM t; -- no end":                                           "select count from t",
	} {
		if got := strings.Join(names(sql), " "); got != want {
			t.Errorf("%s: %q, want %q", sql, got, want)
		}
	}
}

func TestDeafQueries(t *testing.T) {
	t.Parallel()
	const deafApps = "SELECT network, name FROM apps"
	for _, test := range []struct {
		name    string
		queries Queries
		deaf    []string // the tables
	}{
		{"default", DefaultQueries(), nil},
		{"key only", Queries{Apps: deafApps}, []string{"apps"}},
		{"named as output only", Queries{Apps: "SELECT network, name, '' AS updated_at FROM apps"}, []string{"apps"}},
		{"in a condition", Queries{Apps: deafApps + " WHERE updated_at = '0'"}, nil},
		{"two of them", Queries{Apps: deafApps, Addresses: "SELECT NETWORK, app, address FROM App_Addresses"}, []string{"apps", "app_addresses"}},
		{"table of keys", Queries{Apps: "SELECT network, name FROM labels"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, corrosiontest.Options{}, Config{Queries: test.queries}, func(f *fixture) {
				f.agent.CreateTable("labels", []string{"network", "name"})
				f.agent.CreateTable("App_Addresses", []string{"network", "app", "address"}, "updated_at")
				f.agent.CreateTable("NETWORK", nil)
			})
			if test.queries.Addresses == "" || test.deaf == nil {
				f.waitListed(1)
				f.relist()
				f.waitListed(2)
			}
			f.wait("the schema", func() bool { return f.src.deaf.Load() == int64(len(test.deaf)) })
			for _, table := range test.deaf {
				text := "names no column of the table " + table + " but its key, so that the agent announces no new row of it: select one of updated_at as well"
				if n := f.log.count(text); n != 1 {
					t.Errorf("%q was logged %d times", text, n)
				}
			}
			f.stop()
			mistakes, err := f.src.Check(t.Context())
			for _, table := range test.deaf {
				if !slices.ContainsFunc(mistakes, func(m string) bool { return strings.Contains(m, "the table "+table+" ") }) {
					t.Errorf("%s is missing in %q", table, mistakes)
				}
			}
			if err != nil || test.queries.Addresses == "" && len(mistakes) != len(test.deaf) {
				t.Errorf("mistakes %q, %v", mistakes, err)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	agent, err := corrosiontest.New(corrosiontest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	src, err := New(Config{Addr: agent.Addr(), Queries: Queries{
		Machines: "SELECT id FROM machines", Apps: "SELECT network, name, updated_at, nope FROM apps", Peers: "SELECT network, name FROM nowhere",
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	mistakes, err := src.Check(t.Context())
	if err != nil || len(mistakes) != 4 {
		t.Fatalf("%d mistakes: %q, %v", len(mistakes), mistakes, err)
	}
	for i, want := range []string{"lacks the output column network", "names no column of the table machines but its key, so that the agent announces no new row of it: select one of app, metadata, network, private_ip, process_group, region, state, updated_at as well", "refuses the query for apps: no such column: nope", "refuses the query for peers: no such table"} {
		if !strings.Contains(mistakes[i], want) {
			t.Errorf("%q, want %q", mistakes[i], want)
		}
	}
	agent.Stop() // so that there is nobody who might speak HTTP/1.1
	if _, err := src.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "HTTP") {
		t.Errorf("of an agent that is gone: %v", err)
	}
}
