package resolver

import (
	"bytes"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"dnsd/resolver/forward"
)

// gathered returns a counter's or gauge's value, or a histogram's count, summed
// over what matches the labels (name, value, …).
func gathered(t testing.TB, r prometheus.Collector, name string, labels ...string) (sum float64) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(r)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	metrics:
		for _, m := range f.GetMetric() {
			for i := 0; i < len(labels); i += 2 {
				ok := false
				for _, l := range m.GetLabel() {
					ok = ok || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
				}
				if !ok {
					continue metrics
				}
			}
			found = true
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	if !found {
		t.Fatalf("no metric %s %v", name, labels)
	}
	return sum
}

func TestMetrics(t *testing.T) {
	r, addr, _ := start(t)
	for _, proto := range []Proto{UDP, TCP} {
		for range 10 { // over all sockets
			ask(t, proto, addr, query(t, "my-app.internal.", dns.TypeAAAA))
		}
		ask(t, proto, addr, query(t, "nothing.internal.", 65280))
		ask(t, proto, addr, query(t, "panic.internal.", dns.TypeTXT))
		ask(t, proto, addr, query(t, "huge.internal.", dns.TypeAAAA))
		ask(t, proto, addr, raw(0x8000, [4]uint16{1}, rawQuestion))
	}
	// ask sends one question more each time, whose name does not exist and whose
	// answer it may not have waited for.
	eventually(t, "everything is counted", func() bool {
		return gathered(t, r, "dnsd_responses_total", "rcode", "NXDOMAIN") == 2*14+2
	})
	for _, tt := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{11 + 14, "dnsd_requests_total", []string{"type", "AAAA", "proto", "udp"}},
		{11 + 14, "dnsd_requests_total", []string{"type", "AAAA", "proto", "tcp"}},
		{2, "dnsd_requests_total", []string{"type", "other"}},
		{2, "dnsd_requests_total", []string{"type", "TXT"}},
		{0, "dnsd_requests_total", []string{"type", "MX"}},
		{22, "dnsd_responses_total", []string{"rcode", "NOERROR"}},
		{2, "dnsd_responses_total", []string{"rcode", "SERVFAIL"}},
		{2 * 27, "dnsd_request_duration_seconds", []string{"origin", "local"}},
		{0, "dnsd_request_duration_seconds", []string{"origin", "forwarded"}},
		{2, "dnsd_responses_truncated_total", nil},
		{2, "dnsd_requests_ignored_total", nil},
		{2, "dnsd_panics_total", nil},
		{0, "dnsd_tcp_connections_refused_total", nil},
	} {
		if got := gathered(t, r, tt.name, tt.labels...); got != tt.want {
			t.Errorf("%s %v is %v, want %v", tt.name, tt.labels, got, tt.want)
		}
	}
}

// TestDurations: a histogram has each response in the bucket that it belongs to.
func TestDurations(t *testing.T) {
	r := newResolver(t)
	s := &stats{proto: TCP}
	r.stats = append(r.stats, s)
	for i, bound := range durationBounds {
		s.took(1, bound, uint64(i)) // as many as to tell it from the others
	}
	s.took(1, durationBounds[0]+1, 100)
	s.took(1, 10*time.Second, 1000)
	s.took(1, -time.Second, 10_000) // a clock that was set back
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(r)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "dnsd_request_duration_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			h, labels := m.GetHistogram(), m.GetLabel()
			if labels[0].GetValue() != "forwarded" || labels[1].GetValue() != "tcp" {
				if h.GetSampleCount() != 0 {
					t.Errorf("%v has %d", labels, h.GetSampleCount())
				}
				continue
			}
			count, sum := uint64(10_000), 100*(durationBounds[0]+1).Seconds()+10_000
			for i, b := range h.GetBucket() {
				if count += uint64(i); i == 1 {
					count += 100
				}
				sum += float64(i) * durationBounds[i].Seconds()
				if b.GetCumulativeCount() != count || b.GetUpperBound() != durationBounds[i].Seconds() {
					t.Errorf("bucket %d, up to %v, has %d, want %d", i, b.GetUpperBound(), b.GetCumulativeCount(), count)
				}
			}
			if h.GetSampleCount() != count+1000 || math.Abs(h.GetSampleSum()-sum) > 1e-6 {
				t.Errorf("%d took %v s, want %d and %v s", h.GetSampleCount(), h.GetSampleSum(), count+1000, sum)
			}
		}
	}
}

