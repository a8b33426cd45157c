package forward

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// withoutEDNS is an upstream that knows no EDNS and says so as it does; other questions
// it answers.
func withoutEDNS(refusal func(q *dns.Msg) *dns.Msg, asked *atomic.Int32) *scripted {
	answer := func(q *dns.Msg) *dns.Msg {
		asked.Add(1)
		if q.IsEdns0() != nil {
			return refusal(q)
		}
		m := answering(q, "192.0.2.1")
		if strings.HasPrefix(q.Question[0].Name, "large") && len(q.Extra) == 0 {
			for i := range 100 {
				m.Answer = append(m.Answer, answering(q, fmt.Sprintf("192.0.2.%d", i)).Answer...)
			}
		}
		return m
	}
	return &scripted{
		onUDP: func(q *dns.Msg, send func(*dns.Msg)) {
			m := answer(q)
			m.Truncate(512)
			send(m)
		},
		onTCP: func(q *dns.Msg, send func(*dns.Msg)) bool {
			send(answer(q))
			return true
		},
	}
}

// TestUpstreamWithoutEDNS: whatever way it says so, its answers are as good as others',
// and it is asked twice once in a while only.
func TestUpstreamWithoutEDNS(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]func(q *dns.Msg) *dns.Msg{
		"FORMERR":             func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeFormatError) },
		"NOTIMP":              func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeNotImplemented) },
		"FORMERR of 12 bytes": func(q *dns.Msg) *dns.Msg { return bare(q, dns.RcodeFormatError) },
		"NOTIMP of 12 bytes":  func(q *dns.Msg) *dns.Msg { return bare(q, dns.RcodeNotImplemented) },
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			s := withoutEDNS(refusal, &asked).start(t, nil)
			f := forwardTo(t, s)
			for i := range 3 {
				q := query(fmt.Sprintf("n%d.example", i), dns.TypeA)
				q.DO = i == 2
				wantText(t, q, resolve(t.Context(), f, q), fmt.Sprintf("NOERROR; n%d.example. 60 IN A 192.0.2.1", i))
			}
			if n := asked.Load(); n != 4 {
				t.Errorf("%d queries for three questions", n)
			}
			q := query("large.example", dns.TypeA)
			if r := resolve(t.Context(), f, q); len(r.records) != 101 {
				t.Errorf("%d records over TCP", len(r.records))
			}
			u := f.at(0)
			u.mu.Lock()
			if until := time.Until(u.plain); until <= 0 || until > plainFor {
				t.Errorf("remembered for %s", until)
			}
			u.plain = time.Now()
			u.mu.Unlock()
			before := asked.Load()
			resolve(t.Context(), f, query("later.example", dns.TypeA))
			if n := asked.Load() - before; n != 2 {
				t.Errorf("%d queries once it is forgotten", n)
			}
			if f.at(0).isDown() || value(u.metrics.mismatched) != 0 {
				t.Errorf("down %v, %v mismatched", f.at(0).isDown(), value(u.metrics.mismatched))
			}
		})
	}
}

// bare is a response that is a header and no more.
func bare(q *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg).SetRcode(q, rcode)
	m.Question = nil
	return m
}

// TestFormErrWithEDNS: one that knows EDNS means something else, and is not asked again. Nor
// is a header taken for an answer that is no refusal, or has another id.
func TestFormErrWithEDNS(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	s := (&scripted{onUDP: func(q *dns.Msg, send func(*dns.Msg)) {
		asked.Add(1)
		send(bare(q, dns.RcodeSuccess))
		send(bare(q, dns.RcodeServerFailure))
		wrong := bare(q, dns.RcodeFormatError)
		wrong.Id++
		send(wrong)
		m := new(dns.Msg).SetRcode(q, dns.RcodeFormatError)
		send(m.SetEdns0(1232, false))
	}}).start(t, nil)
	f := forwardTo(t, s)
	wantA(t, f, "a.example", "SERVFAIL; EDE 22")
	if n := asked.Load(); n != 1 || value(f.at(0).metrics.mismatched) != 3 {
		t.Errorf("%d queries, %v mismatched", n, value(f.at(0).metrics.mismatched))
	}
}

// TestFormErrAlways: one that says FORMERR to everything is asked twice, and nothing is concluded.
func TestFormErrAlways(t *testing.T) {
	withFake(t, says(dns.RcodeFormatError), func(t *testing.T, f *Forwarder, u *fakeNet) {
		wantA(t, f, "a.example", "SERVFAIL; EDE 22")
		if u.count() != 2 || !f.at(0).plain.IsZero() {
			t.Errorf("%d queries, asked without EDNS until %s", u.count(), f.at(0).plain)
		}
	})
}

