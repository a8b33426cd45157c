package resolver

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dnsd/resolver/internal/udpbatch"

	"github.com/miekg/dns"
)

// TestBudget: a network may take a burst of the loop's time for expensive answers, then a
// sixteenth of it; cheap ones are free.
func TestBudget(t *testing.T) {
	now := time.Unix(1e9, 0)
	var b budget
	spend := func(d time.Duration) {
		for ; d > 0; d -= expensive {
			b.charge(now, expensive)
		}
	}
	for range 1000 {
		b.charge(now, expensive-1)
	}
	if !b.allows(now) {
		t.Error("cheap answers are charged")
	}
	for spent := time.Duration(0); spent < budgetMost; spent += expensive {
		if !b.allows(now) {
			t.Error("the burst is cut short")
		}
		b.charge(now, expensive)
	}
	if b.allows(now) {
		t.Error("the burst has no end")
	}
	spend(budgetMost)
	if b.allows(now.Add(budgetPart*budgetMost - time.Millisecond)) {
		t.Error("time comes back too fast")
	}
	if now = now.Add(budgetPart*budgetMost + time.Millisecond); !b.allows(now) {
		t.Error("time does not come back")
	}
	if now = now.Add(time.Hour); !b.allows(now) {
		t.Error("time does not come back")
	}
	spend(budgetMost)
	if b.allows(now) {
		t.Error("what was not taken for an hour is saved up")
	}
	for b = (budget{}); b.spent < budgetMost-dearest; {
		before := b.spent
		b.charge(now, time.Hour) // in which nobody let this process run
		if b.spent != before+dearest {
			t.Fatalf("%v are charged for an answer, want %v", b.spent-before, dearest)
		}
	}
}

// TestShare: who asks little is answered in full, the others get equal parts.
func TestShare(t *testing.T) {
	for _, tt := range []struct {
		whose    string
		answer   int
		answered string
	}{
		{"aaaaaaaaaaaaaaaa", 4, "aaaa"},
		{"aaaaaaaaaaaaaaab", 4, "aaab"},
		{"baaaaaaaaaaaaaaa", 4, "baaa"},
		{"aaaaaaaacbabcaba", 4, "acb"}, // one each, and the rest is not enough for another each
		{"aaaabbbbccccdddd", 4, "abcd"},
		{"aaaabbbbccccdddd", 9, "aabbccdd"},
		{"abcdefghijklmnop", 4, "abcdefghijklmnop"}, // nobody goes without
		{"aaaaaaaabbc", 8, "aaaaabbc"},
		{"aab", 8, "aab"},
	} {
		whose := make([]uint64, len(tt.whose))
		for i, c := range tt.whose {
			whose[i] = uint64(c)
		}
		var over [udpbatch.Size]bool
		passed, _, _ := share(whose, tt.answer, &over)
		answered := ""
		for i, c := range tt.whose {
			if !over[i] {
				answered += string(c)
			}
		}
		if answered != tt.answered || passed != len(tt.whose)-len(answered) {
			t.Errorf("%d of %s: answered %s, %d passed over, want %s", tt.answer, tt.whose, answered, passed, tt.answered)
		}
	}
}

// TestShareHolds: for any batch, nobody gets less than another who asks for no more.
func TestShareHolds(t *testing.T) {
	for range 2000 {
		whose := make([]uint64, 1+rand.IntN(udpbatch.Size))
		asked, answered := map[uint64]int{}, map[uint64]int{}
		for i := range whose {
			whose[i] = uint64(rand.IntN(1 + rand.IntN(20)))
			asked[whose[i]]++
		}
		answer := 1 + rand.IntN(udpbatch.Size)
		var over [udpbatch.Size]bool
		passed, greediest, last := share(whose, answer, &over)
		for i, w := range whose {
			if !over[i] {
				answered[w]++
			}
		}
		if n := slices.Max(slices.Collect(maps.Values(asked))); greediest != n || asked[whose[last]] != n {
			t.Fatalf("%v: %d ask most, %d being one of theirs, want %d", whose, greediest, last, n)
		}
		most := 0
		for _, n := range answered {
			most = max(most, n)
		}
		for w, n := range asked {
			if got := answered[w]; got < 1 || got < n && got < most {
				t.Fatalf("%v, %d to answer: %d gets %d of %d, others %d", whose, answer, w, got, n, most)
			}
		}
		if got := len(whose) - passed; got > max(answer, len(asked)) {
			t.Fatalf("%v, %d to answer: %d are", whose, answer, got)
		}
	}
}

