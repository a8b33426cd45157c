package cluster

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

// patience bounds every wait. After some failures in a row dnsd pauses for up
// to 30 s before it follows its source again, and the machine may be busy.
const patience = 90 * time.Second

// server is a running dnsd that answers clients on loopback as members of netA.
type server struct {
	*lab.Server
	host  *lab.Lab
	at    netip.Addr
	calls lab.Client
}

// serve starts dnsd with more flags and waits until it takes questions, which
// it does before its source has listed.
func serve(t testing.TB, bin string, flags ...string) *server {
	t.Helper()
	// An address of its own, so that ports need not be found.
	s := &server{host: lab.Host(t), at: netip.AddrFrom4([4]byte{127, byte(1 + rand.IntN(254)), byte(rand.IntN(256)), byte(1 + rand.IntN(254))})}
	s.calls = lab.Client{Lab: s.host, To: netip.AddrPortFrom(s.at, 5353)}
	args := []string{"--listen", s.calls.To.String(), "--metrics-listen", netip.AddrPortFrom(s.at, 9153).String(),
		"--network", netA, "--upstream", "none"}
	s.Server = s.host.Launch(t, lab.Command(bin, nil, append(args, flags...)...))
	s.await(t, "the listener", func() bool { return strings.Contains(s.Stderr.String(), "dnsd listens") })
	return s
}

// until waits until ok holds, and reports whether it did in time. It looks less
// and less often, down to ten times a second: many scenes wait for half a minute
// at once, and each look costs dnsd and the test some milliseconds.
func until(patience time.Duration, ok func() bool) bool {
	pause := 5 * time.Millisecond
	for end := time.Now().Add(patience); !ok(); time.Sleep(pause) {
		if time.Now().After(end) {
			return false
		}
		pause = min(2*pause, 100*time.Millisecond)
	}
	return true
}

// await waits until ok holds.
func (s *server) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !until(patience, func() bool { return !s.Running() || ok() }) || !s.Running() {
		_, why := s.ready()
		t.Fatalf("waited for %s in vain; dnsd is %s", what, why)
	}
}

// get asks the admin listener.
func (s *server) get(path string) (int, string) {
	return s.host.Get(fmt.Sprintf("http://%s:9153%s", s.at, path))
}

func (s *server) ready() (int, string) { return s.get("/readyz") }

// metrics returns every sample of /metrics.
func (s *server) metrics() map[string]float64 {
	_, text := s.get("/metrics")
	samples := map[string]float64{}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if f, err := strconv.ParseFloat(value, 64); ok && err == nil {
			samples[name] = f
		}
	}
	return samples
}

// held returns how much the sweep guard holds back, by the metrics.
func (s *server) held() int {
	n := 0.0
	for name, value := range s.metrics() {
		if strings.HasPrefix(name, "dnsd_registry_held{") {
			n += value
		}
	}
	return int(n)
}

// state returns what the metrics say the registry's state is.
func (s *server) state() string {
	var on []string
	for name, value := range s.metrics() {
		if state, ok := strings.CutPrefix(name, `dnsd_registry_state{state="`); ok && value == 1 {
			on = append(on, strings.TrimSuffix(state, `"}`))
		}
	}
	return strings.Join(on, "+")
}

// awaitState waits until everything that tells the state tells this one, and
// /readyz also each of the words.
func (s *server) awaitState(t testing.TB, state string, words ...string) {
	t.Helper()
	s.await(t, "state "+state, func() bool {
		code, text := s.ready()
		if !strings.HasPrefix(text, state+": ") {
			return false
		}
		info := s.info()
		return s.state() == state && info["state"] == state &&
			(code == 200) == (state != "listing") && info["synced"] == strconv.FormatBool(state != "listing") &&
			!slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
	})
}

// request returns a question with EDNS.
func request(name string, typ uint16) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), typ)
	m.SetEdns0(1232, false)
	return m
}

// ask asks once, over UDP or, for an answer that is too long, TCP.
func (s *server) ask(name string, typ uint16) (*dns.Msg, error) {
	raw, err := request(name, typ).Pack()
	if err != nil {
		return nil, err
	}
	for _, proto := range []string{"udp", "tcp"} {
		answer, err := s.calls.Exchange(proto, raw)
		if err != nil {
			return nil, err
		}
		resp := new(dns.Msg)
		if err := resp.Unpack(answer); err != nil {
			return nil, err
		}
		if !resp.Truncated {
			return resp, nil
		}
	}
	return nil, fmt.Errorf("the answer for %s does not fit TCP", name)
}

// info returns what _dnsd.internal says.
func (s *server) info() map[string]string {
	fields := map[string]string{}
	resp, err := s.ask("_dnsd.internal", dns.TypeTXT)
	if err != nil {
		return fields
	}
	for _, rr := range resp.Answer {
		for _, text := range rr.(*dns.TXT).Txt {
			name, value, _ := strings.Cut(text, "=")
			fields[name] = value
		}
	}
	return fields
}

// marked reports whether a response says that it may be stale.
func marked(resp *dns.Msg) bool {
	opt := resp.IsEdns0()
	return opt != nil && slices.ContainsFunc(opt.Option, func(o dns.EDNS0) bool {
		ede, ok := o.(*dns.EDNS0_EDE)
		return ok && ede.InfoCode == dns.ExtendedErrorCodeStaleAnswer
	})
}

// weight is what a process holds that a leak would add to.
type weight struct{ goroutines, files float64 }

func (s *server) weight() weight {
	m := s.metrics()
	return weight{m["go_goroutines"], m["process_open_fds"]}
}

// line is a UDP socket over which one question follows the other.
type line struct {
	net.Conn
	s   *server
	buf [65535]byte
}

// dial opens a line, which the caller closes.
func (s *server) dial() (*line, error) {
	conn, err := s.calls.Open("udp")
	return &line{Conn: conn, s: s}, err
}

// ask asks once; for an answer that is too long, also over TCP.
func (l *line) ask(name string, typ uint16) (*dns.Msg, error) {
	req := request(name, typ)
	raw, err := req.Pack()
	if err != nil {
		return nil, err
	}
	if err := l.SetDeadline(time.Now().Add(lab.Patience)); err != nil {
		return nil, err
	}
	if _, err := l.Write(raw); err != nil {
		return nil, err
	}
	n, err := l.Read(l.buf[:])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	resp := new(dns.Msg)
	if err := resp.Unpack(l.buf[:n]); err != nil {
		return nil, err
	}
	if resp.Id != req.Id {
		return nil, fmt.Errorf("%s: an answer to something else", name)
	}
	if resp.Truncated {
		return l.s.ask(name, typ)
	}
	return resp, nil
}
