package corrosion

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("dnsd_corrosion_"+name, help, labels, nil)
}

var (
	descMembers  = desc("members", "Other agents that the agent sees alive. It takes up to two minutes to notice that it is cut off.")
	descGaps     = desc("gaps", "Versions that the agent knows to exist and does not have.")
	descLacking  = desc("lacking", "Versions that the agent had and does not have any more; while it is above 0, listings remove nothing.")
	descLearned  = desc("learned_timestamp_seconds", "When the agent was last seen to have learned anything from another one; 0 if never.")
	descLag      = desc("lag_seconds", "The agent's own p99 of the time from a commit elsewhere to its own, at most 10; absent while nothing happens.")
	descQueue    = desc("queue_length", "Changes of other agents that the agent has yet to apply; absent while nothing happens.")
	descDeaf     = desc("deaf_queries", "Queries that name no column of a table but its key, so that the agent announces no new row of it.")
	descCompared = desc("compared_timestamp_seconds", "When the table of a kind was last compared with its subscription; 0 if never.", "kind")
	descDrifted  = desc("drifted_rows_total", "Rows that differed in the agent's record of a subscription, found by comparing.", "kind")
)

// lagLasts is how long the agent's own figures are valid after it last learned
// anything: it computes them over as long a window.
const lagLasts = 2 * time.Minute

// Describe implements prometheus.Collector.
func (s *Source) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range [...]*prometheus.Desc{
		descMembers, descGaps, descLacking, descLearned, descLag, descQueue, descDeaf, descCompared, descDrifted,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *Source) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if v := s.whole.view.Load(); v != nil {
		gauge(descMembers, float64(v.known.Members))
		gauge(descLacking, float64(v.lacking))
		gauge(descLearned, seconds(v.learned))
		gauge(descGaps, float64(v.gaps))
		if v.health != nil && time.Since(v.learned) < lagLasts {
			gauge(descLag, v.health.Lag)
			gauge(descQueue, float64(v.health.Queue))
		}
	}
	gauge(descDeaf, float64(s.deaf.Load()))
	for _, sub := range s.subs {
		gauge(descCompared, float64(sub.compared.Load())/1e3, sub.shape.kind.String())
		ch <- prometheus.MustNewConstMetric(descDrifted, prometheus.CounterValue, float64(sub.drifted.Load()), sub.shape.kind.String())
	}
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1e3
}
