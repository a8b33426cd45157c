package test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

// A host of many networks: each with names of its own, names that all others have too, and
// machines that move from one network to another.
const (
	manyNetworks = 200
	movers       = 40
	ownMachines  = 4 // of each network, in its app of the common name
)

// lodger is one of the networks. Everything that is its alone holds its mark.
type lodger struct{ number int }

// anyMark is what the mark of any lodger looks like, and anyPlace what its addresses do.
var (
	anyMark  = regexp.MustCompile(`n\d\d\dx`)
	anyPlace = regexp.MustCompile(`fdaa:1:[0-9a-f]{1,3}:`)
)

func (n lodger) mark() string    { return fmt.Sprintf("n%03dx", n.number) }
func (n lodger) network() string { return fmt.Sprintf("fdaa:1:%x::/48", n.number+1) }
func (n lodger) id(i int) string { return fmt.Sprintf("%sm%d", n.mark(), i) }
func (n lodger) addr(i int) string {
	return fmt.Sprintf("fdaa:1:%x:a7b:1:%x:1:2", n.number+1, i+1)
}
func (n lodger) moverAddr(i int) string {
	return fmt.Sprintf("fdaa:1:%x:a7b:2:%x:1:2", n.number+1, i+1)
}
func (n lodger) client() netip.Addr { return netip.MustParseAddr(n.addr(0)) }

func mover(i int) string { return fmt.Sprintf("mover%02d", i) }

// census is where each mover is and how each network's own machines are. Their
// first is the client, which stays as it is.
type census struct {
	homes  [movers]int
	states [manyNetworks][ownMachines]string
}

func newCensus(r *rand.Rand) *census {
	c := new(census)
	for i := range c.homes {
		c.homes[i] = r.IntN(manyNetworks)
	}
	for i := range c.states {
		c.states[i][0] = "started"
		for k := 1; k < ownMachines; k++ {
			c.states[i][k] = states[r.IntN(len(states))]
		}
	}
	return c
}

// change moves a few and has a few machines change their state: too few, over the
// whole test, for the sweep guard to hold back.
func (c *census) change(r *rand.Rand) {
	for range 5 {
		c.homes[r.IntN(movers)] = r.IntN(manyNetworks)
		c.states[r.IntN(manyNetworks)][1+r.IntN(ownMachines-1)] = states[r.IntN(len(states))]
	}
}

// fleet returns the registry.
func (c *census) fleet() *fleet {
	f := new(fleet)
	for i := range manyNetworks {
		n := lodger{i}
		common := &app{Name: "web", Network: n.network(), Flycast: []string{fmt.Sprintf("fdaa:1:%x:0:1::7", i+1)}}
		for k := range ownMachines {
			common.Machines = append(common.Machines, &machine{ID: n.id(k), State: c.states[i][k], Region: sharedRegions[k%3], PrivateIP: n.addr(k),
				Config: &config{Metadata: map[string]string{"fly_process_group": sharedGroups[k%2], "role": n.mark()}}})
		}
		own := &app{Name: "own-" + n.mark(), Network: n.network(), Machines: []*machine{
			{ID: n.id(9), State: "started", Region: "iad", PrivateIP: n.addr(9)}}}
		f.Apps = append(f.Apps, common, own)
		f.Peers = append(f.Peers, &peer{Name: n.mark() + "-peer", PrivateIP: fmt.Sprintf("fdaa:1:%x:a7b:3::1", i+1), Region: "fra"})
	}
	for i, home := range c.homes {
		a := f.Apps[2*home]
		a.Machines = append(a.Machines, &machine{ID: mover(i), State: "started", Region: sharedRegions[i%3],
			PrivateIP: lodger{home}.moverAddr(i), Config: &config{Metadata: map[string]string{"role": "mover"}}})
	}
	return f
}

// TestManyNetworks has the clients of 200 networks ask at once, over UDP and TCP,
// names of every kind, their own and others', while machines move between the networks: every
// answer is what the registry says of the client's own network, and nothing of any
// other network shows anywhere: not in an answer, a list, a reverse name, an
// extended error, a count, the log, a metric or a status page.
func TestManyNetworks(t *testing.T) {
	t.Parallel()
	changes := lab.Full(15, 40)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	people := newCensus(r)
	now := people.fleet()
	path := filepath.Join(t.TempDir(), "registry.json")
	writeFile(t, path, now)
	h := newHistory(patience, now)

	l := lab.Open(t, "fdaa::3")
	l.IP(t, "route add local fdaa:1::/32 dev lo")
	l.Sysctl(t, "net/ipv6/ip_nonlocal_bind", "1")
	w := &world{ttl: 5, maxUDP: 1232, path: path}
	w.Server = l.Serve(t, "--listen", "[fdaa::3]:53", "--registry", "file:"+path, "--upstream", "none")

	clients := make([]func(testing.TB) error, 6)
	for i := range clients {
		g := &guest{w: w, h: h, r: rand.New(rand.NewPCG(seed, uint64(i+1))), proto: []string{"udp", "udp", "tcp"}[i%3]}
		clients[i] = g.ask
	}
	whileAsking(t, clients, func() {
		for range changes {
			people.change(r)
			now := people.fleet()
			if err := h.publish(now, func() error { return replace(path, now) }); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(100+r.IntN(200)) * time.Millisecond)
		}
	})

	for _, page := range []string{"/metrics", "/readyz"} {
		status, text := l.Get("http://" + lab.Admin + page)
		if status != 200 {
			t.Errorf("%s answers %d", page, status)
		}
		if found := foreign(text, -1); found != "" {
			t.Errorf("%s holds %q", page, found)
		}
	}
	if found := foreign(w.Stderr.String(), -1); found != "" {
		t.Errorf("the log holds %q", found)
	}
	w.neverHeld(t)
}

