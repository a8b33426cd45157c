package main

import (
	"io"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	o, err := parse([]string{"-rows", "plain,zipf", "--runs=7", "-quick"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(o.rows, []string{"plain", "zipf"}) || o.runs != 7 || o.seconds != 1 {
		t.Errorf("options are %+v", o)
	}
	for _, args := range [][]string{{"-rows", "plane"}, {"-runs", "0"}, {"-seconds", "-1"}, {"plain"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
}

func TestMissingPrograms(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := options{rows: []string{"plain"}}.missing()
	if err == nil || !strings.Contains(err.Error(), "apt-get install --no-install-recommends dnsperf nsd knot ") {
		t.Errorf("error is %v", err)
	}
	if err := (options{rows: []string{"zipf"}}).missing(); err != nil {
		t.Errorf("a row that needs nothing: %v", err)
	}
}

// Every row can be asked for, has a place in the variants where it is one, and
// names only programs that a package is known for.
func TestRows(t *testing.T) {
	names := rowNames()
	for name := range variants {
		if !slices.Contains(names, name) {
			t.Errorf("variant %s is no row", name)
		}
	}
	for _, r := range allRows() {
		for _, program := range r.needs {
			if packages[program] == "" {
				t.Errorf("row %s needs %s, of no known package", r.name, program)
			}
		}
	}
}
