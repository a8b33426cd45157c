package forward

import (
	"bytes"
	"encoding/binary"
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
		now := time.Now()
		a, err := read(bytes.Clone(b), m, now)
		if err != nil {
			return
		}
		if a.life.fresh < 0 || a.life.fresh > maxTTL*time.Second {
			t.Fatalf("kept for %s", a.life.fresh)
		}
		head := 12 + len(q.Name) + 4
		aged := a.Reply
		aged.born = now.Add(-time.Second)
		for _, r := range []*Reply{&a.Reply, &aged, a.stale("because")} {
			for _, l := range []int{max(int(limit), head), dns.MaxMsgSize} {
				readable(t, responseBytes(t, q, r, l))
			}
		}
	})
}

// readable finds that a message can be read by others: every name, every length, and the
// data of the types that we look into.
func readable(t *testing.T, b []byte) {
	off := 12
	if _, end, err := dns.UnpackDomainName(b, off); err != nil {
		t.Fatalf("question: %v\n%x", err, b)
	} else {
		off = end + 4
	}
	for i := 6; i < 12; i += 2 {
		for range binary.BigEndian.Uint16(b[i:]) {
			_, end, err := dns.UnpackDomainName(b, off)
			if err != nil || end+10 > len(b) {
				t.Fatalf("record at %d: %v\n%x", off, err, b)
			}
			typ, n := binary.BigEndian.Uint16(b[end:]), int(binary.BigEndian.Uint16(b[end+8:]))
			if int(typ) < len(layouts) && layouts[typ].exact || typ == dns.TypeTXT {
				if _, _, err := dns.UnpackRR(b, off); err != nil || n == 0 {
					t.Fatalf("%s at %d, %d bytes: %v\n%x", dns.Type(typ), off, n, err, b)
				}
			}
			if off = end + 10 + n; off > len(b) {
				t.Fatalf("a record of %d bytes ends behind the message\n%x", n, b)
			}
		}
	}
	if off != len(b) {
		t.Fatalf("%d bytes are left\n%x", len(b)-off, b)
	}
}
