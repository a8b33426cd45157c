package resolver

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

// keeping returns a worker of r that keeps answers, as a UDP socket's does.
func keeping(r *Resolver) *worker {
	w := newWorker(r, UDP, new(stats))
	w.keeper = newKeeper(1<<20, nil)
	return w
}

// sameButForTurns reports whether two responses are equal once the answers of
// each are sorted: both were turned, by chance.
func sameButForTurns(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y dns.Msg
	if x.Unpack(a) != nil || y.Unpack(b) != nil || len(a) != len(b) || len(x.Answer) != len(y.Answer) {
		return false
	}
	left := map[string]int{}
	for i := range x.Answer {
		left[x.Answer[i].String()]++
		left[y.Answer[i].String()]--
	}
	for _, n := range left {
		if n != 0 {
			return false
		}
	}
	x.Answer, y.Answer = nil, nil
	return x.String() == y.String()
}

// changingZone answers with what a test last set, and closes the channels of the
// answers before.
type changingZone struct {
	answer *Answer
	watch  chan struct{}
	asked  int
}

func (z *changingZone) Origin() string { return "internal." }

func (z *changingZone) Answer(*Question) *Answer {
	z.asked++
	a := *z.answer
	a.Watch = []<-chan struct{}{z.watch}
	return &a
}

func (z *changingZone) change(a *Answer) {
	if z.watch != nil {
		close(z.watch)
	}
	z.answer, z.watch = a, make(chan struct{})
}

func keptWorker(t testing.TB, z Zone) *worker {
	r, err := New(Config{Zones: []Zone{z}, Viewer: everyone{}})
	if err != nil {
		t.Fatal(err)
	}
	return keeping(r)
}

// everyone lets all clients see one network.
type everyone struct{}

func (everyone) View(netip.Addr) (View, []<-chan struct{}) {
	return View{Network: netip.MustParsePrefix("fdaa:0:18::/48")}, nil
}

func TestKeptAnswersAreUsedUntilTheyChange(t *testing.T) {
	z := &changingZone{}
	z.change(&Answer{Type: dns.TypeAAAA, TTL: 5, Data: addresses(3), Turns: []int{3}})
	w := keptWorker(t, z)
	req := query(t, "my-app.internal.", dns.TypeAAAA)
	out := make([]byte, 0, DefaultMaxUDPSize)
	for range 3 {
		if m := unpack(t, first(w.respond(req, loopback, out))); len(m.Answer) != 3 {
			t.Fatalf("response is\n%v", m)
		}
	}
	if z.asked != 1 {
		t.Errorf("the zone was asked %d times, want once", z.asked)
	}
	z.change(&Answer{Type: dns.TypeAAAA, TTL: 5, Data: addresses(4), Turns: []int{4}})
	if m := unpack(t, first(w.respond(req, loopback, out))); len(m.Answer) != 4 {
		t.Errorf("after the change the response is\n%v", m)
	}
}

// TestEpochVouchesForChannels: in the epoch in which a channel was seen open it is
// not looked at again; in any other it is.
func TestEpochVouchesForChannels(t *testing.T) {
	epoch := uint64(2)
	k := newKeeper(1<<20, func() uint64 { return epoch })
	ch := make(chan struct{})
	g := guarded{watch: []<-chan struct{}{ch}, at: unseen}
	if !k.holds(&g) {
		t.Error("an open channel does not hold")
	}
	epoch = 3
	if !k.holds(&g) {
		t.Error("a channel that is open does not hold in the next epoch")
	}
	close(ch) // nobody does this without a new epoch; it shows who looks
	if !k.holds(&g) {
		t.Error("the channel is looked at although the epoch vouches for it")
	}
	for _, epoch = range []uint64{4, 2} {
		if k.holds(&g) {
			t.Errorf("epoch %d: a closed channel holds", epoch)
		}
	}
	k.epoch = nil
	if k.holds(&guarded{watch: []<-chan struct{}{ch}, at: unseen}) {
		t.Error("without epochs, a closed channel holds")
	}
}

