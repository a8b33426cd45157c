package etcd

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// stats counts for the metrics.
type stats struct {
	logins, pages, cut     atomic.Int64
	proven, unproven, lost atomic.Int64
}

var (
	descLogins = prometheus.NewDesc("dnsd_etcd_logins_total", "Log-ins with a password, each of which costs etcd a hash.", nil, nil)
	descPages  = prometheus.NewDesc("dnsd_etcd_pages_total", "Pages of listings that were read.", nil, nil)
	descCut    = prometheus.NewDesc("dnsd_etcd_pages_cut_total", "Pages that took too long and were asked for again, smaller.", nil, nil)
	descProofs = prometheus.NewDesc("dnsd_etcd_proofs_total",
		"Comparisons of what the stream has told with what etcd holds: the same, lost (a change was; everything is listed), failed (etcd did not answer).", []string{"result"}, nil)
)

// Describe implements prometheus.Collector.
func (s *Source) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(s, ch) }

// Collect implements prometheus.Collector.
func (s *Source) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n *atomic.Int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n.Load()), labels...)
	}
	counter(descLogins, &s.stats.logins)
	counter(descPages, &s.stats.pages)
	counter(descCut, &s.stats.cut)
	counter(descProofs, &s.stats.proven, "same")
	counter(descProofs, &s.stats.lost, "lost")
	counter(descProofs, &s.stats.unproven, "failed")
}
