package resolver

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/miekg/dns"

	"dnsd/resolver/forward"
)

// FuzzRespond sends any packet: dnsd never panics, is silent exactly where the
// rules say so, and whatever it says can be read, has the request's id and, if
// any, its question, and is no longer than the client takes.
func FuzzRespond(f *testing.F) {
	for _, tt := range ruleTests(new(testing.T)) {
		f.Add(tt.req, false)
	}
	reply := forward.Reply{Rcode: dns.RcodeNameError, EDE: []EDE{{Text: "forwarded"}}}
	r := newResolver(f, withForwarder(&fakeForwarder{immediate: func(q *forward.Query) *forward.Reply {
		if q.Type%2 == 0 {
			return nil
		}
		return &reply
	}}))
	delete(r.zones[0].Zone.(*testZone).answers, "panic")
	delete(r.zones[0].Zone.(*testZone).answers, "nil")
	buf := make([]byte, 0, 1<<16)
	f.Fuzz(func(t *testing.T, req []byte, tcp bool) {
		proto := UDP
		if tcp {
			proto = TCP
		}
		w := newWorker(r, proto, new(stats))
		resp, later := w.respond(req, loopback, buf)
		if w.stats.panics.Load() != 0 {
			t.Fatal("panic")
		}
		if later != nil {
			resp = later.resolve(t.Context(), buf)
			later.done()
		}
		silent := len(req) < 12 || req[2]&0x80 != 0
		if silent != (resp == nil) {
			t.Fatalf("response %x, want silence is %t", resp, silent)
		}
		if silent {
			return
		}
		m := new(dns.Msg)
		if err := m.Unpack(resp); err != nil {
			t.Fatalf("response does not unpack: %v\n%x", err, resp)
		}
		if !m.Response || m.Id != binary.BigEndian.Uint16(req) || m.Opcode != int(req[2]>>3)&0xf {
			t.Fatalf("header %+v of a response to %x", m.MsgHdr, req[:12])
		}
		q := packedLen(resp)
		if len(m.Question) > 0 && !bytes.Equal(resp[12:q], req[12:min(q, len(req))]) {
			t.Fatalf("question %x, asked %x", resp[12:q], req[12:])
		}
		if len(m.Question) == 0 && m.Rcode != dns.RcodeFormatError && m.Opcode == 0 {
			t.Fatalf("no question in\n%v", m)
		}
		limit := minUDPSize
		if opt := m.IsEdns0(); opt != nil {
			limit = DefaultMaxUDPSize
		}
		if proto == UDP && len(resp) > limit {
			t.Fatalf("%d bytes over UDP", len(resp))
		}
		judgeForm(t, req, m)
	})
}

// judgeForm compares what miekg/dns makes of a request with the answer to it.
func judgeForm(t *testing.T, req []byte, resp *dns.Msg) {
	t.Helper()
	asked := new(dns.Msg)
	err := asked.Unpack(req)
	if resp.Rcode == dns.RcodeFormatError || resp.Opcode != dns.OpcodeQuery {
		return // dnsd is the stricter of the two: trailing bytes, counts, places of OPT
	}
	if err != nil && asked.IsEdns0() == nil && len(asked.Question) == 0 {
		t.Fatalf("%v, but the answer is\n%v", err, resp)
	}
	if len(asked.Question) != 1 {
		t.Fatalf("%d questions, but the answer is\n%v", len(asked.Question), resp)
	}
	if err == nil && (asked.IsEdns0() != nil) != (resp.IsEdns0() != nil) {
		t.Fatalf("OPT in request\n%v\nand response\n%v", asked, resp)
	}
}

// packedLen returns where the first question of a message ends.
func packedLen(msg []byte) int {
	off := 12
	for off < len(msg) && msg[off] != 0 {
		off += 1 + int(msg[off])
	}
	return off + 5
}
