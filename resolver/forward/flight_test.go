package forward

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

const (
	agedStale  = "NOERROR; a.example. 30 IN A 192.0.2.1; EDE 3"
	agedAfter  = 2 * time.Second                     // by then, what newAged keeps has expired
	lateAnswer = stalePatience + 50*time.Millisecond // within a try, and before a second client's question brings a loop probe
)

// newAged returns a forwarder that keeps a stale answer for a.example, and then asks an
// upstream that does as answer says.
func newAged(t *testing.T, answer answerFunc) (f *Forwarder, u *fakeNet) {
	u = &fakeNet{}
	f = newFaked(t, Config{}, u)
	age(t, f, u, answer)
	return f, u
}

func age(t *testing.T, f *Forwarder, u *fakeNet, answer answerFunc) {
	u.set(says(dns.RcodeSuccess, "a.example. 1 IN A 192.0.2.1"))
	resolve(t.Context(), f, query("a.example", dns.TypeA))
	time.Sleep(agedAfter)
	u.set(answer)
}

// evict makes the forwarder forget the answer to a question.
func evict(f *Forwarder, q *Query) {
	f.cache.mu.Lock()
	defer f.cache.mu.Unlock()
	f.cache.drop(f.cache.find(f.cache.keyOf(q), q.Name))
}

// wantIdle finds that no flight is left and all places are free.
func wantIdle(t *testing.T, f *Forwarder) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.limits.inflight(); n != 0 || len(f.flights)+len(f.watches) != 0 {
		t.Errorf("%d places taken, %d flights, %d watches", n, len(f.flights), len(f.watches))
	}
}

// TestLateAnswer: a stale answer goes out in time, and the fresh one that comes after
// it, within the time of a try, is what the next client gets.
func TestLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, u := newAged(t, after(lateAnswer, "192.0.2.9"))
		q, mine, start := query("a.example", dns.TypeA), query("a.example", dns.TypeA), time.Now()
		wantText(t, q, resolve(t.Context(), f, mine), agedStale)
		if took := time.Since(start); took != 1800*time.Millisecond {
			t.Errorf("took %s", took)
		}
		clear(mine.Name) // it is the caller's again
		if n := f.limits.inflight(); n != 1 {
			t.Errorf("%d places taken by what goes on", n)
		}
		wantText(t, q, f.Immediate(q), agedStale)
		evict(f, q) // who comes now has no longer to wait
		wantText(t, q, resolve(t.Context(), f, q), agedStale)
		if took := time.Since(start); took != stalePatience {
			t.Errorf("the second client waited until %s", took)
		}
		time.Sleep(time.Until(start.Add(lateAnswer)))
		synctest.Wait()
		q.Hits = new(atomic.Uint64)
		for want := range uint64(3) {
			if n := q.Hits.Load(); n != want {
				t.Errorf("%d hits counted, want %d", n, want)
			}
			wantText(t, q, f.Immediate(q), "NOERROR; a.example. 60 IN A 192.0.2.9")
		}
		if n := u.count(); n != 2 {
			t.Errorf("%d queries", n)
		}
		if n := value(f.metrics.stale); n != 3 {
			t.Errorf("%v stale", n)
		}
		wantIdle(t, f)
	})
}

// TestStandIn: a stale answer is made once, and not when the fresh one is there.
func TestStandIn(t *testing.T) {
	f := faked(t, Config{})
	e := &entry{Reply: *sized(0)}
	if r := f.standIn(&flight{old: e, landed: true}); r != nil {
		t.Errorf("%v, though there is an answer", r)
	}
	late := &flight{old: e}
	if first := f.standIn(late); first == nil || f.standIn(late) != first {
		t.Error("made twice")
	}
}

