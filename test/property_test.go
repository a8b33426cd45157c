package test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

// tenant is one of two networks whose objects are all marked with a letter, so
// that a single byte of the other's shows.
type tenant struct {
	client, network, mark string
}

var tenants = []tenant{
	{"a", netA, "alpha"},
	{"b", netB, "bravo"},
}

// Names that both tenants use, so that they can be mixed up.
var (
	sharedApps    = []string{"my-app", "api", "db"}
	sharedRegions = []string{"iad", "ams", "fra"}
	sharedGroups  = []string{"web", "worker"}
	states        = []string{"started", "started", "started", "stopped", "suspended", "destroyed", "replacing", "odd"}
)

// idsPerTenant is so many that what changes in half a minute is no sweep, which
// the guard would hold.
const idsPerTenant = 150

// id and addr name the i-th machine of a tenant. Its address tells its network,
// and is the same but for that in both.
func (n tenant) id(i int) string { return fmt.Sprintf("%s%02d", n.mark, i) }
func (n tenant) addr(i, moved int) string {
	return strings.Replace(n.network, "::/48", fmt.Sprintf(":a7b:1:%x:%x:2", i+1, moved+1), 1)
}

// version is a registry file that was the truth for a while.
type version struct {
	model   *model
	written time.Time // when its writing began; it can be seen from then on
	settled time.Time // when it must be all that is seen; zero: not yet written whole
}

// history is all that was ever true, but for what was forgotten. Safe for
// concurrent use.
type history struct {
	patience time.Duration // how late an answer may follow the file

	mu        sync.Mutex
	versions  []*version
	forgotten int // versions that came before
}

// patience is how late an answer may follow the file. The contract says a
// second; the rest is for a machine that does much else. An answer that is never
// right is found all the same.
const patience = 5 * time.Second

// newHistory returns one that begins with what is written and seen already.
func newHistory(patience time.Duration, f *fleet) *history {
	return &history{patience: patience, versions: []*version{{model: &model{f}, written: time.Now(), settled: time.Now()}}}
}

// publish makes f the truth while write writes it.
func (h *history) publish(f *fleet, write func() error) error {
	v := &version{model: &model{f}, written: time.Now()}
	h.mu.Lock()
	h.versions = append(h.versions, v)
	h.mu.Unlock()
	if err := write(); err != nil {
		return err
	}
	h.mu.Lock()
	v.settled = time.Now()
	h.mu.Unlock()
	return nil
}

// possible returns the versions that an answer asked for at start, and there at
// end, may come from, and the number of the first of them.
func (h *history) possible(start, end time.Time) (all []*version, first int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	first = -1
	for i, v := range h.versions {
		next := i+1 < len(h.versions)
		over := next && !h.versions[i+1].settled.IsZero() && h.versions[i+1].settled.Add(h.patience).Before(start)
		if over || v.written.After(end) {
			continue
		}
		if first < 0 {
			first = h.forgotten + i
		}
		all = append(all, v)
	}
	return all, first
}

// from returns the number of the oldest version, seen at the least, that an
// answer asked for at start, and there at end, is right for; -1: there is none.
func (h *history) from(start, end time.Time, seen int, right func(*model) bool) int {
	versions, first := h.possible(start, end)
	for i, v := range versions {
		if first+i >= seen && right(v.model) {
			return first + i
		}
	}
	return -1
}

