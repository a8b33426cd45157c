package cluster

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

// platform is a source under test: where changes are written to, and what can
// go wrong with it. Its methods are called by one goroutine.
type platform interface {
	url() string
	// commit makes one change real, as one step: what is put, and what is gone.
	// While the platform is out of order it may keep the change for later.
	commit(put, gone []object)
	// fault makes something go wrong that dnsd must bear, or mends it again.
	// rough faults cost dnsd a connection, and with it a pause.
	fault(r *rand.Rand, rough bool)
	// heal mends everything and commits what was kept.
	heal()
}

// roughs is how many rough faults one dnsd process sees: each doubles the pause
// before it follows again.
const roughs = 3

// eras returns how many processes of dnsd follow one another, each seeing some
// hundred changes: 3, or DNSD_TEST_ERAS.
func eras() int {
	if n, err := strconv.Atoi(os.Getenv("DNSD_TEST_ERAS")); err == nil && n > 0 {
		return n
	}
	return 3
}

// changesPerEra is small enough for every run of CI.
const changesPerEra = 350

// history is all that was ever true, and what of it may still be seen. Version i
// is the world after i changes; it may be seen from the moment that it begins to
// be written. Safe for concurrent use.
type history struct {
	mu     sync.Mutex
	worlds []truth
	touch  []string           // the kind that each version changed
	floors map[string][]floor // by kind, rising
}

// floor says that from a time on no version below it may be seen.
type floor struct {
	at      time.Time
	version int
}

// grace is for answers that were read just before a newer one and sent just
// after it, by another of dnsd's threads.
const grace = 300 * time.Millisecond

func (h *history) add(w truth, kind string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.worlds, h.touch = append(h.worlds, w), append(h.touch, kind)
}

func (h *history) newest() (int, truth) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.worlds) - 1, h.worlds[len(h.worlds)-1]
}

// raise sets a floor for a kind, and forgets those that no question under way
// can need any more.
func (h *history) raise(kind string, version int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.floors[kind]
	if n := len(list); n == 0 || list[n-1].version < version {
		h.floors[kind] = append(list, floor{time.Now(), version})
	}
}

// sink lets everything be seen again: a process has started from disk.
func (h *history) sink() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.floors)
}

// match returns the first version that answers q so, of those that may be seen
// by one who asked at a time and got the answer now.
func (h *history) match(q *question, said string, asked time.Time, low int) (version int, ok bool) {
	h.mu.Lock()
	list := h.floors[q.kind]
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].at.Before(asked.Add(-grace)) {
			low = max(low, list[i].version)
			h.floors[q.kind] = list[i:]
			break
		}
	}
	worlds, touch := h.worlds, h.touch
	h.mu.Unlock()
	for v := low; v < len(worlds); v++ {
		if (v == low || touch[v] == q.kind) && q.answer(worlds[v]) == said {
			return v, true
		}
	}
	return low, false
}

// generator makes random changes. The names are few, so that they meet.
type generator struct {
	r     *rand.Rand
	h     *history
	p     platform
	skips bool     // the platform knows skip_registration
	still []object // what is there all the time, beside the history's worlds
}

var (
	histApps    = []string{"web", "api", "db", "jobs"} // jobs is not registered: it is there with its machines
	histRegions = []string{"fra", "iad", "nrt"}
	histGroups  = []string{"app", "worker"}
	histStates  = []string{"started", "started", "started", "stopped", "suspended", "replacing", "destroyed", "odd"}
	histPeers   = []string{"office", "home", "build"}
)

const histMachines = 40

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func histAddr(network string, i int) string {
	return strings.TrimSuffix(network, ":/48") + fmt.Sprintf("a7b:7:%x:1:2", i+1)
}

