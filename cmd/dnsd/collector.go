package main

import (
	"log/slog"
	"sync"

	"dnsd/registry/contain"

	"github.com/prometheus/client_golang/prometheus"
)

// careful is a collector whose panics cost the rest of its own metrics. Collectors
// run in goroutines, where a panic would end the process.
type careful struct {
	prometheus.Collector
	log  *slog.Logger
	once sync.Once
}

func carefully(c prometheus.Collector, log *slog.Logger) prometheus.Collector {
	return &careful{Collector: c, log: log}
}

// Collect implements prometheus.Collector.
func (c *careful) Collect(ch chan<- prometheus.Metric) {
	err := contain.Run(func() error { c.Collector.Collect(ch); return nil })
	if err != nil {
		c.once.Do(func() { c.log.Error("metrics are missing", "err", err) })
	}
}
