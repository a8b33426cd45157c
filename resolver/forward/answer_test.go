package forward

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

// raw builds an answer to m by hand, from sections of hexadecimal records.
func raw(m *message, sections [3][]string) []byte {
	b := append([]byte{0, 0, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, m.bytes[12:m.end()]...)
	for i, records := range sections {
		binary.BigEndian.PutUint16(b[6+2*i:], uint16(len(records)))
		for _, r := range records {
			var out []byte
			if _, err := fmt.Sscanf(strings.ReplaceAll(r, " ", ""), "%x", &out); err != nil {
				panic(err)
			}
			b = append(b, out...)
		}
	}
	return b
}

const (
	rawA     = "c00c 0001 0001 0000003c 0004 c0000201"
	rawOPT   = "00 0029 04d0 00000000 0000"
	rawGlue  = "02 6e73 c00c 0001 0001 0000003c 0004 c0000207"
	rawEmpty = "c00c ff14 0001 0000003c 0000" // a type nobody knows, without data
)

// TestReadBare: a response that lacks the question has a code and no more, whatever its
// header says.
func TestReadBare(t *testing.T) {
	m := newMessage(query("www.example", dns.TypeA), true)
	for _, rcode := range []byte{dns.RcodeFormatError, dns.RcodeNotImplemented} {
		for _, b := range [][]byte{{0, 0, 0x80, 0x80 | rcode, 11: 0}, {0, 0, 0x80, 0x80 | rcode, 0, 1, 0, 1, 11: 1}} {
			if a, err := read(b, m, time.Now()); err != nil || a.Rcode != uint16(rcode) || a.counts != [3]uint16{} || a.good() {
				t.Errorf("%x is read as %+v, %v", b, a, err)
			}
		}
	}
}

// TestReadRecords: what is passed on, and what is not.
func TestReadRecords(t *testing.T) {
	q := query("www.example", dns.TypeA)
	m := newMessage(q, true)
	for _, c := range []struct {
		name     string
		sections [3][]string
		want     [3]uint16 // records passed on; none at all: malformed
	}{
		{"one", [3][]string{{rawA}}, [3]uint16{1, 0, 0}},
		{"with OPT", [3][]string{{rawA}, {}, {rawOPT}}, [3]uint16{1, 0, 0}},
		{"glue before OPT", [3][]string{{rawA}, {}, {rawGlue, rawOPT}}, [3]uint16{1, 0, 1}},
		{"glue behind OPT", [3][]string{{rawA}, {}, {rawGlue, rawOPT, rawGlue}}, [3]uint16{1, 0, 1}},
		{"TSIG", [3][]string{{rawA}, {}, {rawGlue, rawOPT, "00 00fa 00ff 00000000 0001 00"}}, [3]uint16{1, 0, 1}},
		{"SIG(0)", [3][]string{{rawA}, {}, {rawGlue, "00 0018 00ff 00000000 0001 00"}}, [3]uint16{1, 0, 1}},
		{"SIG", [3][]string{{rawA, "c00c 0018 0001 00000000 0001 00"}}, [3]uint16{2, 0, 0}},
		{"empty option", [3][]string{{rawA}, {}, {"00 0029 04d0 00000000 0004 0003 0000"}}, [3]uint16{1, 0, 0}},
		{"EDE of one byte", [3][]string{{rawA}, {}, {"00 0029 04d0 00000000 0005 000f 0001 00"}}, [3]uint16{1, 0, 0}},
		{"empty data at the end", [3][]string{{rawA, rawEmpty}}, [3]uint16{2, 0, 0}},
		{"empty data alone", [3][]string{{rawEmpty}}, [3]uint16{1, 0, 0}},
		{"empty data before OPT", [3][]string{{rawA}, {}, {rawEmpty, rawOPT}}, [3]uint16{1, 0, 1}},
		{"compressed data", [3][]string{{"c00c 0005 0001 0000003c 0002 c010"}}, [3]uint16{1, 0, 0}},
		{"SOA", [3][]string{{}, {"c010 0006 0001 0000003c 0018 c010 c010" + strings.Repeat("00", 16) + "0000003c"}}, [3]uint16{0, 1, 0}},

		{"two OPT", [3][]string{{rawA}, {}, {rawOPT, rawOPT}}, [3]uint16{}},
		{"OPT in the answer", [3][]string{{rawOPT}}, [3]uint16{}},
		{"TSIG in authority", [3][]string{{}, {"00 00fa 00ff 00000000 0001 00"}}, [3]uint16{}},
		{"OPT with a name", [3][]string{{}, {}, {"c00c 0029 04d0 00000000 0000"}}, [3]uint16{}},
		{"option too long", [3][]string{{}, {}, {"00 0029 04d0 00000000 0005 000f 0002 00"}}, [3]uint16{}},
		{"option without length", [3][]string{{}, {}, {"00 0029 04d0 00000000 0003 000f 00"}}, [3]uint16{}},
		{"A of 3", [3][]string{{"c00c 0001 0001 0000003c 0003 c00002"}}, [3]uint16{}},
		{"A without data", [3][]string{{"c00c 0001 0001 0000003c 0000"}}, [3]uint16{}},
		{"AAAA of 17", [3][]string{{"c00c 001c 0001 0000003c 0011" + strings.Repeat("00", 17)}}, [3]uint16{}},
		{"TXT without a string", [3][]string{{"c00c 0010 0001 0000003c 0000"}}, [3]uint16{}},
		{"TXT cut short", [3][]string{{"c00c 0010 0001 0000003c 0002 0241"}}, [3]uint16{}},
		{"TXT with a rest", [3][]string{{"c00c 0010 0001 0000003c 0003 014105"}}, [3]uint16{}},
		{"MX without a name", [3][]string{{"c00c 000f 0001 0000003c 0002 0001"}}, [3]uint16{}},
		{"MX with a rest", [3][]string{{"c00c 000f 0001 0000003c 0004 0001 00 00"}}, [3]uint16{}},
		{"SOA cut short", [3][]string{{}, {"c010 0006 0001 0000003c 0017 c010 c010" + strings.Repeat("00", 19)}}, [3]uint16{}},
		{"CNAME beyond its data", [3][]string{{"c00c 0005 0001 0000003c 0002 0161", rawA}}, [3]uint16{}},
		{"RRSIG too short", [3][]string{{"c00c 002e 0001 0000003c 0011" + strings.Repeat("00", 17)}}, [3]uint16{}},
		{"owner points to itself", [3][]string{{"c01d 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{}},
		{"owner points ahead", [3][]string{{"c020 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{}},
		{"owner points into the header", [3][]string{{"c004 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{}},
		{"label of 64", [3][]string{{"40" + strings.Repeat("61", 64) + "00 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{}},
		{"longest name", [3][]string{{strings.Repeat("3f"+strings.Repeat("61", 63), 3) + "3d" + strings.Repeat("61", 61) + "00 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{1, 0, 0}},
		{"name too long", [3][]string{{strings.Repeat("3f"+strings.Repeat("61", 63), 3) + "3e" + strings.Repeat("61", 62) + "00 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{}},
		{"owner points to the question's class", [3][]string{{"c01b 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{}},
		{"owner points to the question's type", [3][]string{{"c019 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{}},
		{"owner points to the question's root", [3][]string{{"c018 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{1, 0, 0}},
		// A name inside a TTL would change with the seconds.
		{"owner in a TTL", [3][]string{{"c00c 0001 0001 00016100 0004 c0000201", "c024 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{}},
		{"owner is a TTL's last byte", [3][]string{{"c00c 0001 0001 00000100 0004 c0000201", "c026 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{}},
		{"owner right behind a TTL", [3][]string{{"c00c 0001 0001 00000101 0004 c0000201", "c027 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{2, 0, 0}},
		{"owner right before a TTL", [3][]string{{"c00c 0001 0100 0000003c 0004 c0000201", "c022 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{2, 0, 0}},
		{"owner reaches into a TTL", [3][]string{{"c00c 0001 0101 01000000 0004 c0000201", "c022 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{}},
		{"pointer to what runs on", [3][]string{{"c00c ff14 0001 0000003c 0001 05", "c029 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{}},
		{"too long by a known pointer", [3][]string{{
			strings.Repeat("3f"+strings.Repeat("61", 63), 3) + "00 0001 0001 0000003c 0004 c0000201",
			"c01d 0001 0001 0000003c 0004 c0000201", "3f" + strings.Repeat("61", 63) + "c01d 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{}},
		{"long by a known pointer", [3][]string{{
			strings.Repeat("3f"+strings.Repeat("61", 63), 3) + "00 0001 0001 0000003c 0004 c0000201",
			"0161 c01d 0001 0001 0000003c 0004 c0000201", "3d" + strings.Repeat("61", 61) + "c01d 0001 0001 0000003c 0004 c0000201"}}, [3]uint16{3, 0, 0}},
		{"data in their own TTL", [3][]string{{"c00c 0005 0001 00016100 0002 c024"}}, [3]uint16{}},
		{"data are their own TTL's last byte", [3][]string{{"c00c 0005 0001 01010100 0002 c026"}}, [3]uint16{}},
		{"data right behind their own TTL", [3][]string{{"c00c 0005 0001 0000003c 0002 c027"}}, [3]uint16{1, 0, 0}},
		{"data right before their own TTL", [3][]string{{"c00c 0005 0100 0000003c 0002 c022"}}, [3]uint16{1, 0, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := raw(m, c.sections)
			a, err := read(bytes.Clone(b), m, time.Now())
			if malformed := c.want == [3]uint16{}; (err != nil) != malformed {
				t.Fatalf("%v\n%x", err, b)
			} else if malformed {
				return
			}
			out, counts, truncated := a.Append(b[:m.end():m.end()], len(b))
			if counts != c.want || truncated {
				t.Errorf("%v passed on, TC %v, want %v", counts, truncated, c.want)
			}
			if !bytes.HasPrefix(b, out) {
				t.Errorf("what the upstream said was changed:\n%x\n%x", b, out)
			}
		})
	}
	for n := m.end(); n < len(raw(m, [3][]string{{rawA}})); n++ {
		if _, err := read(raw(m, [3][]string{{rawA}})[:n:n], m, time.Now()); err == nil {
			t.Errorf("cut to %d bytes: no error", n)
		}
	}
	lying := raw(m, [3][]string{{rawA}})
	copy(lying[6:], []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	if _, err := read(lying, m, time.Now()); err == nil {
		t.Error("no error though nearly all records are missing")
	}
}

// TestReadData: data of the usual types are read to their end, and no further.
func TestReadData(t *testing.T) {
	m := newMessage(query("www.example", dns.TypeA), true)
	for _, c := range []struct {
		typ    uint16
		data   string // the shortest
		longer bool   // there may be more of them
	}{
		{dns.TypeA, "c0000201", false}, {dns.TypeAAAA, strings.Repeat("01", 16), false},
		{dns.TypeNS, "00", false}, {dns.TypeCNAME, "00", false}, {dns.TypePTR, "00", false}, {dns.TypeDNAME, "00", false},
		{dns.TypeSOA, "00 00" + strings.Repeat("01", 20), false}, {dns.TypeMX, "0101 00", false}, {dns.TypeSRV, "010101010101 00", false},
		{dns.TypeRRSIG, strings.Repeat("01", 18) + "00", true}, {dns.TypeNSEC, "00", true},
		{dns.TypeSVCB, "0101 00", true}, {dns.TypeHTTPS, "0101 00", true},
		{dns.TypeDS, "01010101", true}, {dns.TypeDNSKEY, "01010101", true}, {dns.TypeKX, "", true}, {65300, "", true},
	} {
		data := strings.ReplaceAll(c.data, " ", "")
		for change, want := range map[int]bool{-1: false, 0: true, 1: c.longer} {
			n := len(data)/2 + change
			if n < 0 {
				continue
			}
			record := fmt.Sprintf("c00c %04x 0001 0000003c %04x %.*s", c.typ, n, 2*n, data+"01")
			if _, err := read(raw(m, [3][]string{{record, rawA}}), m, time.Now()); (err == nil) != want {
				t.Errorf("%s with %d bytes: %v", dns.Type(c.typ), n, err)
			}
		}
	}
}

// TestReadPointers: chains of pointers end, and cost no more than they may.
func TestReadPointers(t *testing.T) {
	m := newMessage(query("www.example", dns.TypeA), true)
	for _, links := range []int{maxPointers - 1, maxPointers} {
		// Opaque data full of pointers, each to the one before it, and owners at the end of them.
		var data strings.Builder
		at := m.end() + 12
		for i := range links {
			to := at + 2*(i-1)
			if i == 0 {
				to = 12
			}
			fmt.Fprintf(&data, "%04x", 0xc000|to)
		}
		records := []string{fmt.Sprintf("c00c ff14 0001 0000003c %04x %s", 2*links, data.String())}
		for range 4000 {
			records = append(records, fmt.Sprintf("%04x 0001 0001 0000003c 0004 c0000201", 0xc000|at+2*(links-1)))
		}
		_, err := read(raw(m, [3][]string{records}), m, time.Now())
		if want := links < maxPointers; (err == nil) != want {
			t.Errorf("%d pointers: %v", links+1, err)
		}
	}
}

// TestReadOPT: the upper bits of the code, and extended errors within bounds.
func TestReadOPT(t *testing.T) {
	m := newMessage(query("www.example", dns.TypeA), true)
	out := answerTo(m, dns.RcodeBadVers)
	out.SetEdns0(1232, false)
	opt := out.IsEdns0()
	opt.Option = append(opt.Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID, Nsid: "6161"})
	for range 6 {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: 22, ExtraText: strings.Repeat("x", 300) + "\xff"})
	}
	opt.Option[2].(*dns.EDNS0_EDE).ExtraText = "bad \xff text"
	a, err := read(packed(out), m, time.Now())
	if err != nil || a.Rcode != dns.RcodeBadVers || !a.edns || len(a.EDE) != maxEDEs {
		t.Fatalf("%+v, %v", a, err)
	}
	if len(a.EDE[0].Text) != maxEDEText || a.EDE[1].Text != "bad  text" || a.EDE[1].Code != 22 {
		t.Errorf("%+v", a.EDE)
	}
}

// TestAnsweredBy: what is taken for a response to a query.
func TestAnsweredBy(t *testing.T) {
	m := newMessage(query("www.example", dns.TypeA), true)
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
		want   bool
	}{
		{"itself", func(b []byte) []byte { return b }, true},
		{"other case", func(b []byte) []byte { b[13] = 'W'; return b }, true},
		{"no letter", func(b []byte) []byte { b[13] = 'w' ^ 0x60; return b }, false},
		{"query", func(b []byte) []byte { b[2] = 1; return b }, false},
		{"opcode", func(b []byte) []byte { b[2] |= 8; return b }, false},
		{"no question", func(b []byte) []byte { b[5] = 0; return b }, false},
		{"two questions", func(b []byte) []byte { b[5] = 2; return b }, false},
		{"FORMERR, 256 questions", func(b []byte) []byte { b[3], b[4], b[5] = 1, 1, 0; return b }, false},
		{"only the question", func(b []byte) []byte { return b[:m.end()] }, true},
		{"cut", func(b []byte) []byte { return b[:m.end()-1] }, false},
		{"eleven bytes", func(b []byte) []byte { return b[:11] }, false},
		{"header", func(b []byte) []byte { return b[:12] }, false},
		{"FORMERR, header that counts a question", func(b []byte) []byte { b[3] = 1; return b[:12] }, true},
		{"FORMERR, header", func(b []byte) []byte { b[3], b[5] = 1, 0; return b[:12] }, true},
		{"FORMERR without a question", func(b []byte) []byte { b[3], b[5] = 1, 0; return b }, true},
		{"FORMERR, header of another id", func(b []byte) []byte { b[0], b[3] = 9, 1; return b[:12] }, false},
		{"SERVFAIL, header", func(b []byte) []byte { b[3] = 2; return b[:12] }, false},
	} {
		b := raw(m, [3][]string{{rawA}})
		if got := m.answeredBy(c.change(b), 0); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestSameName(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"abc", "aBC", true}, {"az", "AZ", true}, {"a", "ab", false}, {"a", "b", false},
		{"@", "`", false}, {"[", "{", false}, {"-", "\r", false}, {"\xe1", "\xc1", false},
	} {
		if got := sameName([]byte(c.a), []byte(c.b)); got != c.want {
			t.Errorf("%q and %q: %v", c.a, c.b, got)
		}
	}
}

// TestAnyIsPositive: an answer to ANY holds records of other types.
func TestAnyIsPositive(t *testing.T) {
	m := newMessage(query("www.example", dns.TypeANY), true)
	if a, err := read(raw(m, [3][]string{{rawA}}), m, time.Now()); err != nil || a.life.fresh != time.Minute {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestNewMessage: every bit of what goes upstream.
func TestNewMessage(t *testing.T) {
	for _, c := range []struct {
		do, cd, recurse bool
		want            string
	}{
		{false, false, false, "0000 0020 0001 0000 0000 0001 0161 00 001c 0001 00 0029 04d0 00000000 0000"},
		{true, false, true, "0000 0120 0001 0000 0000 0001 0161 00 001c 0001 00 0029 04d0 00008000 0000"},
		{false, true, true, "0000 0130 0001 0000 0000 0001 0161 00 001c 0001 00 0029 04d0 00000000 0000"},
	} {
		q := query("a", dns.TypeAAAA)
		q.DO, q.CD = c.do, c.cd
		m := newMessage(q, c.recurse)
		want := strings.ReplaceAll(c.want, " ", "")
		if got := fmt.Sprintf("%x", m.bytes); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		plain := want[:22] + "00" + want[24:len(want)-22]
		if got := fmt.Sprintf("%x", m.plain().append(nil, 0x1234)); got != "1234"+plain[4:] {
			t.Errorf("plain: got %s, want %s", got, plain)
		}
	}
}

// TestGood: the codes that are answers.
func TestGood(t *testing.T) {
	var got []uint16
	for code := range uint16(24) {
		if isGood(code) {
			got = append(got, code)
		}
	}
	if fmt.Sprint(got) != "[0 3 6]" {
		t.Errorf("%v are answers", got)
	}
}

// TestVerdicts: the codes that say what an upstream thinks of the data, and their neighbours.
func TestVerdicts(t *testing.T) {
	var got []uint16
	for code := range uint16(50) {
		if isVerdict([]wire.EDE{{Code: 0}, {Code: code}}) {
			got = append(got, code)
		}
	}
	if want := "[5 6 7 8 9 10 11 12 15 16 17 18 25 27]"; fmt.Sprint(got) != want {
		t.Errorf("%v are verdicts, want %s", got, want)
	}
}

// TestAdditionalTTL: an additional record that lives shorter does not shorten the
// answer's life; it is left out when its own is over.
func TestAdditionalTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, glue := range []uint32{0, 5, 100} {
			q := query(fmt.Sprintf("ttl%d.example", glue), dns.TypeA)
			m := newMessage(q, true)
			out := answerTo(m, dns.RcodeSuccess, fmt.Sprintf("ttl%d.example. 60 IN A 192.0.2.1", glue))
			rr, _ := dns.NewRR(fmt.Sprintf("ns.example. %d IN A 192.0.2.7", glue))
			out.Extra = append(out.Extra, rr)
			a, err := read(packed(out), m, time.Now())
			if err != nil || a.life.fresh != time.Minute {
				t.Fatalf("glue for %d s: kept for %s, %v", glue, a.life.fresh, err)
			}
			if got := response(t, q, a.stale("why"), 512); len(got.Answer) != 1 || len(got.Extra) != 0 {
				t.Errorf("stale: %v", got)
			}
			born := time.Now()
			for _, after := range []uint32{0, 1, 4, 5, 6, 59} {
				time.Sleep(time.Until(born.Add(time.Duration(after) * time.Second)))
				got := response(t, q, &a.Reply, 512)
				if want := after == 0 || after < glue; len(got.Answer) != 1 || (len(got.Extra) == 1) != want || got.Truncated {
					t.Errorf("glue for %d s, after %d: %v", glue, after, got)
				}
			}
		}
	})
}

// TestZeroTTL: for the transaction in progress only (RFC 1035, section 3.2.1): who asks
// at the same time shares it, and gets 0 as well; nothing is kept, fresh or stale.
func TestZeroTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &fakeNet{answer: says(dns.RcodeSuccess, "a.example. 0 IN A 192.0.2.1")}
		u.set(slowly(10*time.Millisecond, u.answer))
		f := newFaked(t, Config{}, u)
		q := query("a.example", dns.TypeA)
		results := make(chan *Reply)
		for range 10 {
			go func() { results <- resolve(t.Context(), f, query("a.example", dns.TypeA)) }()
		}
		for range 10 {
			wantText(t, q, <-results, "NOERROR; a.example. 0 IN A 192.0.2.1")
		}
		if n, _ := f.cache.stats(); u.count() != 1 || n != 0 {
			t.Errorf("%d queries for ten at the same time, %d answers kept", u.count(), n)
		}
		u.set(says(dns.RcodeServerFailure))
		wantText(t, q, resolve(t.Context(), f, q), "SERVFAIL; EDE 22")
	})
}

// TestDenialIsOfTheName: NXDOMAIN answers for all types, with the flags that it was asked
// with; at the end of an alias it denies another name; and it ends when the name exists.
func TestDenialIsOfTheName(t *testing.T) {
	withFake(t, says(dns.RcodeNameError, "--", "example. 60"+soa+"60"), func(t *testing.T, f *Forwarder, u *fakeNet) {
		q := query("gone.example", dns.TypeA)
		wantText(t, q, resolve(t.Context(), f, q), "NXDOMAIN")
		for _, typ := range []uint16{dns.TypeAAAA, dns.TypeMX, dns.TypeANY, 65280} {
			wantText(t, q, resolve(t.Context(), f, query("gone.example", typ)), "NXDOMAIN")
		}
		if u.count() != 1 {
			t.Errorf("%d queries", u.count())
		}
		signed := query("gone.example", dns.TypeAAAA)
		signed.DO = true // its answer has to hold proofs
		if f.cache.get(f.cache.keyOf(signed), signed.Name) != nil {
			t.Error("a client that wants proofs would get an answer without")
		}
		time.Sleep(time.Minute)
		u.set(says(dns.RcodeServerFailure))
		wantText(t, q, resolve(t.Context(), f, query("gone.example", dns.TypeTXT)), "NXDOMAIN; EDE 19")
		time.Sleep(failureHold)
		u.set(says(dns.RcodeSuccess, "gone.example. 60 IN A 192.0.2.1"))
		wantText(t, q, resolve(t.Context(), f, q), "NOERROR; gone.example. 60 IN A 192.0.2.1")
		u.set(says(dns.RcodeServerFailure))
		mx := query("gone.example", dns.TypeMX)
		wantText(t, mx, resolve(t.Context(), f, mx), "SERVFAIL; EDE 22") // it exists: not even stale

		u.set(says(dns.RcodeNameError, "alias.example. 60 IN CNAME gone.example.", "--", "example. 60"+soa+"60"))
		a := query("alias.example", dns.TypeA)
		resolve(t.Context(), f, a)
		u.set(says(dns.RcodeSuccess, "alias.example. 60 IN CNAME gone.example."))
		c := query("alias.example", dns.TypeCNAME)
		wantText(t, c, resolve(t.Context(), f, c), "NOERROR; alias.example. 60 IN CNAME gone.example.")
	})
}

// TestDenialYounger: of an answer and a denial that are both over, the younger is given.
func TestDenialYounger(t *testing.T) {
	withFake(t, says(dns.RcodeSuccess, "a.example. 3600 IN A 192.0.2.1"), func(t *testing.T, f *Forwarder, u *fakeNet) {
		q := query("a.example", dns.TypeA)
		resolve(t.Context(), f, q)
		time.Sleep(59 * time.Minute)
		u.set(says(dns.RcodeNameError, "--", "example. 60"+soa+"60"))
		resolve(t.Context(), f, query("a.example", dns.TypeMX))
		if r := f.Immediate(q); r == nil || r.Rcode != dns.RcodeSuccess {
			t.Errorf("within its hour: %v", r)
		}
		time.Sleep(10 * time.Minute)
		u.set(says(dns.RcodeServerFailure))
		wantText(t, q, resolve(t.Context(), f, q), "NXDOMAIN; EDE 19")
	})
}
