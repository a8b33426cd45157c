package zones

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"

	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// world draws random changes from few names, so that they meet: two networks
// with the same apps, machines that move, share addresses, hide and come back.
type world struct {
	rng *rand.Rand
	ids []string // of machines
}

// newWorld returns a world whose apps have a few machines, or enough for their
// fleets to be indexed.
func newWorld(seed, stream uint64, large bool) world {
	w := world{rand.New(rand.NewPCG(seed, stream)), []string{"m1", "m2", "m3", "M4", "m5"}}
	for i := 0; large && i < 60; i++ {
		w.ids = append(w.ids, fmt.Sprint("n", i))
	}
	return w
}

// settlers are changes that make the world's apps as large as they are.
func (w world) settlers() []registry.Item {
	var items []registry.Item
	for range 12 * len(w.ids) {
		items = append(items, w.item())
	}
	return items
}

func one[T any](w world, from ...T) T { return from[w.rng.IntN(len(from))] }

var worldNetworks = []string{"fdaa:0:18::/48", "fdaa:0:99::/48"}

func (w world) item() registry.Item {
	network := one(w, worldNetworks...)
	prefix := strings.TrimSuffix(network, "::/48")
	app := one(w, "web", "db", "Web2")
	var o registry.Object
	switch w.rng.IntN(10) {
	case 0:
		o = must(registry.NewApp(registry.AppSpec{Name: one(w, app, strings.ToUpper(app)), Network: network}))
	case 1:
		o = must(registry.NewPeer(registry.PeerSpec{Name: one(w, "peer", "interactive-1", "Other"), Region: one(w, "fra", "nowhere", ""),
			PrivateIP: fmt.Sprintf("%s:a:1:0:%d:2", prefix, w.rng.IntN(4))}))
	case 2:
		o = must(registry.NewAddress(registry.AddressSpec{App: app, Address: fmt.Sprintf("%s:a:1:0:%d:2", prefix, w.rng.IntN(4))}))
	default:
		s := registry.MachineSpec{
			Network: network, App: app, ID: one(w, w.ids...),
			State:            one(w, "started", "started", "started", "stopped", "destroyed", "odd"),
			Region:           one(w, "iad", "fra", "ewr", "nowhere", ""),
			SkipRegistration: w.rng.IntN(8) == 0,
			Metadata: map[string]string{
				one(w, "role", "ROLE", "x"): one(w, "a", "B.a", "c.b.a", ""),
				"fly_process_group":         one(w, "web", "worker"),
			},
		}
		if w.rng.IntN(8) > 0 {
			s.PrivateIP = fmt.Sprintf("%s:a:1:0:%d:2", prefix, w.rng.IntN(6))
		}
		o = must(registry.NewMachine(s))
	}
	if w.rng.IntN(3) == 0 {
		return registry.Delete(o.Key())
	}
	return registry.Put(o)
}

// questions are every shape of name over the world's words.
func (w world) question() (name string, typ uint16) {
	app := one(w, "web", "db", "web2", "nil")
	name = one(w,
		"internal", "_apps.internal", "_peer.internal", "_instances.internal", "all._instances.internal", "_api.internal",
		"_dnsd.internal", "_whoami.internal",
		one(w, "peer", "interactive-1", "other", "nil")+"._peer.internal",
		app+".internal", "global."+app+".internal", app+".internal", app+".flycast", "x."+app+".flycast",
		one(w, "iad", "fra", "ewr", "nowhere", "nil")+"."+app+".internal",
		one(w, "m1", "m2", "m3", "m4", "m5", "n7", "nil")+".vm."+app+".internal",
		one(w, "web", "worker", "nil")+".process."+app+".internal",
		one(w, "top1", "top2", "top3", "top9", "top30", "top1000", "top0")+".nearest.of."+app+".internal",
		one(w, "role", "x", "nil")+".kv._metadata."+app+".internal",
		one(w, "a", "b.a", "c.b.a", "b", "c.b")+"."+one(w, "role", "x")+".kv._metadata."+app+".internal",
		one(w, "vm", "process", "of", "nearest.of", "_metadata", "kv._metadata")+"."+app+".internal",
		one(w, "", "all.")+one(w, "vms", "regions")+"."+app+".internal",
		reverse(fmt.Sprintf("%s:a:1:0:%d:2", strings.TrimSuffix(one(w, worldNetworks...), "::/48"), w.rng.IntN(6))),
		"0.0.a.a.d.f.ip6.arpa", "a.d.f.ip6.arpa",
	)
	return name, one(w, dns.TypeAAAA, dns.TypeAAAA, dns.TypeTXT, dns.TypePTR, dns.TypeA, dns.TypeANY)
}

func (w world) client() string {
	prefix := strings.TrimSuffix(one(w, worldNetworks...), "::/48")
	return fmt.Sprintf("%s:a:1:0:%d:2", prefix, w.rng.IntN(6))
}

// asked is a question, and what the answer to it may depend on.
type asked struct {
	name   string
	typ    uint16
	view   resolver.View
	client string
}

// promise is a view or an answer, which holds until one of its channels closes.
type promise struct {
	answer *resolver.Answer
	watch  []<-chan struct{}
}

// same reports whether two answers are equal apart from their channels.
func same(a, b *resolver.Answer) bool {
	x, y := *a, *b
	x.Watch, y.Watch = nil, nil
	return reflect.DeepEqual(x, y)
}

