package cluster

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"dnsd/registry/corrosion/corrosiontest"
	"dnsd/test/internal/lab"
)

// agentHost is a Corrosion agent that fails: the fake one among others, or a
// real one of three, to which another one writes.
type agentHost interface {
	store
	Addr() string
	Start() error
	Stop()
	Kill()
	Freeze()
	Thaw()
	Wipe()
	Isolate()
	Rejoin()
	reseed() // stops it and puts a backup of another agent in its place, of before the last writes
	refill() // waits until it has what the others have
}

// fakeHost is the fake one.
type fakeHost struct{ *agentStore }

func (h fakeHost) reseed() { h.Restore(h.Versions() / 2) }

// refill lets it have some of what it lacks at a time, for some seconds.
func (h fakeHost) refill() {
	for h.Refill(2) > 0 {
		time.Sleep(200 * time.Millisecond)
	}
	h.Refill(math.MaxInt)
}

// realHost is the second agent of a cluster.
type realHost struct {
	*corrosiontest.Real
	c      *corrosiontest.Cluster
	backup string
}

func (h *realHost) put(objects ...object) { h.write(h.c.Agents[0].Put, objects) }
func (h *realHost) del(objects ...object) { h.write(h.c.Agents[0].Delete, objects) }

func (h *realHost) write(do func(string, ...corrosiontest.Row), objects []object) {
	rows := map[string][]corrosiontest.Row{}
	for _, o := range objects {
		table, row := rowOf(o)
		rows[table] = append(rows[table], row)
	}
	for table, rows := range rows {
		do(table, rows...)
	}
}

func (h *realHost) reseed() { h.Reseed(h.backup) }
func (h *realHost) refill() { h.c.Await("machines", "apps", "peers", "app_addresses") }

