package main

import (
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// closedLabels have few values: those of the code or of the configuration, never
// a name, a client or a tenant.
var closedLabels = []string{"goversion", "kind", "mode", "modified", "origin", "proto", "rcode", "reason", "result", "revision", "state", "type", "upstream", "version"}

// Everything at /metrics has a good name and a help text, and what is dnsd's own
// begins with dnsd_. Labels come from closed sets.
func TestMetricNames(t *testing.T) {
	t.Parallel()
	for _, registry := range []string{"file:/nowhere", "etcd://127.0.0.1:1/dnsd/", "corrosion://127.0.0.1:1"} {
		args := []string{"--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", "--upstream=192.0.2.1", "--registry", registry}
		c, _, err := parseConfig(args, environment())
		if err != nil {
			t.Fatal(err)
		}
		d, err := newDaemon(c, environment(), slog.New(slog.NewTextHandler(io.Discard, nil)))
		if err != nil {
			t.Fatal(err)
		}
		families, err := d.metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		problems, err := promlint.NewWithMetricFamilies(families).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s: %s", registry, p.Metric, p.Text)
		}
		own := 0
		for _, f := range families {
			name := f.GetName()
			if strings.HasPrefix(name, "dnsd_") {
				own++
			} else if !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
				t.Errorf("%s: want the prefix dnsd_", name)
			}
			for _, l := range f.GetMetric()[0].GetLabel() {
				if strings.HasPrefix(name, "dnsd_") && !slices.Contains(closedLabels, l.GetName()) {
					t.Errorf("%s: is label %s from a closed set? Then say so in closedLabels", name, l.GetName())
				}
			}
		}
		if own < 20 {
			t.Errorf("only %d metrics are dnsd's own", own)
		}
	}
}
