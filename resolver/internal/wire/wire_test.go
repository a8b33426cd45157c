package wire

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

const question = "\x03WWW\x07Example\x00\x00\x1c\x00\x01"

func request(body string, counts ...byte) []byte {
	b := make([]byte, HeaderLen)
	b[0], b[1] = 0xab, 0xcd
	for i, n := range counts {
		b[5+2*i] = n
	}
	return append(b, body...)
}

func TestParseNames(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		lower      string // empty: malformed
		starts     []int
	}{
		{"root", "\x00", "\x00", []int{0}},
		{"two-labels", "\x03WwW\x07Example\x00", "\x03www\x07example\x00", []int{0, 4, 12}},
		{"any-bytes", "\x05\x00\xff.@[\x00", "\x05\x00\xff.@[\x00", []int{0, 6}},
		{"length-like-a-letter", "\x41" + strings.Repeat("A", 65) + "\x00", "", nil},
		{"label-of-63", "\x3f" + strings.Repeat("Z", 63) + "\x00", "\x3f" + strings.Repeat("z", 63) + "\x00", []int{0, 64}},
		{"label-of-64", "\x40" + strings.Repeat("z", 64) + "\x00", "", nil},
		{"127-labels", strings.Repeat("\x01A", 127) + "\x00", strings.Repeat("\x01a", 127) + "\x00", nil},
		{"128-labels", strings.Repeat("\x01A", 128) + "\x00", "", nil},
		{"root-at-256", strings.Repeat("\x3f"+strings.Repeat("a", 63), 3) + "\x3f" + strings.Repeat("a", 63) + "\x00", "", nil},
		{"root-at-255", strings.Repeat("\x3f"+strings.Repeat("a", 63), 3) + "\x3d" + strings.Repeat("a", 61) + "\x00",
			strings.Repeat("\x3f"+strings.Repeat("a", 63), 3) + "\x3d" + strings.Repeat("a", 61) + "\x00", []int{0, 64, 128, 192, 254}},
		{"pointer", "\xc0\x0c", "", nil},
		{"pointer-after-a-label", "\x01a\xc0\x0c", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var q Request
			form := q.Parse(request(tt.body+"\x00\x1c\x00\x01", 0, 1)[:HeaderLen])
			if form != Malformed {
				t.Errorf("a header alone is %v", form)
			}
			form = q.Parse(request(tt.body+"\x00\x1c\x00\x01", 1))
			if tt.lower == "" {
				if form != Malformed || len(q.Question) != 0 || len(q.Name()) != 0 || q.Type != 0 || q.Class != 0 {
					t.Errorf("form %v, question %x, name %x, type %d, class %d, want malformed", form, q.Question, q.Name(), q.Type, q.Class)
				}
				return
			}
			if form != Plain || string(q.Name()) != tt.lower || string(q.Question) != tt.body+"\x00\x1c\x00\x01" {
				t.Errorf("form %v, name %q, question %q", form, q.Name(), q.Question)
			}
			for i, want := range tt.starts {
				if got := q.LabelStart(i); got != want {
					t.Errorf("label %d starts at %d, want %d", i, got, want)
				}
			}
			if tt.starts != nil && q.Labels() != len(tt.starts)-1 {
				t.Errorf("%d labels, want %d", q.Labels(), len(tt.starts)-1)
			}
		})
	}
}

// TestParseCut: no message cut short anywhere is taken for a whole one.
func TestParseCut(t *testing.T) {
	whole := request(question+"\x00\x00\x29\x10\x00\x00\x00\x80\x00\x00\x04\x00\x03\x00\x00", 1, 0, 0, 1)
	var q Request
	if form := q.Parse(whole); form != Plain || !q.OPT || !q.DO || !q.NSID || q.UDPSize != 4096 {
		t.Fatalf("form %v of the whole, %+v", form, q)
	}
	for n := range whole {
		want := Malformed
		if n < HeaderLen {
			want = Silent
		}
		if form := q.Parse(slices.Clip(bytes.Clone(whole[:n]))); form != want {
			t.Errorf("form %v of the first %d bytes, want %v", form, n, want)
		}
	}
	if form := q.Parse(request(question, 1)); form != Plain || q.OPT || q.DO || q.NSID || q.UDPSize != 0 || q.Version != 0 {
		t.Errorf("form %v, %+v: something of an earlier request is left", form, q)
	}
}

