package resolver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// ruleTest is a request and what the rules of DNS want of its response.
type ruleTest struct {
	name string
	from netip.AddrPort // of clients that sockets cannot be; zero: loopback
	req  []byte

	silent   bool
	rcode    int
	flags    string // of AA TC RD RA AD CD, those that are set
	answers  int
	soa      bool
	opt      bool
	ede      []uint16
	text     string // part of an EDE's text
	question bool   // the request's question comes back, byte for byte
}

// raw returns a request with the given header counts and body.
func raw(flags uint16, counts [4]uint16, body string) []byte {
	b := []byte{0x12, 0x34, byte(flags >> 8), byte(flags)}
	for _, n := range counts {
		b = binary.BigEndian.AppendUint16(b, n)
	}
	return append(b, body...)
}

const (
	rawQuestion = "\x06mY-aPP\x08INTERnal\x00\x00\x1c\x00\x01"
	rawOPT      = "\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"
)

func ruleTests(t *testing.T) []ruleTest {
	q := func(name string, typ uint16, change ...func(*dns.Msg)) []byte { return query(t, name, typ, change...) }
	aaaa := dns.TypeAAAA
	other, prohibited, unsupported := dns.ExtendedErrorCodeOther, dns.ExtendedErrorCodeProhibited, dns.ExtendedErrorCodeNotSupported
	notAuth := dns.ExtendedErrorCodeNotAuthoritative
	return []ruleTest{
		{name: "exists", req: q("my-app.internal.", aaaa), flags: "AA RD", answers: 3, question: true},
		{name: "exists-edns", req: q("my-app.internal.", aaaa, edns(1232)), flags: "AA RD", answers: 3, opt: true, question: true},
		{name: "case", req: raw(0, [4]uint16{1}, rawQuestion), flags: "AA", answers: 3, question: true},
		{name: "case-edns", req: raw(0, [4]uint16{1, 0, 0, 1}, rawQuestion+rawOPT), flags: "AA", answers: 3, opt: true, question: true},
		{name: "from-a-machine", from: machine, req: q("my-app.internal.", aaaa), flags: "AA RD", answers: 3, question: true},
		{name: "mapped-address", from: netip.MustParseAddrPort("[::ffff:127.0.0.1]:5"), req: q("my-app.internal.", aaaa), flags: "AA RD", answers: 3, question: true},
		{name: "other-type", req: q("my-app.internal.", dns.TypeA), flags: "AA RD", soa: true, question: true},
		{name: "apex", req: q("internal.", dns.TypeMX), flags: "AA RD", soa: true, question: true},
		{name: "no-name", req: q("my-ap.internal.", aaaa), rcode: dns.RcodeNameError, flags: "AA RD", soa: true, question: true},
		{name: "no-name-edns", req: q("my-ap.internal.", aaaa, edns(1232)), rcode: dns.RcodeNameError, flags: "AA RD", soa: true, opt: true,
			ede: []uint16{other}, text: "no such app", question: true},
		{name: "between", req: q("vm.my-app.internal.", aaaa, edns(4096)), flags: "AA RD", soa: true, opt: true,
			ede: []uint16{dns.ExtendedErrorCodeStaleAnswer, other, other}, question: true},
		{name: "any", req: q("any.internal.", dns.TypeANY), flags: "AA RD", answers: 1, question: true},
		{name: "not-synced", req: q("not-ready.internal.", aaaa, edns(1232)), rcode: dns.RcodeServerFailure, flags: "RD", opt: true,
			ede: []uint16{dns.ExtendedErrorCodeNotReady}, question: true},
		{name: "looks-like-the-zone", req: q("my-app.xinternal.", aaaa), rcode: dns.RcodeRefused, flags: "RD", question: true},
		{name: "root", req: q(".", dns.TypeNS), rcode: dns.RcodeRefused, flags: "RD", question: true},
		{name: "outside", req: q("example.com.", aaaa, edns(1232)), rcode: dns.RcodeRefused, flags: "RD", opt: true,
			ede: []uint16{notAuth}, text: "no upstream", question: true},
		{name: "label-that-ends-like-the-zone", req: raw(0, [4]uint16{1}, "\x10\x06my-app\x08internal\x00\x00\x1c\x00\x01"), rcode: dns.RcodeRefused, question: true},

		{name: "RD-and-CD", req: q("my-app.internal.", aaaa, flags(func(m *dns.Msg) { m.CheckingDisabled = true })), flags: "AA RD", answers: 3, question: true},
		{name: "CD-outside", req: q("example.com.", aaaa, flags(func(m *dns.Msg) { m.CheckingDisabled = true })), rcode: dns.RcodeRefused, flags: "RD", question: true},
		{name: "no-RD", req: q("my-app.internal.", aaaa, flags(func(m *dns.Msg) { m.RecursionDesired = false })), flags: "AA", answers: 3, question: true},
		{name: "AD-asked", req: q("my-app.internal.", aaaa, flags(func(m *dns.Msg) { m.AuthenticatedData = true })), flags: "AA RD", answers: 3, question: true},
		{name: "DO", req: q("my-app.internal.", aaaa, func(m *dns.Msg) { m.SetEdns0(1232, true) }), flags: "AA RD", answers: 3, opt: true, question: true},
		{name: "flags-of-responses", req: raw(0x06f0, [4]uint16{1}, rawQuestion), flags: "AA", answers: 3, question: true},

		{name: "stranger", from: stranger, req: q("my-app.internal.", aaaa), rcode: dns.RcodeRefused, flags: "RD", question: true},
		{name: "stranger-edns", from: stranger, req: q("example.com.", aaaa, edns(1232)), rcode: dns.RcodeRefused, flags: "RD", opt: true,
			ede: []uint16{prohibited}, text: "--allow", question: true},
		{name: "stranger-chaos", from: stranger, req: q("version.bind.", dns.TypeTXT, class(dns.ClassCHAOS)), rcode: dns.RcodeRefused, flags: "RD", question: true},
		{name: "stranger-malformed", from: stranger, req: raw(0, [4]uint16{2}, rawQuestion), rcode: dns.RcodeRefused},
		{name: "stranger-two-questions-and-OPT", from: stranger, req: raw(0, [4]uint16{2, 0, 0, 1}, rawQuestion+rawQuestion+rawOPT), rcode: dns.RcodeRefused,
			opt: true, ede: []uint16{prohibited}},
		{name: "stranger-opcode", from: stranger, req: raw(0x2000, [4]uint16{1}, rawQuestion), rcode: dns.RcodeRefused, question: true},
		{name: "stranger-silence", from: stranger, req: raw(0x8000, [4]uint16{1}, rawQuestion), silent: true},
		{name: "no-network-chaos", from: bridge, req: q("id.server.", dns.TypeTXT, class(dns.ClassCHAOS)), flags: "AA RD", answers: 1, question: true},

		{name: "response", req: raw(0x8000, [4]uint16{1}, rawQuestion), silent: true},
		{name: "eleven-bytes", req: raw(0, [4]uint16{1}, "")[:11], silent: true},
		{name: "one-byte", req: []byte{1}, silent: true},
		{name: "header-only", req: raw(0, [4]uint16{}, ""), rcode: dns.RcodeFormatError},
		{name: "no-question-but-OPT", req: raw(0, [4]uint16{0, 0, 0, 1}, rawOPT), rcode: dns.RcodeFormatError,
			opt: true, ede: []uint16{other}, text: "exactly one question"},
		{name: "no-question-but-two-OPTs", req: raw(0, [4]uint16{0, 0, 0, 2}, rawOPT+rawOPT), rcode: dns.RcodeFormatError,
			opt: true, ede: []uint16{other}, text: "exactly one question"},
		{name: "two-questions", req: raw(0, [4]uint16{2}, rawQuestion+rawQuestion), rcode: dns.RcodeFormatError},
		{name: "two-questions-and-OPT", req: raw(0, [4]uint16{2, 0, 0, 1}, rawQuestion+rawQuestion+rawOPT), rcode: dns.RcodeFormatError,
			opt: true, ede: []uint16{other}, text: "exactly one question"},
		{name: "compressed-second-question-and-OPT", req: raw(0, [4]uint16{2, 0, 0, 1}, rawQuestion+"\xc0\x0c\x00\x01\x00\x01"+rawOPT), rcode: dns.RcodeFormatError,
			opt: true, ede: []uint16{other}, text: "exactly one question"},
		{name: "two-questions-OPT-cut", req: raw(0, [4]uint16{2, 0, 0, 1}, rawQuestion+rawQuestion+rawOPT[:10]), rcode: dns.RcodeFormatError},
		{name: "questions-promised", req: raw(0, [4]uint16{3, 0, 0, 1}, rawQuestion+rawQuestion+rawOPT), rcode: dns.RcodeFormatError},
		{name: "second-question-cut", req: raw(0, [4]uint16{2}, rawQuestion+rawQuestion[:19]), rcode: dns.RcodeFormatError},
		{name: "cut-question", req: raw(0, [4]uint16{1}, rawQuestion[:19]), rcode: dns.RcodeFormatError},
		{name: "cut-name", req: raw(0, [4]uint16{1}, rawQuestion[:5]), rcode: dns.RcodeFormatError},
		{name: "compressed-question", req: raw(0, [4]uint16{1}, "\x01a\xc0\x0c\x00\x1c\x00\x01"), rcode: dns.RcodeFormatError},
		{name: "long-label", req: raw(0, [4]uint16{1}, "\x40"+strings.Repeat("a", 64)+"\x00\x00\x1c\x00\x01"), rcode: dns.RcodeFormatError},
		{name: "name-of-255", req: raw(0, [4]uint16{1}, strings.Repeat("\x01a", 127)+"\x00\x00\x1c\x00\x01"), rcode: dns.RcodeRefused, question: true},
		{name: "name-of-256", req: raw(0, [4]uint16{1}, strings.Repeat("\x01a", 126)+"\x02aa\x00\x00\x1c\x00\x01"), rcode: dns.RcodeFormatError},
		{name: "trailing-byte", req: raw(0, [4]uint16{1}, rawQuestion+"\x00"), rcode: dns.RcodeFormatError, question: true},
		{name: "trailing-bytes-after-OPT", req: raw(0, [4]uint16{1, 0, 0, 1}, rawQuestion+rawOPT+"junk"), rcode: dns.RcodeFormatError,
			opt: true, ede: []uint16{other}, text: "behind the last record", question: true},
		{name: "records-promised", req: raw(0, [4]uint16{1, 1}, rawQuestion), rcode: dns.RcodeFormatError, question: true},
		{name: "record-cut", req: raw(0, [4]uint16{1, 0, 0, 1}, rawQuestion+"\x00\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x7f\x00"), rcode: dns.RcodeFormatError, question: true},
		{name: "record-of-bad-rdata", req: raw(0, [4]uint16{1, 0, 0, 1}, rawQuestion+"\x00\x00\x01\x00\x01\x00\x00\x00\x00\x00\x02\x7f\x00"), rcode: dns.RcodeFormatError, question: true},
		{name: "record-of-bad-owner", req: raw(0, [4]uint16{1, 0, 0, 1}, rawQuestion+"\xff\xff\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x7f\x00\x00\x01"), rcode: dns.RcodeFormatError, question: true},
		{name: "record-beside", req: raw(0, [4]uint16{1, 0, 0, 1}, rawQuestion+"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x7f\x00\x00\x01"), flags: "AA", answers: 3, question: true},
		{name: "two-OPTs", req: raw(0, [4]uint16{1, 0, 0, 2}, rawQuestion+rawOPT+rawOPT), rcode: dns.RcodeFormatError, opt: true,
			ede: []uint16{other}, text: "two OPT", question: true},
		{name: "OPT-as-an-answer", req: raw(0, [4]uint16{1, 1}, rawQuestion+rawOPT), rcode: dns.RcodeFormatError, question: true},
		{name: "OPT-with-a-name", req: raw(0, [4]uint16{1, 0, 0, 1}, rawQuestion+"\x01a"+rawOPT), rcode: dns.RcodeFormatError, question: true},
		{name: "option-cut", req: raw(0, [4]uint16{1, 0, 0, 1}, rawQuestion+rawOPT[:9]+"\x00\x05\x00\x0a\x00\x02\x00"), rcode: dns.RcodeFormatError,
			opt: true, ede: []uint16{other}, text: "EDNS option", question: true},
		{name: "EDNS-1", req: q("my-app.internal.", aaaa, edns(1232), func(m *dns.Msg) { m.IsEdns0().SetVersion(1) }), rcode: dns.RcodeBadVers,
			flags: "RD", opt: true, ede: []uint16{unsupported}, question: true},
		{name: "opcode-15-with-RD-and-CD", req: raw(0x7910, [4]uint16{1}, rawQuestion), rcode: dns.RcodeNotImplemented, question: true},
		{name: "type-OPT", req: q("my-app.internal.", dns.TypeOPT), rcode: dns.RcodeFormatError, flags: "RD", question: true},
		{name: "type-TSIG", req: q("example.com.", dns.TypeTSIG, edns(1232)), rcode: dns.RcodeFormatError, flags: "RD", opt: true,
			ede: []uint16{unsupported}, question: true},
		{name: "type-TKEY", req: q("my-app.internal.", dns.TypeTKEY), rcode: dns.RcodeNotImplemented, flags: "RD", question: true},
		{name: "type-MAILA", req: q("my-app.internal.", dns.TypeMAILA), rcode: dns.RcodeNotImplemented, flags: "RD", question: true},
		{name: "type-MAILB", req: q("example.com.", dns.TypeMAILB), rcode: dns.RcodeNotImplemented, flags: "RD", question: true},
		{name: "type-between-them", req: q("my-app.internal.", 248), flags: "AA RD", soa: true, question: true},
		{name: "opcode-NOTIFY", req: raw(0x2000, [4]uint16{1}, rawQuestion), rcode: dns.RcodeNotImplemented, question: true},
		{name: "opcode-15-header-only", req: raw(0x7800, [4]uint16{}, ""), rcode: dns.RcodeNotImplemented},
		{name: "opcode-UPDATE-edns", req: raw(0x2800, [4]uint16{1, 0, 0, 1}, rawQuestion+rawOPT), rcode: dns.RcodeNotImplemented, opt: true,
			ede: []uint16{unsupported}, question: true},
		{name: "AXFR", req: q("internal.", dns.TypeAXFR), rcode: dns.RcodeRefused, flags: "RD", question: true},
		{name: "IXFR", req: q("internal.", dns.TypeIXFR, func(m *dns.Msg) {
			m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "internal.", Rrtype: dns.TypeSOA, Class: dns.ClassINET}, Ns: ".", Mbox: "."}}
		}), rcode: dns.RcodeRefused, flags: "RD", question: true},
		{name: "class-HESIOD", req: q("my-app.internal.", aaaa, class(dns.ClassHESIOD), edns(1232)), rcode: dns.RcodeRefused, flags: "RD", opt: true,
			ede: []uint16{unsupported}, question: true},
		{name: "class-ANY", req: q("my-app.internal.", aaaa, class(dns.ClassANY)), rcode: dns.RcodeRefused, flags: "RD", question: true},

		{name: "version.bind", req: q("VERSION.bind.", dns.TypeTXT, class(dns.ClassCHAOS)), flags: "AA RD", answers: 1, question: true},
		{name: "version.server", req: q("version.server.", dns.TypeTXT, class(dns.ClassCHAOS)), flags: "AA RD", answers: 1, question: true},
		{name: "hostname.bind", req: q("hostname.bind.", dns.TypeTXT, class(dns.ClassCHAOS)), flags: "AA RD", answers: 1, question: true},
		{name: "id.server", req: q("id.server.", dns.TypeANY, class(dns.ClassCHAOS)), flags: "AA RD", answers: 1, question: true},
		{name: "chaos-other-type", req: q("id.server.", dns.TypeA, class(dns.ClassCHAOS)), flags: "AA RD", question: true},
		{name: "chaos-other-name", req: q("my-app.internal.", dns.TypeTXT, class(dns.ClassCHAOS)), rcode: dns.RcodeRefused, flags: "RD", question: true},
		{name: "chaos-transfer", req: q("id.server.", dns.TypeAXFR, class(dns.ClassCHAOS)), rcode: dns.RcodeRefused, flags: "RD", question: true},

		{name: "panic", req: q("panic.internal.", aaaa, edns(1232)), rcode: dns.RcodeServerFailure, flags: "RD", opt: true,
			ede: []uint16{other}, text: "its log says why", question: true},
		{name: "nil-answer", req: q("nil.internal.", aaaa), rcode: dns.RcodeServerFailure, flags: "RD", question: true},
	}
}

