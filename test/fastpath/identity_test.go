package fastpath

import (
	"encoding/binary"
	"fmt"
	"testing"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

// kind is a kind of question, and whether the kernel answers it.
type kind struct {
	name   string
	typ    uint16
	kernel bool
}

// kinds has every kind of name that dnsd knows, and others.
var kinds = []kind{
	{"home.internal.", dns.TypeAAAA, true},
	{"hOmE.InTeRnAl.", dns.TypeAAAA, true},
	{"global.home.internal.", dns.TypeAAAA, true},
	{"fra.home.internal.", dns.TypeAAAA, true},
	{"m0.vm.home.internal.", dns.TypeAAAA, true},
	{"web.process.home.internal.", dns.TypeAAAA, true},
	{"primary.role.kv._metadata.home.internal.", dns.TypeAAAA, true},
	{"role.kv._metadata.home.internal.", dns.TypeAAAA, true},
	{"vms.home.internal.", dns.TypeTXT, true},
	{"all.vms.home.internal.", dns.TypeTXT, true},
	{"regions.home.internal.", dns.TypeTXT, true},
	{"single.internal.", dns.TypeAAAA, true},
	{"many.internal.", dns.TypeAAAA, true},
	{"home.internal.", dns.TypeA, true}, // NODATA, with SOA
	{"home.internal.", dns.TypeHTTPS, true},
	{"home.internal.", dns.TypeANY, true},
	{"vm.home.internal.", dns.TypeAAAA, true},
	{"stopped.internal.", dns.TypeAAAA, true},
	{"vms.stopped.internal.", dns.TypeTXT, true},

	{"toomany.internal.", dns.TypeAAAA, false},
	{"crowd.internal.", dns.TypeAAAA, false},
	{"top3.nearest.of.home.internal.", dns.TypeAAAA, false},
	{"none.internal.", dns.TypeAAAA, false},
	{"none.home.internal.", dns.TypeAAAA, false},
	{"home.internal.", dns.TypeNULL, false}, // of no type that is kept
	{"_apps.internal.", dns.TypeTXT, false},
	{"_instances.internal.", dns.TypeTXT, false},
	{"_whoami.internal.", dns.TypeTXT, false},
	{"_peer.internal.", dns.TypeTXT, false},
	{"internal.", dns.TypeSOA, false},
	{"home.flycast.", dns.TypeAAAA, false},
	{"2.0.0.0.1.0.0.0.1.0.0.0.d.7.0.0.b.7.a.0.a.0.0.0.0.0.0.0.a.a.d.f.ip6.arpa.", dns.TypePTR, false},
	{"example.com.", dns.TypeA, false},
	{".", dns.TypeNS, false},
}

// forms are the forms in which a question can come, and whether the kernel may answer them.
var forms = []struct {
	name   string
	kernel bool
	change func(*dns.Msg)
	patch  func([]byte) []byte
}{
	{name: "bare", kernel: true},
	{name: "no_RD", kernel: true, change: func(m *dns.Msg) { m.RecursionDesired = false }},
	{name: "AD_CD", kernel: true, change: func(m *dns.Msg) { m.AuthenticatedData, m.CheckingDisabled = true, true }},
	{name: "AA_TC_RA_Z_rcode", kernel: true, patch: func(b []byte) []byte { b[2] |= 0x06; b[3] |= 0xcf; return b }},
	{name: "EDNS", kernel: true, change: edns(1232)},
	{name: "EDNS_DO", kernel: true, change: func(m *dns.Msg) { m.SetEdns0(4096, true) }},
	{name: "EDNS_small", kernel: true, change: edns(100)},
	{name: "EDNS_flags", kernel: true, change: edns(1400), patch: func(b []byte) []byte {
		b[len(b)-6], b[len(b)-4], b[len(b)-3] = 0x55, 0x40, 0x3f // extended code, Z
		return b
	}},
	{name: "EDNS_version_1", change: func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }},
	{name: "EDNS_option", change: func(m *dns.Msg) {
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
	}},
	{name: "NSID", change: func(m *dns.Msg) {
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{Code: dns.EDNS0NSID}}
	}},
	{name: "two_OPT", change: func(m *dns.Msg) { m.SetEdns0(1232, false); m.Extra = append(m.Extra, m.Extra[0]) }},
	{name: "another_record", change: func(m *dns.Msg) {
		m.Extra = append(m.Extra, &dns.A{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeA, Class: 1}, A: []byte{1, 2, 3, 4}})
	}},
	{name: "an_answer", change: func(m *dns.Msg) { m.Answer = []dns.RR{&dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}} }},
	{name: "opcode", change: func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }},
	{name: "class_CHAOS", change: func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }},
	{name: "class_ANY", change: func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }},
	{name: "two_questions", change: func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }},
	{name: "no_question", patch: func(b []byte) []byte { b[5] = 0; return b }},
	{name: "trailing_byte", patch: func(b []byte) []byte { return append(b, 0) }},
	{name: "trailing_OPT_not_counted", patch: func(b []byte) []byte { return append(b, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0) }},
	{name: "OPT_counted_not_there", patch: func(b []byte) []byte { b[11] = 1; return b }},
	{name: "cut", patch: func(b []byte) []byte { return b[:len(b)-3] }},
}

