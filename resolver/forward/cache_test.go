package forward

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

const soa = " IN SOA ns.example. hostmaster.example. 1 3600 600 86400 "

// TestLifetimes asks for each answer, and finds out for how long it is kept.
func TestLifetimes(t *testing.T) {
	for _, c := range []struct {
		name    string
		rcode   int
		records []string
		want    time.Duration
		ttl     uint32 // of the first record
	}{
		{"positive", dns.RcodeSuccess, []string{"a.example. 60 IN A 192.0.2.1"}, time.Minute, 60},
		{"shortest counts", dns.RcodeSuccess, []string{"a.example. 60 IN A 192.0.2.1", "--", "example. 30 IN NS ns.example."}, 30 * time.Second, 60},
		{"zero", dns.RcodeSuccess, []string{"a.example. 0 IN A 192.0.2.1"}, 0, 0},
		{"a week", dns.RcodeSuccess, []string{"a.example. 604800 IN A 192.0.2.1"}, 24 * time.Hour, 86400},
		{"largest", dns.RcodeSuccess, []string{"a.example. 2147483647 IN A 192.0.2.1"}, 24 * time.Hour, 86400},
		{"with a SOA", dns.RcodeSuccess, []string{"a.example. 60 IN A 192.0.2.1", "--", "example. 3600" + soa + "20"}, time.Minute, 60},
		{"sign bit", dns.RcodeSuccess, []string{"a.example. 2147483648 IN A 192.0.2.1"}, 0, 0},
		{"alias", dns.RcodeSuccess, []string{"a.example. 60 IN CNAME b.example.", "b.example. 5 IN A 192.0.2.1"}, 5 * time.Second, 60},
		{"nxdomain by ttl", dns.RcodeNameError, []string{"--", "example. 20" + soa + "3600"}, 20 * time.Second, 20},
		{"nxdomain by minimum", dns.RcodeNameError, []string{"--", "example. 3600" + soa + "20"}, 20 * time.Second, 20},
		{"nxdomain by minimum, after NS", dns.RcodeNameError, []string{"--", "example. 60 IN NS ns.example.", "example. 3600" + soa + "20"}, 20 * time.Second, 60},
		{"nxdomain at most", dns.RcodeNameError, []string{"--", "example. 3600" + soa + "3600"}, 5 * time.Minute, 300},
		{"nodata", dns.RcodeSuccess, []string{"--", "example. 20" + soa + "3600"}, 20 * time.Second, 20},
		{"alias to nodata", dns.RcodeSuccess, []string{"a.example. 10 IN CNAME b.example.", "--", "example. 20" + soa + "3600"}, 10 * time.Second, 10},
		{"nxdomain without soa", dns.RcodeNameError, nil, 0, 0},
		{"nodata without soa", dns.RcodeSuccess, nil, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			withFake(t, says(c.rcode, c.records...), func(t *testing.T, f *Forwarder, u *fakeNet) {
				q := query("a.example", dns.TypeA)
				resolve(t.Context(), f, q)
				if c.want > 0 {
					if m := response(t, q, f.Immediate(q), 512); append(m.Answer, m.Ns...)[0].Header().Ttl != c.ttl {
						t.Errorf("got %v, want a TTL of %d", m, c.ttl)
					}
					time.Sleep(c.want - time.Nanosecond)
					u.set(silent) // or it would be renewed
					m := response(t, q, f.Immediate(q), 512)
					for _, rr := range append(m.Answer, m.Ns...) {
						if rr.Header().Ttl < 1 {
							t.Errorf("at its end a record has TTL 0: %s", rr)
						}
					}
					time.Sleep(time.Nanosecond)
				}
				if f.Immediate(q) != nil {
					t.Errorf("kept for longer than %s", c.want)
				}
			})
		})
	}
}

func TestServeStale(t *testing.T) {
	withFake(t, after(0, "192.0.2.1"), func(t *testing.T, f *Forwarder, u *fakeNet) {
		q := query("a.example", dns.TypeA)
		const fresh, stale = "NOERROR; a.example. 60 IN A 192.0.2.1", "NOERROR; a.example. 30 IN A 192.0.2.1; EDE 3"
		wantText(t, q, resolve(t.Context(), f, q), fresh)
		time.Sleep(2 * time.Minute)

		for name, answer := range map[string]answerFunc{
			"silent": silent, "servfail": says(dns.RcodeServerFailure), "refused": says(dns.RcodeRefused),
		} {
			u.set(answer)
			start := time.Now()
			wantText(t, q, resolve(t.Context(), f, q), stale)
			if took := time.Since(start); took > stalePatience {
				t.Errorf("%s: took %s", name, took)
			}
			wantText(t, q, f.Immediate(q), stale)
			time.Sleep(DefaultTimeout + failureHold) // what was asked may yet fail, which is kept as well
			if f.Immediate(q) != nil {
				t.Errorf("%s: the upstream is not asked again", name)
			}
			u.set(says(dns.RcodeServerFailure))
			time.Sleep(probeSlowest) // the silent one was down
		}
		// What the upstream finds forged or forbidden is no outage.
		u.set(func(_ context.Context, m *message) (*dns.Msg, error) {
			return withEDE(answerTo(m, dns.RcodeServerFailure), dns.ExtendedErrorCodeDNSBogus, ""), nil
		})
		wantText(t, q, resolve(t.Context(), f, q), "SERVFAIL; EDE 6")

		u.set(after(0, "192.0.2.9"))
		time.Sleep(failureHold)
		wantText(t, q, resolve(t.Context(), f, q), "NOERROR; a.example. 60 IN A 192.0.2.9")
		if value(f.metrics.stale) != 6 {
			t.Errorf("%v stale", value(f.metrics.stale))
		}
	})
}

