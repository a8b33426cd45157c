package test

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

// seeds are messages that the mutations begin with.
func seeds(t testing.TB) [][]byte {
	var all [][]byte
	for _, r := range append(append(append([]row(nil), aaaaRows...), txtRows...), ptrRows...) {
		for _, edns := range []bool{true, false} {
			raw, err := question(r.name, dns.StringToType[r.typ], edns).Pack()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, raw)
		}
	}
	for _, body := range []string{qMyApp, qMyApp + opt, qMyApp + opt + opt, "c00c001c0001"} {
		b, err := hex.DecodeString(body)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, append(header(0, rd, 1, 0, 0, uint16(strings.Count(body, opt))), b...))
	}
	return all
}

// mutate returns a message that is a little or very much wrong.
func mutate(r *rand.Rand, seeds [][]byte) []byte {
	msg := append([]byte(nil), seeds[r.IntN(len(seeds))]...)
	for range 1 + r.IntN(4) {
		if len(msg) == 0 {
			break
		}
		at := r.IntN(len(msg))
		switch r.IntN(8) {
		case 0:
			msg[at] ^= 1 << r.IntN(8)
		case 1:
			msg[at] = byte(r.Uint32())
		case 2:
			msg = msg[:at]
		case 3:
			for range r.IntN(40) {
				msg = append(msg, byte(r.Uint32()))
			}
		case 4: // counts
			if len(msg) >= 12 {
				binary.BigEndian.PutUint16(msg[4+2*r.IntN(4):], uint16(r.IntN(4)))
			}
		case 5: // a part of another message in the middle
			other := seeds[r.IntN(len(seeds))]
			msg = append(msg[:at:at], append(append([]byte(nil), other[r.IntN(len(other)):]...), msg[at:]...)...)
		case 6: // lengths and pointers
			msg[at] = []byte{0, 1, 12, 63, 64, 0x80, 0xc0, 0xff}[r.IntN(8)]
		case 7:
			msg = make([]byte, r.IntN(80))
			for i := range msg {
				msg[i] = byte(r.Uint32())
			}
		}
	}
	return msg
}

// fuzz sends malformed packets. Each gets exactly one response, except those that
// the rules leave unanswered, and the server keeps running.
func (w *world) fuzz(t *testing.T) {
	const packets, batch = 20000, 40
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 1))
	from := seeds(t)
	t.Logf("seed %d", seed)
	for _, client := range []string{"a", "loop", "out"} {
		conn := w.open(t, client, "udp")
		n := packets
		if client != "a" {
			n /= 10
		}
		for sent := 0; sent < n; sent += batch {
			msgs := make(map[uint16][]byte)
			var silent [][]byte
			for id := range uint16(batch) {
				msg := mutate(r, from)
				if len(msg) >= 2 {
					binary.BigEndian.PutUint16(msg, id)
				}
				if len(msg) < 12 || msg[2]&0x80 != 0 {
					silent = append(silent, msg)
				} else {
					msgs[id] = msg
				}
				if _, err := conn.Write(msg); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.collect(conn, msgs); err != nil {
				t.Fatalf("client %s: %v\nsilent ones: %x", client, err, silent)
			}
		}
	}
	w.fuzzTCP(t, r, from)
	for _, proto := range []string{"udp", "tcp"} {
		if resp := w.ask(t, "a", proto, question("my-app.internal", dns.TypeAAAA, true)); len(resp.Answer) != 3 {
			t.Errorf("afterwards: %v", resp)
		}
	}
	_, metrics := w.Lab.Get("http://" + lab.Admin + "/metrics")
	for _, line := range strings.Split(metrics, "\n") {
		if strings.HasPrefix(line, "dnsd_panics_total") && !strings.HasSuffix(line, " 0") {
			t.Errorf("queries made the server panic: %s", line)
		}
	}
}

// collect reads the response to each message, and to nothing else.
func (w *world) collect(conn net.Conn, msgs map[uint16][]byte) error {
	buf := make([]byte, 65535)
	if err := conn.SetReadDeadline(time.Now().Add(lab.Patience)); err != nil {
		return err
	}
	for len(msgs) > 0 {
		n, err := conn.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("no response to %x", msgs)
		} else if err != nil {
			return err
		}
		if n < 12 {
			return fmt.Errorf("a response of %d bytes: %x", n, buf[:n])
		}
		id := binary.BigEndian.Uint16(buf)
		msg, ok := msgs[id]
		if !ok {
			return fmt.Errorf("a response to what should meet silence, or a second one: %x", buf[:n])
		}
		delete(msgs, id)
		if err := sane(msg, buf[:n]); err != nil {
			return fmt.Errorf("%w\nrequest  %x\nresponse %x", err, msg, buf[:n])
		}
	}
	return nil
}

// sane checks what holds of any response to any bytes.
func sane(msg, raw []byte) error {
	resp := new(dns.Msg)
	if err := resp.Unpack(raw); err != nil {
		return err
	}
	if !resp.Response || resp.Opcode != int(msg[2]>>3&15) {
		return errors.New("QR or opcode is wrong")
	}
	switch resp.Rcode {
	case dns.RcodeSuccess, dns.RcodeFormatError, dns.RcodeServerFailure, dns.RcodeNameError,
		dns.RcodeNotImplemented, dns.RcodeRefused, dns.RcodeBadVers:
	default:
		return fmt.Errorf("response code %d", resp.Rcode)
	}
	if resp.Rcode == dns.RcodeServerFailure {
		return errors.New("SERVFAIL")
	}
	if len(resp.Question) > 1 {
		return fmt.Errorf("%d questions", len(resp.Question))
	}
	if len(raw) > 1232 {
		return fmt.Errorf("%d bytes", len(raw))
	}
	return nil
}

// fuzzTCP sends the same kind of messages over connections, with lengths that
// are right and wrong.
func (w *world) fuzzTCP(t *testing.T, r *rand.Rand, from [][]byte) {
	for range 150 {
		conn, err := w.client("a").Open("tcp")
		if err != nil {
			t.Fatal(err)
		}
		for range r.IntN(20) {
			frame := lab.Frame(mutate(r, from))
			if r.IntN(10) == 0 {
				frame[r.IntN(2)] ^= byte(r.Uint32())
			}
			if _, err := conn.Write(frame); err != nil {
				break // closed on us for the message before
			}
		}
		conn.Close()
	}
}