// draw returns a machine of that number as it may be.
func (g *generator) draw(i int) *machine {
	m := &machine{id: fmt.Sprintf("m%03d", i), app: pick(g.r, histApps), network: netA, state: pick(g.r, histStates),
		region: pick(g.r, histRegions), meta: map[string]string{"fly_process_group": pick(g.r, histGroups)}}
	if i%6 == 0 {
		m.network = netB
	}
	m.addr = histAddr(m.network, i*4+g.r.IntN(4)) // moved, perhaps
	if g.r.IntN(3) == 0 {
		m.meta["role"] = pick(g.r, []string{"primary", "replica", "a.b"})
	}
	m.skip = g.skips && g.r.IntN(10) == 0
	return m
}

// change makes one change to the world and to the platform.
func (g *generator) change() {
	_, now := g.h.newest()
	i := g.r.IntN(histMachines)
	var old *machine
	for _, o := range now {
		if m, ok := o.(*machine); ok && (m.id == fmt.Sprintf("m%03d", i) || m.id == fmt.Sprintf("r%03d", i)) {
			old = m
		}
	}
	var put, gone []object
	kind := "machines"
	switch n := g.r.IntN(20); {
	case n == 0:
		kind = "peers"
		p := &peer{pick(g.r, histPeers), netA, histAddr(netA, 5000+g.r.IntN(9)), "ams"}
		if put = []object{p}; g.r.IntN(3) == 0 {
			put, gone = nil, put
		}
	case n == 1:
		kind = "addresses"
		a := &address{pick(g.r, histApps), pick(g.r, []string{netA, netB}), ""}
		a.addr = histAddr(a.network, 6000+g.r.IntN(5))
		if put = []object{a}; g.r.IntN(3) == 0 {
			put, gone = nil, put
		}
	case old == nil: // created, or created again under the id it had
		put = []object{g.draw(i)}
	case n < 10: // started, stopped, on its way out
		m := *old
		m.state = pick(g.r, histStates)
		put = []object{&m}
	case n < 12: // deleted
		gone = []object{old}
	case n < 14: // renamed: the new one first
		m := *old
		m.id = map[byte]string{'m': "r", 'r': "m"}[m.id[0]] + m.id[1:]
		put, gone = []object{&m}, []object{old}
	case n < 17: // another app or region, another address, other metadata
		m := g.draw(i)
		m.id = old.id
		if put = []object{m}; m.key() != old.key() {
			gone = []object{old}
		}
	default: // deleted and created again at once
		m := *old
		m.addr = histAddr(m.network, i*4+g.r.IntN(4))
		put = []object{&m}
	}
	next := maps.Clone(now)
	for _, o := range gone {
		delete(next, o.key())
	}
	for _, o := range put {
		next[o.key()] = o
	}
	g.h.add(next, kind)
	g.p.commit(put, gone)
}

// anything returns a question about something that may be there.
func anything(r *rand.Rand) question {
	name, i := pick(r, histApps), r.IntN(histMachines)
	has := func(key, value string) func(*machine) bool {
		return func(m *machine) bool { v, ok := m.meta[key]; return ok && (value == "" || v == value) }
	}
	vms := func(m *machine) string { return m.id + " " + m.region }
	region, group := pick(r, histRegions), pick(r, histGroups)
	all := []func() question{
		func() question { return aaaa("", name, nil) },
		func() question { return aaaa(region+".", name, func(m *machine) bool { return m.region == region }) },
		func() question { return aaaa(group+".process.", name, has("fly_process_group", group)) },
		func() question { return aaaa("a.b.role.kv._metadata.", name, has("role", "a.b")) },
		func() question { return aaaa("role.kv._metadata.", name, has("role", "")) },
		func() question { return vm(name, pick(r, []string{"m", "r"})+fmt.Sprintf("%03d", i)) },
		func() question { return list("vms."+name+".internal", name, ",", false, vms) },
		func() question { return list("all.vms."+name+".internal", name, ",", true, vms) },
		func() question {
			return list("all.regions."+name+".internal", name, ",", true, func(m *machine) string { return m.region })
		},
		func() question { return instances(r.IntN(2) == 0) },
		func() question { return owner(histAddr(pick(r, []string{netA, netB}), i*4+r.IntN(4))) },
		func() question { return peerNamed(pick(r, histPeers)) },
		peerList,
		func() question { return flycast(name) },
	}
	return pick(r, all)()
}