// TestStaleEnds: an outage does not renew what it serves.
func TestStaleEnds(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer answerFunc
		hold   time.Duration
		code   uint16
	}{
		{"positive", after(0, "192.0.2.1"), 24 * time.Hour, dns.ExtendedErrorCodeStaleAnswer},
		{"negative", says(dns.RcodeNameError, "--", "example. 60"+soa+"60"), time.Hour, dns.ExtendedErrorCodeStaleNXDOMAINAnswer},
	} {
		t.Run(c.name, func(t *testing.T) {
			withFake(t, c.answer, func(t *testing.T, f *Forwarder, u *fakeNet) {
				q := query("a.example", dns.TypeA)
				resolve(t.Context(), f, q)
				u.set(says(dns.RcodeServerFailure))
				end := time.Now().Add(time.Minute + c.hold)
				time.Sleep(time.Minute)
				for time.Now().Before(end) {
					if r := resolve(t.Context(), f, q); r.EDE[0].Code != c.code {
						t.Fatalf("%s before the end: %v", time.Until(end), r)
					}
					time.Sleep(min(10*time.Minute, max(time.Until(end), failureHold)))
				}
				wantText(t, q, resolve(t.Context(), f, q), "SERVFAIL; EDE 22")
			})
		})
	}
}

func TestRefreshAhead(t *testing.T) {
	withFake(t, after(time.Millisecond, "192.0.2.1"), func(t *testing.T, f *Forwarder, u *fakeNet) {
		q := query("a.example", dns.TypeA)
		resolve(t.Context(), f, q)
		time.Sleep(54 * time.Second)
		f.Immediate(q)
		synctest.Wait()
		if u.count() != 1 {
			t.Fatal("renewed too early")
		}
		time.Sleep(time.Millisecond)
		u.set(after(time.Millisecond, "192.0.2.2"))
		for range 10 {
			wantText(t, q, f.Immediate(q), "NOERROR; a.example. 6 IN A 192.0.2.1")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if u.count() != 2 {
			t.Fatalf("%d queries", u.count())
		}
		wantText(t, q, f.Immediate(q), "NOERROR; a.example. 60 IN A 192.0.2.2")

		// A renewal that fails leaves what is there.
		time.Sleep(55 * time.Second)
		u.set(says(dns.RcodeServerFailure))
		f.Immediate(q)
		synctest.Wait()
		wantText(t, q, f.Immediate(q), "NOERROR; a.example. 5 IN A 192.0.2.2")
		if u.count() != 3 {
			t.Errorf("%d queries", u.count())
		}
		if got := value(f.metrics.refreshed); got != 1 {
			t.Errorf("%v refreshed", got)
		}
	})
}

func TestNoAllocations(t *testing.T) {
	f := newFaked(t, Config{}, &fakeNet{answer: after(0, "192.0.2.1")})
	q := query("www.example.com", dns.TypeA)
	resolve(t.Context(), f, q)
	dst := make([]byte, 0, 1232)
	dst = append(append(dst, make([]byte, 12)...), append(q.Name, 0, 1, 0, 1)...)
	f.Immediate(q).born = time.Now().Add(-10 * time.Second)
	if n := testing.AllocsPerRun(1000, func() {
		out, _, _ := f.Immediate(q).Append(dst, 1232)
		if len(out) == len(dst) {
			t.Fatal("nothing appended")
		}
	}); n != 0 {
		t.Errorf("%v allocations a hit", n)
	}
}

// TestCacheWeight: what the cache says it takes is what it takes, roughly.
func TestCacheWeight(t *testing.T) {
	f := newFaked(t, Config{CacheBytes: 2 << 20}, &fakeNet{answer: after(0, "192.0.2.1")})
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			q := query(fmt.Sprintf("name-%d.example.com", i), dns.TypeA)
			m := answerTo(newMessage(q, true), dns.RcodeSuccess, fmt.Sprintf("name-%d.example.com. 60 IN A 192.0.2.1", i))
			r := replyTo(t, q, m)
			f.cache.put(f.cache.keyOf(q), bytes.Clone(q.Name), netA, r, lifetime{fresh: time.Minute}, time.Now())
		}
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	const n = 2000
	fill(0, n)
	_, size := f.cache.stats()
	real, said := heap()-before, int64(size)
	t.Logf("%d bytes an entry, %d said", real/n, said/n)
	if !raceEnabled && (real > said*3/2 || real < said/2) {
		t.Errorf("%d entries take %d bytes, and are said to take %d", n, real, said)
	}
	plain, failed := &entry{}, &entry{Reply: *failure(0, 0, string(make([]byte, 1000)))}
	if n := failed.weight() - plain.weight(); n < 1000 {
		t.Errorf("an EDE of 1,000 bytes counts for %d", n)
	}
	fill(n, 4*n)
	if _, got := f.cache.stats(); got > 2<<20 {
		t.Errorf("%d bytes kept, more than the bound", got)
	}
}

func BenchmarkHit(b *testing.B) {
	f := newFaked(b, Config{}, &fakeNet{answer: after(0, "192.0.2.1")})
	q := query("www.example.com", dns.TypeA)
	resolve(b.Context(), f, q)
	dst := append(append(make([]byte, 12, 512), q.Name...), 0, 1, 0, 1)
	b.ReportAllocs()
	for b.Loop() {
		f.Immediate(q).Append(dst, 1232)
	}
}
