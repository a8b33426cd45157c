package chaos

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"dnsd/test/internal/lab"
	"dnsd/test/internal/truth"

	"github.com/miekg/dns"
)

const (
	// patience is how long a client waits for an answer before it asks again, as
	// the least patient of the usual clients does.
	patience = 2 * time.Second

	// tries is how often it asks: ten seconds without an answer from a process
	// that runs are too many.
	tries = 5
)

// client asks from one machine over one transport.
type client struct {
	h     *host
	m     *guest
	proto string
	r     *rand.Rand
	g     *truth.Generator // of questions
}

func newClient(h *host, m *guest, proto string, r *rand.Rand) *client {
	return &client{h, m, proto, r, m.net.generator(r)}
}

// run asks until the run ends.
func (c *client) run() {
	rest := map[string]int{"udp": 60, "tcp": 150}[c.proto]
	for c.h.s.sleep(time.Duration(rest/2+c.r.IntN(rest)) * time.Millisecond) {
		var err error
		switch n := c.r.IntN(20); {
		case n == 0:
			err = c.askInfo()
		case n < 3:
			err = c.askOutside()
		default:
			err = c.askInside()
		}
		var wrong wrongAnswer
		switch late := !errors.As(err, &wrong); {
		case err == nil:
		case late && !c.h.s.pulse.steady():
			c.h.excused.Add(1)
			c.h.s.log("not held against it, since the test itself stood still: %v: %v", c.h, err)
		default:
			c.h.s.errorf("%v, asked from %s over %s: %v\n%s", c.h, c.m.net.name, c.proto, err, c.h.sight)
		}
	}
}

// askInside asks a name of the network.
func (c *client) askInside() error {
	q := c.question()
	resp, tk, err := c.ask(q.Name, q.Type)
	if resp == nil {
		return err
	}
	c.h.answered.Add(1)
	if marked(resp) {
		c.h.stale.Add(1)
	}
	if resp.Truncated { // only over UDP: another client asks for the same over TCP
		return nil
	}
	if err := c.h.judge(c.m.net.number, tk, &q, resp); err != nil {
		return fmt.Errorf("%s %s %w", q.Name, dns.TypeToString[q.Type], err)
	}
	return nil
}

// question draws one: of what changes, of what lasts, or of what another network
// has.
func (c *client) question() truth.Question {
	n := truth.Network(c.m.net.name)
	switch k := c.r.IntN(12); {
	case k == 0:
		other := c.h.s.nets[c.r.IntN(len(c.h.s.nets))]
		return n.Owner(truth.AddrIn(other.name, c.r.IntN(4*truth.GeneratedMachines)))
	case k < 4:
		lasting := c.m.net.lasting[c.r.IntN(len(c.m.net.lasting))]
		switch o := lasting.(type) {
		case *truth.Machine:
			if k == 1 {
				return n.Owner(o.Addr)
			}
			return n.VM(o.App, o.ID)
		case *truth.Peer:
			return n.Peer(o.Name)
		case *truth.Address:
			return n.Flycast(o.App)
		}
	}
	return c.g.Question()
}

// askOutside asks an outside name, which must be right whatever happens. One in
// hand when its process stands still may fail.
func (c *client) askOutside() error {
	i := c.r.IntN(200)
	resp, tk, err := c.ask(strings.TrimSuffix(outsideName(i), "."), dns.TypeAAAA)
	if resp == nil || !c.h.steady(tk) {
		return err
	}
	c.h.forwarded.Add(1)
	if got := truth.Said(resp); got != outsideSays(i) {
		return fmt.Errorf("%s is %s (%v), want %s", outsideName(i), got, extended(resp), outsideSays(i))
	}
	return nil
}

// askInfo asks what dnsd says of itself: it must agree with the marks.
func (c *client) askInfo() error {
	resp, tk, err := c.ask("_dnsd.internal", dns.TypeTXT)
	if resp == nil || !c.h.steady(tk) {
		return err
	}
	fields := map[string]string{}
	for _, rr := range resp.Answer {
		if txt, ok := rr.(*dns.TXT); ok {
			for _, text := range txt.Txt {
				name, value, _ := strings.Cut(text, "=")
				fields[name] = value
			}
		}
	}
	var age time.Duration
	if text, ok := fields["age"]; ok {
		if age, err = time.ParseDuration(text); err != nil {
			return fmt.Errorf("_dnsd.internal says %v: %w", fields, err)
		}
	}
	return c.h.judgeInfo(tk, marked(resp), fields["state"], age)
}