// witness asks over UDP until told to stop and holds every answer against the
// history. low is the version that a listed registry must have reached.
type witness struct {
	s     *server
	h     *history
	r     *rand.Rand
	low   int
	known bool // something was answered
	asked int
	stale int
}

func (w *witness) run(stop <-chan struct{}) error {
	conn, err := w.s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	buf := make([]byte, 65535)
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		q := anything(w.r)
		req := request(q.name, q.typ)
		raw, err := req.Pack()
		if err != nil {
			return err
		}
		asked := time.Now()
		if err := conn.SetDeadline(asked.Add(lab.Patience)); err != nil {
			return err
		}
		if _, err := conn.Write(raw); err != nil {
			return err
		}
		n, err := conn.Read(buf)
		if err != nil {
			return fmt.Errorf("%s: %w", q.name, err)
		}
		resp := new(dns.Msg)
		if err := resp.Unpack(buf[:n]); err != nil {
			return err
		}
		if resp.Id != req.Id {
			return fmt.Errorf("%s: an answer to something else", q.name)
		}
		if resp.Truncated {
			if resp, err = w.s.ask(q.name, q.typ); err != nil {
				return err
			}
		}
		if err := w.judge(&q, resp, asked); err != nil {
			return err
		}
		w.asked++
		time.Sleep(time.Duration(w.r.IntN(6)) * time.Millisecond)
	}
}

func (w *witness) judge(q *question, resp *dns.Msg, asked time.Time) error {
	if resp.Rcode == dns.RcodeServerFailure && !w.known {
		return nil // nothing is known yet, not even from disk
	}
	w.known = true
	low, cached := w.low, false
	if marked(resp) {
		w.stale++
		low, cached = 0, true
	}
	v, ok := w.h.match(q, said(resp), asked, low)
	if !ok {
		newest, now := w.h.newest()
		return fmt.Errorf("%s (marked stale: %v) was never true from version %d to %d:\ngot  %s\nnow  %s",
			q.name, cached, v, newest, said(resp), q.answer(now))
	}
	w.h.raise(q.kind, v)
	return nil
}

// recount runs a history on a platform.
func recount(t *testing.T, p platform, skips bool) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("DNSD_TEST_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("DNSD_TEST_SEED=%d", seed)
	h := &history{worlds: []truth{{}}, touch: []string{""}, floors: map[string][]floor{}}
	g := &generator{r: rand.New(rand.NewPCG(seed, 0)), h: h, p: p, skips: skips}
	registered := []object{&app{"web", netA}, &app{"api", netA}, &app{"db", netA}, &app{"web", netB}}
	world := truth{}
	for _, o := range registered {
		world[o.key()] = o
	}
	h.add(world, "apps")
	// So many that last, out of the client's sight, started and stopped ones, that
	// what changes within half a minute is never more than half of either: the sweep
	// guard is not meant here.
	for i := range 200 {
		g.still = append(g.still, &machine{id: fmt.Sprintf("s%03d", i), app: "still", network: netB, state: []string{"started", "stopped"}[i%2],
			region: "fra", addr: histAddr(netB, 8000+i), meta: map[string]string{}})
	}
	p.commit(append(registered, g.still...), nil)
	for range 150 {
		g.change()
	}
	p.heal()
	dir, began := t.TempDir(), time.Now()
	asked, stale := 0, 0
	for n := range eras() {
		a, s := g.era(t, n, dir)
		asked, stale = asked+a, stale+s
		if t.Failed() {
			return
		}
	}
	changes, _ := h.newest()
	t.Logf("%d changes, %d answers checked, %d of them marked stale, in %v", changes, asked, stale, time.Since(began).Round(time.Second))
	if asked < 100*eras() {
		t.Errorf("that is too little to show anything")
	}
}