// movingClient sees the region that a test last set.
type movingClient struct {
	region string
	watch  chan struct{}
}

func (m *movingClient) View(netip.Addr) (View, []<-chan struct{}) {
	return View{Network: network, Region: m.region}, []<-chan struct{}{m.watch}
}

// regionZone answers with the region of the client's view.
type regionZone struct{}

func (regionZone) Origin() string { return "internal." }
func (regionZone) Answer(q *Question) *Answer {
	return &Answer{Type: dns.TypeTXT, TTL: 5, Data: [][]byte{append([]byte{byte(len(q.View.Region))}, q.View.Region...)}}
}

func TestAClientsViewIsLookedUpAgain(t *testing.T) {
	m := &movingClient{}
	r, err := New(Config{Zones: []Zone{regionZone{}}, Viewer: m})
	if err != nil {
		t.Fatal(err)
	}
	w := keeping(r)
	for _, region := range []string{"iad", "ams", "iad"} {
		if m.watch != nil {
			close(m.watch)
		}
		m.region, m.watch = region, make(chan struct{})
		for range 2 {
			resp := unpack(t, first(w.respond(query(t, "where.internal.", dns.TypeTXT), loopback, make([]byte, 0, DefaultMaxUDPSize))))
			if got := resp.Answer[0].(*dns.TXT).Txt[0]; got != region {
				t.Errorf("the client is in %s and is answered as if in %s", region, got)
			}
		}
	}
}

// TestKeptAnswersAreCutOff at every size, as answers that are not kept are.
func TestKeptAnswersAreCutOff(t *testing.T) {
	z := &changingZone{}
	z.change(&Answer{Type: dns.TypeAAAA, TTL: 5, Data: addresses(60), Turns: []int{60}})
	w := keptWorker(t, z)
	for size := uint16(512); size <= 1300; size++ {
		resp := first(w.respond(query(t, "my-app.internal.", dns.TypeAAAA, edns(size)), loopback, make([]byte, 0, DefaultMaxUDPSize)))
		m := unpack(t, resp)
		limit := min(int(size), DefaultMaxUDPSize)
		want := (limit - 12 - len("\x06my-app\x08internal\x00") - 4 - 11) / 28
		seen := map[string]bool{}
		for _, rr := range m.Answer {
			seen[rr.String()] = true
		}
		if len(resp) > limit || len(seen) != want || !m.Truncated {
			t.Fatalf("size %d: %d bytes, %d different addresses (want %d), TC=%t", size, len(resp), len(seen), want, m.Truncated)
		}
	}
}

func first(resp []byte, _ *deferred) []byte { return resp }

func TestWhatIsNotKept(t *testing.T) {
	soa := &SOA{TTL: 5, Data: make([]byte, 22)}
	for name, a := range map[string]*Answer{
		"a name that does not exist": {Rcode: dns.RcodeNameError, SOA: soa},
		"a failure":                  {Rcode: dns.RcodeServerFailure},
		"one client's own":           {Type: dns.TypeTXT, Data: [][]byte{{1, 'x'}}, NoStore: true},
		"a type of no use":           {SOA: soa},
	} {
		z := &changingZone{}
		z.change(a)
		w := keptWorker(t, z)
		typ := dns.TypeTXT
		if a.Rcode == 0 && a.Data == nil {
			typ = 65280
		}
		for range 2 {
			w.respond(query(t, "x.internal.", typ), loopback, make([]byte, 0, DefaultMaxUDPSize))
		}
		if z.asked != 2 || len(w.keeper.young) != 0 {
			t.Errorf("%s was kept", name)
		}
	}
}

