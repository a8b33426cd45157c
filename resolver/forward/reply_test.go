package forward

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

func replyTo(t testing.TB, q *Query, m *dns.Msg) *Reply {
	t.Helper()
	a, err := read(packed(m), newMessage(q, true), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &a.Reply
}

// TestAppendWhole shows that a reply holds what the upstream said, without what
// is between us and the upstream.
func TestAppendWhole(t *testing.T) {
	q := query("www.example.com", dns.TypeA)
	m := answerTo(newMessage(q, true), dns.RcodeSuccess,
		"www.example.com. 300 IN CNAME edge.Example.net.",
		"edge.example.net. 20 IN A 192.0.2.1",
		"edge.example.net. 20 IN A 192.0.2.2",
		"--", "example.net. 3600 IN NS ns.example.net.")
	glue, _ := dns.NewRR("ns.example.net. 3600 IN AAAA 2001:db8::1")
	m.Extra = append(m.Extra, glue)
	withEDE(m, 18, "mind the gap")
	m.SetTsig("key.", dns.HmacSHA256, 300, 0)
	m.AuthenticatedData = true

	r := replyTo(t, q, m)
	got := response(t, q, r, dns.MaxMsgSize)
	if len(got.Answer) != 3 || len(got.Ns) != 1 || len(got.Extra) != 1 {
		t.Fatalf("got %v", got)
	}
	for i, rr := range append(append(got.Answer, got.Ns...), got.Extra...) {
		if want := append(append(m.Answer, m.Ns...), glue)[i]; rr.String() != want.String() {
			t.Errorf("record %d: got %s, want %s", i, rr, want)
		}
	}
	if !r.AD || len(r.EDE) != 1 || r.EDE[0].Code != 18 || r.EDE[0].Text != "mind the gap" {
		t.Errorf("AD %v, EDE %v", r.AD, r.EDE)
	}
}

// TestAppendLimit tries every limit: whole records only, never more than fit,
// never fewer, and TC exactly when an answer or authority record is missing.
func TestAppendLimit(t *testing.T) {
	q := query("big.example", dns.TypeTXT)
	m := answerTo(newMessage(q, true), dns.RcodeSuccess)
	for i := range 8 {
		rr, _ := dns.NewRR(fmt.Sprintf("big.example. 60 IN TXT %q", fmt.Sprintf("entry %d", i*i*i*i*i)))
		m.Answer = append(m.Answer, rr)
	}
	ns, _ := dns.NewRR("big.example. 60 IN NS ns.big.example.")
	glue, _ := dns.NewRR("ns.big.example. 60 IN A 192.0.2.1")
	m.Ns, m.Extra = append(m.Ns, ns), append(m.Extra, glue)
	r := replyTo(t, q, m)

	head := 12 + len(q.Name) + 4
	for limit := head; limit <= head+len(r.body); limit++ {
		got := response(t, q, r, limit)
		n := len(got.Answer) + len(got.Ns) + len(got.Extra)
		if n < len(r.records) && head+int(r.records[n].end) <= limit {
			t.Fatalf("limit %d: %d records, one more fits", limit, n)
		}
		if want := n < 9; got.Truncated != want {
			t.Fatalf("limit %d: %d records, TC %v", limit, n, got.Truncated)
		}
	}
	if got := response(t, q, r, head+len(r.body)); len(got.Extra) != 1 {
		t.Fatalf("at its own size: %v", got)
	}
}

// TestOwnersTakeTheCase: of the question that a client asked, whether the upstream
// compresses names or not.
func TestOwnersTakeTheCase(t *testing.T) {
	q := query("www.example.com", dns.TypeA)
	m := newMessage(q, true)
	out := answerTo(m, dns.RcodeSuccess, "www.example.com. 60 IN CNAME wWw.example.net.", "www.example.net. 60 IN A 192.0.2.1",
		"www.example.com. 60 IN A 192.0.2.2")
	for _, compress := range []bool{false, true} {
		out.Compress = compress
		b, err := out.Pack()
		if err != nil {
			t.Fatal(err)
		}
		a, err := read(b, m, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"WWW.example.COM.", "www.Example.com."} {
			asked := *q
			asked.Name = mustName(name)
			got := response(t, &asked, &a.Reply, 512)
			if len(got.Answer) != 3 || got.Answer[0].Header().Name != name || got.Answer[2].Header().Name != name ||
				!strings.EqualFold(got.Answer[1].Header().Name, "www.example.net.") || got.Answer[0].(*dns.CNAME).Target != "wWw.example.net." {
				t.Errorf("compressed %v: %v", compress, got)
			}
		}
	}
}

func TestAppendCountsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := query("a.example", dns.TypeA)
		r := replyTo(t, q, answerTo(newMessage(q, true), dns.RcodeSuccess, "a.example. 10 IN A 192.0.2.1"))
		for _, c := range []struct {
			wait time.Duration
			want uint32
		}{{0, 10}, {999 * time.Millisecond, 10}, {time.Millisecond, 9}, {8 * time.Second, 1}, {time.Hour, 0}} {
			time.Sleep(c.wait)
			if got := response(t, q, r, 512).Answer[0].Header().Ttl; got != c.want {
				t.Errorf("after another %s: TTL %d, want %d", c.wait, got, c.want)
			}
		}
		s := r.stale("why")
		if got := response(t, q, s, 512).Answer[0].Header().Ttl; got != staleTTL {
			t.Errorf("stale: TTL %d", got)
		}
		r = replyTo(t, q, answerTo(newMessage(q, true), dns.RcodeSuccess, "a.example. 60 IN A 192.0.2.1"))
		r.stale("why")
		if got := response(t, q, r, 512).Answer[0].Header().Ttl; got != 60 {
			t.Errorf("making a stale copy changed the original: TTL %d", got)
		}
	})
}