// TestBogusIsNoOutage: an upstream that says SERVFAIL and not why is asked once more, with CD:
// where that is answered, the data failed validation and nothing old is given for them.
func TestBogusIsNoOutage(t *testing.T) {
	for _, c := range []struct {
		name      string
		edes      []uint16
		unchecked answerFunc
		want      string
		asked     int
	}{
		{"bogus", nil, after(0, "203.0.113.66"), "SERVFAIL; EDE 6", 2},
		{"bogus, of another kind", []uint16{dns.ExtendedErrorCodeOther}, after(0, "203.0.113.66"), "SERVFAIL; EDE 6", 2},
		{"outage", nil, says(dns.RcodeServerFailure), agedStale, 2},
		{"outage, then silence", nil, silent, agedStale, 2},
		{"with a reason", []uint16{dns.ExtendedErrorCodeNoReachableAuthority}, after(0, "203.0.113.66"), agedStale, 1},
		{"with a verdict", []uint16{dns.ExtendedErrorCodeSignatureExpired}, after(0, "203.0.113.66"), "SERVFAIL; EDE 7", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, u := newAged(t, func(ctx context.Context, m *message) (*dns.Msg, error) {
					if m.bytes[3]&0x10 != 0 {
						return c.unchecked(ctx, m)
					}
					out := answerTo(m, dns.RcodeServerFailure)
					for _, code := range c.edes {
						withEDE(out, code, "")
					}
					return out, nil
				})
				before := u.count()
				q := query("a.example", dns.TypeA)
				wantText(t, q, resolve(t.Context(), f, q), c.want)
				synctest.Wait()
				if n := u.count() - before; n != c.asked {
					t.Errorf("%d queries", n)
				}
				wantText(t, q, f.Immediate(q), c.want)
				checked := query("a.example", dns.TypeA)
				checked.CD = true
				if f.Immediate(checked) != nil {
					t.Error("unchecked data were kept")
				} else {
					f.Release(checked)
				}
				time.Sleep(DefaultTimeout)
			})
		})
	}
}

// TestBogusIsNotAskedByWhoChecks: a client that set CD has the answer to that question.
func TestBogusIsNotAskedByWhoChecks(t *testing.T) {
	withFake(t, after(0, "192.0.2.1"), func(t *testing.T, f *Forwarder, u *fakeNet) {
		q := query("a.example", dns.TypeA)
		q.CD = true
		resolve(t.Context(), f, q)
		time.Sleep(2 * time.Minute)
		u.set(says(dns.RcodeServerFailure))
		wantText(t, q, resolve(t.Context(), f, q), agedStale)
		if u.count() != 2 {
			t.Errorf("%d queries", u.count())
		}
	})
}

// TestStaleIsUnproven: nobody vouches for a stale answer, so it has no AD.
func TestStaleIsUnproven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &fakeNet{answer: func(_ context.Context, m *message) (*dns.Msg, error) {
			out := answerTo(m, dns.RcodeSuccess, "a.example. 60 IN A 192.0.2.1")
			out.AuthenticatedData = true
			return out, nil
		}}
		f := newFaked(t, Config{}, u)
		q := query("a.example", dns.TypeA)
		if r := resolve(t.Context(), f, q); !r.AD {
			t.Error("a fresh one has")
		}
		time.Sleep(2 * time.Minute)
		for _, answer := range []answerFunc{says(dns.RcodeServerFailure), silent} {
			u.set(answer)
			r := resolve(t.Context(), f, q)
			wantText(t, q, r, agedStale)
			if r.AD {
				t.Error("AD on a stale answer")
			}
			time.Sleep(DefaultTimeout + failureHold)
		}
	})
}

