package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

func TestRaceSecondUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, fast := &fakeNet{answer: silent}, &fakeNet{answer: after(time.Millisecond, "192.0.2.2")}
		f := newFaked(t, Config{}, slow, fast)
		q, start := query("a.example", dns.TypeA), time.Now()
		wantText(t, q, resolve(t.Context(), f, q), "NOERROR; a.example. 60 IN A 192.0.2.2")
		if took := time.Since(start); took != raceDelayOpen+time.Millisecond {
			t.Errorf("took %s", took)
		}
		if n := value(f.at(1).metrics.raced); n != 1 {
			t.Errorf("raced %v", n)
		}
		// Overtaken, the slow one is not the first choice any more.
		q, start = query("b.example", dns.TypeA), time.Now()
		resolve(t.Context(), f, q)
		if took := time.Since(start); took != time.Millisecond {
			t.Errorf("the second question took %s", took)
		}
	})
}

// TestNoQueryIsLeft: when there is an answer, all queries have ended.
func TestNoQueryIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var left atomic.Int32
		slow := &fakeNet{answer: func(ctx context.Context, m *message) (*dns.Msg, error) {
			left.Add(1)
			defer left.Add(-1)
			defer time.Sleep(time.Millisecond)
			return silent(ctx, m)
		}}
		f := newFaked(t, Config{}, slow, &fakeNet{answer: after(0, "192.0.2.2")})
		resolve(t.Context(), f, query("a.example", dns.TypeA))
		if n := left.Load(); n != 0 || slow.count() != 1 {
			t.Errorf("%d of %d queries go on", n, slow.count())
		}
	})
}

func TestTriesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nets := make([]*fakeNet, 5)
		for i := range nets {
			nets[i] = &fakeNet{answer: silent}
		}
		f := newFaked(t, Config{}, nets...)
		q, start := query("a.example", dns.TypeA), time.Now()
		wantText(t, q, resolve(t.Context(), f, q), "SERVFAIL; EDE 22")
		sum := 0
		for _, n := range nets {
			sum += n.count()
		}
		if took := time.Since(start); sum != maxTries || took > 5*time.Second {
			t.Errorf("%d queries in %s", sum, took)
		}
	})
}

func TestSilentUpstreamIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &fakeNet{}
		first := true
		u.answer = func(ctx context.Context, m *message) (*dns.Msg, error) {
			if first {
				first = false
				return silent(ctx, m)
			}
			return after(0, "192.0.2.1")(ctx, m)
		}
		f := newFaked(t, Config{}, u)
		q, start := query("a.example", dns.TypeA), time.Now()
		wantText(t, q, resolve(t.Context(), f, q), "NOERROR; a.example. 60 IN A 192.0.2.1")
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// TestFailuresAreCached: RFC 9520, and the upstream's reasons are passed on.
func TestFailuresAreCached(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer answerFunc
		want   string
	}{
		{"servfail", says(dns.RcodeServerFailure), "SERVFAIL; EDE 22"},
		{"with a reason", func(_ context.Context, m *message) (*dns.Msg, error) {
			return withEDE(answerTo(m, dns.RcodeServerFailure), 9, "no DNSKEY"), nil
		}, "SERVFAIL; EDE 9"},
		{"refused", says(dns.RcodeRefused), "SERVFAIL; EDE 22"},
		{"malformed", fails(errMalformed), "SERVFAIL; EDE 22"},
		{"silent", silent, "SERVFAIL; EDE 22"},
	} {
		t.Run(c.name, func(t *testing.T) {
			withFake(t, c.answer, func(t *testing.T, f *Forwarder, u *fakeNet) {
				q := query("a.example", dns.TypeA)
				wantText(t, q, resolve(t.Context(), f, q), c.want)
				asked := u.count()
				time.Sleep(failureHold - time.Millisecond)
				wantText(t, q, f.Immediate(q), c.want)
				if u.count() != asked {
					t.Error("asked again although the failure was kept")
				}
				time.Sleep(time.Millisecond)
				if f.Immediate(q) != nil {
					t.Error("the failure was kept for longer")
				}
			})
		})
	}
}