// TestHistories drives random changes through a registry, and holds four
// things against every moment of it: no answer or view whose channels are open
// differs from a fresh one; a tenant gets the very answers, texts included, of a
// server that knows no other tenant; what lies above an existing name exists
// (RFC 8020); and who cannot wait gets the answer of who can, or none. Some of
// the servers have so little time for the former that fleets keep what the
// latter get; those for one tenant make all of it anew.
func TestHistories(t *testing.T) {
	const histories, steps = 8, 50
	served, woken, needless, refused := 0, 0, 0, 0
	for seed := range uint64(histories) {
		w := newWorld(seed, 7, seed%2 == 1)
		cfg := Config{TTL: 5, Region: one(w, "", "lhr"), Advertise: netip.MustParseAddr("fdaa::3")}
		reg, z := serve(cfg)
		z.inline = []int{maxInline, 30, 5, 0}[seed/2%4]
		alone := map[netip.Prefix]*registry.Registry{}
		aloneZones := map[netip.Prefix]*Zones{}
		for _, n := range worldNetworks {
			p := netip.MustParsePrefix(n)
			alone[p], aloneZones[p] = serve(cfg)
			aloneZones[p].inline = 1 << 30
		}
		w.apply(w.settlers(), reg, alone)
		answers, views := map[asked]promise{}, map[string]promise{}
		viewOf := map[string]resolver.View{}
		for range steps {
			w.change(reg, alone)
			for client, k := range views {
				fresh, watch := z.Viewer().View(netip.MustParseAddr(client))
				if !isClosed(k.watch) && fresh != viewOf[client] {
					t.Fatalf("seed %d: the kept view of %s is %+v, a fresh one %+v", seed, client, viewOf[client], fresh)
				}
				views[client], viewOf[client] = promise{watch: watch}, fresh
			}
			for q, k := range answers {
				fresh := ask(t, z, q.view, q.client, q.name, q.typ)
				equal := same(fresh, k.answer)
				switch {
				case !isClosed(k.watch) && !equal:
					t.Fatalf("seed %d: %+v\n is kept as %s\nand would be %s", seed, q, render(t, k.answer), render(t, fresh))
				case isClosed(k.watch) && equal:
					needless++
				case isClosed(k.watch):
					woken++
				}
				if isClosed(k.watch) {
					delete(answers, q)
				}
			}
			for range 25 {
				q := asked{client: w.client()}
				q.name, q.typ = w.question()
				var watch []<-chan struct{}
				q.view, watch = z.Viewer().View(netip.MustParseAddr(q.client))
				views[q.client], viewOf[q.client] = promise{watch: watch}, q.view
				if zone, inline := route(t, z, q.view, q.client, q.name, q.typ); zone.Answer(inline) == nil {
					refused++
				}
				a := ask(t, z, q.view, q.client, q.name, q.typ)
				served++
				if by := ask(t, aloneZones[q.view.Network], q.view, q.client, q.name, q.typ); !same(a, by) {
					t.Fatalf("seed %d: %+v\nis answered %s\nand without the other network %s", seed, q, render(t, a), render(t, by))
				}
				if !a.NoStore {
					q.client = ""
					answers[q] = promise{a, a.Watch}
				}
				for above := q.name; a.Rcode == dns.RcodeSuccess && !isOrigin(above); {
					_, above, _ = strings.Cut(above, ".")
					if ask(t, z, q.view, "", above, dns.TypeA).Rcode != dns.RcodeSuccess {
						t.Fatalf("seed %d: %s exists and %s, above it, does not", seed, q.name, above)
					}
				}
			}
		}
	}
	t.Logf("%d answers, %d of them not at once; channels closed %d times with a change and %d times without", served, refused, woken, needless)
	if woken < 1000 || refused < 500 {
		t.Errorf("only %d answers changed, and %d were not given at once: the histories show too little", woken, refused)
	}
}

// change makes a few random changes, to the registry and to those of one network.
func (w world) change(reg *registry.Registry, alone map[netip.Prefix]*registry.Registry) {
	if w.rng.IntN(20) == 0 {
		s := registry.Status{State: one(w, registry.Live, registry.Live, registry.Stale, registry.CatchingUp, registry.Held, registry.Cached, registry.Listing)}
		reg.SetStatus(s)
		for _, r := range alone {
			r.SetStatus(s)
		}
		return
	}
	items := make([]registry.Item, 1+w.rng.IntN(4))
	for i := range items {
		items[i] = w.item()
	}
	w.apply(items, reg, alone)
}

// apply makes changes, to the registry and to those of one network.
func (w world) apply(items []registry.Item, reg *registry.Registry, alone map[netip.Prefix]*registry.Registry) {
	for i := range items {
		key := items[i].Key
		if items[i].Object != nil {
			key = items[i].Object.Key()
		}
		if r := alone[key.Network.Prefix()]; r != nil {
			r.Apply(items[i : i+1])
		}
	}
	reg.Apply(items)
}

// Answers are computed while the registry changes; the race detector watches.
func TestAnswersDuringChanges(t *testing.T) {
	reg, z := serve(Config{}, newWorld(3, 9, true).settlers()...)
	z.inline = 30
	var wg sync.WaitGroup
	defer wg.Wait()
	done := make(chan struct{})
	defer close(done)
	for seed := range uint64(2) {
		wg.Go(func() {
			w := newWorld(seed, 8, true)
			for {
				select {
				case <-done:
					return
				default:
				}
				client := w.client()
				view, _ := z.Viewer().View(netip.MustParseAddr(client))
				name, typ := w.question()
				zone, q := route(t, z, view, client, name, typ)
				q.Pause = func() {}
				if err := wellFormed(zone.Answer(q), view, typ); err != "" {
					t.Errorf("%s %s: %s", name, typeName(typ), err)
				}
			}
		})
	}
	w := newWorld(3, 9, true)
	for range 300 {
		w.change(reg, nil)
	}
}
