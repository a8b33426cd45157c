package corrosion

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"dnsd/registry/corrosion/corrosiontest"
)

// metrics returns what a source tells, by name and kind.
func metrics(t *testing.T, s *Source) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(s)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "dnsd_corrosion_")
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return values
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	p := quick
	p.standstill = patience
	f := cluster(t, corrosiontest.Options{}, Config{Queries: Queries{
		Machines: DefaultQueries().Machines, Apps: "SELECT network, name FROM apps",
	}}, p)
	is := func(name string, want float64) {
		t.Helper()
		f.wait(name, func() bool { got, ok := metrics(t, f.src)[name]; return ok && got == want })
	}
	is("members", 2)
	is("deaf_queries", 1)
	for _, absent := range []string{"lag_seconds", "queue_length", "drifted_rows_total peer"} {
		if v, ok := metrics(t, f.src)[absent]; ok {
			t.Errorf("%s is %v though nothing is known of it", absent, v)
		}
	}
	f.agent.Put("machines", row("mff", "started"))
	is("lag_seconds", 0.4975)
	is("queue_length", 0)
	if at := metrics(t, f.src)["learned_timestamp_seconds"]; time.Since(time.UnixMilli(int64(at*1000))) > time.Minute {
		t.Errorf("learned at %v", at)
	}
	is("gaps", 0)
	is("lacking", 0)
	f.agent.Wipe()
	f.start()
	is("lacking", 21)
	f.agent.Refill(1)
	is("gaps", 20)
	is("lacking", 20)
	f.agent.Refill(100)
	is("lacking", 0)
	is("drifted_rows_total machine", 0)
	is("compared_timestamp_seconds machine", 0)
}