// TestRules asks every question of the core and, where the client can be had
// on any machine, over real sockets.
func TestRules(t *testing.T) {
	r, addr, _ := start(t)
	for _, tt := range ruleTests(t) {
		t.Run(tt.name, func(t *testing.T) {
			from := tt.from
			if !from.IsValid() {
				from = loopback
			}
			for _, proto := range []Proto{UDP, TCP} {
				resp, later := r.Respond(tt.req, from, proto, make([]byte, 0, 1<<16))
				if later != nil {
					t.Fatal("question was deferred")
				}
				tt.judge(t, fmt.Sprint("core ", proto), resp)
				if !tt.from.IsValid() {
					tt.judge(t, fmt.Sprint("socket ", proto), ask(t, proto, addr, tt.req))
				}
			}
		})
	}
}

func (tt *ruleTest) judge(t *testing.T, way string, resp []byte) {
	t.Helper()
	if tt.silent || resp == nil {
		if !tt.silent || resp != nil {
			t.Errorf("%s: response %x, want silence is %t", way, resp, tt.silent)
		}
		return
	}
	m := unpack(t, resp)
	fail := func(what string, got, want any) {
		t.Helper()
		t.Errorf("%s: %s is %v, want %v\n%v", way, what, got, want, m)
	}
	if !m.Response || m.Id != binary.BigEndian.Uint16(tt.req) {
		fail("header", m.MsgHdr, "a response with the request's id")
	}
	if op := int(tt.req[2]>>3) & 0xf; m.Opcode != op {
		fail("opcode", m.Opcode, op)
	}
	if m.Rcode != tt.rcode {
		fail("code", m.Rcode, tt.rcode)
	}
	if got := flagNames(m); got != tt.flags {
		fail("flags", got, tt.flags)
	}
	question := bytes.HasPrefix(resp[12:], tt.req[12:min(len(tt.req), 12+len(packedQuestion(m)))]) && len(m.Question) == 1
	if question != tt.question {
		fail("question echoed", question, tt.question)
	}
	if len(m.Answer) != tt.answers {
		fail("number of answers", len(m.Answer), tt.answers)
	}
	for _, rr := range m.Answer {
		if rr.Header().Name != m.Question[0].Name || rr.Header().Class != m.Question[0].Qclass {
			fail("owner", rr.Header(), m.Question[0])
		}
	}
	if soa := len(m.Ns) == 1 && m.Ns[0].Header().Rrtype == dns.TypeSOA; soa != tt.soa || len(m.Ns) > 1 {
		fail("SOA", m.Ns, tt.soa)
	} else if soa && !strings.EqualFold(m.Ns[0].Header().Name, "internal.") {
		fail("SOA", m.Ns, "internal.")
	}
	tt.judgeOPT(m, fail)
}

