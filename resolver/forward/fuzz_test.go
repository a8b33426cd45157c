package forward

import (
	"testing"
	"time"

	"github.com/miekg/dns"
)

// FuzzAnswer feeds bytes to us as an upstream's answer. Whatever it says, what goes on to
// clients is a message that parses, within its limit, at any size.
func FuzzAnswer(f *testing.F) {
	q := query("www.example.com", dns.TypeA)
	m := newMessage(q, true)
	for _, a := range []*dns.Msg{
		answerTo(m, dns.RcodeSuccess, "www.example.com. 60 IN CNAME edge.example.com.", "edge.example.com. 5 IN A 192.0.2.1"),
		answerTo(m, dns.RcodeNameError, "--", "example.com. 60"+soa+"60"),
		withEDE(answerTo(m, dns.RcodeServerFailure), 22, "no luck"),
		answerTo(m, dns.RcodeSuccess, `www.example.com. 60 IN TXT "a" "b"`, "www.example.com. 60 IN HTTPS 1 . alpn=h2"),
		answerTo(m, dns.RcodeSuccess, `www.example.com. 60 IN TYPE65300 \# 3 010203`),
	} {
		a.Compress = true
		b, err := a.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint16(512))
	}
	f.Fuzz(func(t *testing.T, b []byte, limit uint16) {
		if !m.answeredBy(b, 0) {
			return
		}
		answer, err := parse(b)
		if err != nil {
			return
		}
		now := time.Now()
		life := clampTTLs(answer, q, now)
		if life.fresh < 0 || life.fresh > maxTTL*time.Second {
			t.Fatalf("kept for %s", life.fresh)
		}
		r, err := newReply(answer, now)
		if err != nil {
			return
		}
		head := 12 + len(q.Name) + 4
		for _, l := range []int{max(int(limit), head), dns.MaxMsgSize} {
			response(t, q, r, l)
			response(t, q, r.stale("because"), l)
		}
	})
}
