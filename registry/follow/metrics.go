package follow

import (
	"time"

	"dnsd/registry"

	"github.com/prometheus/client_golang/prometheus"
)

// collector reads the registry and its follower when it is scraped.
type collector struct{ f *Follower }

// NewCollector returns the metrics of a follower and its registry.
func NewCollector(f *Follower) prometheus.Collector { return collector{f} }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("dnsd_registry_"+name, help, labels, nil)
}

var (
	descObjects    = desc("objects", "Objects in the registry.", "kind")
	descState      = desc("state", "1 for the state the registry is in with its source, 0 for the others.", "state")
	descAge        = desc("age_seconds", "Time since the source was last proven alive; since start, if never.")
	descLag        = desc("lag_revisions", "Revisions that the source is known to have and that are not applied; 0 for a source without revisions.")
	descLagAge     = desc("lag_seconds", "For how long the oldest of them has been known.")
	descSynced     = desc("synced_timestamp_seconds", "When the last complete listing was applied; 0 if never.")
	descStarted    = desc("started_machines", "Machines that AAAA answers hold: started, with an address, not hidden.")
	descHeld       = desc("held", "What a listing takes away from answers and the sweep guard holds back.", "kind")
	descDoubt      = desc("doubt", "1 while the source doubts that its last listing was whole.")
	descRejected   = desc("rejected_objects_total", "Objects of the source that could not be used; the version known before stays.", "kind")
	descPartial    = desc("partial_objects_total", "Objects of the source that were used without a part of them, such as metadata beyond the bound.", "kind")
	descChanges    = desc("changes_total", "Objects inserted, replaced or removed.")
	descListings   = desc("listings_total", "Complete listings applied.")
	descReconnects = desc("reconnects_total", "Times the source broke off and was followed again.")
	descRound      = desc("apply_age_seconds", "Time since the apply loop last finished a round; more than a few seconds means that it hangs.")
	descPanics     = desc("panics_total", "Panics that were contained: each cost one object, one listing or one attempt to save.")
	descQueue      = desc("queue_length", "Messages of the source that wait for the apply loop.")
	descSaved      = desc("state_saved_timestamp_seconds", "When the last known state was last written to disk; 0 if never.")
	descUnsaved    = desc("state_failing", "1 while the last known state cannot be written.")
	descSaveErrors = desc("state_errors_total", "Failed attempts to write the last known state.")
)

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	s, reg, stats := c.f.reg.Status(), c.f.reg, &c.f.stats
	for _, k := range registry.Kinds() {
		gauge(descObjects, float64(reg.Count(k)), k.String())
		counter(descRejected, stats.rejected[k].Load(), k.String())
		counter(descPartial, stats.partial[k].Load(), k.String())
	}
	for _, state := range registry.States() {
		gauge(descState, oneIf(s.State == state), string(state))
	}
	now := time.Now()
	alive := reg.LastAlive()
	if alive.IsZero() {
		alive = c.f.began
	}
	gauge(descAge, now.Sub(alive).Seconds())
	revisions, lag := c.f.lag.behind(now)
	gauge(descLag, float64(revisions))
	gauge(descLagAge, lag.Seconds())
	gauge(descSynced, unixSeconds(s.SyncedAt))
	for c := range registry.Classes {
		gauge(descHeld, float64(stats.held[c].Load()), registry.Class(c).Label())
	}
	gauge(descDoubt, oneIf(s.Doubt != ""))
	gauge(descStarted, float64(reg.Size(registry.StartedMachines)))
	counter(descChanges, stats.changes.Load())
	counter(descListings, stats.listings.Load())
	counter(descReconnects, stats.reconnects.Load())
	gauge(descRound, now.Sub(time.Unix(0, stats.round.Load())).Seconds())
	counter(descPanics, c.f.panics.Count())
	gauge(descQueue, float64(len(c.f.ops)))
	gauge(descSaved, unixSeconds(time.Unix(0, stats.saved.Load())))
	gauge(descUnsaved, oneIf(s.Unsaved != ""))
	counter(descSaveErrors, stats.saveErrors.Load())
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1e3
}