// TestKeeperIsBounded: random existing names replace each other; what is in
// use stays.
func TestKeeperIsBounded(t *testing.T) {
	z := &changingZone{}
	z.change(&Answer{Type: dns.TypeAAAA, TTL: 5, Data: addresses(5), Turns: []int{5}})
	w := keptWorker(t, z)
	out := make([]byte, 0, DefaultMaxUDPSize)
	used := query(t, "used.internal.", dns.TypeAAAA)
	w.respond(used, loopback, out)
	for i := range 20_000 {
		w.respond(query(t, fmt.Sprintf("n%d.internal.", i), dns.TypeAAAA), loopback, out)
		before := z.asked
		if i%100 == 0 {
			if w.respond(used, loopback, out); z.asked != before {
				t.Fatalf("a name in use was dropped after %d others", i)
			}
		}
		if k := w.keeper; k.size > k.limit || len(k.young)+len(k.old) > 2*k.limit/keptOverhead {
			t.Fatalf("%d bytes in the young generation, %d answers; the limit is %d bytes", k.size, len(k.young)+len(k.old), k.limit)
		}
	}
}

// TestKeptBytes: sockets share what may be kept, down to a least part; a side socket
// has that.
func TestKeptBytes(t *testing.T) {
	for sockets, want := range map[int]int{1: mostKeptBytes, 2: mostKeptBytes / 2, 100: minKeptBytes} {
		r := &Resolver{sockets: []*socket{{side: true}}}
		for range sockets {
			r.sockets = append(r.sockets, &socket{})
		}
		if side, got := r.keptBytes(r.sockets[0]), r.keptBytes(r.sockets[1]); side != minKeptBytes || got != want {
			t.Errorf("of %d sockets each keeps %d bytes, the side socket %d, want %d and %d", sockets, got, side, want, minKeptBytes)
		}
	}
}

// TestKeptSizes: an answer counts with all that it holds, in one generation of two,
// until it does not hold any more.
func TestKeptSizes(t *testing.T) {
	k := newKeeper(100_000, nil)
	if k.limit != 50_000 {
		t.Errorf("a generation has %d bytes, want half", k.limit)
	}
	watch := make(chan struct{})
	until := guarded{watch: []<-chan struct{}{watch}, at: unseen}
	for name, tt := range map[string]struct {
		a    kept
		want int
	}{
		"packed": {kept{guarded: until, packed: make([]byte, 10, 100)}, keptOverhead + 100},
		"answer": {kept{guarded: until, answer: &Answer{Data: addresses(3)}}, keptOverhead + answerOverhead + 3*(16+24)},
		"empty":  {kept{guarded: until, answer: &Answer{}}, keptOverhead + answerOverhead},
		"most":   {kept{guarded: until, packed: make([]byte, 25_000-keptOverhead-4)}, 25_000 - 4},
		"large":  {kept{guarded: until, packed: make([]byte, 25_000-keptOverhead-4)}, 0}, // by a byte, with its key
	} {
		before := k.size
		if k.put([]byte(name), &tt.a); tt.want > 0 {
			tt.want += len(name)
		}
		if got := k.size - before; got != tt.want || (k.get([]byte(name)) != nil) != (tt.want > 0) {
			t.Errorf("%s: counts as %d bytes, want %d", name, got, tt.want)
		}
	}
	close(watch)
	for name := range maps.Clone(k.young) {
		if k.get([]byte(name)) != nil {
			t.Errorf("%s is given out though it may have changed", name)
		}
	}
	if k.size != 0 || len(k.young)+len(k.old) != 0 {
		t.Errorf("%d bytes and %d answers are left", k.size, len(k.young)+len(k.old))
	}
	k.old = map[string]*kept{"old": {guarded: until}}
	if k.get([]byte("old")) != nil || k.size != 0 || len(k.young)+len(k.old) != 0 {
		t.Errorf("of the old generation, one that may have changed is given out or left: %d bytes", k.size)
	}
}