func TestNextUpstreamAfterFailure(t *testing.T) {
	for _, rcode := range []int{dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNotImplemented} {
		synctest.Test(t, func(t *testing.T) {
			bad, good := &fakeNet{answer: func(_ context.Context, m *message) (*dns.Msg, error) {
				return withEDE(answerTo(m, rcode), dns.ExtendedErrorCodeOther, ""), nil
			}}, &fakeNet{answer: after(0, "192.0.2.2")}
			f := newFaked(t, Config{}, bad, good)
			for i := range 2 * unwellAfter {
				q := query(fmt.Sprintf("n%d.example", i), dns.TypeA)
				if r := resolve(t.Context(), f, q); r.Rcode != dns.RcodeSuccess {
					t.Fatalf("question %d: %v", i, r)
				}
			}
			if n := bad.count(); n > unwellAfter {
				t.Errorf("asked the failing upstream %d times", n)
			}
			if f.at(0).isDown() {
				t.Error("an upstream that answers is down")
			}
		})
	}
}

// TestAllDown: failing takes no time, probing goes on, and recovery is noticed.
func TestAllDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := fails(fmt.Errorf("udp: %w", syscall.ECONNREFUSED))
		a, b := &fakeNet{answer: refused}, &fakeNet{answer: refused}
		var log lockedBuffer
		f := newFaked(t, Config{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}, a, b)
		for i := range 50 {
			q, start := query(fmt.Sprintf("n%d.example", i), dns.TypeA), time.Now()
			wantText(t, q, resolve(t.Context(), f, q), "SERVFAIL; EDE 22")
			if took := time.Since(start); took != 0 {
				t.Fatalf("question %d took %s", i, took)
			}
			synctest.Wait() // until the probers know
		}
		if a.count()+b.count() > maxTries {
			t.Errorf("asked %d and %d times although down", a.count(), b.count())
		}
		time.Sleep(time.Minute)
		if n := a.probed() / 2; n < 6 || n > 20 { // two each time
			t.Errorf("%d probes in a minute", n)
		}
		a.set(after(0, "192.0.2.1"))
		time.Sleep(probeSlowest)
		wantA(t, f, "back.example", "NOERROR; back.example. 60 IN A 192.0.2.1")
		if value(f.at(0).metrics.up) != 1 || value(f.at(1).metrics.up) != 0 {
			t.Error("the up gauges are wrong")
		}
		for text, want := range map[string]int{"upstream is down": 2, "upstream is up again": 1, "a query to an upstream failed": a.count() + b.count() - 1} {
			if n := strings.Count(log.String(), text); n != want {
				t.Errorf("%d times in the log: %s", n, text)
			}
		}
	})
}

// TestSilenceIsProven: names whose own servers are dead don't take an upstream down, since
// the prober's question decides; a dead upstream goes down.
func TestSilenceIsProven(t *testing.T) {
	for _, dead := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			u := &fakeNet{answer: func(ctx context.Context, m *message) (*dns.Msg, error) {
				if len(m.name) == 1 && !dead {
					return answerTo(m, dns.RcodeRefused), nil
				}
				return silent(ctx, m)
			}}
			f := newFaked(t, Config{}, u)
			for i := range 5 {
				resolve(t.Context(), f, query(fmt.Sprintf("n%d.example", i), dns.TypeA))
			}
			time.Sleep(probeTimeout)
			if got := f.at(0).isDown(); got != dead {
				t.Errorf("dead %v: down %v", dead, got)
			}
		})
	}
}