func (tt *ruleTest) judgeOPT(m *dns.Msg, fail func(string, any, any)) {
	opt := m.IsEdns0()
	if (opt != nil) != tt.opt || len(m.Extra) > 1 {
		fail("OPT", m.Extra, tt.opt)
	}
	if opt == nil {
		return
	}
	if opt.UDPSize() != DefaultMaxUDPSize || opt.Version() != 0 {
		fail("size or version of the OPT", opt, DefaultMaxUDPSize)
	}
	var codes []uint16
	var text string
	for _, o := range opt.Option {
		e, ok := o.(*dns.EDNS0_EDE)
		if !ok {
			fail("option", o, "an EDE")
			continue
		}
		codes = append(codes, e.InfoCode)
		text += e.ExtraText
	}
	if fmt.Sprint(codes) != fmt.Sprint(tt.ede) && (tt.ede != nil || tt.rcode == 0) {
		fail("EDE", codes, tt.ede)
	}
	if !strings.Contains(text, tt.text) {
		fail("EDE text", text, tt.text)
	}
}

func packedQuestion(m *dns.Msg) []byte {
	b, err := (&dns.Msg{Question: m.Question}).Pack()
	if err != nil || len(m.Question) == 0 {
		return nil
	}
	return b[12:]
}

func flagNames(m *dns.Msg) string {
	var names []string
	for _, f := range []struct {
		set  bool
		name string
	}{{m.Authoritative, "AA"}, {m.Truncated, "TC"}, {m.RecursionDesired, "RD"},
		{m.RecursionAvailable, "RA"}, {m.AuthenticatedData, "AD"}, {m.CheckingDisabled, "CD"}} {
		if f.set {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, " ")
}

func TestOptionsAreNotEchoed(t *testing.T) {
	r := newResolver(t)
	m := respond(t, r, query(t, "my-app.internal.", dns.TypeAAAA, edns(1232),
		option(&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "24a5ac1223344556"}),
		option(&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 2, SourceNetmask: 48, Address: network.Addr().AsSlice()}),
		option(&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")})), loopback, UDP)
	if opt := m.IsEdns0(); opt == nil || len(opt.Option) != 0 {
		t.Errorf("OPT is %v, want one without options", opt)
	}
}

func TestDOComesBack(t *testing.T) {
	r := newResolver(t)
	for _, do := range []bool{false, true} {
		m := respond(t, r, query(t, "my-app.internal.", dns.TypeAAAA, func(m *dns.Msg) { m.SetEdns0(1232, do) }), loopback, UDP)
		if got := m.IsEdns0().Do(); got != do {
			t.Errorf("DO is %t, want %t", got, do)
		}
	}
}

func TestIdentity(t *testing.T) {
	nsid := option(&dns.EDNS0_NSID{Code: dns.EDNS0NSID})
	ask := func(r *Resolver, from netip.AddrPort) (texts map[string]string, id string) {
		texts = make(map[string]string)
		for _, name := range []string{"version.bind.", "version.server.", "hostname.bind.", "id.server."} {
			m := respond(t, r, query(t, name, dns.TypeTXT, class(dns.ClassCHAOS)), from, UDP)
			if len(m.Answer) == 1 {
				texts[name] = strings.Join(m.Answer[0].(*dns.TXT).Txt, "|")
			}
		}
		m := respond(t, r, query(t, "my-app.internal.", dns.TypeAAAA, edns(1232), nsid), from, UDP)
		for _, o := range m.IsEdns0().Option {
			if n, ok := o.(*dns.EDNS0_NSID); ok {
				id = n.Nsid
			}
		}
		return texts, id
	}
	texts, id := ask(newResolver(t), loopback)
	want := map[string]string{"version.bind.": "dnsd test", "version.server.": "dnsd test", "hostname.bind.": "host-1", "id.server.": "host-1"}
	if fmt.Sprint(texts) != fmt.Sprint(want) || id != fmt.Sprintf("%x", "host-1") {
		t.Errorf("identity is %v, NSID %q", texts, id)
	}
	if texts, id := ask(newResolver(t, func(c *Config) { c.Identity.Off = true }), loopback); len(texts) != 0 || id != "" {
		t.Errorf("switched off, identity is %v, NSID %q", texts, id)
	}
	anonymous := newResolver(t, func(c *Config) { c.Identity.Version = "" })
	if texts, id := ask(anonymous, loopback); len(texts) != 2 || texts["id.server."] != "host-1" || id == "" {
		t.Errorf("without a version, identity is %v, NSID %q", texts, id)
	}
	if texts, id := ask(newResolver(t), stranger); len(texts) != 0 || id != "" {
		t.Errorf("a stranger is told %v, NSID %q", texts, id)
	}
	if m := respond(t, newResolver(t), query(t, "my-app.internal.", dns.TypeAAAA, edns(1232)), loopback, UDP); len(m.IsEdns0().Option) != 0 {
		t.Errorf("NSID without being asked: %v", m.IsEdns0())
	}
}

func TestClientIsUnmapped(t *testing.T) {
	r := newResolver(t)
	for from, want := range map[string]string{"[::ffff:127.0.0.1]:1": "127.0.0.1", "[fdaa:0:18::1%eth0]:1": "fdaa:0:18::1"} {
		m := respond(t, r, query(t, "echo.internal.", dns.TypeTXT), netip.MustParseAddrPort(from), UDP)
		if got := m.Answer[0].(*dns.TXT).Txt[0]; got != want {
			t.Errorf("client %s is seen as %s, want %s", from, got, want)
		}
	}
}

func TestZonesByLongestOrigin(t *testing.T) {
	mark := func(s string) map[string]func(*Question) *Answer {
		return map[string]func(*Question) *Answer{"x": always(&Answer{Type: dns.TypeTXT, Data: [][]byte{append([]byte{byte(len(s))}, s...)}})}
	}
	inner := mark("inner")
	inner["a.b"] = inner["x"]
	r := newResolver(t, func(c *Config) {
		c.Zones = []Zone{&testZone{"f.ip6.arpa.", mark("outer")}, &testZone{"a.f.ip6.arpa.", inner}}
	})
	for name, want := range map[string]string{"x.f.ip6.arpa.": "outer", "x.a.f.ip6.arpa.": "inner", "A.b.a.F.ip6.arpa.": "inner"} {
		m := respond(t, r, query(t, name, dns.TypeTXT), loopback, UDP)
		if len(m.Answer) != 1 || m.Answer[0].(*dns.TXT).Txt[0] != want {
			t.Errorf("%s: answer %v, want %q", name, m.Answer, want)
		}
	}
	m := respond(t, r, query(t, "nothing.A.f.ip6.arpa.", dns.TypeTXT), loopback, UDP)
	if len(m.Ns) != 1 || m.Ns[0].Header().Name != "A.f.ip6.arpa." {
		t.Errorf("authority is %v, want the SOA of A.f.ip6.arpa., in the question's case", m.Ns)
	}
}

// TestLimitsOfNew: what is as large or as small as it may be is no mistake.
func TestLimitsOfNew(t *testing.T) {
	for _, size := range []int{minUDPSize, maxUDPPayload} {
		newResolver(t, func(c *Config) {
			c.MaxUDPSize, c.Identity.Version = size, strings.Repeat("v", 255)
			c.Listen = append(c.Listen, c.Listen...) // any free port, twice
		})
	}
	for _, size := range []int{minUDPSize - 1, maxUDPPayload + 1} {
		if _, err := New(Config{MaxUDPSize: size}); err == nil {
			t.Errorf("%d bytes are taken", size)
		}
	}
}

// TestDefaults: they are what Config says.
func TestDefaults(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for processors, sockets := range map[int]int{1: 1, 3: 1, 4: 2, 64: 8} {
		runtime.GOMAXPROCS(processors)
		for _, in := range []Config{{}, {MaxUDPSize: -1, Sockets: -1, MaxTCPConns: -1, MaxLanes: -1, TCPIdle: -1, Drain: -1}} {
			c := withDefaults(in)
			got := fmt.Sprint(c.MaxUDPSize, c.Sockets, c.MaxTCPConns, c.MaxLanes, c.TCPIdle, c.Drain)
			if want := fmt.Sprint(1232, sockets, 1024, 256, " 10s 3s"); got != want || c.Log == nil {
				t.Errorf("the defaults are %s, want %s", got, want)
			}
		}
	}
	c := withDefaults(Config{MaxUDPSize: 1, Sockets: 1, MaxTCPConns: 1, MaxLanes: 1, TCPIdle: 1, Drain: 1})
	if got := fmt.Sprint(c.MaxUDPSize, c.Sockets, c.MaxTCPConns, c.MaxLanes, c.TCPIdle, c.Drain); got != "1 1 1 1 1ns 1ns" {
		t.Errorf("what is set becomes %s", got)
	}
}

func TestNewNamesEveryMistake(t *testing.T) {
	_, err := New(Config{
		Listen:     []netip.AddrPort{{}, loopback, loopback},
		Zones:      []Zone{&testZone{origin: "Internal."}, &testZone{origin: "flycast"}},
		MaxUDPSize: 100,
		Identity:   Identity{Version: strings.Repeat("v", 256)},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"listen address 1 is not set", "127.0.0.1:4242 is given twice", `"Internal."`, `"flycast"`,
		"without a viewer", "100 bytes: want 512 to 65507", "256 bytes long: want at most 255"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q:\n%v", want, err)
		}
	}
}
