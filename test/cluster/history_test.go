package cluster

import (
	"fmt"
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
	"dnsd/test/internal/truth"

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

// history is all that was ever true, and what of it one process of dnsd has shown.
// Safe for concurrent use.
type history struct {
	*truth.History

	mu     sync.Mutex
	floors map[string][]floor // by kind, rising: a Corrosion agent sends each kind by itself
}

// floor says that from a time on no version below it may be seen.
type floor struct {
	at      time.Time
	version int
}

// grace is for answers that were read just before a newer one and sent just
// after it, by another of dnsd's threads.
const grace = 300 * time.Millisecond

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
func (h *history) match(q *truth.Question, said string, asked time.Time, low int) (version int, ok bool) {
	h.mu.Lock()
	list := h.floors[q.Kind]
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].at.Before(asked.Add(-grace)) {
			low = max(low, list[i].version)
			h.floors[q.Kind] = list[i:]
			break
		}
	}
	h.mu.Unlock()
	return h.First(q, said, low, time.Now())
}

// generator makes random changes to a platform.
type generator struct {
	truth.Generator
	h     *history
	p     platform
	rows  bool     // the platform makes a change row by row
	still []object // what is there all the time, beside the history's worlds
}

// change makes one change to the world and to the platform.
func (g *generator) change() {
	_, now := g.h.Newest()
	put, gone := g.Change(now)
	if m, old := sole(put), sole(gone); g.rows && m != nil && old != nil && m.ID != old.ID {
		g.h.Begin(now.After(put, nil)) // renamed: both are there for a moment
	}
	g.h.Begin(now.After(put, gone))
	g.p.commit(put, gone)
}

// sole returns the only object if it is a machine, and nil otherwise.
func sole(objects []object) *machine {
	if len(objects) != 1 {
		return nil
	}
	m, _ := objects[0].(*machine)
	return m
}

// witness asks over UDP until told to stop and holds every answer against the
// history. low is the version that a listed registry must have reached.
type witness struct {
	s     *server
	h     *history
	g     truth.Generator // of questions
	low   int
	known bool // something was answered
	asked int
	stale int
}

func (w *witness) run(stop <-chan struct{}) error {
	line, err := w.s.dial()
	if err != nil {
		return err
	}
	defer line.Close()
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		q := w.g.Question()
		asked := time.Now()
		resp, err := line.ask(q.Name, q.Type)
		if err != nil {
			return err
		}
		if err := w.judge(&q, resp, asked); err != nil {
			return err
		}
		w.asked++
		time.Sleep(time.Duration(w.g.R.IntN(6)) * time.Millisecond)
	}
}

func (w *witness) judge(q *truth.Question, resp *dns.Msg, asked time.Time) error {
	if resp.Rcode == dns.RcodeServerFailure && !w.known {
		return nil // nothing is known yet, not even from disk
	}
	w.known = true
	low, cached := w.low, false
	if marked(resp) {
		w.stale++
		low, cached = 0, true
	}
	v, ok := w.h.match(q, truth.Said(resp), asked, low)
	if !ok {
		newest, now := w.h.Newest()
		return fmt.Errorf("%s (marked stale: %v) was never true from version %d to %d:\ngot  %s\nnow  %s",
			q.Name, cached, v, newest, truth.Said(resp), q.Answer(now))
	}
	w.h.raise(q.Kind, v)
	return nil
}

// recount runs a history on a platform, which makes changes as a whole or row by
// row.
func recount(t *testing.T, p platform, rows bool) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("DNSD_TEST_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("DNSD_TEST_SEED=%d", seed)
	g := &generator{Generator: truth.Generator{R: rand.New(rand.NewPCG(seed, 0)), Network: netA, Other: netB, Skips: !rows}, p: p, rows: rows}
	g.h = &history{History: truth.NewHistory(world{}), floors: map[string][]floor{}}
	registered := g.Registered()
	g.h.Begin(truth.Of(registered...))
	// So many that last, out of the client's sight, that what changes between two
	// listings is never more than half of all, nor of the machines that run or of
	// those that do not: the sweep guard is not meant here.
	for i := range 200 {
		g.still = append(g.still, &machine{ID: fmt.Sprintf("s%03d", i), App: "still", Network: netB, State: []string{"started", "stopped"}[i%2],
			Region: "fra", Addr: truth.AddrIn(netB, 8000+i), Meta: map[string]string{}})
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
	changes, _ := g.h.Newest()
	t.Logf("%d changes, %d answers checked, %d of them marked stale, in %v", changes, asked, stale, time.Since(began).Round(time.Second))
	if asked < 100*eras() {
		t.Errorf("that is too little to show anything")
	}
}

// era runs one dnsd process from its start, on the state that the one before
// left, to its end.
func (g *generator) era(t *testing.T, n int, dir string) (asked, stale int) {
	g.h.sink()
	low, _ := g.h.Newest()
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
		w := &witness{s: s, h: g.h, g: g.Generator, low: low}
		w.g.R = rand.New(rand.NewPCG(g.R.Uint64(), 1))
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
		if g.R.IntN(25) == 0 {
			g.p.fault(g.R, false)
		}
		if i%(changesPerEra/roughs) == changesPerEra/roughs/2 {
			g.p.fault(g.R, true)
		}
		time.Sleep(time.Duration(g.R.IntN(5)) * time.Millisecond)
	}
	g.rest(t, s)
	close(stop)
	wg.Wait()
	for _, w := range witnesses {
		asked, stale = asked+w.asked, stale+w.stale
	}
	if g.R.IntN(2) == 0 {
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
	newest, now := g.h.Newest()
	var why string
	for _, q := range g.Everything() {
		if !until(patience, func() bool {
			resp, err := s.ask(q.Name, q.Type)
			if err != nil {
				why = err.Error()
				return !s.Running()
			}
			why = fmt.Sprintf("%s is %s\nwant %s", q.Name, truth.Said(resp), q.Answer(now))
			return truth.Said(resp) == q.Answer(now) && !marked(resp)
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
	want := filepath.Join(t.TempDir(), "truth.json")
	if err := os.WriteFile(want, []byte(now.After(g.still, nil).File(nil)), 0o600); err != nil {
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