func TestLocalTroubleIsNobodysFault(t *testing.T) {
	withFake(t, fails(fmt.Errorf("udp: %w", syscall.EMFILE)), func(t *testing.T, f *Forwarder, u *fakeNet) {
		for i := range 10 {
			resolve(t.Context(), f, query(fmt.Sprintf("n%d.example", i), dns.TypeA))
		}
		u.set(after(0, "192.0.2.1"))
		q := query("n9.example", dns.TypeA) // and nothing of it is kept
		wantText(t, q, resolve(t.Context(), f, q), "NOERROR; n9.example. 60 IN A 192.0.2.1")
		time.Sleep(time.Minute)
		if f.at(0).isDown() || u.probed() != 0 {
			t.Errorf("down %v after %d probes", f.at(0).isDown(), u.probed())
		}
		u.set(fails(syscall.EMFILE))
		f.at(0).suspect()
		synctest.Wait()
		if f.at(0).isDown() || u.probed() != 1 {
			t.Errorf("down %v after %d probes without a socket", f.at(0).isDown(), u.probed())
		}
	})
}

// TestShared: identical questions cost one query, and others one each.
func TestShared(t *testing.T) {
	withFake(t, after(50*time.Millisecond, "192.0.2.1"), func(t *testing.T, f *Forwarder, u *fakeNet) {
		var g sync.WaitGroup
		for i := range 100 {
			q := query("a.example", dns.TypeA)
			if i%2 == 0 {
				q.Network = netB
			}
			g.Go(func() { wantText(t, q, resolve(t.Context(), f, q), "NOERROR; a.example. 60 IN A 192.0.2.1") })
		}
		g.Wait()
		if n := u.count(); n != 1 {
			t.Errorf("%d queries for one question", n)
		}
		for i := range 4 {
			q := query("a.example", dns.TypeA)
			q.DO, q.CD = i&1 != 0, i&2 != 0
			resolve(t.Context(), f, q)
		}
		if n := u.count(); n != 4 {
			t.Errorf("%d queries for the four kinds of flags", n)
		}
		if len(f.flights)+len(f.watches)+len(f.limits.held) != 0 {
			t.Error("something of the flights is left")
		}
	})
}

func TestPerNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &fakeNet{answer: after(0, "192.0.2.1")}
		f := newFaked(t, Config{PerNetwork: true}, u)
		a, b := query("a.example", dns.TypeA), query("a.example", dns.TypeA)
		b.Network = netB
		resolve(t.Context(), f, a)
		if f.Immediate(b) != nil {
			t.Error("one network's answer was given to another")
		}
		resolve(t.Context(), f, b)
		if f.Immediate(a) == nil || f.Immediate(b) == nil || u.count() != 2 {
			t.Errorf("%d queries", u.count())
		}
	})
}

func TestLeaderGone(t *testing.T) {
	withFake(t, silent, func(t *testing.T, f *Forwarder, u *fakeNet) {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errors.New("shutting down")) })
		q, start := query("a.example", dns.TypeA), time.Now()
		wantText(t, q, resolve(ctx, f, q), "SERVFAIL; EDE 22")
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %s", took)
		}
		if f.Immediate(q) != nil {
			t.Error("what shutting down cut short was kept as a failure")
		}
	})
}

// TestLatency: the estimates of RFC 6298, and the time that an upstream has before another is
// asked as well.
func TestLatency(t *testing.T) {
	const ms = time.Millisecond
	u := &upstream{}
	for _, c := range []struct {
		took, weight, srtt, rttvar, race time.Duration
	}{
		{0, usualWeight, 0, 0, 200 * ms},
		{16 * ms, usualWeight, 16 * ms, 8 * ms, 48 * ms},
		{32 * ms, usualWeight, 18 * ms, 10 * ms, 58 * ms},
		{2 * ms, usualWeight, 16 * ms, 11500 * time.Microsecond, 62 * ms},
		{32 * ms, sampleWeight, 24 * ms, 13750 * time.Microsecond, 79 * ms},
		{time.Second, sampleWeight, 512 * ms, 494875 * time.Microsecond, 400 * ms},
	} {
		u.measure(c.took, c.weight)
		if race := u.raceDelay(); u.srtt != c.srtt || u.rttvar != c.rttvar || race != c.race {
			t.Errorf("after %s: %s, %s, %s; want %s, %s, %s", c.took, u.srtt, u.rttvar, race, c.srtt, c.rttvar, c.race)
		}
	}
	u = &upstream{srtt: ms}
	if race := u.raceDelay(); race != 20*ms {
		t.Errorf("the shortest: %s", race)
	}
}
