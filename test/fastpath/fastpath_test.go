package fastpath

import (
	"testing"

	"github.com/miekg/dns"
)

// A question that is asked again is answered in the kernel, and counted.
func TestAnswersInKernel(t *testing.T) {
	t.Parallel()
	s := start(t)
	req := query("home.internal.", dns.TypeAAAA, edns(1232))
	s.warm(s.a, req)
	requests, responses, hits := `dnsd_requests_total{proto="udp",type="AAAA"}`, `dnsd_responses_total{proto="udp",rcode="NOERROR"}`, s.hits()
	r0, n0 := s.Metric(t, requests), s.Metric(t, responses)
	want := canonical(s.ask(s.slow, req))
	const n = 50
	for range n {
		if got := canonical(s.ask(s.a, req)); got != want {
			t.Fatalf("the kernel answers\n%s\nthe socket\n%s", got, want)
		}
	}
	if got := s.hits() - hits; got != n {
		t.Errorf("the kernel has answered %d of %d", got, n)
	}
	if r, n1 := s.Metric(t, requests)-r0, s.Metric(t, responses)-n0; r != n+1 || n1 != n+1 {
		t.Errorf("%v requests and %v responses are counted, want %d", r, n1, n+1)
	}
}
