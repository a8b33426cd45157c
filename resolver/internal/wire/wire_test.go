package wire

import (
	"bytes"
	"fmt"
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
				if form != Malformed || len(q.Question) != 0 {
					t.Errorf("form %v, question %x, want malformed", form, q.Question)
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
		if form := q.Parse(bytes.Clone(whole[:n])); form != want {
			t.Errorf("form %v of the first %d bytes, want %v", form, n, want)
		}
	}
	if form := q.Parse(request(question, 1)); form != Plain || q.OPT || q.DO || q.NSID || q.UDPSize != 0 {
		t.Errorf("form %v, %+v: something of an earlier request is left", form, q)
	}
}

func TestKeep(t *testing.T) {
	msg := request(question, 1)
	var q Request
	q.Parse(msg)
	kept := q
	kept.Keep()
	clear(msg)
	q.Parse(request("\x00\x00\x01\x00\x01", 1))
	if string(kept.Question) != question || string(kept.Name()) != "\x03www\x07example\x00" {
		t.Errorf("kept %q and %q", kept.Question, kept.Name())
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
