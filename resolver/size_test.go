package resolver

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

const aaaaLen = 12 + 16 // a record with a compressed owner

func TestUDPSizes(t *testing.T) {
	r := newResolver(t, func(c *Config) { c.MaxUDPSize = 1232 })
	question := len(query(t, "many.internal.", dns.TypeAAAA))
	for _, tt := range []struct {
		client int // size in the OPT; negative: no OPT
		limit  int
	}{{-1, 512}, {0, 512}, {511, 512}, {512, 512}, {513, 513}, {1231, 1231}, {1232, 1232}, {1233, 1232}, {65535, 1232}} {
		t.Run(fmt.Sprint(tt.client), func(t *testing.T) {
			var change []func(*dns.Msg)
			room := tt.limit - question
			if tt.client >= 0 {
				change = append(change, edns(uint16(tt.client)))
				room -= 11
			}
			resp, _ := r.Respond(query(t, "many.internal.", dns.TypeAAAA, change...), loopback, UDP, nil)
			m := unpack(t, resp)
			if want := room / aaaaLen; len(m.Answer) != want || !m.Truncated || len(resp) > tt.limit {
				t.Errorf("%d bytes, %d records, TC=%t, want at most %d, %d, true", len(resp), len(m.Answer), m.Truncated, tt.limit, want)
			}
			if (m.IsEdns0() != nil) != (tt.client >= 0) {
				t.Errorf("OPT is %v", m.IsEdns0())
			}
		})
	}
}

// TestWholeAnswerAtTheLimit asks for sets that fit exactly, and not quite.
func TestWholeAnswerAtTheLimit(t *testing.T) {
	r := newResolver(t, func(c *Config) {
		z := internalZone()
		for n := range 60 {
			z.answers[fmt.Sprintf("of-%02d", n)] = fleet(n)
		}
		c.Zones = []Zone{z}
	})
	for n := 1; n < 60; n++ {
		need := len(query(t, "of-00.internal.", dns.TypeAAAA)) + 11 + n*aaaaLen
		for _, size := range []int{need - 1, need, need + 1} {
			if size < minUDPSize || size > DefaultMaxUDPSize {
				continue
			}
			m := respond(t, r, query(t, fmt.Sprintf("of-%02d.internal.", n), dns.TypeAAAA, edns(uint16(size))), loopback, UDP)
			want := n
			if size < need {
				want--
			}
			if len(m.Answer) != want || m.Truncated != (size < need) {
				t.Errorf("%d addresses in %d bytes: %d records, TC=%t", n, size, len(m.Answer), m.Truncated)
			}
		}
	}
}

// TestTCPLimit finds the largest set that TCP takes, and what is said beyond it.
func TestTCPLimit(t *testing.T) {
	const name = "set.internal."
	most := (wire.MaxMessage - 12 - len(name) - 1 - 4) / aaaaLen
	mostWithOPT := (wire.MaxMessage - 12 - len(name) - 1 - 4 - 11) / aaaaLen
	for _, tt := range []struct {
		n     int
		edns  bool
		want  int
		trunc bool
	}{
		{most, false, most, false},
		{most + 1, false, most, true},
		{mostWithOPT, true, mostWithOPT, false},
		// The counts need 6 bytes and a text of 22, more than is left free.
		{mostWithOPT + 1, true, mostWithOPT - 1, true},
		{10_000, true, 2338, true},
	} {
		t.Run(fmt.Sprint(tt.n, tt.edns), func(t *testing.T) {
			z := &testZone{origin: "internal.", answers: map[string]func(*Question) *Answer{"set": fleet(tt.n)}}
			r := newResolver(t, func(c *Config) { c.Zones = []Zone{z} })
			var change []func(*dns.Msg)
			if tt.edns {
				change = append(change, edns(512))
			}
			resp, _ := r.Respond(query(t, name, dns.TypeAAAA, change...), loopback, TCP, nil)
			m := unpack(t, resp)
			if len(m.Answer) != tt.want || m.Truncated != tt.trunc || len(resp) > wire.MaxMessage {
				t.Errorf("%d bytes, %d records, TC=%t, want %d, %t", len(resp), len(m.Answer), m.Truncated, tt.want, tt.trunc)
			}
			if tt.edns && tt.trunc {
				text := fmt.Sprintf("%d of %d addresses", tt.want, tt.n)
				if o := m.IsEdns0().Option; len(o) != 1 || o[0].(*dns.EDNS0_EDE).ExtraText != text {
					t.Errorf("options are %v, want an EDE %q", o, text)
				}
			}
		})
	}
}