func TestClientsAreBounded(t *testing.T) {
	k := newKeeper(1<<20, nil)
	for i := range maxViews + 10 {
		k.client(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), everyone{})
		if want := i%maxViews + 1; len(k.clients) != want || len(k.views) != 1 {
			t.Fatalf("%d clients, %d views, want %d and 1", len(k.clients), len(k.views), want)
		}
	}
	k = newKeeper(1<<20, nil)
	for i := range 3 * maxViews {
		addr := netip.AddrFrom16([16]byte{0xfd, 0xaa, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i), 15: 2})
		c := k.client(addr, ownNetwork{})
		if k.views[c.view] != c.number {
			t.Fatalf("client %s has number %d of view %v, want %d", addr, c.number, c.view, k.views[c.view])
		}
		if len(k.clients) > maxViews || len(k.views) > maxViews {
			t.Fatalf("%d clients, %d views", len(k.clients), len(k.views))
		}
	}
}

// ownNetwork gives each client the view of its own /48.
type ownNetwork struct{}

func (ownNetwork) View(addr netip.Addr) (View, []<-chan struct{}) {
	p, _ := addr.Prefix(48)
	return View{Network: p}, nil
}

// viewZone answers with the network of the client's view.
type viewZone struct{}

func (viewZone) Origin() string { return "internal." }
func (viewZone) Answer(q *Question) *Answer {
	b := q.View.Network.Addr().As16()
	return &Answer{Type: dns.TypeAAAA, TTL: 5, Data: [][]byte{b[:]}, Turns: []int{1}}
}

// TestKeptAnswersStayInTheirNetwork asks one name from many networks, also past
// the point where the keeper forgets its views.
func TestKeptAnswersStayInTheirNetwork(t *testing.T) {
	r, err := New(Config{Zones: []Zone{viewZone{}}, Viewer: ownNetwork{}})
	if err != nil {
		t.Fatal(err)
	}
	w := keeping(r)
	rng := rand.New(rand.NewPCG(5, 6))
	req := query(t, "my-app.internal.", dns.TypeAAAA)
	out := make([]byte, 0, DefaultMaxUDPSize)
	for i := range 100_000 {
		n := rng.IntN(2 * maxViews)
		client := netip.AddrFrom16([16]byte{0xfd, 0xaa, 1, byte(n >> 16), byte(n >> 8), byte(n), 15: 2})
		resp := first(w.respond(req, netip.AddrPortFrom(client, 5000), out))
		want := netip.PrefixFrom(client, 48).Masked().Addr().As16()
		if at := len(req) + 12; !bytes.Equal(resp[at:at+16], want[:]) {
			t.Fatalf("query %d from %s got %x", i, client, resp)
		}
	}
}

// TestHotPathAllocatesNothing is the ceiling for kept answers, of any shape.
func TestHotPathAllocatesNothing(t *testing.T) {
	soa := &SOA{TTL: 5, Data: make([]byte, 22)}
	ede := []EDE{{Code: 3, Text: "stale"}}
	for name, a := range map[string]*Answer{
		"addresses": {Type: dns.TypeAAAA, TTL: 5, Data: addresses(5), Turns: []int{5}},
		"nearest":   {Type: dns.TypeAAAA, TTL: 5, Data: addresses(5), Turns: []int{2, 3}, Limit: 3},
		"truncated": {Type: dns.TypeAAAA, TTL: 5, Data: addresses(3000), Turns: []int{3000}},
		"list":      {Type: dns.TypeTXT, TTL: 5, Data: [][]byte{append([]byte{200}, make([]byte, 200)...)}},
		"negative":  {Type: dns.TypeA, TTL: 5, SOA: soa, EDE: ede},
	} {
		for shape, req := range map[string][]byte{"plain": query(t, "My-App.internal.", a.Type), "EDNS": query(t, "My-App.internal.", a.Type, edns(1232))} {
			z := &changingZone{}
			z.change(a)
			w := keptWorker(t, z)
			w.keeper = newKeeper(mostKeptBytes, nil)
			out := make([]byte, 0, DefaultMaxUDPSize)
			if allocs := testing.AllocsPerRun(100, func() { w.count(first(w.respond(req, loopback, out))) }); allocs != 0 {
				t.Errorf("%s, %s: %v allocations, want 0", name, shape, allocs)
			}
		}
	}
}

