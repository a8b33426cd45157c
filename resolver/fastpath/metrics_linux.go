//go:build linux && (amd64 || arm64)

package fastpath

import "github.com/prometheus/client_golang/prometheus"

var (
	descPackets = prometheus.NewDesc("dnsd_fast_path_packets_total", "Packets to dnsd at the devices of --fast-path: answered in the kernel (hit), or passed on because the question "+
		"is not known there (miss), its answer may have changed (stale), a response would go another way (route), or it is not of the simplest form (shape).", []string{"result"}, nil)
	descDevices = prometheus.NewDesc("dnsd_fast_path_devices", "Network devices at which the kernel answers.", nil, nil)
	descAnswers = prometheus.NewDesc("dnsd_fast_path_answers", "Answers that the kernel has, those that have ended but were not replaced yet included.", nil, nil)
)

// Answered returns how many questions the kernel has answered, by Answer.Counter.
// Safe for concurrent use.
func (p *Path) Answered() [Counters]uint64 { return p.kernel.counts().Types }

// Describe implements prometheus.Collector.
func (p *Path) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(p, ch) }

// Collect implements prometheus.Collector.
func (p *Path) Collect(ch chan<- prometheus.Metric) {
	c := p.kernel.counts()
	for r, n := range c.Results {
		ch <- prometheus.MustNewConstMetric(descPackets, prometheus.CounterValue, float64(n), Result(r).String())
	}
	ch <- prometheus.MustNewConstMetric(descDevices, prometheus.GaugeValue, float64(p.attached.Load()))
	ch <- prometheus.MustNewConstMetric(descAnswers, prometheus.GaugeValue, float64(p.placed.Load()))
}