// TestPackName: names in wire form, up to the longest.
func TestPackName(t *testing.T) {
	longest := strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("a", 61) + "."
	for name, want := range map[string]string{".": "\x00", "www.Example.": "\x03www\x07Example\x00",
		longest: strings.Repeat("\x3f"+strings.Repeat("a", 63), 3) + "\x3d" + strings.Repeat("a", 61) + "\x00"} {
		if got, err := PackName(name); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"a" + longest, "a..b.", strings.Repeat("a", 64) + "."} {
		if got, err := PackName(name); err == nil {
			t.Errorf("%s is %q", name, got)
		}
	}
}

func TestKeep(t *testing.T) {
	longest := strings.Repeat("\x01a", 127) + "\x00"
	for question, name := range map[string]string{question: "\x03www\x07example\x00", longest + "\x00\x1c\x00\x01": longest} {
		msg := request(question, 1)
		var q Request
		q.Parse(msg)
		kept := q
		kept.Keep()
		clear(msg)
		q.Parse(request("\x00\x00\x01\x00\x01", 1))
		if string(kept.Question) != question || string(kept.Name()) != name {
			t.Errorf("kept %q and %q", kept.Question, kept.Name())
		}
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	msg := request(question+"\x00\x00\x29\x10\x00\x00\x00\x80\x00\x00\x04\x00\x03\x00\x00", 1, 0, 0, 1)
	var q Request
	var w Reply
	buf := make([]byte, 0, 512)
	rdata := make([]byte, 16)
	errors := []EDE{{Code: 3, Text: "stale"}}
	if n := testing.AllocsPerRun(100, func() {
		q.Parse(msg)
		w.Begin(buf, q.ID, q.Question, 512)
		w.Reserve(OPTLen)
		w.Record(Answer, ToQuestion, 28, 1, 5, rdata)
		w.OPT(1232, q.DO, "host", errors)
		w.Finish()
	}); n != 0 {
		t.Errorf("%v allocations for a request and its response", n)
	}
}

// TestReplyFitsEveryLimit builds the same response within every limit: it never
// exceeds it, always unpacks, and records never give way to texts.
func TestReplyFitsEveryLimit(t *testing.T) {
	buf := make([]byte, 0, 512)
	last := 0
	for limit := HeaderLen + len(question) + OPTLen; limit < 300; limit++ {
		var w Reply
		w.Begin(buf, 1, []byte(question), limit)
		w.Flags = QR | AA
		w.Rcode = 16
		w.Reserve(OPTLen)
		records := 0
		for range 5 {
			if w.Record(Answer, ToQuestion, dns.TypeAAAA, 1, 5, make([]byte, 16)) {
				records++
			}
		}
		w.OPT(1232, true, "host", []EDE{{1, "some text"}, {2, ""}, {3, strings.Repeat("x", 40)}})
		msg := w.Finish()
		m := new(dns.Msg)
		if err := m.Unpack(msg); err != nil || len(msg) > limit || &msg[0] != &buf[:1][0] {
			t.Fatalf("limit %d: %d bytes, %v\n%x", limit, len(msg), err, msg)
		}
		if want := min((limit-HeaderLen-len(question)-OPTLen)/28, 5); records != want || len(m.Answer) != want || want < last {
			t.Fatalf("limit %d: %d records, %d in the message, want %d", limit, records, len(m.Answer), want)
		}
		opt := m.IsEdns0()
		if opt == nil || m.Rcode != 16 || !opt.Do() || opt.UDPSize() != 1232 {
			t.Fatalf("limit %d: OPT %v, code %d", limit, opt, m.Rcode)
		}
		last = records
	}
	if last != 5 {
		t.Errorf("%d records in the end, want all", last)
	}
}

func TestErrorsByRoom(t *testing.T) {
	edes := []EDE{{1, "first"}, {2, strings.Repeat("x", 50)}, {3, "third"}}
	whole := HeaderLen + OPTLen + EDELen("first") + EDELen(edes[1].Text) + EDELen("third")
	for _, tt := range []struct {
		limit int
		want  string
	}{
		{HeaderLen + OPTLen - 1, "no OPT"},
		{HeaderLen + OPTLen, ""},
		{HeaderLen + OPTLen + 6, "1:0"},
		{HeaderLen + OPTLen + 18, "1:0 2:0 3:0"},
		{HeaderLen + OPTLen + 18 + 5, "1:5 2:0 3:0"},
		{HeaderLen + OPTLen + 18 + 10, "1:5 2:0 3:5"},
		{whole - 1, "1:5 2:50 3:0"},
		{whole, "1:5 2:50 3:5"},
	} {
		var w Reply
		w.Begin(nil, 1, nil, tt.limit)
		w.OPT(1232, false, "", edes)
		m := new(dns.Msg)
		if err := m.Unpack(w.Finish()); err != nil {
			t.Fatal(err)
		}
		var got []string
		if opt := m.IsEdns0(); opt == nil {
			got = []string{"no OPT"}
		} else {
			for _, o := range opt.Option {
				e := o.(*dns.EDNS0_EDE)
				got = append(got, fmt.Sprintf("%d:%d", e.InfoCode, len(e.ExtraText)))
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("limit %d: %v, want %s", tt.limit, got, tt.want)
		}
	}
}

// TestParseRecords: what stands behind the question, to the byte.
func TestParseRecords(t *testing.T) {
	const (
		rr     = "\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x7f\x00\x00\x01" // an A record without its owner
		opt    = "\x00\x00\x29\x10\x00"                                     // an OPT record up to its size
		place  = "an OPT record out of its place"
		unread = "a record that cannot be read"
		option = "an EDNS option that cannot be read"
	)
	label := func(n int) string { return string(rune(n)) + strings.Repeat("a", n) }
	most := label(63) + label(63) + label(63) // 192 of the 255 bytes of a name
	for _, tt := range []struct {
		name   string
		counts []byte
		body   string
		fault  string // empty: well formed
		want   string // what was read
	}{
		{"nothing", []byte{1}, "", "", "plain"},
		{"a-byte-too-many", []byte{1}, "\x00", "bytes behind the last record", ""},
		{"owner-root", []byte{1, 1}, "\x00" + rr, "", "extra"},
		{"owner-pointer", []byte{1, 0, 1}, "\xc0\x0c" + rr, "", "extra"},
		{"owner-of-63", []byte{1, 0, 0, 1}, label(63) + "\x00" + rr, "", "extra"},
		{"owner-of-64", []byte{1, 0, 0, 1}, "\x40" + strings.Repeat("a", 64) + "\x00" + rr, unread, ""},
		{"owner-of-191", []byte{1, 0, 0, 1}, "\xbf" + strings.Repeat("a", 191) + "\x00" + rr, unread, ""},
		{"owner-at-255", []byte{1, 1}, most + label(61) + "\x00" + rr, "", "extra"},
		{"owner-at-256", []byte{1, 1}, most + label(62) + "\x00" + rr, unread, ""},
		{"owner-cut", []byte{1, 1}, "\x04aaa", unread, ""},
		{"pointer-cut", []byte{1, 1}, "\xc0", unread, ""},
		{"no-owner", []byte{1, 1}, "", unread, ""},
		{"head-cut", []byte{1, 1}, "\x00" + rr[:9], unread, ""},
		{"without-rdata", []byte{1, 1}, "\x00" + rr[:8] + "\x00\x00", "", "extra"},
		{"rdata-cut", []byte{1, 1}, "\x00" + rr[:len(rr)-1], "a record longer than the message", ""},
		{"a-record-each", []byte{1, 1, 1, 1}, "\x00" + rr + "\x00" + rr + "\x00" + rr, "", "extra"},

		{"OPT", []byte{1, 0, 0, 1}, opt + "\xff\x00\x7f\xff\x00\x00", "", "plain OPT 0"},
		{"OPT-DO", []byte{1, 0, 0, 1}, opt + "\x00\x00\x80\x00\x00\x00", "", "plain OPT 0 DO"},
		{"OPT-behind-a-record", []byte{1, 0, 0, 2}, "\x00" + rr + opt + "\x00\x00\x80\x00\x00\x00", "", "extra OPT 0 DO"},
		{"OPT-behind-an-answer", []byte{1, 1, 0, 1}, "\x00" + rr + opt + "\x00\x00\x80\x00\x00\x00", "", "extra OPT 0 DO"},
		{"OPT-as-an-answer", []byte{1, 1}, opt + "\x00\x00\x00\x00\x00\x00", place, ""},
		{"OPT-in-authority", []byte{1, 1, 1}, "\x00" + rr + opt + "\x00\x00\x00\x00\x00\x00", place, ""},
		{"OPT-with-a-name", []byte{1, 0, 0, 1}, "\x01a" + opt + "\x00\x00\x00\x00\x00\x00", place, ""},
		{"OPT-twice", []byte{1, 0, 0, 2}, opt + "\x00\x00\x00\x00\x00\x00" + opt + "\x00\x00\x00\x00\x00\x00", "two OPT records", "OPT 0"},
		{"options-of-version-2", []byte{1, 0, 0, 1}, opt + "\x00\x02\x00\x00\x00\x01?", "", "plain OPT 2"},

		{"NSID", []byte{1, 0, 0, 1}, opt + "\x00\x00\x00\x00\x00\x04\x00\x03\x00\x00", "", "plain OPT 0 NSID"},
		{"NSID-of-two-bytes", []byte{1, 0, 0, 1}, opt + "\x00\x00\x00\x00\x00\x06\x00\x03\x00\x02ab", "", "plain OPT 0 NSID"},
		{"NSID-behind-another", []byte{1, 0, 0, 1}, opt + "\x00\x00\x00\x00\x00\x09\x00\x0a\x00\x01x\x00\x03\x00\x00", "", "plain OPT 0 NSID"},
		{"another-that-has-a-3", []byte{1, 0, 0, 1}, opt + "\x00\x00\x00\x00\x00\x08\x00\x0a\x00\x04\x00\x03\x00\x00", "", "plain OPT 0"},
		{"option-of-one-byte", []byte{1, 0, 0, 1}, opt + "\x00\x00\x00\x00\x00\x01?", option, "OPT 0"},
		{"option-of-three-bytes", []byte{1, 0, 0, 1}, opt + "\x00\x00\x00\x00\x00\x03\x00\x03\x00", option, "OPT 0"},
		{"option-cut", []byte{1, 0, 0, 1}, opt + "\x00\x00\x00\x00\x00\x05\x00\x0a\x00\x02x", option, "OPT 0"},

		{"second-question", []byte{2}, question, "not exactly one question", ""},
		{"second-question-cut", []byte{2}, question[:len(question)-1], "a question that cannot be read", ""},
		{"second-question-and-OPT", []byte{2, 0, 0, 1}, question + opt + "\x00\x00\x80\x00\x00\x00", "not exactly one question", "OPT 0 DO"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var q Request
			form := q.Parse(request(question+tt.body, tt.counts...))
			var got []string
			switch form {
			case Plain:
				got = append(got, "plain")
			case Extra:
				got = append(got, "extra")
			}
			if q.OPT {
				got = append(got, fmt.Sprint("OPT ", q.Version))
				if q.UDPSize != 4096 {
					t.Errorf("size %d, want 4096", q.UDPSize)
				}
			}
			if q.DO {
				got = append(got, "DO")
			}
			if q.NSID {
				got = append(got, "NSID")
			}
			if q.Fault != tt.fault || (form == Malformed) != (tt.fault != "") || strings.Join(got, " ") != tt.want {
				t.Errorf("form %v, fault %q, read %q, want %q and %q", form, q.Fault, got, tt.fault, tt.want)
			}
			if n := tt.counts[0]; n == 1 && (string(q.Question) != question || q.Type != dns.TypeAAAA || q.Class != 1 || q.ID != 0xabcd) {
				t.Errorf("question %q, type %d, class %d, id %x", q.Question, q.Type, q.Class, q.ID)
			}
		})
	}
}

// TestFlags: each bit is the one that miekg/dns has for it, as is the longest message.
func TestFlags(t *testing.T) {
	if MaxMessage != dns.MaxMsgSize {
		t.Errorf("the longest message has %d bytes", MaxMessage)
	}
	for want, h := range map[uint16]dns.MsgHdr{
		QR: {Response: true}, AA: {Authoritative: true}, TC: {Truncated: true}, RD: {RecursionDesired: true}, RA: {RecursionAvailable: true},
		AD: {AuthenticatedData: true}, CD: {CheckingDisabled: true}, OpcodeMask: {Opcode: 15}, rcodeMask: {Rcode: 15},
	} {
		msg, err := (&dns.Msg{MsgHdr: h}).Pack()
		if err != nil {
			t.Fatal(err)
		}
		var q Request
		if q.Parse(msg); q.Flags != want {
			t.Errorf("flags %04x of %+v, want %04x", q.Flags, h, want)
		}
	}
}

// TestReplyBytes: a response of every part, to the byte.
func TestReplyBytes(t *testing.T) {
	var w Reply
	w.Begin(nil, 0xabcd, []byte(question), 1024)
	w.Flags, w.Rcode = QR|RD|3, 0x123 // the code is not the flags' to say
	w.Record(Answer, 0xc00d, 0x0102, 0x0304, 0x05060708, []byte("answer"))
	w.Record(Authority, ToQuestion, 0x0102, 0x0304, 0x05060708, make([]byte, 0x101))
	w.Splice(func(msg []byte, limit int) ([]byte, [3]uint16) {
		if limit-len(msg) != w.Room() {
			t.Errorf("%d bytes to add to %d, want %d", limit, len(msg), w.Room())
		}
		return append(msg, "spliced"...), [3]uint16{0x0101, 0x0202, 0x0303}
	})
	long := strings.Repeat("x", 0x101)
	w.OPT(0x1234, true, "id", []EDE{{0x0506, "text"}, {0x0506, long}})
	want := "\xab\xcd\x81\x03\x00\x01\x01\x02\x02\x03\x03\x04" + question +
		"\xc0\x0d\x01\x02\x03\x04\x05\x06\x07\x08\x00\x06answer" +
		"\xc0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x01\x01" + strings.Repeat("\x00", 0x101) + "spliced" +
		"\x00\x00\x29\x12\x34\x12\x00\x80\x00\x01\x17\x00\x03\x00\x02id\x00\x0f\x00\x06\x05\x06text\x00\x0f\x01\x03\x05\x06" + long
	if got := string(w.Finish()); got != want {
		t.Errorf("the response is\n%x, want\n%x", got, want)
	}
	w.Begin(nil, 0, nil, 512)
	w.OPT(512, false, "", nil)
	want = strings.Repeat("\x00", 11) + "\x01\x00\x00\x29\x02" + strings.Repeat("\x00", 7)
	if got := string(w.Finish()); got != want {
		t.Errorf("the least response is\n%x, want\n%x", got, want)
	}
}

// TestReserve: all that is left can be reserved, and nothing is where less is left.
func TestReserve(t *testing.T) {
	for _, tt := range []struct{ n, left int }{{0, 20}, {19, 1}, {20, 0}, {21, 20}} {
		var w Reply
		w.Begin(nil, 1, nil, HeaderLen+20)
		if w.Reserve(tt.n); w.Room() != tt.left {
			t.Errorf("%d bytes reserved of 20: %d left, want %d", tt.n, w.Room(), tt.left)
		}
	}
}

// TestPacked: records that were put together before go out turned, as many as fit.
func TestPacked(t *testing.T) {
	for _, tt := range []struct {
		room, first, size int
		want              string
		records           byte
	}{
		{6, 0, 2, "AaBbCc", 3}, {7, 2, 2, "BbCcAa", 3}, {6, 4, 2, "CcAaBb", 3}, {6, 0, 0, "AaBbCc", 3},
		{5, 0, 2, "AaBb", 2}, {5, 2, 2, "BbCc", 2}, {5, 4, 2, "CcAa", 2}, {4, 4, 2, "CcAa", 2},
		{3, 4, 2, "Cc", 1}, {2, 2, 2, "Bb", 1}, {1, 2, 2, "", 0}, {0, 2, 2, "", 0}, {5, 0, 0, "", 0},
	} {
		var w Reply
		w.Begin(nil, 1, nil, HeaderLen+tt.room)
		all := w.Packed(Authority, []byte("AaBbCc"), tt.first, tt.size, 3)
		msg := w.Finish()
		if got := string(msg[HeaderLen:]); got != tt.want || msg[9] != tt.records || all != (tt.records == 3) {
			t.Errorf("from %d into %d: %q, %d records, all: %t, want %q", tt.first, tt.room, got, msg[9], all, tt.want)
		}
	}
}

// TestNSIDByRoom: the identity goes out where there is room for all of it.
func TestNSIDByRoom(t *testing.T) {
	for left, want := range map[int]int{0: 0, NSIDLen("host") - 1: 0, NSIDLen("host"): NSIDLen("host"), NSIDLen("host") + 1: NSIDLen("host")} {
		var w Reply
		w.Begin(nil, 1, nil, HeaderLen+OPTLen+left)
		if w.OPT(1232, false, "host", nil); len(w.Finish()) != HeaderLen+OPTLen+want {
			t.Errorf("%d bytes with room for %d beside the OPT, want %d", len(w.Finish()), left, HeaderLen+OPTLen+want)
		}
	}
}

// FuzzParse: the strict reader never accepts what miekg/dns cannot read, reads the
// same question and OPT, and leaves no byte unread.
func FuzzParse(f *testing.F) {
	f.Add(request(question, 1))
	f.Add(request(question+"\x00\x00\x29\x10\x00\x00\x00\x80\x00\x00\x04\x00\x03\x00\x00", 1, 0, 0, 1))
	f.Add(request(question+"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x7f\x00\x00\x01", 1, 0, 1))
	f.Fuzz(func(t *testing.T, msg []byte) {
		var q Request
		form := q.Parse(msg)
		if form != Plain {
			return
		}
		if end := HeaderLen + len(q.Question); !q.OPT && end != len(msg) {
			t.Fatalf("%d bytes read of %d", end, len(msg))
		}
		m := new(dns.Msg)
		err := m.Unpack(msg)
		if len(m.Question) != 1 {
			t.Fatalf("%v: %d questions", err, len(m.Question))
		}
		if m.Question[0].Qtype != q.Type || m.Question[0].Qclass != q.Class || m.Id != q.ID {
			t.Fatalf("%+v, want %v", q, m.Question[0])
		}
		packed := make([]byte, 256)
		n, perr := dns.PackDomainName(m.Question[0].Name, packed, 0, nil, false)
		if perr != nil || !strings.EqualFold(string(packed[:n]), string(msg[HeaderLen:HeaderLen+len(q.Name())])) {
			t.Fatalf("name %q, want %q: %v", q.Name(), packed[:n], perr)
		}
		// Options that dnsd passes over may be such as miekg/dns does not take.
		if opt := m.IsEdns0(); err == nil && ((opt != nil) != q.OPT || opt != nil && (opt.UDPSize() != q.UDPSize || opt.Do() != q.DO || opt.Version() != q.Version)) {
			t.Fatalf("%+v, want %v", q, opt)
		}
	})
}