// Whatever is asked, in whatever form, the kernel answers as the socket does, byte for byte but for whose turn
// it is; and what it is meant to answer it does.
func TestSameAnswers(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, k := range kinds {
		var want string
		for _, form := range forms {
			req := query(k.name, k.typ, form.change)
			if form.patch != nil {
				req = form.patch(req)
			}
			t.Run(fmt.Sprintf("%s_%s_%s", k.name, dns.Type(k.typ), form.name), func(t *testing.T) {
				if k.kernel && form.name == "bare" {
					s.t = t
					s.warm(s.a, query(k.name, k.typ, edns(1232)))
				}
				want = canonical(s.ask(s.slow, req))
				if k.name == "_whoami.internal." { // which says who asks
					s.ask(s.a, req)
					return
				}
				before := s.hits()
				for range 3 {
					if got := canonical(s.ask(s.a, req)); got != want {
						t.Errorf("the answer is\n%s\nand by the socket\n%s", got, want)
					}
				}
				expected := 0
				// 18 addresses are more than 512 bytes.
				if small := form.name == "bare" || form.name == "no_RD" || form.name == "AD_CD" || form.name == "AA_TC_RA_Z_rcode" || form.name == "EDNS_small"; k.kernel && form.kernel && !(k.name == "many.internal." && small) {
					expected = 3
				}
				if got := s.hits() - before; got != expected {
					t.Errorf("%d of 3 questions were answered in the kernel, want %d", got, expected)
				}
			})
		}
	}
	s.t = t
}

// Each member of a set is first equally often, as by the socket.
func TestTurnsInKernel(t *testing.T) {
	t.Parallel()
	s := start(t)
	req := query("home.internal.", dns.TypeAAAA, nil)
	s.warm(s.a, req)
	hits, first := s.hits(), map[string]int{}
	const n = 600
	for range n {
		var m dns.Msg
		if err := m.Unpack(s.ask(s.a, req)); err != nil || len(m.Answer) != 3 {
			t.Fatal(m.String(), err)
		}
		var order string
		for _, rr := range m.Answer {
			order += rr.String() + "\n"
		}
		first[order]++
	}
	if got := s.hits() - hits; got != n {
		t.Errorf("%d of %d came from the kernel", got, n)
	}
	// Of 600, 200 each with a standard deviation of 11.5.
	for order, times := range first {
		if times < 130 || times > 270 {
			t.Errorf("%d times\n%s", times, order)
		}
	}
	if len(first) != 3 {
		t.Errorf("%d orders", len(first))
	}
}

// Two networks have an app of the same name: each gets its own machines.
func TestNetworksInKernel(t *testing.T) {
	t.Parallel()
	s := start(t)
	req := query("home.internal.", dns.TypeAAAA, nil)
	s.warm(s.a, req)
	s.warm(s.b, req)
	hits := s.hits()
	for range 20 {
		for machine, n := range map[*lab.Tenant]uint16{s.a: 3, s.b: 2} {
			resp := s.ask(machine, req)
			var m dns.Msg
			if err := m.Unpack(resp); err != nil || binary.BigEndian.Uint16(resp[6:]) != n {
				t.Fatalf("%v: %v", err, &m)
			}
			for _, rr := range m.Answer {
				if got := rr.(*dns.AAAA).AAAA; got[5] != machine.Addr.As16()[5] {
					t.Errorf("%s is told of %s", machine.Addr, got)
				}
			}
		}
	}
	if got := s.hits() - hits; got != 40 {
		t.Errorf("%d of 40 came from the kernel", got)
	}
}
