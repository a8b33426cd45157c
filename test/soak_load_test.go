package test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

const (
	volley = 32  // questions that an asker sends before it waits for their answers
	aPort  = 200 // volleys, before the asker takes another port
	judged = 256 // one answer of so many is compared with the model, all others are looked at
	// overdue is when an answer counts as lost: the forwarder has had its 5 s then.
	overdue = 10 * time.Second
)

// asker is a client that asks as fast as it is answered. It belongs to one
// goroutine.
type asker struct {
	s       *soak
	t       *testing.T
	client  string
	r       *rand.Rand
	shots   []shot
	judged  int      // one answer of so many is
	secrets [][]byte // what no answer may hold: the networks of others

	id   uint16 // of the first question in hand
	hand []asked
	seen int // number of the oldest version that an answer to the volley before can have come from
	next int // the same, of this volley
}

// asked is a question that is out.
type asked struct {
	shot *shot
	wire []byte
	done bool
}

// asker returns a client of a network that asks for the names of its own, or for
// others that nobody has asked for before.
func (s *soak) asker(t *testing.T, n tenant, r *rand.Rand, own bool) *asker {
	a := &asker{s: s, t: t, client: n.client, r: r, judged: judged, hand: make([]asked, volley)}
	if own {
		a.shots = pool(n, r)
	} else {
		a.shots = outside(r, 200, true)
	}
	for _, other := range slices.Concat(tenants, crowds) {
		if other != n {
			a.secrets = append(a.secrets, netip.MustParsePrefix(other.network).Addr().AsSlice()[:6])
		}
	}
	return a
}

// take takes n questions in hand.
func (a *asker) take(n int) {
	a.id += volley
	a.hand = a.hand[:n]
	a.seen = max(a.seen, a.next)
	for i := range a.hand {
		q := &a.hand[i]
		q.shot, q.done = &a.shots[a.r.IntN(len(a.shots))], false
		q.wire = append(q.wire[:0], q.shot.wire...)
		binary.BigEndian.PutUint16(q.wire, a.id+uint16(i))
		if at := q.shot.random; at > 0 {
			for k := range len(randomLetters) {
				q.wire[at+k] = 'a' + byte(a.r.IntN(26))
			}
		}
		if bits := a.r.Uint64(); bits%4 == 0 { // random case
			for k := 12; q.wire[k] != 0; k++ {
				if c := q.wire[k] | 0x20; c >= 'a' && c <= 'z' && q.wire[k] > 63 && bits>>(k%60+2)&1 == 0 {
					q.wire[k] ^= 0x20
				}
			}
		}
	}
}

