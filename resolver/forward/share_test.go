package forward

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/turns"
)

// sized returns a reply of about n bytes.
func sized(n int) *Reply { return &Reply{body: make([]byte, n), born: time.Now()} }

// keep has a network hold an answer of n bytes.
func keep(c *cache, network netip.Prefix, name string, n int) {
	q := query(name, dns.TypeA)
	q.Network = network
	c.put(c.keyOf(q), q.Name, network, sized(n), lifetime{fresh: time.Hour}, time.Now())
}

func kept(c *cache, network netip.Prefix, name string) *entry {
	q := query(name, dns.TypeA)
	q.Network = network
	return c.get(c.keyOf(q), q.Name)
}

// TestCacheShares: one network fills the cache many times over with answers of 64
// KiB, and gives them to itself again and again. Of another that holds less
// than its part nothing goes.
func TestCacheShares(t *testing.T) {
	t.Parallel()
	const max = 2 << 20
	for _, perNetwork := range []bool{false, true} {
		c := newCache(max, perNetwork)
		const n = 700
		for i := range n { // some 0.4 MB
			keep(c, netB, fmt.Sprintf("quiet%d.example", i), 50)
		}
		for i := range 250 {
			keep(c, netA, fmt.Sprintf("large%d.example", i), 64<<10)
			for j := max>>16 - 1; j >= 0; j-- { // so that a policy by use would prefer them
				if e := kept(c, netA, fmt.Sprintf("large%d.example", i-j)); e != nil {
					e.used.Store(true)
				}
			}
		}
		lost := 0
		for i := range n {
			if kept(c, netB, fmt.Sprintf("quiet%d.example", i)) == nil {
				lost++
			}
		}
		if lost > 0 {
			t.Errorf("per network %v: %d of %d lost", perNetwork, lost, n)
		}
		if _, size := c.stats(); size > max || size < max*3/4 {
			t.Errorf("%d bytes of %d", size, max)
		}
	}
}

// TestCacheHistory: over random histories the books balance, whatever is found is
// right, and no answer goes of a network that holds no more than its part.
func TestCacheHistory(t *testing.T) {
	t.Parallel()
	const max, networks = 1 << 20, 7
	c := newCache(max, true)
	part := max / networks
	model := make(map[string]int) // size of what was put last
	for range 2000 {
		n := rand.IntN(networks)
		size := rand.IntN(2000)
		if n == 0 {
			size *= 20
		}
		name := fmt.Sprintf("n%d.example", rand.IntN(300*(n+1)))
		if e := kept(c, network(n), name); e != nil {
			if want := model[fmt.Sprint(n, name)]; len(e.body) != want {
				t.Fatalf("%s of network %d: %d bytes, want %d", name, n, len(e.body), want)
			}
			e.used.Store(rand.IntN(2) == 0)
		}
		before := make(map[netip.Prefix]int)
		for _, h := range c.order {
			before[h.network] = h.entries.Len()
			if h.size > part {
				before[h.network] = 0 // it may lose some
			}
		}
		keep(c, network(n), name, size)
		model[fmt.Sprint(n, name)] = size
		for other, had := range before {
			if h := c.holders[other]; had > 0 && other != network(n) && (h == nil || h.entries.Len() < had) {
				t.Fatalf("%s lost an answer though it held less than its part", other)
			}
		}
		sum, count := 0, 0
		for i, h := range c.order {
			own := 0
			for p := h.entries.Front(); p != nil; p = p.Next() {
				e := p.Value.(*entry)
				own += e.weight()
				if c.find(e.key, e.name) != e {
					t.Fatal("an entry that is held is not found")
				}
			}
			if own != h.size || h.index != i || c.holders[h.network] != h || h.entries.Len() == 0 {
				t.Fatalf("holder %+v with %d bytes at %d", h, own, i)
			}
			sum, count = sum+own, count+h.entries.Len()
		}
		if sum != c.size || count != c.count || sum > max {
			t.Fatalf("%d bytes, %d entries; said %d, %d", sum, count, c.size, c.count)
		}
	}
}

