package truth

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

const (
	here  = "fdaa:0:18::/48"
	there = "fdaa:0:99::/48"
)

func vm(id, app, state string, i int) *Machine {
	return &Machine{ID: id, App: app, Network: here, State: state, Region: "fra", Addr: AddrIn(here, i), Meta: map[string]string{"role": id}}
}

func TestAnswers(t *testing.T) {
	n := Network(here)
	hidden := vm("m4", "web", "started", 4)
	hidden.Skip = true
	w := Of(&App{"web", here}, &App{"idle", here}, vm("m2", "web", "started", 2), vm("m1", "web", "started", 1), vm("m3", "web", "stopped", 3), hidden,
		vm("m5", "loose", "stopped", 5), vm("m6", "gone", "destroyed", 6),
		&Machine{ID: "m1", App: "web", Network: there, State: "started", Region: "iad", Addr: AddrIn(there, 1)}, &App{"theirs", there},
		&Peer{"p", here, "fdaa:0:18::9", ""}, &Peer{"p", there, "fdaa:0:99::9", ""},
		&Address{"web", here, "fdaa:0:18::7"}, &Address{"web", there, "fdaa:0:99::7"})
	role := func(id string) func(*Machine) bool { return func(m *Machine) bool { return m.Meta["role"] == id } }
	for _, c := range []struct {
		q    Question
		name string
		want string
	}{
		{n.AAAA("", "web", nil), "web.internal", "fdaa:0:18:a7b:7:2:1:2 fdaa:0:18:a7b:7:3:1:2"},
		{n.AAAA("", "idle", nil), "idle.internal", "NODATA"},
		{n.AAAA("", "loose", nil), "loose.internal", "NODATA"},
		{n.AAAA("", "gone", nil), "gone.internal", "NXDOMAIN"},
		{n.AAAA("", "theirs", nil), "theirs.internal", "NXDOMAIN"},
		{n.AAAA("m3.role.kv._metadata.", "web", role("m3")), "m3.role.kv._metadata.web.internal", "NODATA"},
		{n.AAAA("m4.role.kv._metadata.", "web", role("m4")), "m4.role.kv._metadata.web.internal", "NXDOMAIN"},
		{n.VM("web", "m1"), "m1.vm.web.internal", "fdaa:0:18:a7b:7:2:1:2"},
		{n.Machines("web", false), "vms.web.internal", "m1 fra,m2 fra"},
		{n.Machines("web", true), "all.vms.web.internal", "m1 fra,m2 fra,m3 fra"},
		{n.Machines("idle", true), "all.vms.idle.internal", "NODATA"},
		{n.Machines("gone", true), "all.vms.gone.internal", "NXDOMAIN"},
		{n.Regions("web", true), "all.regions.web.internal", "fra"},
		{n.Regions("loose", false), "regions.loose.internal", "NODATA"},
		{n.Instances(true), "all._instances.internal", "instance=m5,app=loose,ip=fdaa:0:18:a7b:7:6:1:2,region=fra;" +
			"instance=m1,app=web,ip=fdaa:0:18:a7b:7:2:1:2,region=fra;instance=m2,app=web,ip=fdaa:0:18:a7b:7:3:1:2,region=fra;" +
			"instance=m3,app=web,ip=fdaa:0:18:a7b:7:4:1:2,region=fra"},
		{Network("fdaa:0:77::/48").Instances(true), "all._instances.internal", "NODATA"},
		{n.Apps(), "_apps.internal", "idle,loose,web"},
		{n.Peer("p"), "p._peer.internal", "fdaa:0:18::9"},
		{n.Peer("q"), "q._peer.internal", "NXDOMAIN"},
		{n.Peers(), "_peer.internal", "p"},
		{n.Flycast("web"), "web.flycast", "fdaa:0:18::7"},
		{n.Flycast("idle"), "idle.flycast", "NXDOMAIN"},
		{n.Owner(AddrIn(here, 3)), "2.0.0.0.1.0.0.0.4.0.0.0.7.0.0.0.b.7.a.0.8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa", "m3.vm.web.internal."},
		{n.Owner(AddrIn(here, 4)), "2.0.0.0.1.0.0.0.5.0.0.0.7.0.0.0.b.7.a.0.8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa", "NXDOMAIN"},
	} {
		if got := c.q.Answer(w); got != c.want || c.q.Name != c.name {
			t.Errorf("%s is %s, want %s %s", c.q.Name, got, c.name, c.want)
		}
	}
}

