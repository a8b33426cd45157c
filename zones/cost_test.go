package zones

import (
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// sizes says how large everything is that one tenant's questions may touch.
type sizes struct {
	machines, apps, peers, addresses int
	pairs                            int // of metadata, each machine of app "pairs"
}

// crowd returns a registry in which one network has much of everything.
func crowd(n sizes) (*registry.Registry, *Zones) {
	var items []registry.Item
	addr := func(host, i int) string { return fmt.Sprintf("fdaa:0:18:%x:0:%x:%x:2", host, i>>16, i&0xffff) }
	regions := []string{"iad", "ams", "nrt", "syd", "gru", "nowhere"}
	add := func(app string, host, i int, state, region string, metadata map[string]string) {
		items = append(items, put(registry.NewMachine(registry.MachineSpec{Network: netA, App: app, ID: fmt.Sprintf("%s-%06d", app, i),
			State: state, Region: region, PrivateIP: addr(host, i), Metadata: metadata})))
	}
	for i := range n.machines {
		add("spread", 1, i, "started", regions[i%len(regions)], map[string]string{"fly_process_group": []string{"web", "worker"}[i%2], "role": fmt.Sprintf("r%d.x", i), "same": "yes"})
		add("alike", 2, i, "started", "iad", map[string]string{"fly_process_group": "web", "role": "replica"})
		add("asleep", 3, i, "stopped", "iad", map[string]string{"role": "replica"})
	}
	for i := range n.apps {
		items = append(items, app(netB, fmt.Sprintf("app-%06d", i)))
		items = append(items, put(registry.NewMachine(registry.MachineSpec{Network: netB, App: fmt.Sprintf("app-%06d", i), ID: fmt.Sprintf("m%06d", i),
			State: "started", Region: "iad", PrivateIP: fmt.Sprintf("fdaa:0:99:1:0:%x:%x:2", i>>16, i&0xffff)})))
	}
	for i := range n.peers {
		items = append(items, peer(fmt.Sprintf("peer-%06d", i), addr(4, i), "iad"))
	}
	for i := range n.addresses {
		items = append(items, flycast("spread", addr(5, i)))
	}
	for i := range min(n.machines, 31) {
		pairs := map[string]string{}
		for j := range n.pairs {
			pairs[fmt.Sprintf("key-%06d-%d", j, i)] = fmt.Sprint(i)
		}
		add("pairs", 6, i, "started", "iad", pairs)
	}
	for i := range n.machines { // all in one /112
		items = append(items, put(registry.NewMachine(registry.MachineSpec{Network: netA, App: "crammed", ID: fmt.Sprintf("c%06d", i),
			State: "started", Region: "iad", PrivateIP: fmt.Sprintf("fdaa:0:18:7:0:0:0:%x", i&0xffff)})))
	}
	return serve(Config{Region: "iad"}, items...)
}

// crowdQuestions are one of every kind of name, on what is large and on what is not there.
var crowdQuestions = func() []asked {
	var all []asked
	add := func(network string, typ uint16, names ...string) {
		for _, name := range names {
			all = append(all, asked{name: name, typ: typ, view: resolver.View{Network: netip.MustParsePrefix(network), Region: "iad"}, client: "fdaa:0:18:7::1"})
		}
	}
	for _, app := range []string{"spread", "alike", "asleep", "pairs", "crammed"} {
		add(netA, dns.TypeAAAA, app+".internal", "iad."+app+".internal", "nil."+app+".internal",
			app+"-000001.vm."+app+".internal", "nil.vm."+app+".internal",
			"web.process."+app+".internal", "nil.process."+app+".internal",
			"top1.nearest.of."+app+".internal", "top5000.nearest.of."+app+".internal",
			"role.kv._metadata."+app+".internal", "nil.kv._metadata."+app+".internal",
			"replica.role.kv._metadata."+app+".internal", "r7.x.role.kv._metadata."+app+".internal", "x.role.kv._metadata."+app+".internal",
			"nil.role.kv._metadata."+app+".internal", "vm."+app+".internal")
		add(netA, dns.TypeA, app+".internal", "iad."+app+".internal", "role.kv._metadata."+app+".internal", "replica.role.kv._metadata."+app+".internal")
		add(netA, dns.TypeTXT, "vms."+app+".internal", "all.vms."+app+".internal", "regions."+app+".internal", "all.regions."+app+".internal")
	}
	for _, network := range []string{netA, netB} {
		add(network, dns.TypeTXT, "_apps.internal", "_instances.internal", "all._instances.internal", "_peer.internal", "_dnsd.internal", "_whoami.internal")
	}
	add(netA, dns.TypeAAAA, "peer-000001._peer.internal", "nil._peer.internal", "spread.flycast", "nil.flycast")
	add(netA, dns.TypePTR, reverse("fdaa:0:18:1:0:0:1:2"), reverse("fdaa:0:18:7::1"), reverse("fdaa:0:18:4:0:0:1:2"), reverse("fdaa:0:18:5:0:0:1:2"))
	return all
}()

// stepsOf asks a question and returns the steps that were taken for the answer.
func stepsOf(t testing.TB, z *Zones, c asked, pause func()) (a *resolver.Answer, steps int) {
	t.Helper()
	asked, q := route(t, z, c.view, c.client, c.name, c.typ)
	q.Pause = pause
	counted := *asked.(*zone)
	counted.answer = func(l *lookup) *resolver.Answer {
		defer func() { steps = l.budget.Steps() }()
		return asked.(*zone).answer(l)
	}
	return counted.Answer(q), steps
}

// What a name costs is what is counted for it.
func TestSteps(t *testing.T) {
	var items []registry.Item
	for i := range 100 {
		state := "started"
		if i >= 40 {
			state = "stopped"
		}
		items = append(items,
			machine(netA, fmt.Sprintf("m%02d web r%d %s fdaa:0:18::%x group=web role=r%d.x", i, i%4, state, i+1, i)),
			machine(netA, fmt.Sprintf("s%02d asleep iad stopped fdaa:0:18:1::%x", i, i+1)),
			peer(fmt.Sprint("peer-", i), fmt.Sprintf("fdaa:0:18:2::%x", i+1), ""), flycast("web", fmt.Sprintf("fdaa:0:18:3::%x", i+1)))
	}
	const entry = stepsEntry
	for _, test := range []struct {
		name         string
		typ          uint16
		first, again int // steps, asked once and asked again
	}{
		{"web.internal", dns.TypeAAAA, 200, 200},
		{"web.internal", dns.TypeA, 0, 0},
		{"m07.vm.web.internal", dns.TypeAAAA, 0, 0},
		{"r1.web.internal", dns.TypeAAAA, 100 + 50, 50},
		{"r1.web.internal", dns.TypeA, 100, 0},
		{"r9.web.internal", dns.TypeAAAA, 100, 0},
		{"web.process.web.internal", dns.TypeAAAA, 200 + 200 + 100 + 100 + 200, 100 + 200},
		{"r7.x.role.kv._metadata.web.internal", dns.TypeAAAA, 200 + 200 + 100 + 2 + 2, 2 + 2},
		{"role.kv._metadata.web.internal", dns.TypeAAAA, 200 + 200 + 100 + 200, 100 + 200},
		{"nil.kv._metadata.web.internal", dns.TypeAAAA, 200 + 200, 0},
		{"top1.nearest.of.web.internal", dns.TypeAAAA, 200 + 200, 0},
		{"top500.nearest.of.web.internal", dns.TypeAAAA, 200 + 200, 0},
		{"vms.web.internal", dns.TypeTXT, 40 * (1 + entry), 40 * (1 + entry)},
		{"all.vms.web.internal", dns.TypeTXT, 100 * (1 + entry), 100 * (1 + entry)},
		{"vms.asleep.internal", dns.TypeTXT, 100, 100},
		{"asleep.internal", dns.TypeAAAA, 200, 200},
		{"regions.web.internal", dns.TypeTXT, 40 + 3 + 4*entry, 40 + 3 + 4*entry},
		{"_apps.internal", dns.TypeTXT, 2 * (stepsRow + entry), 2 * (stepsRow + entry)},
		{"_peer.internal", dns.TypeTXT, 100 * (stepsRow + entry), 100 * (stepsRow + entry)},
		{"_instances.internal", dns.TypeTXT, 2*stepsRow + 40*(1+entry), 2*stepsRow + 40*(1+entry)},
		{"all._instances.internal", dns.TypeTXT, 2*stepsRow + 200*(1+entry), 2*stepsRow + 200*(1+entry)},
		{"_dnsd.internal", dns.TypeTXT, 0, 0},
		{"_whoami.internal", dns.TypeTXT, 0, 0},
		{"web.flycast", dns.TypeAAAA, 100 * stepsRow, 100 * stepsRow},
		{"web.flycast", dns.TypeA, stepsRow, stepsRow},
		{reverse("fdaa:0:18::7"), dns.TypePTR, stepsRow, stepsRow},
	} {
		_, z := serve(Config{}, items...)
		c := asked{name: test.name, typ: test.typ, view: resolver.View{Network: netip.MustParsePrefix(netA), Region: "iad"}, client: "fdaa:0:18::1"}
		_, first := stepsOf(t, z, c, nil)
		_, again := stepsOf(t, z, c, nil)
		if first != test.first || again != test.again {
			t.Errorf("%s %s: %d steps and then %d, want %d and %d", test.name, typeName(test.typ), first, again, test.first, test.again)
		}
	}
}

// A list that is full is not made any further, and a budget that is over ends
// every loop.
func TestNothingIsReadInVain(t *testing.T) {
	var items []registry.Item
	const all = 2000 // of which half fit into a list
	long := strings.Repeat("x", 55)
	for i := range all {
		name := fmt.Sprintf("%06d%s", i, long)
		items = append(items, machine(netA, fmt.Sprintf("%s web iad started fdaa:0:18:1::%x", name, i+1)),
			app(netA, name), peer(name, fmt.Sprintf("fdaa:0:18:2::%x", i+1), ""))
	}
	const one = "fdaa:0:18:3::1" // what many have
	for i := range 400 {
		items = append(items, flycast("many", fmt.Sprintf("fdaa:0:18:4::%x", i+1)))
	}
	for i := range 100 {
		items = append(items, machine(netA, fmt.Sprintf("r%d run iad started %s", i, one)), machine(netA, fmt.Sprintf("s%d run iad stopped %s", i, one)),
			peer(fmt.Sprint("p", i), one, ""), flycast(fmt.Sprint("f", i), one))
	}
	_, z := serve(Config{}, items...)
	ask := func(name string, typ uint16, pause func()) (*resolver.Answer, int) {
		return stepsOf(t, z, asked{name: name, typ: typ, view: resolver.View{Network: netip.MustParsePrefix(netA)}, client: "fdaa:0:18::1"}, pause)
	}
	for name, c := range map[string]struct{ entry, apps int }{ // steps for an entry and for all apps
		"vms.web.internal": {1 + stepsEntry, 0}, "_apps.internal": {stepsRow + stepsEntry, 0}, "_peer.internal": {stepsRow + stepsEntry, 0},
		"all._instances.internal": {1 + stepsEntry, (all + 2) * stepsRow},
	} {
		a, steps := ask(name, dns.TypeTXT, func() {})
		if a == nil || a.Partial == nil {
			t.Fatalf("%s is not full", name)
		}
		if most := (a.Partial.Shown+1)*c.entry + c.apps; steps > most {
			t.Errorf("%s: %d steps for %d entries, want %d at most", name, steps, a.Partial.Shown, most)
		}
	}
	for _, steps := range []int{10, 500, 900, 1300} { // in each of the loops of reverse
		z.inline = steps
		for name, typ := range map[string]uint16{reverse(one): dns.TypePTR, "many.flycast": dns.TypeAAAA,
			"_apps.internal": dns.TypeTXT, "_peer.internal": dns.TypeTXT, "_instances.internal": dns.TypeTXT, "all._instances.internal": dns.TypeTXT} {
			if a, n := ask(name, typ, nil); a != nil || n > steps+4*stepsRow {
				t.Errorf("%s: %d steps where %d are allowed, and %v", name, n, steps, a != nil)
			}
		}
	}
}

// cost is what a question takes, the least of a few times: bytes allocated and
// time. It is asked again only while it takes more than the given.
func cost(t *testing.T, z *Zones, c asked, mostBytes uint64, mostTime time.Duration) (bytes uint64, took time.Duration) {
	zone, q := route(t, z, c.view, c.client, c.name, c.typ)
	bytes, took = math.MaxUint64, math.MaxInt64
	for i := 0; i < 1000 && (bytes > mostBytes || took > mostTime); i++ { // the machine may be busy with something else for a while
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		zone.Answer(q)
		took = min(took, time.Since(began))
		runtime.ReadMemStats(&after)
		bytes = min(bytes, after.TotalAlloc-before.TotalAlloc)
	}
	return bytes, took
}

// poison takes all machines from the registry's fleets but the first few of
// each, so that whoever walks one falls, and returns what gives them back.
func poison(reg *registry.Registry, few int) (antidote func()) {
	var undo []func()
	v := reg.Snapshot()
	for _, n := range []string{netA, netB} {
		network, _ := registry.ParseNetwork(n)
		fleets, _ := v.Fleets(network)
		for f := range fleets.All {
			for i, m := range f.Deployed() {
				if i > few {
					f.Deployed()[i] = nil
					undo = append(undo, func() { f.Deployed()[i] = m })
				}
			}
		}
	}
	return func() {
		for _, u := range undo {
			u()
		}
	}
}

// No name is dear to a socket, however much of everything a tenant has, whether
// its fleets are indexed yet or not. No inline answer looks at more machines than
// it has steps; and none takes several times the memory or time of the addresses
// that a socket may just wait for. A walk over what a tenant has that counts no
// steps fails here. (All numbers are a quarter of the real ones, to be quick.)
func TestNoNameIsDearToASocket(t *testing.T) {
	const inline, many, times, maxPairs = maxInline / 4, 5_000, 4, 256
	var items []registry.Item
	for i := range inline / 2 {
		items = append(items, machine(netA, fmt.Sprintf("m%06d web iad started fdaa:0:18::%x", i, i+1)))
	}
	_, z := serve(Config{}, items...)
	z.inline = inline
	most := asked{name: "web.internal", typ: dns.TypeAAAA, view: resolver.View{Network: netip.MustParsePrefix(netA)}}
	if a, steps := stepsOf(t, z, most, nil); a == nil || steps != inline {
		t.Fatalf("%d machines are too many for a socket: %d steps", len(items), steps)
	}
	mostBytes, mostTime := cost(t, z, most, 0, 0)

	reg, z := crowd(sizes{machines: many, apps: many, peers: 2 * many, addresses: 2 * many, pairs: maxPairs})
	z.inline = inline
	refused := 0
	check := func(c asked, indexed bool) {
		defer func() {
			// Only an id is looked for among the machines, by halves.
			if p := recover(); p != nil && !strings.Contains(c.name, ".vm.") {
				t.Errorf("%s %s, fleets indexed %t: a machine too many is looked at: %v", c.name, typeName(c.typ), indexed, p)
			}
		}()
		a, steps := stepsOf(t, z, c, nil)
		bytes, took := cost(t, z, c, times*mostBytes, times*mostTime)
		if bytes > times*mostBytes || took > times*mostTime {
			t.Errorf("%s %s, fleets indexed %t: %d bytes and %v, where %d machines took %d and %v",
				c.name, typeName(c.typ), indexed, bytes, took, len(items), mostBytes, mostTime)
		}
		if a == nil {
			refused++
		}
		// How much there is of an app's machines or of all apps or peers is known.
		if known := c.typ == dns.TypeAAAA && !strings.HasSuffix(c.name, ".flycast") || c.name == "_apps.internal" || c.name == "_peer.internal"; a == nil && known && steps > stepsRow {
			t.Errorf("%s %s, fleets indexed %t: refused only after %d steps", c.name, typeName(c.typ), indexed, steps)
		}
		// What belongs to one app is dear once.
		if ofApp := c.view.Network == netip.MustParsePrefix(netA) && strings.Count(c.name, ".") > 1 && !strings.Contains(c.name, "_instances"); a == nil && indexed && ofApp {
			t.Errorf("%s %s is refused again", c.name, typeName(c.typ))
		}
	}
	antidote := poison(reg, inline)
	for _, c := range crowdQuestions {
		check(c, false)
	}
	antidote()
	if refused < len(crowdQuestions)/4 {
		t.Errorf("only %d of %d names are refused: what is there is not much", refused, len(crowdQuestions))
	}
	for _, c := range crowdQuestions {
		if a, _ := stepsOf(t, z, c, func() {}); a == nil && c.name != "" {
			t.Errorf("%s %s: refused, though it can wait", c.name, typeName(c.typ))
		}
	}
	defer poison(reg, inline)()
	for _, c := range crowdQuestions {
		check(c, true)
	}
	took := time.Duration(math.MaxInt64)
	for i := 0; i < 2000 && took > times*mostTime; i++ {
		began := time.Now()
		z.Viewer().View(netip.MustParseAddr("fdaa:0:18:7::1"))
		took = min(took, time.Since(began))
	}
	if took > times*mostTime {
		t.Errorf("a client's view took %v, where %d machines took %v", took, len(items), mostTime)
	}
}

// BenchmarkAnswer is what every kind of name costs, asked again and again with time
// to wait, from a network of a few objects and from one with much of everything.
func BenchmarkAnswer(b *testing.B) {
	for _, n := range []sizes{{5, 5, 5, 5, 5}, {10_000, 20_000, 5_000, 5_000, 256}, {300_000, 20_000, 5_000, 5_000, 256}} {
		b.Run(fmt.Sprint(n.machines), func(b *testing.B) {
			_, z := crowd(n)
			for _, q := range crowdQuestions {
				b.Run(strings.ReplaceAll(typeName(q.typ)+"/"+q.name, "/", "-"), func(b *testing.B) {
					zone, question := route(b, z, q.view, q.client, q.name, q.typ)
					question.Pause = func() {}
					for b.Loop() {
						zone.Answer(question)
					}
					_, steps := stepsOf(b, z, q, func() {})
					b.ReportMetric(float64(steps), "steps/op")
				})
			}
			b.Run("view", func(b *testing.B) {
				for b.Loop() {
					z.Viewer().View(netip.MustParseAddr("fdaa:0:18:7::1"))
				}
			})
		})
	}
}

// BenchmarkFirstAnswer is what the first question after a change costs: the
// change of one machine, and the answer.
func BenchmarkFirstAnswer(b *testing.B) {
	for _, n := range []int{1000, 10_000, 300_000} {
		reg, z := crowd(sizes{machines: n})
		for _, name := range []string{"spread.internal", "iad.spread.internal", "nil.spread.internal", "top1.nearest.of.spread.internal",
			"web.process.spread.internal", "nil.kv._metadata.spread.internal", "r7.x.role.kv._metadata.spread.internal",
			"x.role.kv._metadata.spread.internal", "role.kv._metadata.alike.internal", "vms.spread.internal", "regions.spread.internal"} {
			b.Run(fmt.Sprint(n, "/", name), func(b *testing.B) {
				zone, q := route(b, z, resolver.View{Network: netip.MustParsePrefix(netA), Region: "iad"}, "", name, dns.TypeAAAA)
				if strings.HasPrefix(name, "vms") || strings.HasPrefix(name, "regions") {
					q.Type = dns.TypeTXT
				}
				pauses := 0
				q.Pause = func() { pauses++ }
				states := []string{"stopped", "started"}
				for b.Loop() {
					states[0], states[1] = states[1], states[0]
					for _, app := range []string{"spread", "alike"} {
						if strings.Contains(name, app) {
							reg.Apply([]registry.Item{put(registry.NewMachine(registry.MachineSpec{Network: netA, App: app, ID: app + "-000001",
								State: states[0], Region: "ams", PrivateIP: "fdaa:0:18:77::1"}))})
						}
					}
					zone.Answer(q)
				}
				b.ReportMetric(float64(pauses)/float64(b.N), "pauses/op")
			})
		}
	}
}

// BenchmarkInline is the dearest that a socket waits for: the first question of
// a fleet that is just small enough, with nothing of it in a cache or all.
func BenchmarkInline(b *testing.B) {
	for _, cold := range []bool{false, true} {
		b.Run(map[bool]string{false: "warm", true: "cold"}[cold], func(b *testing.B) {
			var items []registry.Item
			for i := range maxInline / 2 {
				items = append(items, machine(netA, fmt.Sprintf("m%06d web iad started fdaa:0:18::%x", i, i+1)))
			}
			_, z := serve(Config{}, items...)
			zone, q := route(b, z, resolver.View{Network: netip.MustParsePrefix(netA)}, "", "web.internal", dns.TypeAAAA)
			trash := make([]byte, 256<<20)
			for b.Loop() {
				if cold {
					b.StopTimer()
					for i := 0; i < len(trash); i += 64 {
						trash[i]++
					}
					b.StartTimer()
				}
				if zone.Answer(q) == nil {
					b.Fatal("refused")
				}
			}
		})
	}
}
