package main

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// broken is a collector that panics behind its first metric.
type broken struct{ desc *prometheus.Desc }

func (b broken) Describe(ch chan<- *prometheus.Desc) { ch <- b.desc }

func (b broken) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(b.desc, prometheus.GaugeValue, 1)
	panic("no more")
}

// A collector that panics costs its own metrics, and is logged once.
func TestACollectorThatPanics(t *testing.T) {
	log := &logBuffer{}
	metrics := newMetrics()
	metrics.MustRegister(carefully(broken{prometheus.NewDesc("dnsd_test", "A test.", nil, nil)}, slog.New(slog.NewTextHandler(log, nil))))
	for range 3 {
		families, err := metrics.Gather()
		found := map[string]bool{}
		for _, f := range families {
			found[f.GetName()] = true
		}
		if err != nil || !found["dnsd_test"] || !found["dnsd_build_info"] {
			t.Errorf("gathered %v, %v", found, err)
		}
	}
	if n := strings.Count(log.String(), "metrics are missing"); n != 1 || !strings.Contains(log.String(), "no more") {
		t.Errorf("logged %d times: %s", n, log)
	}
}