// TestSlowerUpstreamIsSampled: with upstreams of 1 ms and 100 ms, no question waits for the
// slower one, however many there are; and when it becomes the faster, that is noticed.
func TestSlowerUpstreamIsSampled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fast, slow := &fakeNet{answer: after(time.Millisecond, "192.0.2.1")}, &fakeNet{answer: after(100*time.Millisecond, "192.0.2.2")}
		f := newFaked(t, Config{}, slow, fast)
		ask := func(i int) time.Duration {
			start := time.Now()
			if r := resolve(t.Context(), f, query(fmt.Sprintf("n%d.example", i), dns.TypeA)); r.Rcode != dns.RcodeSuccess {
				t.Fatal(r)
			}
			return time.Since(start)
		}
		for i := range 5 { // until both are measured
			ask(i)
		}
		before := slow.count()
		const seconds, rate = 10, 100
		for i := range seconds * rate {
			if took := ask(100 + i); took > time.Millisecond {
				t.Fatalf("question %d took %s", i, took)
			}
			time.Sleep(time.Second/rate - time.Millisecond)
		}
		if n := slow.count() - before; n < seconds-1 || n > seconds+1 {
			t.Errorf("%d samples in %d s", n, seconds)
		}
		if n := value(f.at(0).metrics.requests); n != float64(slow.count()) {
			t.Errorf("%v of %d queries counted", n, slow.count())
		}
		slow.set(after(100*time.Microsecond, "192.0.2.2"))
		start, first := time.Now(), slow.count()
		for i := 0; slow.count()-first < 100; i++ {
			ask(1e6 + i)
		}
		if took := time.Since(start); took > 20*sampleEvery {
			t.Errorf("noticed after %s", took)
		}
	})
}

// TestOneSampleAQuestion: however many upstreams there are.
func TestOneSampleAQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nets := make([]*fakeNet, 5)
		for i := range nets {
			nets[i] = &fakeNet{answer: after(time.Duration(i+1)*time.Millisecond, "192.0.2.1")}
		}
		f := newFaked(t, Config{}, nets...)
		asked := func() (sum int) {
			for _, n := range nets {
				sum += n.count()
			}
			return sum
		}
		for i := range 20 { // until all are measured
			resolve(t.Context(), f, query(fmt.Sprintf("n%d.example", i), dns.TypeA))
		}
		for i := range 4 {
			time.Sleep(2 * sampleEvery)
			before := asked()
			resolve(t.Context(), f, query(fmt.Sprintf("m%d.example", i), dns.TypeA))
			synctest.Wait()
			if n := asked() - before; n != 2 {
				t.Errorf("%d queries for a question and a sample", n)
			}
		}
	})
}

// TestSilenceInARow: an upstream is probed after three queries in a row without an answer, and
// an answer between them begins a new row.
func TestSilenceInARow(t *testing.T) {
	f, err := New(Config{Upstreams: []Upstream{{Domain: ".", Addr: netip.MustParseAddrPort("192.0.2.1:53")}}})
	if err != nil {
		t.Fatal(err)
	}
	u := f.at(0)
	kicked := func() bool {
		select {
		case <-u.kick:
			return true
		default:
			return false
		}
	}
	for name, between := range map[string]func(){
		"nothing":  func() {},
		"SERVFAIL": func() { u.answered(time.Second, false, usualWeight) }, // an answer, too
		"a probe":  u.up,
	} {
		for i := range 3 {
			if kicked() {
				t.Errorf("probed after %d silent queries", i)
			}
			u.unanswered(time.Second, timeoutError{time.Second})
			if i == 1 {
				between()
			}
		}
		if name != "nothing" {
			u.unanswered(time.Second, timeoutError{time.Second}) // the second of the new row
		}
		if want := name == "nothing"; kicked() != want {
			t.Errorf("%s in between: probed %v", name, !want)
		}
		u.answered(time.Second, true, usualWeight)
	}
}

