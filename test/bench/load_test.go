package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// zoneServer serves a fleet's answers on loopback. wrong, unless it is nil, spoils
// answers.
func zoneServer(t *testing.T, qs []question, wrong func(*dns.Msg)) string {
	t.Helper()
	byName := make(map[string]question)
	for _, q := range qs {
		byName[q.name+dns.TypeToString[q.typ]] = q
	}
	ready := make(chan struct{})
	s := &dns.Server{Addr: "[::1]:0", Net: "udp", NotifyStartedFunc: func() { close(ready) }}
	s.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		q, ok := byName[r.Question[0].Name+dns.TypeToString[r.Question[0].Qtype]]
		if !ok {
			m.Rcode = dns.RcodeNameError
		}
		for _, d := range q.data {
			rr, err := dns.NewRR(q.name + " 5 " + dns.TypeToString[q.typ] + " \"" + d + "\"")
			if q.typ == dns.TypeAAAA {
				rr, err = dns.NewRR(q.name + " 5 AAAA " + d)
			}
			if err != nil {
				m.Rcode = dns.RcodeServerFailure
				break
			}
			m.Answer = append(m.Answer, rr)
		}
		if wrong != nil {
			wrong(m)
		}
		_ = w.WriteMsg(m)
	})
	done := make(chan struct{})
	go func() { defer close(done); _ = s.ListenAndServe() }()
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		t.Fatal("the server does not start")
	}
	t.Cleanup(func() { _ = s.Shutdown(); <-done })
	return s.PacketConn.LocalAddr().String()
}

func TestCheck(t *testing.T) {
	qs := newFleet(20, 5, 20).mix(newRand())
	if err := check(zoneServer(t, qs, nil), withMissing(qs, 2)); err != nil {
		t.Error(err)
	}
	for name, wrong := range map[string]func(*dns.Msg){
		"a record is missing": func(m *dns.Msg) { m.Answer = m.Answer[:len(m.Answer)/2] },
		"response code":       func(m *dns.Msg) { m.Rcode = dns.RcodeRefused },
		"value": func(m *dns.Msg) {
			for _, rr := range m.Answer {
				if a, ok := rr.(*dns.AAAA); ok {
					a.AAAA[15] ^= 1
				}
			}
		},
		"list": func(m *dns.Msg) {
			for _, rr := range m.Answer {
				if a, ok := rr.(*dns.TXT); ok {
					a.Txt[0] = a.Txt[0][1:]
				}
			}
		},
	} {
		if err := check(zoneServer(t, qs, wrong), qs); err == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
}

// onLoopback packs questions without a source address: the networks' addresses
// are not this machine's.
func onLoopback(t *testing.T, qs []question) []packed {
	t.Helper()
	out, err := pack(qs)
	if err != nil {
		t.Fatal(err)
	}
	for i := range out {
		out[i].oob = nil
	}
	return out
}

func TestManyNetworks(t *testing.T) {
	qs := newFleet(20, 5, 20).mix(newRand())
	addr := zoneServer(t, qs, nil)
	got, err := manyNetworks(t.Context(), addr, onLoopback(t, qs), 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if got.answered == 0 || got.answered > got.sent || got.bytes < 50 || got.elapsed < 200*time.Millisecond {
		t.Errorf("tally is %+v", got)
	}
	bad := zoneServer(t, qs, func(m *dns.Msg) { m.Answer = nil })
	if _, err := manyNetworks(t.Context(), bad, onLoopback(t, qs), 200*time.Millisecond); err == nil || !strings.Contains(err.Error(), "0 records") {
		t.Errorf("answers without records: %v", err)
	}
}

func TestSlowAnswer(t *testing.T) {
	for _, edns := range []bool{false, true} {
		q := question{name: "flood-1.example.com.", typ: dns.TypeAAAA, edns: edns}
		wire, err := q.message().Pack()
		if err != nil {
			t.Fatal(err)
		}
		m := new(dns.Msg)
		if err := m.Unpack(slowAnswer(wire)); err != nil {
			t.Fatal(err)
		}
		q.records, q.data = 1, []string{"2001:db8::1"}
		if err := q.right(m); err != nil {
			t.Error(err)
		}
		if !m.Response || !m.RecursionAvailable || m.Answer[0].Header().Name != q.name || (m.IsEdns0() != nil) != edns {
			t.Errorf("the answer is\n%v", m)
		}
	}
	for _, junk := range [][]byte{nil, make([]byte, 12), make([]byte, 17), {0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63}} {
		if out := slowAnswer(junk); out != nil {
			t.Errorf("%v is answered with %v", junk, out)
		}
	}
}

// A round of the slow upstream: what is asked at a pace is answered, late.
func TestPacedAgainstSlow(t *testing.T) {
	u, err := startSlow("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	p := paced{addr: u.conn.LocalAddr().String(), rate: 200, questions: numbered("x", 3)}
	o, err := p.run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if o.sent == 0 || o.rcodes[dns.RcodeSuccess] != o.sent || len(o.latency) != o.sent || o.latency[0] < slowDelay {
		t.Errorf("sent %d, codes %v, %d latencies", o.sent, o.rcodes, len(o.latency))
	}
}