// ask asks until there is an answer. It returns none, and no error, where the
// process did not run all the time.
func (c *client) ask(name string, typ uint16) (*dns.Msg, ticket, error) {
	var why error
	for i := range tries {
		if i > 0 {
			c.h.again.Add(1)
		}
		tk, ok := c.h.sight.ask(c.m.net.number)
		if !ok {
			return nil, tk, nil
		}
		resp, err := c.exchange(name, typ)
		if err == nil {
			err = c.foreign(resp)
		}
		if err == nil {
			return resp, tk, nil
		}
		var wrong wrongAnswer
		if errors.As(err, &wrong) {
			return nil, tk, err
		}
		if !c.h.steady(tk) || time.Since(c.h.beganAt()) < startup || c.h.s.ctx.Err() != nil {
			return nil, tk, nil
		}
		why = err
		time.Sleep(10 * time.Millisecond)
	}
	return nil, ticket{}, fmt.Errorf("%s %s: no answer to %d questions: %w", name, dns.TypeToString[typ], tries, why)
}

// wrongAnswer is an answer that no server may give, however late it is.
type wrongAnswer struct{ error }

// exchange asks once.
func (c *client) exchange(name string, typ uint16) (*dns.Msg, error) {
	req := new(dns.Msg)
	req.SetQuestion(dns.Fqdn(name), typ)
	req.SetEdns0(1232, false)
	req.Id = uint16(c.r.Uint32())
	raw, err := req.Pack()
	if err != nil {
		return nil, err
	}
	conn, err := c.m.Dial(c.proto, c.m.Addr, dnsdAddr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if c.proto == "tcp" {
		raw = lab.Frame(raw)
	}
	if _, err := conn.Write(raw); err != nil {
		return nil, err
	}
	answer := make([]byte, 65535)
	if c.proto == "tcp" {
		answer, err = lab.ReadFrame(conn)
	} else {
		var n int
		n, err = io.ReadAtLeast(conn, answer, 1)
		answer = answer[:n]
	}
	if err != nil {
		return nil, err
	}
	resp := new(dns.Msg)
	if err := resp.Unpack(answer); err != nil {
		return nil, wrongAnswer{fmt.Errorf("%s: %w: %x", name, err, answer)}
	}
	if resp.Id != req.Id || !resp.Response || len(resp.Question) != 1 || resp.Question[0] != req.Question[0] {
		return nil, wrongAnswer{fmt.Errorf("%s: an answer to something else: %v", name, resp)}
	}
	return resp, nil
}

// foreign says what a response has of a network other than the client's, beside
// the question.
func (c *client) foreign(resp *dns.Msg) error {
	text := new(strings.Builder)
	for _, rr := range resp.Answer {
		if a, ok := rr.(*dns.AAAA); ok {
			fmt.Fprintln(text, a.AAAA)
			continue
		}
		fmt.Fprintln(text, strings.TrimPrefix(rr.String(), rr.Header().Name))
	}
	for _, ede := range extended(resp) {
		fmt.Fprintln(text, ede)
	}
	for _, rr := range slices.Concat(resp.Ns, resp.Extra) {
		if rr.Header().Rrtype != dns.TypeOPT {
			fmt.Fprintln(text, rr)
		}
	}
	for _, n := range c.h.s.nets {
		if n == c.m.net {
			continue
		}
		for _, sign := range []string{n.mark, strings.TrimSuffix(n.name, "::/48")} {
			if strings.Contains(text.String(), sign) {
				return wrongAnswer{fmt.Errorf("%q of another network shows:\n%v", sign, resp)}
			}
		}
	}
	return nil
}

// flood asks as a client that never listens, some thousand times a second, until
// stop.
func flood(m *guest, perSecond int, stop <-chan struct{}) (sent int) {
	conn, err := m.Dial("udp", m.Addr, dnsdAddr)
	if err != nil {
		return 0
	}
	defer conn.Close()
	var asks [][]byte
	for _, name := range []string{"no-such-app.internal.", "web.internal.", "vms.still.internal.", "_instances.internal.", "host-1.example.com."} {
		req := new(dns.Msg).SetQuestion(name, dns.TypeAAAA)
		if strings.HasPrefix(name, "_") || strings.HasPrefix(name, "vms") {
			req.Question[0].Qtype = dns.TypeTXT
		}
		raw, err := req.Pack()
		if err != nil {
			return 0
		}
		asks = append(asks, raw)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ; {
		select {
		case <-stop:
			return sent
		case <-tick.C:
		}
		for due := int(time.Since(began).Seconds() * float64(perSecond)); sent < due; sent++ {
			raw := asks[sent%len(asks)]
			binary.BigEndian.PutUint16(raw, uint16(sent))
			_, _ = conn.Write(raw) // what the kernel refuses is lost
		}
	}
}