// TestHitsSpare: of one network's answers, what clients are given is what stays.
func TestHitsSpare(t *testing.T) {
	t.Parallel()
	f := newFaked(t, Config{CacheBytes: 1 << 20}, &fakeNet{answer: after(0, "192.0.2.1")})
	q := query("popular.example", dns.TypeA)
	resolve(t.Context(), f, q)
	for i := range 20_000 {
		keep(f.cache, netA, fmt.Sprintf("random%d.example", i), 50)
		if i%1000 == 0 && f.Immediate(q) == nil {
			t.Fatalf("the answer in use went after %d others", i)
		}
	}
	if kept(f.cache, netA, "random0.example") != nil {
		t.Error("nothing went")
	}
}

// TestCacheConcurrent: look-ups take no lock. The race detector looks on.
func TestCacheConcurrent(t *testing.T) {
	t.Parallel()
	c := newCache(1<<18, false)
	var g sync.WaitGroup
	for i := range 4 {
		g.Go(func() {
			for range 5000 {
				name := fmt.Sprintf("n%d.example", rand.IntN(1000))
				if i < 2 {
					keep(c, network(i), name, rand.IntN(1000))
				} else if e := kept(c, netA, name); e != nil && string(e.name) != string(mustName(name+".")) {
					t.Errorf("%s found for %s", e.name, name)
				}
			}
		})
	}
	g.Wait()
}

// largeSet returns an answer with so many addresses.
func largeSet(m *message, n int) *dns.Msg {
	out := answerTo(m, dns.RcodeSuccess)
	name, _, _ := dns.UnpackDomainName(m.name, 0)
	for i := range n {
		out.Answer = append(out.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
			A:   binary.BigEndian.AppendUint32(nil, uint32(i)),
		})
	}
	return out
}

// TestReadIsOnePass: what reading allocates does not grow with the records.
func TestReadIsOnePass(t *testing.T) {
	m := newMessage(query("www.example.com", dns.TypeA), true)
	for _, n := range []int{1, 4000} {
		b := packed(largeSet(m, n))
		if got := testing.AllocsPerRun(100, func() {
			if a, err := read(b, m, time.Now()); err != nil || len(a.records) != n {
				t.Fatal(err)
			}
		}); got > 2 {
			t.Errorf("%d records: %v allocations", n, got)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	m := newMessage(query("www.example.com", dns.TypeA), true)
	for _, n := range []int{1, 4000} {
		answer := packed(largeSet(m, n))
		b.Run(fmt.Sprintf("%d bytes", len(answer)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := read(answer, m, time.Now()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestLargeAnswersTakeTurns: large answers wait for their networks' turns, and small
// ones do not.
func TestLargeAnswersTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &fakeNet{answer: func(_ context.Context, m *message) (*dns.Msg, error) {
			if m.name[1] == 's' {
				return largeSet(m, 1), nil
			}
			return largeSet(m, 1000), nil
		}}
		f := newFaked(t, Config{}, u)
		other := func(i int) netip.Prefix { // of others, one at a time of each
			return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0xaa, 5: byte(i + 1)}), 48)
		}
		for i := range turns.Half() {
			f.turns.Enter(other(i))
		}
		var done atomic.Int32
		var g sync.WaitGroup
		for i := range 4 {
			g.Go(func() {
				if r := resolve(t.Context(), f, query(fmt.Sprintf("large%d.example", i), dns.TypeA)); len(r.records) != 1000 {
					t.Errorf("%d records", len(r.records))
				}
				done.Add(1)
			})
		}
		synctest.Wait()
		if n := f.turns.Waiting(); n != 4 {
			t.Errorf("%d wait", n)
		}
		if r := resolve(t.Context(), f, query("small.example", dns.TypeA)); r.Rcode != dns.RcodeSuccess || done.Load() != 0 {
			t.Errorf("%v while %d large ones were read", r, done.Load())
		}
		for i := range turns.Half() {
			f.turns.Leave(other(i))
		}
		g.Wait()
		for i := range turns.Half() { // all are free again
			f.turns.Enter(other(i))
		}
	})
}