// TestUpdate: upstreams come and go while questions are asked. What stays keeps its
// connections and its health; what goes finishes what it was asked.
func TestUpdate(t *testing.T) {
	t.Parallel()
	var servers []*scripted
	upstream := func(i int) Upstream { return Upstream{Domain: ".", Addr: servers[i].addr} }
	release := make(chan struct{})
	for i := range 3 {
		servers = append(servers, (&scripted{
			onUDP: truncating,
			onTCP: func(q *dns.Msg, send func(*dns.Msg)) bool {
				if strings.HasPrefix(q.Question[0].Name, "slow") {
					<-release
				}
				send(answering(q, fmt.Sprintf("192.0.2.%d", i)))
				return true
			},
		}).start(t, nil))
	}
	f, err := New(Config{Upstreams: []Upstream{upstream(0), upstream(1)}, Timeout: time.Minute, TryTimeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Update([]Upstream{upstream(0)}); err != nil { // before it runs
		t.Fatal(err)
	}
	run(t, f)
	n := 0
	ask := func(want int) {
		t.Helper()
		n++
		wantA(t, f, fmt.Sprintf("n%d.example", n), fmt.Sprintf("NOERROR; n%d.example. 60 IN A 192.0.2.%d", n, want))
	}
	ask(0)
	var g sync.WaitGroup
	g.Go(func() {
		wantA(t, f, "slow.example", "NOERROR; slow.example. 60 IN A 192.0.2.0")
	})
	first := f.at(0)
	eventually(t, "the question is on its way", func() bool { return value(first.metrics.requests) == 2 })
	if err := f.Update([]Upstream{upstream(1), upstream(2)}); err != nil {
		t.Fatal(err)
	}
	close(release) // what was asked of one that is gone is answered all the same
	g.Wait()
	stays := f.at(1)
	stays.down(errRefused)
	ask(1)
	if err := f.Update([]Upstream{upstream(2), {Domain: "corp.example.", Addr: servers[1].addr}, upstream(0)}); err != nil {
		t.Fatal(err)
	}
	if f.at(0) != stays || !stays.isDown() {
		t.Error("an upstream that stays lost its health")
	}
	ask(0)
	if f.at(2) == first {
		t.Error("one that was gone came back with what it was")
	}
	wantA(t, f, "www.corp.example", "NOERROR; www.corp.example. 60 IN A 192.0.2.1")
	if got := servers[1].accepts.Load(); got != 1 {
		t.Errorf("%d connections to the upstream that stayed", got)
	}
	if err := f.Update([]Upstream{{Domain: "."}}); err == nil {
		t.Error("no error for an upstream without address")
	}
	f.at(0).suspect() // a new one has a prober
	f.at(2).down(errRefused)
	f.at(2).suspect()
	eventually(t, "up again", func() bool { return !f.at(0).isDown() && !f.at(2).isDown() })

	if err := f.Update(nil); err != nil {
		t.Fatal(err)
	}
	wantA(t, f, "nobody.example", "SERVFAIL; EDE 22")
}

// TestRemovedUpstream: it is probed no more, and its connections and its metrics go.
func TestRemovedUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newPiped(t, Config{}, peer(answerAll).dial)
		resolve(t.Context(), f, query("a.example", dns.TypeA))
		u := f.at(0)
		if err := f.Update(nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		u.suspect()
		time.Sleep(DefaultTimeout)
		synctest.Wait()
		if len(u.kick) == 0 || len(u.pool.live) != 0 {
			t.Errorf("probed %v, %d connections", len(u.kick) == 0, len(u.pool.live))
		}
		series := make(chan prometheus.Metric, 100)
		f.metrics.requests.Collect(series)
		f.metrics.up.Collect(series)
		if len(series) > 0 {
			t.Errorf("%d series are left", len(series))
		}
	})
}

// TestPlaces: what descriptors allow, by how many upstreams a question may have at once.
func TestPlaces(t *testing.T) {
	ups := func(domain string, n int) (list []Upstream) {
		for i := range n {
			list = append(list, Upstream{Domain: domain, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 53)})
		}
		return list
	}
	for _, c := range []struct {
		descriptors, inflight int
		upstreams             []Upstream
		want                  int
	}{
		{0, 0, ups(".", 3), 4096},
		{0, 20_000, ups(".", 3), 20_000},
		{1 << 20, 20_000, ups(".", 3), 20_000},
		{1000, 0, ups(".", 1), 1000 - ownDescriptors - upstreamDescriptors},
		{1000, 0, ups(".", 2), (1000 - ownDescriptors - 2*upstreamDescriptors) / 2},
		{1000, 0, ups(".", 3), (1000 - ownDescriptors - 3*upstreamDescriptors) / 3},
		{1000, 0, ups(".", 5), (1000 - ownDescriptors - 5*upstreamDescriptors) / 3}, // at most three tries
		{1000, 0, append(ups(".", 1), ups("corp.example.", 2)...), (1000 - ownDescriptors - 2*upstreamDescriptors) / 2},
		{1000, 100, ups(".", 1), 100},
		{1, 0, ups(".", 3), 1},
	} {
		f, err := New(Config{Descriptors: c.descriptors, MaxInflight: c.inflight, Upstreams: c.upstreams})
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Places(); got != c.want {
			t.Errorf("%d descriptors, %d upstreams: %d places, want %d", c.descriptors, len(c.upstreams), got, c.want)
		}
		if c.want < 2 {
			continue
		}
		var taken int
		for range c.want {
			if f.limits.take(network(0)) != nil {
				taken++
			}
		}
		if taken != (c.want+1)/2 {
			t.Errorf("one network took %d of %d", taken, c.want)
		}
	}
	f, err := New(Config{Descriptors: 1000, Upstreams: ups(".", 1)})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Update(ups(".", 3)); err != nil || f.Places() != (1000-ownDescriptors-3*upstreamDescriptors)/3 {
		t.Errorf("%d places after two more upstreams, %v", f.Places(), err)
	}
}
