package main

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"dnsd/test/internal/lab"
)

func TestMain(m *testing.M) {
	if os.Getenv(siteEnv) != "" || os.Getenv(centreEnv) != "" {
		main() // the simulation has started itself
		return
	}
	os.Exit(m.Run())
}

// TestSimulation runs a small form of all of it, as root and as anyone may.
func TestSimulation(t *testing.T) {
	if !lab.Full(false, true) {
		t.Skip("it takes more than a minute: set DNSD_TEST_FULL, as .ci/run does")
	}
	for _, mode := range []string{"namespaces", "loopback"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			args := []string{"-objects", "3000", "-few", "100", "-sites", "2", "-proxies", "2", "-sources", "4,40", "-rates", "10", "-window", "2s",
				"-herd", "8", "-bcrypt", "4", "-away", "3s"}
			if mode == "loopback" {
				args = append(args, "-loopback")
			} else if why := isolable(); why != "" {
				lab.Skip(t, why)
			}
			var out, progress bytes.Buffer
			if err := run(t.Context(), args, &out, &progress); err != nil {
				t.Fatalf("%v\n%s", err, &progress)
			}
			t.Logf("\n%s", &out)
			tables := tablesOf(out.String())
			if len(tables) != 3 || len(tables[0]) != 2 || len(tables[1]) != 4 || len(tables[2]) != 3 {
				t.Fatalf("want three tables with 2, 4 and 3 rows")
			}
			for _, row := range tables[0] {
				// Of each proxy, whatever the sources: a few for each of the two prefixes, and
				// one by which it knows whether there is a leader.
				if n, err := strconv.Atoi(row["etcd's watchers"]); err != nil || n < 1 || n > 4*9 {
					t.Errorf("%s sources are %q watchers of etcd", row["sources"], row["etcd's watchers"])
				}
				if p50, err := time.ParseDuration(row["seen after, p50"]); err != nil || p50 <= 0 {
					t.Errorf("%s sources have seen no change: %q", row["sources"], row["seen after, p50"])
				}
			}
			for _, row := range append(tables[1], tables[2]...) {
				if _, err := time.ParseDuration(row["all caught up after"]); err != nil {
					t.Errorf("not recovered: %v", row)
				}
			}
		})
	}
}

// tablesOf reads Markdown's tables, each row by its columns' names.
func tablesOf(text string) (tables [][]map[string]string) {
	var names []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			names = nil
			continue
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		switch {
		case names == nil:
			names = cells
			tables = append(tables, nil)
		case !strings.HasPrefix(line, "|-"):
			row := map[string]string{}
			for i, cell := range cells {
				row[names[i]] = cell
			}
			tables[len(tables)-1] = append(tables[len(tables)-1], row)
		}
	}
	return tables
}

func TestHistogram(t *testing.T) {
	t.Parallel()
	var h, other histogram
	if got := h.quantile(0.5); got != 0 {
		t.Errorf("the middle of nothing is %v", got)
	}
	for i := range 99 {
		[]*histogram{&h, &other}[i%2].add(10 * time.Millisecond)
	}
	other.add(time.Hour)
	text, err := other.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var again histogram
	if err := again.UnmarshalJSON(text); err != nil {
		t.Fatal(err)
	}
	h.merge(&again)
	for q, want := range map[float64]time.Duration{0.01: 10 * time.Millisecond, 0.5: 10 * time.Millisecond, 0.99: 10 * time.Millisecond, 1: time.Hour} {
		if got := h.quantile(q); got < want || float64(got) > 1.051*float64(want) {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if n := h.total(); n != 100 {
		t.Errorf("%d were counted, want 100", n)
	}
}

func TestSent(t *testing.T) {
	t.Parallel()
	const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     111       2    0    0    0     0          0         0     4444       2    0    0    0     0       0          0
uplink: 5555 2 0 0 0 0 0 0 666 2 0 0 0 0 0 0
`
	for device, want := range map[string]int64{"lo": 4444, "uplink": 666} {
		if got, err := sent(text, device); err != nil || got != want {
			t.Errorf("%s has sent %d (%v), want %d", device, got, err, want)
		}
	}
	if _, err := sent(text, "eth0"); err == nil {
		t.Error("a device that is not there has sent something")
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"-sources 0", "-sources 1,x", "-rates -1", "-objects 10 -few 11", "-window 1ms", "-sites 0", "more"} {
		var stderr bytes.Buffer
		if _, err := parse(strings.Fields(args), &stderr); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
	if o, err := parse([]string{"-sources", "7,8"}, &bytes.Buffer{}); err != nil || len(o.sources) != 2 || o.bcrypt != 10 {
		t.Errorf("%+v, %v", o, err)
	}
}