// change makes a random change to a copy of the fleet.
func change(r *rand.Rand, f *fleet) *fleet {
	data, err := json.Marshal(f)
	if err != nil {
		panic(err)
	}
	next := new(fleet)
	if err := json.Unmarshal(data, next); err != nil {
		panic(err)
	}
	n := tenants[r.IntN(len(tenants))]
	i := r.IntN(idsPerTenant)
	var owner *app
	var at int
	for _, a := range next.Apps {
		if k := slices.IndexFunc(a.Machines, func(x *machine) bool { return x.ID == n.id(i) }); k >= 0 {
			owner, at = a, k
		}
	}
	find := func(name string) *app {
		for _, a := range next.Apps {
			if a.Network == n.network && a.Name == name {
				return a
			}
		}
		a := &app{Name: name, Network: n.network}
		next.Apps = append(next.Apps, a)
		return a
	}
	switch kind := r.IntN(8); {
	case owner == nil: // start
		a := find(sharedApps[r.IntN(len(sharedApps))])
		a.Machines = append(a.Machines, &machine{ID: n.id(i), State: states[r.IntN(len(states))],
			Region: sharedRegions[r.IntN(len(sharedRegions))], PrivateIP: n.addr(i, 0),
			Config: &config{Metadata: map[string]string{"fly_process_group": sharedGroups[r.IntN(2)]}}})
	case kind < 3: // another state
		owner.Machines[at].State = states[r.IntN(len(states))]
	case kind == 3: // another address
		owner.Machines[at].PrivateIP = n.addr(i, r.IntN(2))
	case kind == 4: // another region
		owner.Machines[at].Region = sharedRegions[r.IntN(len(sharedRegions))]
	case kind == 5: // other metadata
		owner.Machines[at].Config.Metadata = map[string]string{"fly_process_group": sharedGroups[r.IntN(2)],
			"role": []string{"primary", "replica"}[r.IntN(2)]}
	case kind == 6: // gone
		owner.Machines = slices.Delete(owner.Machines, at, at+1)
	default: // the same id under another app; an app that is left empty may go
		x := owner.Machines[at]
		owner.Machines = slices.Delete(owner.Machines, at, at+1)
		target := find(sharedApps[r.IntN(len(sharedApps))])
		target.Machines = append(target.Machines, x)
		next.Apps = slices.DeleteFunc(next.Apps, func(a *app) bool { return len(a.Machines) == 0 && r.IntN(2) == 0 })
	}
	return next
}

