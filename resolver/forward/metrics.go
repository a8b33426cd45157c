package forward

import (
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the forwarder's. Their labels come from closed sets: configured upstreams,
// response codes, and the reasons of failures.
type metrics struct {
	requests, raced, reused, mismatched *prometheus.CounterVec // by upstream
	responses                           *prometheus.CounterVec // by upstream and rcode
	failures                            *prometheus.CounterVec // by upstream and reason
	duration                            *prometheus.HistogramVec
	up                                  *prometheus.GaugeVec

	misses, stale, refreshed, refused, loops prometheus.Counter

	all []prometheus.Collector
}

func newMetrics() *metrics {
	m := &metrics{}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "dnsd_forward_" + name, Help: help},
			append([]string{"upstream"}, labels...))
		m.all = append(m.all, c)
		return c
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "dnsd_forward_" + name, Help: help})
		m.all = append(m.all, c)
		return c
	}
	m.requests = vec("upstream_requests_total", "Queries sent to the upstream, tries after the first included.")
	m.raced = vec("upstream_raced_total", "Queries sent to the upstream while a preferred one was slow to answer.")
	m.reused = vec("upstream_reused_total", "Queries sent over a TCP or TLS connection that was already there.")
	m.mismatched = vec("upstream_mismatched_total", "Answers ignored because their id or question was not ours.")
	m.responses = vec("upstream_responses_total", "Answers from the upstream by response code.", "rcode")
	m.failures = vec("upstream_failures_total", "Queries that brought no usable answer, by reason.", "reason")
	m.duration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "dnsd_forward_upstream_duration_seconds",
		Help: "Time from a query to the upstream's answer.",
		// From an answer of a local resolver's cache to the longest try.
		Buckets: prometheus.ExponentialBuckets(100e-6, 2.5, 12),
	}, []string{"upstream"})
	m.up = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "dnsd_forward_upstream_up",
		Help: "Whether the upstream is asked (1) or only probed because it does not answer (0).",
	}, []string{"upstream"})
	m.all = append(m.all, m.duration, m.up)

	m.misses = counter("cache_misses_total", "Questions that needed an upstream.")
	m.stale = counter("cache_stale_total", "Questions answered with an expired answer because upstreams failed.")
	m.refreshed = counter("cache_refreshed_total", "Answers in use that were renewed before they expired.")
	m.refused = counter("refused_total", "Questions refused because their network had too many of the places.")
	m.loops = counter("loops_total", "Times that a question came back through an upstream.")
	return m
}

// gauge adds a gauge that is read at a scrape.
func (m *metrics) gauge(name, help string, read func() float64) {
	m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "dnsd_forward_" + name, Help: help}, read))
}

type upstreamMetrics struct {
	requests, raced, reused, mismatched prometheus.Counter
	duration                            prometheus.Observer
	up                                  prometheus.Gauge
	responses, failures                 *prometheus.CounterVec // by rcode, by reason
}

func (m *metrics) of(upstream string) *upstreamMetrics {
	label := prometheus.Labels{"upstream": upstream}
	u := &upstreamMetrics{
		requests: m.requests.With(label), raced: m.raced.With(label),
		reused: m.reused.With(label), mismatched: m.mismatched.With(label),
		duration: m.duration.With(label), up: m.up.With(label),
		responses: m.responses.MustCurryWith(label), failures: m.failures.MustCurryWith(label),
	}
	u.up.Set(1)
	return u
}

// remove removes the series of an upstream.
func (m *metrics) remove(upstream string) {
	label := prometheus.Labels{"upstream": upstream}
	for _, c := range m.all {
		if vec, ok := c.(interface{ DeletePartialMatch(prometheus.Labels) int }); ok {
			vec.DeletePartialMatch(label)
		}
	}
}

// rcodeName keeps the label's set closed.
func rcodeName(rcode int) string {
	if name, ok := dns.RcodeToString[rcode]; ok {
		return name
	}
	return "other"
}

// Describe implements prometheus.Collector.
func (f *Forwarder) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range f.metrics.all {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (f *Forwarder) Collect(ch chan<- prometheus.Metric) {
	for _, c := range f.metrics.all {
		c.Collect(ch)
	}
}