// TestAppendLarge fills a message to the last byte that a length can count.
func TestAppendLarge(t *testing.T) {
	q := query("large.example", dns.TypeTXT)
	m := answerTo(newMessage(q, true), dns.RcodeSuccess)
	for i := 0; m.Len() < 65000; i++ {
		rr, _ := dns.NewRR(fmt.Sprintf("large.example. 60 IN TXT \"%0200d\"", i))
		m.Answer = append(m.Answer, rr)
		m.Compress = true
	}
	r := replyTo(t, q, m)
	if got := response(t, q, r, dns.MaxMsgSize); len(got.Answer) != len(m.Answer) || got.Truncated {
		t.Fatalf("%d of %d records, TC %v", len(got.Answer), len(m.Answer), got.Truncated)
	}
}

func TestSpecialNames(t *testing.T) {
	f, err := New(Config{Upstreams: []Upstream{{Domain: "."}}[:0]})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"localhost", dns.TypeA, "NOERROR; localhost. 86400 IN A 127.0.0.1"},
		{"localhost", dns.TypeAAAA, "NOERROR; localhost. 86400 IN AAAA ::1"},
		{"app.localhost", dns.TypeAAAA, "NOERROR; app.localhost. 86400 IN AAAA ::1"},
		{"localhost", dns.TypeMX, "NOERROR"},
		{"invalid", dns.TypeA, "NXDOMAIN"},
		{"x.y.invalid", dns.TypeTXT, "NXDOMAIN"},
		{"d.f.ip6.arpa", dns.TypePTR, "REFUSED; EDE 20"},
		{"1.0.d.f.ip6.arpa", dns.TypePTR, "REFUSED; EDE 20"},
		{"my-app.internal", dns.TypeAAAA, "REFUSED; EDE 20"},
		{"my-app.flycast", dns.TypeAAAA, "REFUSED; EDE 20"},
		{"notlocalhost", dns.TypeA, "SERVFAIL; EDE 22"},
		{"localhost.example", dns.TypeA, "SERVFAIL; EDE 22"},
		{"c.f.ip6.arpa", dns.TypePTR, "SERVFAIL; EDE 22"},
	} {
		q := query(c.name, c.qtype)
		wantText(t, q, f.Immediate(q), c.want)
	}
	q := query("x.invalid", dns.TypeA)
	if m := response(t, q, f.Immediate(q), 512); len(m.Ns) != 1 || strings.Join(strings.Fields(m.Ns[0].String()), " ") !=
		"invalid. 300 IN SOA invalid. nobody.invalid. 1 3600 1200 604800 300" {
		t.Errorf("negative reply without its SOA: %v", m)
	}
	q = query("www.example", dns.TypeA)
	q.RD = false
	wantText(t, q, f.Immediate(q), "REFUSED; EDE 0")
}