// TestHistory changes the registry at random while clients of two networks ask:
// every answer was true at some time between the question's sending and the
// answer's coming (give or take the time a change may take), never goes back in
// time, and holds nothing of the other network.
func TestHistory(t *testing.T) {
	t.Parallel()
	changes := lab.Full(60, 150)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	path := filepath.Join(t.TempDir(), "registry.json")
	r := rand.New(rand.NewPCG(seed, 0))
	now := &fleet{Apps: []*app{{Name: "my-app", Network: netA}, {Name: "my-app", Network: netB}}}
	for range 5 * idsPerTenant {
		now = change(r, now)
	}
	writeFile(t, path, now)
	h := newHistory(patience, now)

	l := newLab(t)
	w := &world{ttl: 5, maxUDP: 1232, path: path}
	w.Server = l.Serve(t, "--listen", "[::]:53", "--registry", "file:"+path, "--upstream", "none")

	clients := make([]func(testing.TB) error, 2*len(tenants))
	for i := range clients {
		p := &prober{w: w, h: h, r: rand.New(rand.NewPCG(seed, uint64(i+1))), tenant: tenants[i%len(tenants)],
			other: tenants[(i+1)%len(tenants)], proto: []string{"udp", "tcp"}[i/len(tenants)]}
		clients[i] = p.probe
	}
	whileAsking(t, clients, func() {
		for i := range changes {
			for range 1 + r.IntN(3) {
				now = change(r, now)
			}
			if err := h.publish(now, func() error {
				if i%2 == 0 {
					return replace(path, now)
				}
				writeFile(t, path, now)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(r.IntN(150)) * time.Millisecond)
		}
	})
	w.atRest(t, now)
	w.neverHeld(t)
}

// whileAsking has clients ask, one question after the other each, until churn returns.
func whileAsking(t *testing.T, clients []func(testing.TB) error, churn func()) {
	var stop atomic.Bool
	var wg sync.WaitGroup
	counts := make([]int, len(clients))
	for i, ask := range clients {
		wg.Go(func() {
			for ; !stop.Load(); counts[i]++ {
				if err := ask(t); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	defer func() {
		stop.Store(true)
		wg.Wait()
		t.Logf("answers checked by each client: %v", counts)
	}()
	churn()
}

// neverHeld checks that the sweep guard took none of the test's changes for a sweep,
// after which answers rightly lag behind the file.
func (w *world) neverHeld(t *testing.T) {
	t.Helper()
	if regexp.MustCompile(` held=[1-9]`).MatchString(w.Stderr.String()) {
		t.Error("the sweep guard held changes back: the test makes too many at once")
	}
}

// atRest checks every question once nothing changes any more.
func (w *world) atRest(t *testing.T, now *fleet) {
	t.Helper()
	m := &model{now}
	for _, n := range tenants {
		for i := 0; i < idsPerTenant; i += idsPerTenant / 12 {
			for _, q := range asks(n.network, sharedApps[i%3], sharedRegions[i%3], sharedGroups[i%2], n.id(i), n.addr(i, i%2)) {
				want := q.answer(m)
				var got string
				for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
					if got = said(w.ask(t, n.client, "tcp", question(q.name, dns.StringToType[q.typ], true)), q.typ); got == want {
						break
					}
					if time.Now().After(end) {
						t.Fatalf("at rest, %s %s for %s:\ngot  %s\nwant %s", q.name, q.typ, n.client, got, want)
					}
				}
			}
		}
	}
}

// said is a response in the words of the model.
func said(resp *dns.Msg, typ string) string {
	switch {
	case resp.Rcode != dns.RcodeSuccess:
		return dns.RcodeToString[resp.Rcode]
	case len(resp.Answer) == 0:
		return "NODATA"
	}
	return strings.Join(data(resp, typ), " ")
}

// prober asks for one tenant, one question after the other.
type prober struct {
	w             *world
	h             *history
	r             *rand.Rand
	tenant, other tenant
	proto         string
	seen          int // index of the oldest version that the last answer can have come from
}

func (p *prober) probe(t testing.TB) error {
	i := p.r.IntN(idsPerTenant)
	all := asks(p.tenant.network, sharedApps[p.r.IntN(3)], sharedRegions[p.r.IntN(3)], sharedGroups[p.r.IntN(2)],
		p.tenant.id(i), p.tenant.addr(i, p.r.IntN(2)))
	q := all[p.r.IntN(len(all))]
	req, err := question(q.name, dns.StringToType[q.typ], true).Pack()
	if err != nil {
		return err
	}
	start := time.Now()
	raw, err := p.w.client(p.tenant.client).Exchange(p.proto, req)
	if err != nil {
		return err
	}
	end := time.Now()
	// Not even in an error text, nor as an address.
	secret := []byte{0xfd, 0xaa, 0, 0, 0, 0x99}
	if p.other.network == netA {
		secret[5] = 0x18
	}
	if err := marks(raw, p.other.mark, string(secret), strings.TrimSuffix(p.other.network, "::/48")); err != nil {
		return fmt.Errorf("%s for %s: %w of %s: %x", q.name, p.tenant.client, err, p.other.client, raw)
	}
	resp := p.w.lawful(t, p.proto, req, raw)
	if resp.Truncated && p.proto == "udp" {
		return nil // a list that does not fit: asked over TCP by another
	}
	got := said(resp, q.typ)
	if at := p.h.from(start, end, p.seen, func(m *model) bool { return q.answer(m) == got }); at >= 0 {
		p.seen = at
		return nil
	}
	versions, _ := p.h.possible(start, end)
	var want []string
	for _, v := range versions {
		want = append(want, q.answer(v.model))
	}
	return fmt.Errorf("%s %s for %s over %s was never true between %s and %s, or is older than the answer before:\ngot  %s\nwant one of\n     %s",
		q.name, q.typ, p.tenant.client, p.proto, start.Format(time.StampMicro), end.Format(time.StampMicro), got,
		strings.Join(slices.Compact(want), "\n     "))
}