// FuzzKept: a response from a kept answer is the one that the zone's answer
// gives, whatever the request looks like.
func FuzzKept(f *testing.F) {
	for _, name := range []string{"my-app.internal.", "MY-app.iNternal.", "internal.", "none.internal.", "big.internal.", "x.example."} {
		for _, typ := range []uint16{dns.TypeAAAA, dns.TypeTXT, dns.TypeANY, dns.TypeA} {
			f.Add(query(f, name, typ), typ)
			f.Add(query(f, name, typ, edns(1232)), uint16(0))
		}
	}
	r := newResolver(f)
	kept := keeping(r)
	f.Fuzz(func(t *testing.T, req []byte, id uint16) {
		fresh := newWorker(r, UDP, new(stats))
		for range 2 { // kept by the first round at the latest
			a, alater := kept.respond(req, loopback, make([]byte, 0, DefaultMaxUDPSize))
			b, blater := fresh.respond(req, loopback, make([]byte, 0, DefaultMaxUDPSize))
			if (alater == nil) != (blater == nil) || !sameButForTurns(a, b) {
				t.Fatalf("kept:  %x\nfresh: %x", a, b)
			}
			if len(req) >= wire.HeaderLen {
				req = append([]byte{byte(id >> 8), byte(id)}, req[2:]...)
			}
		}
	})
}

func BenchmarkRespondKept(b *testing.B) {
	z := &changingZone{}
	z.change(&Answer{Type: dns.TypeAAAA, TTL: 5, Data: addresses(5), Turns: []int{5}})
	w := keptWorker(b, z)
	req := query(b, "my-app.internal.", dns.TypeAAAA, edns(1232))
	out := make([]byte, 0, DefaultMaxUDPSize)
	b.ReportAllocs()
	for b.Loop() {
		w.respond(req, loopback, out)
	}
}

// TestPack: an answer is packed where all that it leaves to the writer is which record
// is first.
func TestPack(t *testing.T) {
	soa := &SOA{TTL: 5, Data: make([]byte, 22)}
	uneven := append(addresses(2), []byte{1, 2, 3, 4})
	for name, tt := range map[string]struct {
		answer  Answer
		section int // -1: it is not packed
		turns   bool
	}{
		"no record":             {Answer{SOA: soa}, wire.Authority, false},
		"no record and no SOA":  {Answer{}, -1, false},
		"one record":            {Answer{Data: addresses(1)}, wire.Answer, false},
		"a fixed order":         {Answer{Data: addresses(2)}, -1, false},
		"one run":               {Answer{Data: addresses(2), Turns: []int{2}}, wire.Answer, true},
		"two runs":              {Answer{Data: addresses(2), Turns: []int{1, 1}}, -1, false},
		"uneven records":        {Answer{Data: uneven, Turns: []int{3}}, -1, false},
		"a limit that cuts":     {Answer{Data: addresses(3), Turns: []int{3}, Limit: 2}, -1, false},
		"a limit that does not": {Answer{Data: addresses(3), Turns: []int{3}, Limit: 3}, wire.Answer, true},
		"as many as are packed": {Answer{Data: addresses(maxPacked), Turns: []int{maxPacked}}, wire.Answer, true},
		"one more":              {Answer{Data: addresses(maxPacked + 1), Turns: []int{maxPacked + 1}}, -1, false},
		"a part of a set":       {Answer{Data: addresses(1), Partial: &Partial{Shown: 1, Total: 2}}, -1, false},
	} {
		tt.answer.Type = dns.TypeAAAA
		z := &zone{origin: []byte("\x08internal\x00")}
		k := pack(z, &tt.answer, len("\x06my-app\x08internal\x00"))
		packed := k.answer == nil && len(k.packed) > 0
		if packed != (tt.section >= 0) || packed && (k.section != tt.section || int(k.records) != max(len(tt.answer.Data), 1)) || (k.turnLen > 0) != tt.turns {
			t.Errorf("%s: section %d, %d records in %d bytes, turned by %d, kept whole: %t", name, k.section, k.records, len(k.packed), k.turnLen, k.answer != nil)
		}
	}
}