// TestWhoseBits: they tell apart what sharer tells apart, and no more.
func TestWhoseBits(t *testing.T) {
	addrs := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::ffff:10.0.0.1"), netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fe80::1%1"),
		netip.MustParseAddr("fdab:0:18::1"), netip.MustParseAddr("fcaa:0:18::1")}
	for _, s := range []string{"fdaa:0:18::1", "fdaa:0:18:a7b:1::2", "fdaa:0:19::1", "fdaa:1:18::1", "fdaa::3", "fdaa:8000::"} {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	for _, a := range addrs {
		for _, b := range addrs {
			if same, want := askerOf(a) == askerOf(b), sharer(a) == sharer(b); same != want {
				t.Errorf("%v and %v: of one network %t, want %t", a, b, same, want)
			}
		}
	}
}

// socketOf returns a socket whose batch has n packets, all from one client.
func socketOf(t *testing.T, n int) *socket {
	t.Helper()
	r := newResolver(t, func(c *Config) { c.Sockets = 1 })
	if err := r.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(r) })
	c := dial(t, UDP, r.Addresses()[0])
	defer c.Close()
	for range n {
		send(t, UDP, c, []byte("?"))
	}
	for _, s := range r.sockets {
		if got, err := s.batch.Poll(); err != nil {
			t.Fatal(err)
		} else if got > 0 {
			return s
		}
	}
	t.Fatal("no socket has received anything")
	return nil
}

// TestBacklog: full batches are answered in full until they have more packets than any
// burst, however long that takes; then ever fewer of each, until one is not full; and
// from then on at once, until there was no more of it for a while.
func TestBacklog(t *testing.T) {
	b := socketOf(t, udpbatch.Size).batch
	var w backlog
	now := time.Unix(1e9, 0)
	step := func(n int) (answered int) {
		var over [udpbatch.Size]bool
		passed, greediest := w.excess(b, n, burst, now, &over)
		if (greediest >= 0) != (passed > 0) {
			t.Errorf("%d passed over, packet %d is one of the greediest's", passed, greediest)
		}
		if marked := len(slices.DeleteFunc(over[:], func(o bool) bool { return !o })); marked != passed {
			t.Errorf("%d passed over, %d marked", passed, marked)
		}
		return n - passed
	}
	fullBatches := func(what string, n int) {
		t.Helper()
		for i := range n {
			if got := step(64); got != 64 {
				t.Fatalf("%s: %d of batch %d are answered", what, got, i+1)
			}
		}
	}
	expect := func(what string, n int, want ...int) {
		t.Helper()
		for i, want := range want {
			if got := step(n); got != want {
				t.Errorf("%s, batch %d: %d answered, want %d", what, i+1, got, want)
			}
		}
	}
	const whole = burst / udpbatch.Size
	for range 3 {
		fullBatches("a burst", whole)
		now = now.Add(time.Hour) // in which nobody lets this process run
		expect("it ends", 63, 63)
	}
	fullBatches("a burst", whole)
	if w.wantsStamps(now) {
		t.Error("time stamps in a burst")
	}
	expect("it does not end", 64, 4, 4, 4)
	if !w.wantsStamps(now) {
		t.Error("no time stamps while overloaded")
	}
	expect("it has ended", 10, 10)
	now = now.Add(overloadHold - 1)
	expect("it comes back", 64, 32, 16, 8, 4)
	expect("it has ended again", 10, 10)
	now = now.Add(overloadHold + 1)
	fullBatches("much later", whole)
	if now = now.Add(stampHold); w.wantsStamps(now) {
		t.Error("time stamps long after")
	}
}

// TestBacklogAfterAPause: what has waited while nobody read the socket is answered in
// full, and as much again.
func TestBacklogAfterAPause(t *testing.T) {
	s := socketOf(t, udpbatch.Size)
	c := dial(t, UDP, s.r.Addresses()[0])
	defer c.Close()
	const waits = burst // or few more or less, as the kernel counts
	for range waits {
		send(t, UDP, c, []byte("?"))
	}
	if n, _ := udpbatch.Drops(s.conn.(syscall.Conn)); n > 0 {
		skip(t, "no privilege for long queues")
	}
	var over [udpbatch.Size]bool
	answered := 0
	for {
		passed, _ := s.waiting.excess(s.batch, udpbatch.Size, burst, time.Now(), &over)
		if passed > 0 {
			break
		}
		answered += udpbatch.Size
	}
	if answered < 2*waits || answered > 4*waits {
		t.Errorf("%d packets wait, and %d are answered before the loop counts as overloaded", waits, answered)
	}
}

