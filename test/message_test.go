package test

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

// header returns the 12 bytes that a message begins with.
func header(id, flags, qd, an, ns, ar uint16) []byte {
	var b []byte
	for _, v := range []uint16{id, flags, qd, an, ns, ar} {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	return b
}

// Parts of messages, in hex.
const (
	qMyApp = "066d792d61707008696e7465726e616c00001c0001" // my-app.internal. AAAA IN
	opt    = "00002904d0000000000000"                     // OPT, 1232 bytes, version 0
)

// Flags and opcodes, where they stand in the header.
const (
	rd     = 0x0100
	cd     = 0x0010
	qr     = 0x8000
	opcode = 1 << 11
)

// message checks the rules about messages, byte by byte, over UDP and TCP.
func (w *world) message(t *testing.T) {
	cut := func(s string, n int) string { return s[:2*n] }
	for _, c := range []struct {
		name  string
		head  []byte // its id is set by the test
		body  string
		rcode int // -1: silence
	}{
		{"good", header(0, rd, 1, 0, 0, 0), qMyApp, 0},
		{"without RD", header(0, 0, 1, 0, 0, 0), qMyApp, 0},
		{"with CD", header(0, cd, 1, 0, 0, 0), qMyApp, 0},
		{"with RD and CD", header(0, rd|cd, 1, 0, 0, 1), qMyApp + opt, 0},
		{"with AD and the reserved bit", header(0, rd|0x0060, 1, 0, 0, 0), qMyApp, 0},
		{"with AA, TC, RA and an rcode", header(0, rd|0x0683, 1, 0, 0, 0), qMyApp, 0},
		{"mixed case", header(0, rd, 1, 0, 0, 1), "064d592d61705008496e5465726e416c00001c0001" + opt, 0},

		{"a response", header(0, qr|rd, 1, 0, 0, 0), qMyApp, -1},
		{"a response without a question", header(0, qr, 0, 0, 0, 0), "", -1},
		{"a response of junk", header(0, qr, 9, 9, 9, 9), "ffff", -1},
		{"empty", nil, "", -1},
		{"one byte", nil, "00", -1},
		{"eleven bytes", nil, "0000010000010000000000", -1},

		{"no question", header(0, rd, 0, 0, 0, 0), "", dns.RcodeFormatError},
		{"no question, but one follows", header(0, rd, 0, 0, 0, 0), qMyApp, dns.RcodeFormatError},
		{"only OPT", header(0, rd, 0, 0, 0, 1), opt, dns.RcodeFormatError},
		{"two questions", header(0, rd, 2, 0, 0, 0), qMyApp + qMyApp, dns.RcodeFormatError},
		{"two questions announced", header(0, rd, 2, 0, 0, 0), qMyApp, dns.RcodeFormatError},
		{"65535 questions announced", header(0, rd, 65535, 0, 0, 0), qMyApp, dns.RcodeFormatError},
		{"a trailing byte", header(0, rd, 1, 0, 0, 0), qMyApp + "00", dns.RcodeFormatError},
		{"a trailing OPT", header(0, rd, 1, 0, 0, 0), qMyApp + opt, dns.RcodeFormatError},
		{"trailing after OPT", header(0, rd, 1, 0, 0, 1), qMyApp + opt + "ab", dns.RcodeFormatError},
		{"cut in the name", header(0, rd, 1, 0, 0, 0), cut(qMyApp, 5), dns.RcodeFormatError},
		{"cut before the type", header(0, rd, 1, 0, 0, 0), cut(qMyApp, 17), dns.RcodeFormatError},
		{"cut in the class", header(0, rd, 1, 0, 0, 0), cut(qMyApp, 20), dns.RcodeFormatError},
		{"OPT announced, not there", header(0, rd, 1, 0, 0, 1), qMyApp, dns.RcodeFormatError},
		{"OPT cut", header(0, rd, 1, 0, 0, 1), qMyApp + cut(opt, 8), dns.RcodeFormatError},
		{"two OPTs", header(0, rd, 1, 0, 0, 2), qMyApp + opt + opt, dns.RcodeFormatError},
		{"option longer than OPT", header(0, rd, 1, 0, 0, 1), qMyApp + "00002904d000000000000400030009", dns.RcodeFormatError},
		{"an answer cut", header(0, rd, 1, 1, 0, 0), qMyApp + "c00c001c0001", dns.RcodeFormatError},
		{"label type 0x40", header(0, rd, 1, 0, 0, 0), "416100001c0001", dns.RcodeFormatError},
		{"label type 0x80", header(0, rd, 1, 0, 0, 0), "816100001c0001", dns.RcodeFormatError},
		{"a pointer to itself", header(0, rd, 1, 0, 0, 0), "c00c001c0001", dns.RcodeFormatError},
		{"a pointer forward", header(0, rd, 1, 0, 0, 0), "c0ff001c0001", dns.RcodeFormatError},
		{"a name over 255 bytes", header(0, rd, 1, 0, 0, 0), longName(5) + "001c0001", dns.RcodeFormatError},

		{"IQUERY", header(0, 1*opcode, 1, 0, 0, 0), qMyApp, dns.RcodeNotImplemented},
		{"STATUS", header(0, 2*opcode, 1, 0, 0, 0), qMyApp, dns.RcodeNotImplemented},
		{"NOTIFY", header(0, 4*opcode, 1, 0, 0, 0), qMyApp, dns.RcodeNotImplemented},
		{"UPDATE", header(0, 5*opcode, 1, 0, 0, 0), qMyApp, dns.RcodeNotImplemented},
		{"DSO", header(0, 6*opcode, 1, 0, 0, 0), qMyApp, dns.RcodeNotImplemented},
		{"opcode 15", header(0, 15*opcode, 1, 0, 0, 0), qMyApp, dns.RcodeNotImplemented},

		{"EDNS version 1", header(0, rd, 1, 0, 0, 1), qMyApp + "00002904d0000100000000", dns.RcodeBadVers},
		{"EDNS version 255", header(0, rd, 1, 0, 0, 1), qMyApp + "00002904d000ff80000000", dns.RcodeBadVers},
		{"COOKIE", header(0, rd, 1, 0, 0, 1), qMyApp + "00002904d000000000000c000a00080102030405060708", 0},
		{"unknown option", header(0, rd, 1, 0, 0, 1), qMyApp + "00002904d0000000000006fde90002abcd", 0},
		{"padding and keepalive", header(0, rd, 1, 0, 0, 1), qMyApp + "00002904d0000000000008000c0000000b0000", 0},

		{"AXFR", header(0, rd, 1, 0, 0, 0), "08696e7465726e616c0000fc0001", dns.RcodeRefused},
		{"IXFR", header(0, rd, 1, 0, 0, 0), "08696e7465726e616c0000fb0001", dns.RcodeRefused},
		{"AXFR of an app", header(0, rd, 1, 0, 0, 0), "066d792d61707008696e7465726e616c0000fc0001", dns.RcodeRefused},
		{"class CHAOS", header(0, rd, 1, 0, 0, 0), "066d792d61707008696e7465726e616c00001c0003", dns.RcodeRefused},
		{"class HESIOD", header(0, rd, 1, 0, 0, 0), "066d792d61707008696e7465726e616c00001c0004", dns.RcodeRefused},
		{"class NONE", header(0, rd, 1, 0, 0, 0), "066d792d61707008696e7465726e616c00001c00fe", dns.RcodeRefused},
		{"class ANY", header(0, rd, 1, 0, 0, 0), "066d792d61707008696e7465726e616c00001c00ff", dns.RcodeRefused},
		{"class 0", header(0, rd, 1, 0, 0, 0), "066d792d61707008696e7465726e616c00001c0000", dns.RcodeRefused},
		{"CHAOS of another name", header(0, rd, 1, 0, 0, 0), "05666f6f6f6f0462696e640000100003", dns.RcodeRefused},
	} {
		for _, proto := range []string{"udp", "tcp"} {
			t.Run(strings.ReplaceAll(c.name, " ", "_")+"/"+proto, func(t *testing.T) {
				body, err := hex.DecodeString(c.body)
				if err != nil {
					t.Fatal(err)
				}
				msg := append(append([]byte(nil), c.head...), body...)
				if len(msg) >= 2 {
					binary.BigEndian.PutUint16(msg, 0x1234)
				}
				resp, err := w.afterwards(proto, msg)
				switch {
				case err != nil:
					t.Fatal(err)
				case c.rcode < 0:
					if resp != nil {
						t.Fatalf("got %x, want silence", resp)
					}
				case resp == nil:
					t.Fatal("got silence")
				case c.rcode == 0:
					if got := w.lawful(t, proto, msg, resp); got.Rcode != 0 || len(got.Answer) != 3 {
						t.Errorf("want three addresses: %v", got)
					}
				default:
					wantError(t, msg, resp, c.rcode)
				}
			})
		}
	}
}

// longName is a name of n labels of 63 bytes, in hex.
func longName(n int) string {
	var b []byte
	for range n {
		b = append(b, 63)
		b = append(b, longLabel("")...)
	}
	return hex.EncodeToString(append(b, 0))
}

// afterwards sends a message and a good question behind it, and returns what is
// answered to the first: nil when that is the second's answer. Over TCP a server
// may also close the connection on what it has no answer for.
func (w *world) afterwards(proto string, msg []byte) ([]byte, error) {
	const sentinel = 0x5e57
	good, err := hex.DecodeString(qMyApp)
	if err != nil {
		return nil, err
	}
	good = append(header(sentinel, rd, 1, 0, 0, 0), good...)
	conn, err := w.client("a").Open(proto)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var resp []byte
	if proto == "udp" {
		if _, err := conn.Write(msg); err != nil {
			return nil, err
		}
		if _, err := conn.Write(good); err != nil {
			return nil, err
		}
		buf := make([]byte, 65535)
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		resp = buf[:n]
	} else {
		if _, err := conn.Write(append(lab.Frame(msg), lab.Frame(good)...)); err != nil {
			return nil, err
		}
		if err := conn.SetReadDeadline(time.Now().Add(lab.Patience)); err != nil {
			return nil, err
		}
		if resp, err = lab.ReadFrame(conn); err != nil {
			return nil, nil // closed: silence, as good as over UDP
		}
	}
	if len(resp) >= 2 && binary.BigEndian.Uint16(resp) == sentinel {
		return nil, nil
	}
	return resp, nil
}

// wantError checks a response that says what is wrong with the request, and
// nothing else.
func wantError(t *testing.T, msg, raw []byte, rcode int) {
	t.Helper()
	resp := new(dns.Msg)
	if err := resp.Unpack(raw); err != nil {
		t.Fatalf("unpacking %x: %v", raw, err)
	}
	if resp.Rcode != rcode {
		t.Errorf("got %s, want %s\n%v", dns.RcodeToString[resp.Rcode], dns.RcodeToString[rcode], resp)
	}
	flags := binary.BigEndian.Uint16(msg[2:])
	if resp.Id != 0x1234 || !resp.Response || resp.Opcode != int(flags>>11&15) || resp.RecursionDesired != (flags&rd != 0) {
		t.Errorf("id, QR, opcode or RD is wrong\n%v", resp)
	}
	if len(resp.Answer)+len(resp.Ns) > 0 || resp.AuthenticatedData || resp.Truncated {
		t.Errorf("more than an error\n%v", resp)
	}
	if rcode == dns.RcodeBadVers {
		if o := resp.IsEdns0(); o == nil || o.Version() != 0 {
			t.Errorf("BADVERS without an OPT of version 0\n%v", resp)
		}
	}
}
