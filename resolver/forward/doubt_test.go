package forward

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

var errRefused = readError(fmt.Errorf("udp: read udp 127.0.0.1:37583->127.0.0.1:53: %w", syscall.ECONNREFUSED))

// doubted reports a refusal by the network and then does as answer says. Probes, which
// nobody forges anything for, are answered as probe says.
func doubted(probe, answer answerFunc) answerFunc {
	return func(ctx context.Context, m *message) (*dns.Msg, error) {
		if len(m.name) == 1 {
			return probe(ctx, m)
		}
		if doubt := ctx.Value(doubtKey{}).(func()); doubt != nil {
			doubt()
		}
		return answer(ctx, m)
	}
}

// TestDoubtIsNoVerdict: an error of the network that anybody can forge has the upstream
// probed, and nothing else where that lives.
func TestDoubtIsNoVerdict(t *testing.T) {
	withFake(t, doubted(says(dns.RcodeRefused), after(time.Second, "192.0.2.1")), func(t *testing.T, f *Forwarder, u *fakeNet) {
		service := &countedContext{Context: t.Context(), done: make(chan struct{})}
		f.at(0).service = service
		start := time.Now()
		var g sync.WaitGroup
		for i := range 100 {
			g.Go(func() {
				wantA(t, f, fmt.Sprintf("n%d.example", i), fmt.Sprintf("NOERROR; n%d.example. 60 IN A 192.0.2.1", i))
			})
			time.Sleep(time.Millisecond)
		}
		asked := time.Since(start)
		g.Wait()
		if u.count() != 100 || f.at(0).isDown() {
			t.Errorf("%d queries, down %v", u.count(), f.at(0).isDown())
		}
		// Whoever sends the news, and however often: an upstream that is up is probed
		// no more often than this.
		if n := u.probed(); n == 0 || n > int(asked/probeSpacing)+1 {
			t.Errorf("%d probes", n)
		}
		if n := service.open.Load(); n != 0 {
			t.Errorf("%d queries that have ended still wait for the upstream to go down", n)
		}
	})
}

// countedContext counts who waits for its end.
type countedContext struct {
	context.Context
	done chan struct{} // never closed
	open atomic.Int32
}

func (c *countedContext) Done() <-chan struct{} { return c.done }

// AfterFunc is how package context asks a context of another's making.
func (c *countedContext) AfterFunc(func()) func() bool {
	c.open.Add(1)
	return func() bool { c.open.Add(-1); return true }
}

// TestDoubtStartsTheNext: what is in doubt is not waited for before another is asked.
func TestDoubtStartsTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &fakeNet{answer: doubted(says(dns.RcodeRefused), silent)}
		other := &fakeNet{answer: after(time.Millisecond, "192.0.2.2")}
		f := newFaked(t, Config{}, u, other)
		q, start := query("a.example", dns.TypeA), time.Now()
		wantText(t, q, resolve(t.Context(), f, q), "NOERROR; a.example. 60 IN A 192.0.2.2")
		if took := time.Since(start); took != time.Millisecond || value(f.at(1).metrics.raced) != 1 {
			t.Errorf("took %s, raced %v", took, value(f.at(1).metrics.raced))
		}
	})
}

// TestDoubtProven: where the probe finds it true, nothing is waited for.
func TestDoubtProven(t *testing.T) {
	withFake(t, doubted(fails(errRefused), silent), func(t *testing.T, f *Forwarder, u *fakeNet) {
		q, start := query("a.example", dns.TypeA), time.Now()
		wantText(t, q, resolve(t.Context(), f, q), "SERVFAIL; EDE 22")
		if took := time.Since(start); took != 0 || !f.at(0).isDown() || u.count() != 1 {
			t.Errorf("took %s, %d queries, down %v", took, u.count(), f.at(0).isDown())
		}
	})
}

// TestOneForgedProbe: one refused probe is not believed.
func TestOneForgedProbe(t *testing.T) {
	for _, forged := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			probes := 0
			u := &fakeNet{answer: doubted(func(_ context.Context, m *message) (*dns.Msg, error) {
				if probes++; probes <= forged {
					return nil, errRefused
				}
				return answerTo(m, dns.RcodeRefused), nil
			}, after(time.Millisecond, "192.0.2.1"))}
			f := newFaked(t, Config{}, u)
			q := query("a.example", dns.TypeA)
			r := resolve(t.Context(), f, q)
			if up := r.Rcode == dns.RcodeSuccess; up != (forged == 1) {
				t.Errorf("%d refused probes: %v", forged, r)
			}
		})
	}
}