// TestPassOver: who asks too much is set aside, and while that lasts, and for a
// while after it, questions that have waited too long are dropped.
func TestPassOver(t *testing.T) {
	s := socketOf(t, udpbatch.Size)
	var told []netip.Prefix
	s.aside = newAside(func(a []netip.Prefix) error { told = a; return nil }, s.log)
	expect := func(what string, n int, now time.Time, flood, old uint64, stamps bool) {
		t.Helper()
		before := [...]uint64{s.stats.dropped[dropFlood].Load(), s.stats.dropped[dropOld].Load()}
		var over [udpbatch.Size]bool
		s.passOver(s.batch, n, now, &over)
		marked := uint64(len(slices.DeleteFunc(over[:], func(o bool) bool { return !o })))
		if f, o := s.stats.dropped[dropFlood].Load()-before[0], s.stats.dropped[dropOld].Load()-before[1]; f != flood || o != old || marked != f+o || s.stamps != stamps {
			t.Errorf("%s: %d of a flood and %d old ones are dropped, %d marked, time stamps: %t, want %d, %d, %t", what, f, o, marked, s.stamps, flood, old, stamps)
		}
	}
	now := time.Now()
	expect("a burst", udpbatch.Size, now, 0, 0, false)
	if told != nil {
		t.Errorf("%v are set aside for a burst", told)
	}
	s.waiting.full = burst / udpbatch.Size
	expect("a flood", udpbatch.Size, now, udpbatch.Size-leastAnswered, 0, true)
	if len(told) != 1 || told[0].String() != "127.0.0.1/32" {
		t.Errorf("%v are set aside, want the client", told)
	}
	c := dial(t, UDP, s.r.Addresses()[0])
	defer c.Close()
	send(t, UDP, c, []byte("?"))
	if n, err := s.batch.Poll(); n != 1 || err != nil {
		t.Fatalf("%d packets, %v", n, err)
	}
	received, ok := receivedAt(s.batch.Control(0))
	if !ok {
		t.Fatal("the packet does not say when it was received")
	}
	expect("a question that has waited long", 1, received.Add(tooOld), 0, 0, true)
	expect("one that has waited too long", 1, received.Add(tooOld+1), 0, 1, true)
	expect("long after", 1, s.waiting.overload.Add(stampHold), 0, 0, false)
}

// TestSideStaysAside: a network that fills the side socket's queue several times stays
// aside, long before a loop would count as overloaded.
func TestSideStaysAside(t *testing.T) {
	s := socketOf(t, udpbatch.Size)
	s.aside = newAside(func([]netip.Prefix) error { return nil }, s.log)
	s.side = true
	batches := 0
	for now := time.Now(); s.aside.count() == 0; batches++ {
		var over [udpbatch.Size]bool
		s.passOver(s.batch, udpbatch.Size, now, &over)
		if batches > burst/udpbatch.Size {
			break
		}
	}
	if want := sideBurst/udpbatch.Size + 1; batches != want {
		t.Errorf("it is known to flood after %d full batches, want %d", batches, want)
	}
}

// slowZone answers "slow" only where it may take its time, and counts how often it
// is asked for what.
type slowZone struct {
	*testZone
	quick, slow atomic.Int32
	open        chan struct{} // slow answers wait for it; nil: for nothing
}

func newSlowZone() *slowZone { return &slowZone{testZone: internalZone()} }

func (z *slowZone) Answer(q *Question) *Answer {
	if !strings.HasPrefix(strings.Join(q.Labels, "."), "slow") {
		return z.testZone.Answer(q)
	}
	if q.Pause == nil {
		z.quick.Add(1)
		return nil
	}
	z.slow.Add(1)
	if z.open != nil {
		<-z.open
	}
	q.Pause()
	return fleet(3)(q)
}

