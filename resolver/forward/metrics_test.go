package forward

import (
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
)

// value returns what a counter or gauge stands at.
func value(m prometheus.Metric) float64 {
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		panic(err)
	}
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}

// TestMetrics: names as Prometheus wants them, labels from closed sets only.
func TestMetrics(t *testing.T) {
	f := newFaked(t, Config{}, &fakeNet{answer: says(dns.RcodeNameError)}, &fakeNet{answer: silent})
	q := query("secret-name.example", dns.TypeA)
	resolve(t.Context(), f, q)
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(f); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "dnsd_forward_") {
			t.Errorf("%s lacks the prefix", family.GetName())
		}
		for _, m := range family.Metric {
			if family.GetName() == "dnsd_forward_upstream_up" && m.GetGauge().GetValue() != 1 {
				t.Errorf("%s", m)
			}
			if h := m.GetHistogram(); h != nil && h.GetSampleCount() != 1 && m.Label[0].GetValue() == "10.0.0.1:53" {
				t.Errorf("%s: %d answers", family.GetName(), h.GetSampleCount())
			}
			for _, l := range m.Label {
				switch l.GetName() {
				case "upstream":
					if v := l.GetValue(); v != "10.0.0.1:53" && v != "10.0.0.2:53" {
						t.Errorf("%s: label %s", family.GetName(), l)
					}
				case "rcode":
					if l.GetValue() != "NXDOMAIN" {
						t.Errorf("%s: label %s", family.GetName(), l)
					}
				default:
					t.Errorf("%s: label %s", family.GetName(), l)
				}
			}
		}
	}
	if rcodeName(4095) != "other" {
		t.Error("unknown response codes make labels of their own")
	}
}