func TestRcodeNames(t *testing.T) {
	for rcode := range uint16(4096) {
		want := "other"
		if rcode <= dns.RcodeRefused {
			want = dns.RcodeToString[int(rcode)]
		} else if rcode == dns.RcodeBadVers {
			want = "BADVERS"
		}
		if got := rcodeNames[rcodeSlot(rcode)]; got != want {
			t.Errorf("code %d is counted as %s, want %s", rcode, got, want)
		}
	}
}

// TestLimitedLog: the first of a minute is logged, with how many were not before it.
func TestLimitedLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text strings.Builder
		var o limitedLog
		for _, pause := range []time.Duration{0, 0, quietFor - 1, 1, 0, quietFor, quietFor} {
			time.Sleep(pause)
			o.log(logTo(&text), slog.LevelWarn, "trouble", "what", pause)
		}
		var got []string
		for line := range strings.Lines(text.String()) {
			_, rest, _ := strings.Cut(line, "msg=trouble ")
			got = append(got, strings.TrimSpace(rest))
		}
		if want := []string{"what=0s", "what=1ns repeated=2", "what=1m0s repeated=1", "what=1m0s"}; !slices.Equal(got, want) {
			t.Errorf("logged %q, want %q", got, want)
		}
	})
}

func TestMetricNames(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(newResolver(t))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

func TestTypeNames(t *testing.T) {
	seen := make(map[int]bool)
	for typ := range 1 << 16 {
		slot := typeSlot(uint16(typ))
		if slot != 0 {
			if want := dns.TypeToString[uint16(typ)]; typeNames[slot] != want || seen[slot] {
				t.Errorf("type %s is counted as %s", want, typeNames[slot])
			}
			seen[slot] = true
		}
	}
	if len(seen) != len(typeNames)-1 {
		t.Errorf("%d types are counted by name, %d are listed", len(seen), len(typeNames)-1)
	}
}

func TestPanicsAreLoggedOnce(t *testing.T) {
	var log syncBuffer
	r := newResolver(t, func(c *Config) { c.Log = logTo(&log) })
	for range 5 {
		respond(t, r, query(t, "panic.internal.", dns.TypeTXT), loopback, UDP)
	}
	if n := strings.Count(log.String(), "panic=\"at the zone\""); n != 1 || !log.contains("testZone") {
		t.Errorf("panic logged %d times, want once with its stack:\n%s", n, log.String())
	}
}

// syncBuffer is a bytes.Buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *syncBuffer) contains(sub string) bool { return strings.Contains(s.String(), sub) }

// TestPanicsOfOthers: one counter has them all.
func TestPanicsOfOthers(t *testing.T) {
	r := newResolver(t, func(c *Config) { c.Panics = func() uint64 { return 3 } })
	respond(t, r, query(t, "panic.internal.", dns.TypeAAAA), loopback, UDP)
	if n := gathered(t, r, "dnsd_panics_total"); n != 3 {
		t.Errorf("dnsd_panics_total is %v, want those of the sockets, none, and 3", n)
	}
	w := newWorker(r, UDP, new(stats))
	r.stats = append(r.stats, w.stats)
	w.respond(query(t, "panic.internal.", dns.TypeAAAA), loopback, nil)
	if n := gathered(t, r, "dnsd_panics_total"); n != 4 {
		t.Errorf("dnsd_panics_total is %v, want 4", n)
	}
}

// TestHitsAreCounted: what the forwarder has kept counts at the socket that asked.
func TestHitsAreCounted(t *testing.T) {
	reply := realReply(t)
	r, addr, _ := start(t, withForwarder(&fakeForwarder{immediate: func(q *forward.Query) *forward.Reply {
		q.Hits.Add(1)
		return reply
	}}))
	for range 3 {
		ask(t, UDP, addr, query(t, "localhost.", dns.TypeA))
	}
	if n := gathered(t, r, "dnsd_forward_cache_hits_total"); n != 3 {
		t.Errorf("dnsd_forward_cache_hits_total is %v", n)
	}
	eventually(t, "three answers are the forwarder's", func() bool {
		return gathered(t, r, "dnsd_request_duration_seconds", "origin", "forwarded", "proto", "udp") == 3
	})
}