// TestSlowAnswers: an answer that takes long is computed elsewhere, given to who
// asked, kept, and then as quick as any.
func TestSlowAnswers(t *testing.T) {
	z := newSlowZone()
	_, addr, _ := start(t, func(c *Config) { c.Zones, c.Sockets = []Zone{z}, 1 })
	for _, proto := range []Proto{UDP, TCP} {
		if m := unpack(t, askLate(t, proto, addr, query(t, "SLOW.internal.", dns.TypeAAAA))); len(m.Answer) != 3 || m.Question[0].Name != "SLOW.internal." {
			t.Errorf("response is\n%v", m)
		}
	}
	if q, s := z.quick.Load(), z.slow.Load(); q != 1 || s != 2 {
		t.Errorf("the zone was asked %d times by the loop and %d times elsewhere, want 1 and 2", q, s)
	}
	eventually(t, "the answer is kept", func() bool {
		before := z.quick.Load() + z.slow.Load()
		if m := unpack(t, askLate(t, UDP, addr, query(t, "slow.internal.", dns.TypeAAAA))); len(m.Answer) != 3 {
			t.Errorf("response is\n%v", m)
		}
		return z.quick.Load()+z.slow.Load() == before
	})
}

// TestPanicsElsewhere: a panic outside of the loop costs its question as well, and
// neither the network's turn nor the process.
func TestPanicsElsewhere(t *testing.T) {
	z := newSlowZone()
	r, addr, _ := start(t, func(c *Config) {
		c.Zones, c.Sockets = []Zone{panicZone{z}}, 1
	})
	for i, proto := range []Proto{UDP, TCP, UDP} {
		m := unpack(t, askLate(t, proto, addr, query(t, "slow.panic.internal.", dns.TypeAAAA)))
		if m.Rcode != dns.RcodeServerFailure || gathered(t, r, "dnsd_panics_total") != float64(i+1) {
			t.Errorf("response is\n%v\nand %v panics are counted, want SERVFAIL and %d", m, gathered(t, r, "dnsd_panics_total"), i+1)
		}
	}
	for _, proto := range []Proto{UDP, TCP} {
		if m := unpack(t, askLate(t, proto, addr, query(t, "slow.internal.", dns.TypeAAAA))); len(m.Answer) != 3 {
			t.Errorf("afterwards the response is\n%v", m)
		}
	}
}

// panicZone panics at slow.panic where it may take its time.
type panicZone struct{ *slowZone }

func (z panicZone) Answer(q *Question) *Answer {
	if q.Pause != nil && slices.Equal(q.Labels, []string{"slow", "panic"}) {
		panic("at length")
	}
	return z.slowZone.Answer(q)
}

// TestPanickingViewer: a client whose view cannot be told costs itself.
func TestPanickingViewer(t *testing.T) {
	r, addr, _ := start(t, func(c *Config) {
		c.Viewer = viewFunc(func(a netip.Addr) View {
			if a == netip.MustParseAddr("127.0.0.1") {
				panic("at the client")
			}
			return testView(a)
		})
	}, listenOn("127.0.0.1:0", "[::1]:0"))
	for _, proto := range []Proto{UDP, TCP} {
		if m := unpack(t, askLate(t, proto, addr, query(t, "my-app.internal.", dns.TypeAAAA))); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("response is\n%v", m)
		}
		if m := unpack(t, askLate(t, proto, r.Addresses()[1], query(t, "my-app.internal.", dns.TypeAAAA))); len(m.Answer) != 3 {
			t.Errorf("another client's response is\n%v", m)
		}
	}
}

// TestSlowAnswersAreBounded: of one network's questions whose answers take long
// some wait, the rest is dropped and counted, and others' are answered.
func TestSlowAnswersAreBounded(t *testing.T) {
	z := newSlowZone()
	z.open = make(chan struct{})
	r, addr, _ := start(t, func(c *Config) { c.Zones, c.Sockets = []Zone{z}, 1 })
	c := dial(t, UDP, addr)
	defer c.Close()
	const asked = 500
	for i := range asked {
		send(t, UDP, c, query(t, "slow.internal.", dns.TypeAAAA, withID(uint16(i))))
	}
	const waiting = 1 + 128 // one is computed; see package turns
	eventually(t, "the rest is dropped", func() bool {
		return gathered(t, r, "dnsd_requests_dropped_total") == asked-waiting
	})
	// On a busy machine the loop stands still now and then. That counts as what the
	// network's answers took, so that its usual questions wait, too, for a moment.
	eventually(t, "a usual question is answered", func() bool {
		c := dial(t, UDP, addr)
		defer c.Close()
		send(t, UDP, c, query(t, "my-app.internal.", dns.TypeAAAA))
		if err := c.SetDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		resp, err := receive(UDP, c)
		return err == nil && len(unpack(t, resp).Answer) == 3
	})
	close(z.open)
	for range waiting {
		if _, err := receive(UDP, c); err != nil {
			t.Fatal(err)
		}
	}
}