func TestFirst(t *testing.T) {
	q := Network(here).AAAA("", "web", nil)
	one, two := vm("m1", "web", "started", 1), vm("m2", "web", "started", 2)
	h := NewHistory(Of(one))
	for _, w := range []World{Of(one, two), Of(one, two, &App{"db", here}), Of(two), Of(one)} {
		time.Sleep(2 * time.Millisecond)
		h.Begin(w)
	}
	h.Settle(2)
	later := time.Now()
	for _, c := range []struct {
		said string
		low  int
		by   time.Time
		want int // -1: never
	}{
		{one.Addr, 0, later, 0},
		{one.Addr, 1, later, 4},
		{one.Addr, 1, h.Begun(3), -1},
		{one.Addr + " " + two.Addr, 0, later, 1},
		{one.Addr + " " + two.Addr, 2, later, 2},
		{one.Addr + " " + two.Addr, 3, later, -1},
		{two.Addr, 0, h.Begun(3).Add(-1), -1},
		{"NODATA", 0, later, -1},
	} {
		v, ok := h.First(&q, c.said, c.low, c.by)
		if !ok {
			v = -1
		}
		if v != c.want {
			t.Errorf("%s from version %d on: %d, want %d", c.said, c.low, v, c.want)
		}
	}
	if got := h.Answers(&q, 1, later); len(got) != 3 {
		t.Errorf("answers %q, want three", got)
	}
	if v := h.Settled(later); v != 2 {
		t.Errorf("version %d is settled, want 2", v)
	}
	if v := h.Settled(h.Begun(1)); v != 0 {
		t.Errorf("version %d was settled when the next one began, want 0", v)
	}
}

func TestMixes(t *testing.T) {
	n := Network(here)
	lasts, dies, comes := vm("m1", "web", "started", 1), vm("m2", "web", "started", 2), vm("m3", "web", "started", 3)
	moved := vm("m1", "web", "started", 4)
	h := NewHistory(Of(vm("m9", "web", "started", 9)))
	low := h.Begin(Of(lasts, dies))
	h.Begin(Of(lasts))
	h.Begin(Of(lasts, comes))
	before := time.Now()
	time.Sleep(2 * time.Millisecond)
	h.Begin(Of(moved, comes))
	after := time.Now()
	web, dead, list := n.AAAA("", "web", nil), n.VM("web", "m2"), n.Machines("web", true)
	for _, c := range []struct {
		q    *Question
		said string
		by   time.Time
		want bool
	}{
		{&web, lasts.Addr, after, true},
		{&web, lasts.Addr + " " + dies.Addr + " " + comes.Addr, after, true}, // true of no version
		{&web, dies.Addr + " " + moved.Addr, after, true},
		{&web, lasts.Addr + " " + moved.Addr, after, false}, // both are m1
		{&web, dies.Addr + " " + moved.Addr, before, false}, // not moved yet
		{&web, dies.Addr + " " + comes.Addr, after, false},  // what lasts is missing
		{&web, lasts.Addr + " " + AddrIn(here, 9), after, false},
		{&web, "NODATA", after, false},
		{&web, "NXDOMAIN", after, false},
		{&web, "SERVFAIL", after, false},
		{&dead, dies.Addr, after, true},
		{&dead, "NXDOMAIN", after, true},
		{&dead, "NODATA", after, false},
		{&list, "m1 fra,m2 fra,m3 fra", after, true},
		{&list, "m2 fra,m3 fra", after, false},
	} {
		if got := h.Mixes(c.q, c.said, low, c.by); got != c.want {
			t.Errorf("%s %s: %v, want %v", c.q.Name, c.said, got, c.want)
		}
	}
}

// Every kind of object comes and goes, and is asked for.
func TestGenerator(t *testing.T) {
	g := &Generator{R: rand.New(rand.NewPCG(1, 2)), Network: here, Mark: "a", Skips: true}
	w := Of(g.Registered()...)
	put, gone, asked := map[string]int{}, map[string]int{}, map[string]int{}
	kind := func(key string) string { return key[:strings.Index(key, "/")] }
	for range 500 {
		p, d := g.Change(w)
		for _, o := range p {
			put[kind(o.Key())]++
		}
		for _, o := range d {
			gone[kind(o.Key())]++
		}
		w = w.After(p, d)
		asked[g.Question().Kind]++
	}
	for _, counts := range []map[string]int{put, gone, asked} {
		for _, kind := range []string{"machines", "peers", "addresses"} {
			if counts[kind] == 0 {
				t.Errorf("%s: put %v, gone %v, asked %v", kind, put, gone, asked)
			}
		}
	}
}