// udp asks until ctx ends, from one port after the other.
func (a *asker) udp(ctx context.Context) error {
	for ctx.Err() == nil {
		conn, err := a.s.client(a.client).Open("udp")
		if err != nil {
			return err
		}
		err = a.port(ctx, conn)
		conn.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// port asks from one port. It leaves it when an answer is overdue, so that a late
// one meets nobody.
func (a *asker) port(ctx context.Context, conn net.Conn) error {
	buf := make([]byte, 65535)
	for range aPort {
		if ctx.Err() != nil {
			return nil
		}
		a.take(volley)
		start := time.Now()
		if err := conn.SetDeadline(start.Add(overdue)); err != nil {
			return err
		}
		for _, q := range a.hand {
			if _, err := conn.Write(q.wire); err != nil {
				return err
			}
		}
		for left := volley; left > 0; left-- {
			n, err := conn.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				a.s.lost.Add(int64(left))
				return nil
			}
			if err == nil {
				err = a.look("udp", buf[:n], start)
			}
			if err != nil {
				return err
			}
		}
		a.s.answered.Add(volley)
	}
	return nil
}

// tcp opens one connection after the other until ctx ends.
func (a *asker) tcp(ctx context.Context) error {
	for pause(ctx, 10*time.Millisecond) { // so that ports come back in time: 28,000 a minute
		if err := a.connection(a.r.IntN(10)); err != nil {
			return err
		}
	}
	return nil
}

// How a connection ends; otherwise it is closed when all answers are there.
const (
	endsUnread = iota // with answers on the way
	endsHalf          // in the middle of a question
	endsReset         // with RST instead of FIN
)

// connection asks over a connection of its own.
func (a *asker) connection(ends int) error {
	conn, err := a.s.client(a.client).Open("tcp")
	if err != nil {
		return err
	}
	defer conn.Close()
	a.s.conns.Add(1)
	a.take(1 + a.r.IntN(volley))
	var all bytes.Buffer
	for _, q := range a.hand {
		all.Write(lab.Frame(q.wire))
	}
	start := time.Now()
	if _, err := conn.Write(all.Bytes()); err != nil {
		return err
	}
	if ends == endsUnread {
		return nil
	}
	for range a.hand {
		resp, err := lab.ReadFrame(conn)
		if err == nil {
			err = a.look("tcp", resp, start)
		}
		if err != nil {
			return fmt.Errorf("over tcp: %w", err)
		}
	}
	a.s.answered.Add(int64(len(a.hand)))
	switch ends {
	case endsHalf:
		_, err = conn.Write(all.Bytes()[:1+a.r.IntN(20)])
	case endsReset:
		err = conn.(*net.TCPConn).SetLinger(0)
	}
	return err
}

// look checks a response: what every one must have, and of some all.
func (a *asker) look(proto string, resp []byte, start time.Time) error {
	if len(resp) < 12 {
		return fmt.Errorf("a response of %d bytes: %x", len(resp), resp)
	}
	i := int(binary.BigEndian.Uint16(resp) - a.id)
	if i >= len(a.hand) || a.hand[i].done {
		return fmt.Errorf("a response to nothing, or a second one: %x", resp)
	}
	q := &a.hand[i]
	q.done = true
	wrong := func(what string) error {
		return fmt.Errorf("%s %s for %s over %s: %s\nasked %x\ngot   %x", q.shot.name, q.shot.typ, a.client, proto, what, q.wire, resp)
	}
	end := 12 + questionLen(q.wire)
	if resp[2]&0x80 == 0 || len(resp) < end || !bytes.Equal(resp[12:end], q.wire[12:end]) {
		return wrong("no response to this question")
	}
	for _, secret := range a.secrets {
		if bytes.Contains(resp[end:], secret) {
			return wrong("something of another network's")
		}
	}
	rcode := int(resp[3] & 0xf)
	switch {
	case slices.Contains(q.shot.may, rcode):
	case rcode == dns.RcodeServerFailure && strings.HasSuffix(q.shot.name, ".example."):
		a.s.failed.Add(1)
		return nil
	default:
		return wrong(dns.RcodeToString[rcode])
	}
	if q.shot.right == nil || a.r.IntN(a.judged) > 0 {
		return nil
	}
	came := time.Now()
	m := a.s.lawful(a.t, proto, q.wire, resp)
	if m.Truncated {
		return nil
	}
	got := said(m, q.shot.typ)
	at := a.s.h.from(start, came, a.seen, func(v *model) bool { return q.shot.right(v, m.Question[0].Name, got) })
	if at < 0 {
		return wrong(fmt.Sprintf("was never true between %s and %s, or is older than an answer before: %s",
			start.Format(time.StampMicro), came.Format(time.StampMicro), got))
	}
	a.next = max(a.next, at)
	a.s.checked.Add(1)
	return nil
}

// crowdAtRest compares many answers with the last version.
func (s *soak) crowdAtRest(t *testing.T) {
	t.Helper()
	for i, n := range crowds {
		r := rand.New(rand.NewPCG(s.seed, uint64(1000+i)))
		a := s.asker(t, n, r, true)
		a.judged = 1
		for range 50 {
			if err := a.connection(-1); err != nil {
				t.Fatalf("at rest: %v", err)
			}
		}
	}
}