// TestExpensiveAnswersWaitElsewhere: a network that has used up its part of a loop's
// time is answered outside of it, and others are not. The first answers of a loop are
// free.
func TestExpensiveAnswersWaitElsewhere(t *testing.T) {
	z := internalZone()
	var elsewhere atomic.Int32
	z.answers["costly"] = func(q *Question) *Answer {
		if q.Pause != nil {
			elsewhere.Add(1)
		} else {
			time.Sleep(dearest)
		}
		return &Answer{NoStore: true}
	}
	views := func(a netip.Addr) View {
		if a == netip.MustParseAddr("127.0.0.2") {
			return View{Network: netip.MustParsePrefix("fdaa:0:99::/48")}
		}
		return View{Network: network}
	}
	r := newResolver(t, listenOn("0.0.0.0:0"), func(c *Config) { c.Zones, c.Sockets, c.Viewer = []Zone{z}, 1, viewFunc(views) })
	r.coldAnswers = 20
	addr := run(t, r)
	from := func(client string) {
		t.Helper()
		askAs(t, client, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addr.Port()), "costly.internal.")
	}
	for range r.coldAnswers + 1 {
		from("127.0.0.1")
	}
	if elsewhere.Load() != 0 {
		t.Error("the first are not answered by the loop")
	}
	eventually(t, "one is not answered by the loop", func() bool { from("127.0.0.1"); return elsewhere.Load() > 0 })
	before := elsewhere.Load()
	from("127.0.0.2")
	if elsewhere.Load() != before {
		t.Error("another network's is not answered by the loop")
	}
}

// TestSlowAnswerOfAViewThatWentAway: what is computed for one network is not kept
// for another which has its number by then.
func TestSlowAnswerOfAViewThatWentAway(t *testing.T) {
	r := newResolver(t)
	k := newKeeper(1<<20, nil)
	a, b := View{Network: netip.MustParsePrefix("fdaa:0:a::/48")}, View{Network: netip.MustParsePrefix("fdaa:0:b::/48")}
	number := k.numberOf(a)
	var w worker
	w.r = r
	w.req.Parse(query(t, "slow.internal.", dns.TypeAAAA))
	later := newSlow(&w.exchange, a, &r.zones[0], netip.Addr{})
	k.reset()
	if k.numberOf(b) != number {
		t.Fatal("the numbers do not begin anew: this test tests nothing")
	}
	s := socket{computed: make(chan computed, 1)}
	s.computed <- computed{later, packKept(dns.TypeAAAA, later.zone, &Answer{Type: dns.TypeAAAA, Data: addresses(1)}, len(w.req.Name()))}
	s.keepComputed(k)
	if k.get(k.keyOf(k.numberOf(b), &w.req)) != nil {
		t.Error("b is given a's answer")
	}
	if k.get(k.keyOf(k.numberOf(a), &w.req)) == nil {
		t.Error("a's answer is not kept")
	}
}

// TestTCPLeavesUDPItsPart: of many requests over TCP no more are computed at a
// time than may, and UDP does not wait for them.
func TestTCPLeavesUDPItsPart(t *testing.T) {
	var computing atomic.Int32
	open := make(chan struct{})
	zone := internalZone()
	zone.answers["slow"] = func(*Question) *Answer {
		computing.Add(1)
		<-open
		return &Answer{}
	}
	r, addr, _ := start(t, func(c *Config) { c.Zones = []Zone{zone} })
	defer sync.OnceFunc(func() { close(open) })()
	for range 21 {
		c := dial(t, TCP, addr)
		defer c.Close()
		send(t, TCP, c, query(t, "slow.internal.", dns.TypeAAAA))
	}
	eventually(t, "all that may not be computed yet are waiting", func() bool { return r.turns.Waiting() == 20 })
	if n := int(computing.Load()); n != 1 {
		t.Errorf("%d of one network are computed at once, want 1", n)
	}
	if m := unpack(t, ask(t, UDP, addr, query(t, "my-app.internal.", dns.TypeAAAA))); len(m.Answer) != 3 {
		t.Errorf("UDP gets\n%v", m)
	}
}