// TestCountsByType: what is missing over TCP is called by its name.
func TestCountsByType(t *testing.T) {
	const n = 5000
	for _, tt := range []struct {
		typ   uint16
		rdata string
		want  string
	}{
		{dns.TypeA, "\x7f\x00\x00\x01", "addresses"}, {dns.TypeAAAA, strings.Repeat("x", 16), "addresses"},
		{dns.TypePTR, "\x01a\x00", "names"}, {dns.TypeTXT, "\x01a", "records"},
	} {
		a := &Answer{Type: tt.typ, Data: slices.Repeat([][]byte{[]byte(tt.rdata)}, n)}
		z := &testZone{origin: "internal.", answers: map[string]func(*Question) *Answer{"set": always(a)}}
		r := newResolver(t, func(c *Config) { c.Zones = []Zone{z} })
		m := respond(t, r, query(t, "set.internal.", tt.typ, edns(512)), loopback, TCP)
		want := fmt.Sprintf("%d of %d %s", len(m.Answer), n, tt.want)
		if o := m.IsEdns0().Option; len(o) != 1 || o[0].(*dns.EDNS0_EDE).ExtraText != want || len(m.Answer) == 0 {
			t.Errorf("%s: options are %v, want an EDE %q", dns.TypeToString[tt.typ], o, want)
		}
	}
}

func TestPartialList(t *testing.T) {
	r := newResolver(t)
	for _, opt := range []bool{false, true} {
		var change []func(*dns.Msg)
		if opt {
			change = append(change, edns(1232))
		}
		req := query(t, "list.internal.", dns.TypeTXT, change...)
		m := respond(t, r, req, loopback, TCP)
		if len(m.Answer) != 1 || !m.Truncated {
			t.Errorf("over TCP %d records, TC=%t, want 1, true", len(m.Answer), m.Truncated)
		}
		if o := m.IsEdns0(); opt && (len(o.Option) != 1 || o.Option[0].(*dns.EDNS0_EDE).ExtraText != "700 of 900 machines") {
			t.Errorf("OPT is %v", o)
		}
		m = respond(t, r, req, loopback, UDP)
		if len(m.Answer) != 0 || len(m.Ns) != 0 || !m.Truncated {
			t.Errorf("over UDP %v, want TC and nothing", m)
		}
	}
}

// TestTextsGoFirst: codes of errors outlive their texts, and records both.
func TestTextsGoFirst(t *testing.T) {
	r := newResolver(t)
	m := respond(t, r, query(t, "vm.my-app.internal.", dns.TypeAAAA, edns(512)), loopback, UDP)
	var got []string
	for _, o := range m.IsEdns0().Option {
		e := o.(*dns.EDNS0_EDE)
		got = append(got, fmt.Sprint(e.InfoCode, ":", len(e.ExtraText)))
	}
	if want := "3:13 0:200 0:0"; strings.Join(got, " ") != want || len(m.Ns) != 1 || m.Truncated {
		t.Errorf("errors %v, %d in authority, TC=%t, want %s and the SOA", got, len(m.Ns), m.Truncated, want)
	}

	// Addresses that leave nothing free lose none to an error's text.
	z := internalZone()
	n := (512 - len(query(t, "full.internal.", dns.TypeAAAA)) - 11) / aaaaLen
	z.answers["full"] = func(q *Question) *Answer {
		a := fleet(n)(q)
		a.EDE = []EDE{{Code: dns.ExtendedErrorCodeStaleAnswer, Text: strings.Repeat("x", 300)}}
		return a
	}
	r = newResolver(t, func(c *Config) { c.Zones = []Zone{z} })
	m = respond(t, r, query(t, "full.internal.", dns.TypeAAAA, edns(512)), loopback, UDP)
	if len(m.Answer) != n || m.Truncated {
		t.Errorf("%d records, TC=%t, want %d, false", len(m.Answer), m.Truncated, n)
	}
}

func TestNSIDKeepsItsPlace(t *testing.T) {
	id := strings.Repeat("h", 250)
	r := newResolver(t, func(c *Config) { c.Identity.Hostname = id })
	resp, _ := r.Respond(query(t, "many.internal.", dns.TypeAAAA, edns(512), option(&dns.EDNS0_NSID{Code: dns.EDNS0NSID})), loopback, UDP, nil)
	m := unpack(t, resp)
	o := m.IsEdns0().Option
	if len(o) != 1 || len(o[0].(*dns.EDNS0_NSID).Nsid) != 2*len(id) || len(m.Answer) != 7 || len(resp) > 512 {
		t.Errorf("%d bytes, %d records, options %v", len(resp), len(m.Answer), o)
	}
	// Beside the longest question there is no room for it: the OPT stays.
	long := strings.Repeat("a.", 123) + "internal."
	if m := respond(t, r, query(t, long[2:], dns.TypeAAAA), loopback, UDP); len(m.Ns) != 1 || m.Truncated {
		t.Errorf("without it, %d records in authority, TC=%t", len(m.Ns), m.Truncated)
	}
	resp, _ = r.Respond(query(t, long[2:], dns.TypeAAAA, edns(512), option(&dns.EDNS0_NSID{Code: dns.EDNS0NSID})), loopback, UDP, nil)
	if m := unpack(t, resp); m.IsEdns0() == nil || len(resp) > 512 {
		t.Errorf("%d bytes, OPT %v", len(resp), m.IsEdns0())
	}
	// Where there is just room for it, there is none for the SOA, and TC says so.
	id = strings.Repeat("h", 512-len(query(t, long[2:], dns.TypeAAAA))-wire.OPTLen-wire.NSIDLen("")-1)
	r = newResolver(t, func(c *Config) { c.Identity.Hostname = id })
	m = respond(t, r, query(t, long[2:], dns.TypeAAAA, edns(512), option(&dns.EDNS0_NSID{Code: dns.EDNS0NSID})), loopback, UDP)
	if o := m.IsEdns0().Option; len(o) != 1 || len(m.Ns) != 0 || !m.Truncated || m.Rcode != dns.RcodeNameError {
		t.Errorf("options %v, %d records in authority, TC=%t", o, len(m.Ns), m.Truncated)
	}
}

