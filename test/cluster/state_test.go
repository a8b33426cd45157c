package cluster

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dnsd/registry/corrosion/corrosiontest"
	"dnsd/test/internal/lab"
	"dnsd/test/internal/truth"

	"github.com/miekg/dns"
)

// perApp is how many machines an app of a large fleet has.
const perApp = 100

// large is the i-th machine of a large fleet.
func large(i int) *machine {
	return &machine{ID: fmt.Sprintf("%014x", i), App: fmt.Sprintf("app-%d", i/perApp), Network: netA, State: "started", Region: "fra",
		Addr: fmt.Sprintf("fdaa:0:18:a7b:2:%x:%x:2", 1+i/50_000, 1+i%50_000), Meta: map[string]string{"fly_process_group": "web"}}
}

// newAgent starts an agent that ends with the test.
func newAgent(t testing.TB, o corrosiontest.Options) *corrosiontest.Agent {
	t.Helper()
	a, err := corrosiontest.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// fallen is a host: dnsd on it ends without notice, and comes back.
type fallen struct {
	t     testing.TB
	agent *corrosiontest.Agent
	fleet int    // machines
	dir   string // of the state
}

// fell returns a host whose dnsd has saved a fleet and fell.
func fell(t testing.TB, fleet int) *fallen {
	h := &fallen{t: t, agent: newAgent(t, corrosiontest.Options{}), fleet: fleet, dir: t.TempDir()}
	rows := make([]corrosiontest.Row, fleet)
	for i := range rows {
		rows[i] = row(large(i))
	}
	h.agent.Put("machines", rows...)
	h.save()
	return h
}

// boot starts dnsd on the host.
func (h *fallen) boot() *server {
	h.t.Helper()
	return serve(h.t, lab.PlainBinary(h.t), "--registry", "corrosion://"+h.agent.Addr(), "--state-dir", h.dir)
}

// save lets dnsd run until it has saved what the agent has.
func (h *fallen) save() {
	h.t.Helper()
	s := h.boot()
	s.await(h.t, "the state on disk", func() bool { return s.metrics()["dnsd_registry_state_saved_timestamp_seconds"] > 0 })
	h.pull(s)
}

func (h *fallen) start() {
	h.t.Helper()
	if err := h.agent.Start(); err != nil {
		h.t.Fatal(err)
	}
}

func (h *fallen) pull(s *server) {
	s.Signal(syscall.SIGKILL)
	s.Wait(h.t)
}

// cached waits for the fleet from disk and checks names of it, which must all be
// marked stale.
func (h *fallen) cached(s *server, want ...*machine) {
	h.t.Helper()
	s.awaitState(h.t, "cached")
	if n := s.metrics()[`dnsd_registry_objects{kind="machine"}`]; n != float64(h.fleet) {
		h.t.Errorf("%v machines from disk, want %d", n, h.fleet)
	}
	for range 200 {
		want = append(want, large(1+rand.IntN(h.fleet-1)))
	}
	for _, m := range want {
		q := home.VM(m.App, m.ID)
		resp, err := s.ask(q.Name, q.Type)
		if err != nil {
			h.t.Fatal(err)
		}
		if got := truth.Said(resp); got != q.Answer(truth.Of(m, &app{Name: m.App, Network: netA})) || !marked(resp) {
			h.t.Fatalf("%s is %s, marked stale: %v", q.Name, got, marked(resp))
		}
	}
}

// TestLastKnownState is about a host that comes back while its source is gone.
func TestLastKnownState(t *testing.T) {
	t.Parallel()
	fleet := lab.Full(someFleet, 100_000)
	if lab.Race { // the agent, which is part of the test, is slow then
		fleet = someFleet
	}
	h := fell(t, fleet)
	h.agent.Stop()
	began := time.Now()
	s := h.boot()
	m := large(h.fleet - 1)
	s.await(t, "the first answer", func() bool {
		resp, err := s.ask(m.ID+".vm."+m.App+".internal", dns.TypeAAAA)
		return err == nil && truth.Said(resp) == m.Addr
	})
	took := time.Since(began).Round(time.Millisecond)
	t.Logf("%d machines are answered from disk %v after the start of the process", h.fleet, took)
	if took > 15*time.Second { // a second on a machine that does nothing else
		t.Errorf("that is too long")
	}
	h.cached(s)

	// The source comes back, with one machine dead: all is as it was, or dead.
	gone := large(0)
	h.agent.Delete("machines", row(gone))
	h.start()
	s.awaitState(t, "live")
	if resp, err := s.ask(gone.ID+".vm."+gone.App+".internal", dns.TypeAAAA); err != nil || truth.Said(resp) != "NXDOMAIN" || marked(resp) {
		t.Errorf("the dead machine is answered: %v %v", resp, err)
	}
}

// someFleet is large enough for a write that takes some time.
const someFleet = 20_000

func TestKilledWhileSaving(t *testing.T) {
	t.Parallel()
	h := fell(t, someFleet)
	for round := range lab.Full(2, 3) {
		h.pullWhileWriting(round)
		h.agent.Stop()
		s := h.boot()
		h.cached(s)
		// A file that dnsd tries the directory with may be there for a moment.
		s.await(t, "the end of what is left of the write that never ended", func() bool { return len(tmpFiles(t, h.dir)) == 0 })
		h.pull(s)
		h.start()
	}
}

// pullWhileWriting ends dnsd while it writes its state: what all machines of the fleet
// have changed to, which no answer shows.
func (h *fallen) pullWhileWriting(round int) {
	h.t.Helper()
	s := h.boot()
	s.awaitState(h.t, "live")
	size := func() (n int64) {
		all, _ := filepath.Glob(filepath.Join(h.dir, "*"))
		for _, name := range all {
			if info, err := os.Stat(name); err == nil {
				n += info.Size()
			}
		}
		return n
	}
	before := size()
	rows := make([]corrosiontest.Row, h.fleet)
	for i := range rows {
		m := large(i)
		m.Meta["round"] = fmt.Sprintf("%d of machine %d", round, i)
		rows[i] = row(m)
	}
	h.agent.Put("machines", rows...)
	// What the directory is tried with is smaller.
	if !lab.Until(patience, func() bool { return size() > before+100<<10 }) {
		h.t.Fatal("no state is written")
	}
	time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
	h.pull(s)
}

// tmpFiles returns the files that a write which never ended left.
func tmpFiles(t testing.TB, dir string) []string {
	names, err := fs.Glob(os.DirFS(dir), "*.tmp")
	if err != nil {
		t.Fatal(err)
	}
	for i := range names {
		names[i] = filepath.Join(dir, names[i])
	}
	return names
}

// TestDamagedState spoils what was saved last, then all of the newest state, and then
// both states.
func TestDamagedState(t *testing.T) {
	t.Parallel()
	h := fell(t, lab.Full(5000, someFleet))
	newest, previous := filepath.Join(h.dir, "registry.state"), filepath.Join(h.dir, "registry.state.previous")
	whole, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	h.agent.Delete("machines", row(large(0)))
	h.save()
	h.agent.Stop()
	data, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) <= len(whole) {
		t.Fatalf("the change is not appended: %d bytes after %d", len(data), len(whole))
	}
	for at, old := range map[int][]byte{len(data) - 3: nil, len(whole) / 2: whole} {
		spoilt := bytes.Clone(data)
		spoilt[at] ^= 1
		h.write(newest, spoilt)
		h.write(previous, old)
		s := h.boot()
		h.cached(s, large(0)) // whose end is what is damaged
		if log := s.Stderr.String(); !strings.Contains(log, "cannot be used") || !strings.Contains(log, newest) {
			t.Errorf("the damage is not in the log:\n%s", log)
		}
		h.pull(s)
	}

	h.write(newest, data[:len(data)/3])
	h.write(previous, nil)
	s := h.boot()
	s.awaitState(t, "listing")
	m := large(7)
	resp, err := s.ask(m.ID+".vm."+m.App+".internal", dns.TypeAAAA)
	if err != nil || resp.Rcode != dns.RcodeServerFailure {
		t.Errorf("of two damaged states, something is served: %v %v", resp, err)
	}
	h.start()
	s.awaitState(t, "live") // the damage is never fatal
	h.pull(s)
}

func (h *fallen) write(path string, data []byte) {
	h.t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		h.t.Fatal(err)
	}
}