// corrosionSchema is the schema that operators are given.
func corrosionSchema(t testing.TB) string {
	text, err := os.ReadFile("../../examples/corrosion/schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// realAgents lets one scene at a time have a cluster of real agents.
var realAgents sync.Mutex

// onAgents plays a scene on either kind of agent. What it writes besides comes
// after the backup that reseed restores.
func onAgents(t *testing.T, failure func(s *scene, h agentHost)) {
	t.Helper()
	t.Parallel()
	t.Run("fake", func(t *testing.T) {
		t.Parallel()
		h := fakeHost{&agentStore{newAgent(t, corrosiontest.Options{Members: 2}), t}}
		s := play(t, h, "corrosion://"+h.Addr())
		s.endures(h.agentStore, func() { failure(s, h) })
	})
	t.Run("real", func(t *testing.T) {
		bin := os.Getenv(corrosiontest.RealBin)
		if bin == "" {
			t.Skip(corrosiontest.RealBin + " does not name a Corrosion agent to test against")
		}
		realAgents.Lock()
		t.Cleanup(realAgents.Unlock)
		dir := t.TempDir()
		c := corrosiontest.NewCluster(bin, dir, corrosionSchema(t), 3, func(err error) { t.Fatal(err) })
		t.Cleanup(c.Close)
		h := &realHost{Real: c.Agents[1], c: c}
		h.put(machineNumber(0)) // so that the backup is not empty
		c.Await("machines")
		h.backup = c.Agents[0].Backup()
		token := filepath.Join(dir, "token")
		if err := os.WriteFile(token, []byte(corrosiontest.Token), 0o600); err != nil {
			t.Fatal(err)
		}
		s := play(t, h, "corrosion://"+h.Addr(), "--corrosion-token-file", token)
		failure(s, h)
		s.heals()
	})
}

// restart starts the agent again.
func (s *scene) restart(h agentHost) {
	s.t.Helper()
	if err := h.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// catches waits until the agent is whole in dnsd's eyes.
func (s *scene) catches() {
	s.t.Helper()
	if !until(2*patience, func() bool {
		_, text := s.ready()
		m := s.metrics()
		return m["dnsd_corrosion_lacking"] == 0 && m["dnsd_registry_held"] == 0 && !strings.Contains(text, "corrosion agent") && strings.HasPrefix(text, "live")
	}) {
		_, text := s.ready()
		s.t.Fatalf("the agent is not whole: %s", text)
	}
}

// A name that lasts is answered all the time, whatever becomes of the agent's
// database: the client of a scene never stops asking.
func TestAgentsDatabase(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]func(s *scene, h agentHost){
		"wiped": func(s *scene, h agentHost) {
			h.Wipe()
			s.turn()
			s.restart(h)
			s.await(s.t, "the reason", func() bool { _, text := s.ready(); return strings.Contains(text, "lacks") })
			h.refill()
			s.catches()
		},
		"reseeded": func(s *scene, h agentHost) {
			h.reseed()
			s.turn()
			s.restart(h)
			h.refill()
			s.catches()
		},
	} {
		t.Run(name, func(t *testing.T) { onAgents(t, failure) })
	}
}

// An agent whose gossip is dead says what it knows, marked as stale, until it is
// back.
func TestAgentCutOff(t *testing.T) {
	onAgents(t, func(s *scene, h agentHost) {
		if !until(2*patience, func() bool { return s.metrics()["dnsd_corrosion_members"] == 2 }) {
			s.t.Fatal("the others are not seen")
		}
		h.Isolate()
		s.looks(h)
		if !until(2*patience, func() bool { return s.state() == "stale" }) {
			s.t.Fatal("it is not noticed")
		}
		_, text := s.ready()
		if !strings.Contains(text, "the corrosion agent sees no other agent: changes of other hosts don't arrive") || s.metrics()["dnsd_corrosion_members"] != 0 {
			s.t.Errorf("/readyz: %s", text)
		}
		s.await(s.t, "answers that are marked", s.asker.sees)
		h.Rejoin()
		s.looks(h)
		s.turn()
		s.catches()
	})
}

// looks has dnsd look at a fake agent now, which it does when it connects, and not
// only within half a minute.
func (s *scene) looks(h agentHost) {
	if fake, ok := h.(fakeHost); ok && lab.Full(true, false) {
		fake.Stop()
		s.restart(fake)
	}
}

// Ordinary failures of an agent that has the others.
func TestAgentsProcess(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]func(s *scene, h agentHost){
		"killed":  func(s *scene, h agentHost) { h.Kill(); s.turn(); s.restart(h) },
		"stopped": func(s *scene, h agentHost) { h.Stop(); s.goesStale("connection refused"); s.turn(); s.restart(h) },
		"frozen": func(s *scene, h agentHost) {
			h.Freeze()
			s.goesStale()
			s.turn()
			h.Thaw()
			s.awaitState(s.t, "live")
			if strings.Contains(s.Stderr.String(), "using HTTP/1.1") { // it thawed between two tries
				s.agrees()
				s.weigh() // each stream has a connection of its own then
			}
		},
		// Each restart is seen through before the next one: the pauses before dnsd
		// follows again must not add up.
		"restarted": func(s *scene, h agentHost) {
			for i := range 8 {
				h.Stop()
				s.restart(h)
				m := machineNumber(9100 + i)
				s.put(m)
				began := time.Now()
				s.agrees()
				if took := time.Since(began); took > 10*time.Second {
					s.t.Errorf("after restart %d, a change was seen %v after the agent was there", i, took)
				}
			}
			s.turn()
		},
	} {
		t.Run(name, func(t *testing.T) { onAgents(t, failure) })
	}
}

// What a bad row was before stays, for good and over restarts; new apps and
// addresses show at once.
func TestAgentsRows(t *testing.T) {
	onAgents(t, func(s *scene, h agentHost) {
		bad := *machineNumber(0)
		bad.App = "has.dot"
		nameless := *machineNumber(1)
		nameless.App = ""
		h.put(&bad, &nameless)
		s.await(s.t, "the bad rows", func() bool { return s.metrics()[`dnsd_registry_rejected_objects_total{kind="machine"}`] >= 2 })
		s.agrees()
		s.put(&app{Name: "new-app", Network: netA}, &address{App: "new-app", Network: netA, Addr: "fdaa:0:18:0:1::9"})
		for _, name := range []string{"new-app.internal", "new-app.flycast"} {
			s.await(s.t, name, func() bool {
				resp, err := s.ask(name, dns.TypeAAAA)
				return err == nil && resp.Rcode == 0
			})
		}
		h.Kill()
		s.restart(h)
		s.turn()
		s.agrees()
		h.put(machineNumber(0), machineNumber(1))
	})
}
