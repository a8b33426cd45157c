package corrosion

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
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

// journal takes what is logged.
type journal struct {
	slog.Handler
	mu    sync.Mutex
	lines []string
}

func (j *journal) Handle(_ context.Context, r slog.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, r.Level.String()+" "+r.Message)
	return nil
}

func (j *journal) count(text string) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, l := range j.lines {
		if strings.Contains(l, text) {
			n++
		}
	}
	return n
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
			log := &journal{Handler: slog.DiscardHandler}
			f := start(t, corrosiontest.Options{}, Config{Queries: test.queries}, func(f *fixture) {
				f.agent.CreateTable("labels", []string{"network", "name"})
				f.agent.CreateTable("App_Addresses", []string{"network", "app", "address"}, "updated_at")
				f.agent.CreateTable("NETWORK", nil)
				f.src.log = slog.New(onJournal{log})
			})
			if test.queries.Addresses == "" || test.deaf == nil {
				f.waitListed(1)
				f.relist()
				f.waitListed(2)
			}
			f.wait("the schema", func() bool { return f.src.deaf.Load() == int64(len(test.deaf)) })
			for _, table := range test.deaf {
				text := "names no column of the table " + table + " but its key, so that the agent announces no new row of it: select one of updated_at as well"
				if n := log.count(text); n != 1 {
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

// onJournal passes records on whatever their level.
type onJournal struct{ *journal }

func (onJournal) Enabled(context.Context, slog.Level) bool { return true }
func (j onJournal) WithAttrs([]slog.Attr) slog.Handler     { return j }
func (j onJournal) WithGroup(string) slog.Handler          { return j }

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
	for i, want := range []string{"lacks the output column network", "names no column of the table machines", "refuses the query for apps: no such column: nope", "refuses the query for peers: no such table"} {
		if !strings.Contains(mistakes[i], want) {
			t.Errorf("%q, want %q", mistakes[i], want)
		}
	}
	agent.Stop()
	if _, err := src.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("of an agent that is gone: %v", err)
	}
}