// era runs one dnsd process from its start, on the state that the one before
// left, to its end.
func (g *generator) era(t *testing.T, n int, dir string) (asked, stale int) {
	g.h.sink()
	low, _ := g.h.newest()
	if n > 0 { // changes that this process can only learn from a listing
		for range 20 {
			g.change()
		}
		g.p.heal()
	}
	s := serve(t, lab.Binary(t), "--registry", g.p.url(), "--state-dir", dir)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	witnesses := make([]*witness, 3)
	for i := range witnesses {
		w := &witness{s: s, h: g.h, r: rand.New(rand.NewPCG(g.r.Uint64(), 1)), low: low}
		if n == 0 {
			w.low = 0 // nothing is known at first
		}
		witnesses[i] = w
		wg.Go(func() {
			if err := w.run(stop); err != nil {
				t.Error(err)
			}
		})
	}
	s.awaitState(t, "live")
	for i := range changesPerEra {
		g.change()
		if g.r.IntN(25) == 0 {
			g.p.fault(g.r, false)
		}
		if i%(changesPerEra/roughs) == changesPerEra/roughs/2 {
			g.p.fault(g.r, true)
		}
		time.Sleep(time.Duration(g.r.IntN(5)) * time.Millisecond)
	}
	g.rest(t, s)
	close(stop)
	wg.Wait()
	for _, w := range witnesses {
		asked, stale = asked+w.asked, stale+w.stale
	}
	if g.r.IntN(2) == 0 {
		s.Signal(syscall.SIGKILL)
		s.Wait(t)
		return asked, stale
	}
	s.Signal(syscall.SIGTERM)
	if code := s.Wait(t); code != 0 {
		t.Errorf("dnsd ended with %d", code)
	}
	return asked, stale
}

// rest mends everything and waits until the registry is equal to the truth: by
// its names, and by what dnsd export makes of the source.
func (g *generator) rest(t *testing.T, s *server) {
	t.Helper()
	g.p.heal()
	newest, now := g.h.newest()
	questions := []question{instances(true), instances(false), peerList()}
	for _, name := range histApps {
		questions = append(questions, aaaa("", name, nil), flycast(name))
	}
	for i := range histMachines {
		for _, id := range []string{"m", "r"} {
			questions = append(questions, vm(pick(g.r, histApps), id+fmt.Sprintf("%03d", i)))
		}
	}
	var why string
	for _, q := range questions {
		if !lab.Until(patience, func() bool {
			resp, err := s.ask(q.name, q.typ)
			if err != nil {
				why = err.Error()
				return !s.Running()
			}
			why = fmt.Sprintf("%s is %s\nwant %s", q.name, said(resp), q.answer(now))
			return said(resp) == q.answer(now) && !marked(resp)
		}) || !s.Running() {
			t.Fatalf("at rest: %s", why)
		}
	}
	for _, kind := range []string{"machines", "peers", "addresses"} {
		g.h.raise(kind, newest)
	}
	code, out, stderr := s.host.Run(t, nil, "export", "--registry", g.p.url())
	if code != 0 {
		t.Fatalf("dnsd export: %s", stderr)
	}
	all := maps.Clone(now)
	for _, o := range g.still {
		all[o.key()] = o
	}
	want := filepath.Join(t.TempDir(), "truth.json")
	if err := os.WriteFile(want, []byte(fileText(all, inFull)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, text, _ := s.host.Run(t, nil, "export", "--registry", "file:"+want); text != out {
		t.Errorf("dnsd export of the source:\n%s\nof the truth:\n%s", differing(out, text), differing(text, out))
	}
}

// differing returns the lines of a that b lacks.
func differing(a, b string) string {
	other := strings.Split(b, "\n")
	var only []string
	for line := range strings.SplitSeq(a, "\n") {
		if !slices.Contains(other, line) {
			only = append(only, line)
		}
	}
	return strings.Join(only, "\n")
}