func TestTurns(t *testing.T) {
	r := newResolver(t)
	first := make(map[string]int)
	const rounds = 3000
	for range rounds {
		m := respond(t, r, query(t, "my-app.internal.", dns.TypeAAAA), loopback, UDP)
		seen := make(map[string]bool)
		for _, rr := range m.Answer {
			seen[rr.(*dns.AAAA).AAAA.String()] = true
		}
		if len(seen) != 3 {
			t.Fatalf("answer %v, want all three", m.Answer)
		}
		first[m.Answer[0].(*dns.AAAA).AAAA.String()]++
	}
	// A third each; five standard deviations of 26 are 129.
	for a, n := range first {
		if n < rounds/3-129 || n > rounds/3+129 {
			t.Errorf("%s is first %d times of %d, want about a third", a, n, rounds)
		}
	}
}

// TestRunsAndLimit: runs keep their order among each other, and a limit that
// cuts through a run sends each of its members equally often.
func TestRunsAndLimit(t *testing.T) {
	z := internalZone()
	z.answers["near"] = always(&Answer{Type: dns.TypeAAAA, Data: addresses(6), Turns: []int{2, 3, 1}, Limit: 3})
	r := newResolver(t, func(c *Config) { c.Zones = []Zone{z} })
	sent := make([]int, 6)
	const rounds = 3000
	for range rounds {
		m := respond(t, r, query(t, "near.internal.", dns.TypeAAAA, edns(1232)), loopback, TCP)
		if len(m.Answer) != 3 || m.Truncated || len(m.IsEdns0().Option) != 0 {
			t.Fatalf("answer %v, want three whole records", m)
		}
		for i, rr := range m.Answer {
			n := int(rr.(*dns.AAAA).AAAA[15])
			if (i < 2) != (n < 2) {
				t.Fatalf("answer %v: runs are out of order", m.Answer)
			}
			sent[n]++
		}
	}
	if sent[0] != rounds || sent[1] != rounds || sent[5] != 0 {
		t.Errorf("sent %v, want the first run always and the last never", sent)
	}
	for _, n := range sent[2:5] {
		if n < rounds/3-129 || n > rounds/3+129 {
			t.Errorf("sent %v, want the middle run's members a third of the time each", sent)
		}
	}
}

// TestOddAnswers: an answer that a zone should not give costs nothing but itself.
func TestOddAnswers(t *testing.T) {
	z := internalZone()
	odd := map[string]*Answer{
		"limit-of-none":   {Type: dns.TypeAAAA, Limit: 3},
		"turns-of-none":   {Type: dns.TypeAAAA, Turns: []int{3}},
		"turns-too-short": {Type: dns.TypeAAAA, Data: addresses(5), Turns: []int{2}},
		"turns-too-long":  {Type: dns.TypeAAAA, Data: addresses(5), Turns: []int{9, 9}},
		"turns-of-zero":   {Type: dns.TypeAAAA, Data: addresses(5), Turns: []int{0, 0, 5}},
		"turns-negative":  {Type: dns.TypeAAAA, Data: addresses(5), Turns: []int{-2, 5}},
		"limit-negative":  {Type: dns.TypeAAAA, Data: addresses(5), Limit: -1},
		"limit-large":     {Type: dns.TypeAAAA, Data: addresses(5), Limit: 50},
		"rdata-huge":      {Type: dns.TypeTXT, Data: [][]byte{make([]byte, 70_000)}},
	}
	for name, a := range odd {
		z.answers[name] = always(a)
	}
	r := newResolver(t, func(c *Config) { c.Zones = []Zone{z} })
	for name := range odd {
		for _, proto := range []Proto{UDP, TCP} {
			m := respond(t, r, query(t, dns.Fqdn(name+".internal"), dns.TypeAAAA, edns(1232)), loopback, proto)
			want := 5
			if len(odd[name].Data) < 5 {
				want = 0
			}
			if len(m.Answer) != want || m.Rcode != dns.RcodeSuccess || m.Truncated != (name == "rdata-huge") {
				t.Errorf("%s: %v, want %d records", name, m, want)
			}
		}
	}
}

func TestRespondUsesTheBufferGiven(t *testing.T) {
	r := newResolver(t)
	buf := make([]byte, 0, DefaultMaxUDPSize)
	req := query(t, "many.internal.", dns.TypeAAAA, edns(4096))
	before := bytes.Clone(req)
	resp, _ := r.Respond(req, loopback, UDP, buf)
	if &resp[0] != &buf[:1][0] {
		t.Error("the response is not in the buffer")
	}
	if !bytes.Equal(req, before) {
		t.Error("the request was changed")
	}
}