// TestLateVerdict: what the upstream finds forged ends the stale answer.
func TestLateVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newAged(t, func(ctx context.Context, m *message) (*dns.Msg, error) {
			time.Sleep(lateAnswer)
			return withEDE(answerTo(m, dns.RcodeServerFailure), dns.ExtendedErrorCodeDNSBogus, ""), nil
		})
		q := query("a.example", dns.TypeA)
		wantText(t, q, resolve(t.Context(), f, q), agedStale)
		time.Sleep(lateAnswer - stalePatience)
		synctest.Wait()
		wantText(t, q, f.Immediate(q), "SERVFAIL; EDE 6")
		wantIdle(t, f)
	})
}

// TestKeptMeanwhile: an answer that was kept since Immediate looked is not asked for
// again, and holds up nobody.
func TestKeptMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &fakeNet{}
		f := newFaked(t, Config{}, u)
		u.set(says(dns.RcodeSuccess, "a.example. 60 IN A 192.0.2.1"))
		q := query("a.example", dns.TypeA)
		if r := f.Immediate(q); r != nil {
			t.Fatalf("answered at once: %v", r)
		}
		resolve(t.Context(), f, query("a.example", dns.TypeA))
		for range 2 {
			wantText(t, q, f.Resolve(t.Context(), q), "NOERROR; a.example. 60 IN A 192.0.2.1")
		}
		f.Release(q)
		if n := u.count(); n != 1 {
			t.Errorf("%d queries, want 1", n)
		}
		wantIdle(t, f)
	})
}

// TestAskerGone: who asked first may go; the answer is kept all the same.
func TestAskerGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newAged(t, after(time.Second, "192.0.2.9"))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		q := query("a.example", dns.TypeA)
		wantText(t, q, resolve(ctx, f, q), "SERVFAIL; EDE 22")
		time.Sleep(time.Second)
		synctest.Wait()
		wantText(t, q, f.Immediate(q), "NOERROR; a.example. 60 IN A 192.0.2.9")
		wantIdle(t, f)
	})
}

// TestRunEndsFlights: Run ends, and waits for, what goes on without a client; a question
// that comes after starts nothing.
func TestRunEndsFlights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &fakeNet{}
		f := faked(t, Config{}, u)
		stop := run(t, f)
		age(t, f, u, silent)
		q := query("a.example", dns.TypeA)
		wantText(t, q, resolve(t.Context(), f, q), agedStale)
		start := time.Now()
		stop()
		if took := time.Since(start); took != 0 {
			t.Errorf("took %s", took)
		}
		wantIdle(t, f)
		if f.spawn("coming late", func() { t.Error("it runs") }) {
			t.Error("something was started")
		}
		time.Sleep(failureHold)
		wantText(t, q, resolve(t.Context(), f, q), agedStale)
		wantIdle(t, f)
	})
}

// TestPanicOnTheWay: a panic while an answer is kept costs its clients the answer, and
// no more.
func TestPanicOnTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f *Forwarder
		f, _ = newAged(t, func(_ context.Context, m *message) (*dns.Msg, error) {
			f.cache.mu.Lock()
			defer f.cache.mu.Unlock()
			f.cache.order = nil // where the holder of every entry must be
			return answerTo(m, dns.RcodeSuccess, "a.example. 60 IN A 192.0.2.1"), nil
		})
		wantA(t, f, "a.example", "SERVFAIL; EDE 0")
		synctest.Wait()
		wantIdle(t, f)
		if n := f.Panics(); n != 1 {
			t.Errorf("%d panics counted", n)
		}
	})
}

// TestLateRenewal: who asks for an answer that expired while it was being renewed
// gets the stale one as well.
func TestLateRenewal(t *testing.T) {
	withFake(t, after(0, "192.0.2.1"), func(t *testing.T, f *Forwarder, u *fakeNet) {
		q := query("a.example", dns.TypeA)
		resolve(t.Context(), f, q)
		u.set(silent)
		time.Sleep(time.Minute - time.Second)
		f.Immediate(q) // starts the renewal
		time.Sleep(time.Second)
		start := time.Now()
		wantText(t, q, resolve(t.Context(), f, q), agedStale)
		if took := time.Since(start); took > stalePatience {
			t.Errorf("took %s", took)
		}
		time.Sleep(DefaultTimeout)
		synctest.Wait()
		wantIdle(t, f)
	})
}