// foreign returns what is in a text of a network other than number's.
func foreign(text string, number int) string {
	own := lodger{number}
	for _, m := range anyMark.FindAllString(strings.ToLower(text), -1) {
		if m != own.mark() {
			return m
		}
	}
	for _, m := range anyPlace.FindAllString(strings.ToLower(text), -1) {
		if m != strings.TrimSuffix(own.network(), ":/48") {
			return m
		}
	}
	return ""
}

// guest asks as one client after another.
type guest struct {
	w     *world
	h     *history
	r     *rand.Rand
	proto string
}

// questions returns what a client of own may ask of the objects of a network,
// which need not be its own.
func (g *guest) questions(own, of lodger) []ask {
	i := g.r.IntN(movers)
	var all []ask
	for _, who := range []struct{ id, addr string }{{of.id(g.r.IntN(ownMachines)), of.addr(g.r.IntN(ownMachines))}, {mover(i), of.moverAddr(i)}} {
		for _, app := range []string{"web", "own-" + of.mark()} {
			all = append(all, asks(own.network(), app, sharedRegions[g.r.IntN(3)], sharedGroups[g.r.IntN(2)], who.id, who.addr)...)
		}
	}
	here := own == of
	fixed := func(name, typ, want string) ask {
		return ask{name, typ, func(*model) string {
			if !here {
				return "NXDOMAIN"
			}
			return want
		}}
	}
	role := func(x *machine) bool { v, _ := meta(x, "role"); return v == of.mark() }
	return append(all,
		ask{of.mark() + ".role.kv._metadata.web.internal.", "AAAA", func(m *model) string { return m.aaaa(own.network(), "web", role) }},
		fixed(of.mark()+"-peer._peer.internal.", "AAAA", fmt.Sprintf("fdaa:1:%x:a7b:3::1", of.number+1)),
		fixed(nibbles(fmt.Sprintf("fdaa:1:%x:a7b:3::1", of.number+1), 32), "PTR", of.mark()+"-peer._peer.internal."),
		fixed(nibbles(fmt.Sprintf("fdaa:1:%x:0:1::7", of.number+1), 32), "PTR", "web.flycast."),
		// These name no network: each client is told about its own.
		ask{"web.flycast.", "AAAA", func(*model) string { return fmt.Sprintf("fdaa:1:%x:0:1::7", own.number+1) }},
		ask{"_peer.internal.", "TXT", func(*model) string { return own.mark() + "-peer" }},
		ask{"_whoami.internal.", "TXT", func(*model) string {
			return fmt.Sprintf("network=%sapp=webmachine=%sregion=%s", own.network(), own.id(0), sharedRegions[0])
		}},
		ask{"_dnsd.internal.", "TXT", func(m *model) string {
			machines, _ := m.deployed(own.network(), "")
			return fmt.Sprintf("apps=2machines=%dpeers=1", len(machines))
		}})
}

func (g *guest) ask(t testing.TB) error {
	own := lodger{g.r.IntN(manyNetworks)}
	of := own
	if g.r.IntN(3) == 0 {
		of = lodger{g.r.IntN(manyNetworks)}
	}
	all := g.questions(own, of)
	q := all[g.r.IntN(len(all))]
	req, err := question(q.name, dns.StringToType[q.typ], true).Pack()
	if err != nil {
		return err
	}
	client := lab.Client{Lab: g.w.Lab, From: own.client(), To: netip.MustParseAddrPort("[fdaa::3]:53")}
	start := time.Now()
	raw, err := client.Exchange(g.proto, req)
	if err != nil {
		return err
	}
	end := time.Now()
	resp := g.w.lawful(t, g.proto, req, raw)
	if found := shows(resp, own); found != "" && !strings.Contains(q.name, found) && !(q.typ == "PTR" && strings.HasPrefix(found, "fdaa:")) {
		return fmt.Errorf("%s %s for %s shows %q of another network:\n%v", q.name, q.typ, own.network(), found, resp)
	}
	if resp.Truncated {
		return nil
	}
	got := said(resp, q.typ)
	if _, counts, ok := strings.Cut(got, "apps="); ok && q.name == "_dnsd.internal." {
		got = "apps=" + counts
	}
	if g.h.from(start, end, 0, func(m *model) bool { return q.answer(m) == got }) >= 0 {
		return nil
	}
	var want []string
	versions, _ := g.h.possible(start, end)
	for _, v := range versions {
		want = append(want, q.answer(v.model))
	}
	return fmt.Errorf("%s %s for %s over %s was never true while it was asked:\ngot  %s\nwant one of\n     %s",
		q.name, q.typ, own.network(), g.proto, got, strings.Join(slices.Compact(want), "\n     "))
}

// shows returns what a response shows of another network than a client's own,
// beside the question.
func shows(resp *dns.Msg, own lodger) string {
	home := netip.MustParsePrefix(own.network())
	var text []string
	for _, rr := range slices.Concat(resp.Answer, resp.Ns, resp.Extra) {
		if a, ok := rr.(*dns.AAAA); ok {
			if addr, _ := netip.AddrFromSlice(a.AAAA); !home.Contains(addr) {
				return addr.String()
			}
			continue
		}
		if _, ok := rr.(*dns.OPT); !ok {
			text = append(text, strings.TrimPrefix(rr.String(), rr.Header().Name)) // the owner is the question
		}
	}
	text = append(text, texts(resp)...)
	return foreign(strings.Join(text, "\n"), own.number)
}