// TestReadGoesOnAfterRefusal: on a real socket, a refusal by the kernel ends nothing
// as long as somebody may answer; one that is true ends the question at once.
func TestReadGoesOnAfterRefusal(t *testing.T) {
	t.Parallel()
	s := (&scripted{onUDP: onUDP}).start(t, nil)
	s.udp.Close() // from here on the kernel refuses
	sock := &asker{addr: s.addr, metrics: newMetrics().of("x"), useUDP: true}
	ctx, cancel := context.WithCancelCause(t.Context())
	doubts := 0
	_, err := sock.exchange(ctx, newMessage(query("a.example", dns.TypeA), true), func() {
		doubts++
		time.AfterFunc(50*time.Millisecond, func() { cancel(errRefused) })
	})
	if doubts != 1 || !errors.Is(err, errRefused) {
		t.Errorf("%d doubts, %v", doubts, err)
	}
	if _, err := sock.exchange(t.Context(), newMessage(query("a.example", dns.TypeA), true), nil); !isRefusal(err) {
		t.Errorf("without doubt: %v", err)
	}
}

// TestWhoseFault: what the kernel says of a packet that came back is no trouble of this host.
func TestWhoseFault(t *testing.T) {
	for _, c := range []struct {
		err            error
		local, refusal bool
	}{
		{readError(os.NewSyscallError("read", syscall.EACCES)), false, true}, // ICMPv6, code 1
		{readError(os.NewSyscallError("read", syscall.ECONNREFUSED)), false, true},
		{readError(os.NewSyscallError("read", syscall.ENOBUFS)), true, false},
		{os.NewSyscallError("connect", syscall.EACCES), true, false},
		{os.NewSyscallError("socket", syscall.EMFILE), true, false},
		{os.NewSyscallError("connect", syscall.EAGAIN), true, false}, // no port is free
		{os.NewSyscallError("connect", syscall.ENETUNREACH), false, true},
		{os.ErrDeadlineExceeded, false, false},
	} {
		if isLocal(c.err) != c.local || isRefusal(c.err) != c.refusal {
			t.Errorf("%v: local %v, refusal %v", c.err, isLocal(c.err), isRefusal(c.err))
		}
	}
}

// TestFloodOfAnswers: an upstream, or somebody in its place, that sends answers to
// something else over UDP is asked over TCP.
func TestFloodOfAnswers(t *testing.T) {
	t.Parallel()
	var sent atomic.Int32
	s := (&scripted{onUDP: func(q *dns.Msg, send func(*dns.Msg)) {
		for range 1000 {
			m := answering(q, "203.0.113.66")
			m.Id++
			send(m)
			sent.Add(1)
		}
	}, onTCP: onTCP}).start(t, nil)
	f := forwardTo(t, s)
	wantA(t, f, "a.example", oneAnswer)
	if n := value(f.at(0).metrics.mismatched); n != maxMismatched {
		t.Errorf("%v read", n)
	}
}

// TestSentences: no reason that a client reads holds anything of this host.
func TestSentences(t *testing.T) {
	dial := func(network, addr string) error {
		c, err := net.Dial(network, addr)
		if err == nil {
			c.Close()
		}
		return err
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := closed.Addr().String()
	closed.Close()
	_, unknown := tls.Dial("tcp", addr, nil)
	local := &net.OpError{Op: "dial", Net: "udp", Addr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:53")),
		Err: os.NewSyscallError("socket", syscall.EMFILE)}
	address := regexp.MustCompile(`\d+\.\d+\.\d+|[0-9a-f]*:[0-9a-f:]+|->|\b(udp|tcp|dial|connect|socket)\b`)
	for _, c := range []struct {
		err  error
		want string
	}{
		{errNoUpstream, "no upstream"},
		{errAllDown, "no upstream answers"},
		{errLoop, "loop"},
		{timeoutError{5 * time.Second}, "no answer within 5s"},
		{errRefused, "refuses"},
		{dial("tcp", addr), "refuses"},
		{fmt.Errorf("connecting: %w", unknown), "refuses"},
		{dial("udp", "[fe80::1]:53"), ""},
		{fmt.Errorf("udp: %w", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}), "unreachable"},
		{fmt.Errorf("udp: %w", local), "resources"},
		{fmt.Errorf("%w: %w", errNeedsTCP, dial("tcp", addr)), "TCP"},
		{fmt.Errorf("%w: %w", errStreamGone, dial("tcp", addr)), "refuses"},
		{fmt.Errorf("%w: read tcp %s: EOF", errStreamGone, addr), "closed the connection"},
		{&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "10.0.0.1"}}, "certificate"},
		{errMalformed, "cannot be read"},
		{errInternal, "log"},
		{context.Canceled, "shutting down"},
		{net.ErrClosed, "shutting down"},
		{errors.New("read udp 127.0.0.1:37583->127.0.0.1:53: something new"), "cannot be asked"},
		{errManyStreams, "cannot be asked"},
	} {
		r := failureOf(c.err)
		if text := r.EDE[0].Text; !strings.Contains(text, c.want) || address.MatchString(text) {
			t.Errorf("%v: %q, want %q in it", c.err, text, c.want)
		}
	}
}
