package corrosion

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/corrosion/corrosiontest"
)

// history drives random changes and faults, and knows what is true.
type history struct {
	*fixture
	rng     *rand.Rand
	rows    map[string]corrosiontest.Row // machines by their identity in the table
	down    bool
	release func()
}

// The table's key is (id, network, app): a machine may have two rows for a
// while that differ in how they write its network or its case.
var historyKey = []string{"id", "network", "app"}

const historySQL = "SELECT id, network, app, region, process_group, state, private_ip, metadata FROM fleet"

func identity(r corrosiontest.Row) string { return fmt.Sprint(r["id"], r["network"], r["app"]) }

func (h *history) put(r corrosiontest.Row) {
	h.rows[identity(r)] = r
	h.agent.Put("fleet", r)
}

func (h *history) delete(r corrosiontest.Row) {
	delete(h.rows, identity(r))
	h.agent.Delete("fleet", r)
}

// machine returns a random machine, new or known.
func (h *history) machine() corrosiontest.Row {
	networks := []string{"fdaa:0:18::/48", "fdaa:0:99::/48"}
	return corrosiontest.Row{
		"id": fmt.Sprintf("m%d", h.rng.IntN(12)), "network": networks[h.rng.IntN(2)], "app": fmt.Sprintf("app-%d", h.rng.IntN(2)),
		"region": "iad", "state": []string{"started", "stopped", "replacing"}[h.rng.IntN(3)],
		"metadata": fmt.Sprintf(`{"n":"%d"}`, h.rng.IntN(9)), "process_group": "", "private_ip": nil,
	}
}

// variant returns r as another row for the same machine.
func variant(r corrosiontest.Row) corrosiontest.Row {
	c := corrosiontest.Row{}
	for k, v := range r {
		c[k] = v
	}
	if s := c["network"].(string); strings.HasSuffix(s, "/48") {
		c["network"] = strings.TrimSuffix(s, "/48")
	} else {
		c["network"] = s + "/48"
	}
	return c
}

// step does one thing.
func (h *history) step() {
	m := h.machine()
	_, twin := h.rows[identity(variant(m))]
	switch n := h.rng.IntN(100); {
	case n < 45:
		if twin { // spelled otherwise: rename it, the new one first
			h.put(m)
			h.delete(variant(m))
			return
		}
		h.put(m)
	case n < 60:
		h.delete(m)
	case n < 65: // renamed key: the new row first, then the old one gone
		if old, ok := h.rows[identity(m)]; ok {
			h.put(variant(old))
			h.delete(old)
		}
	case n < 70: // the same, and the new one dies first
		if old, ok := h.rows[identity(m)]; ok {
			fresh := variant(old)
			fresh["state"] = "failed"
			h.put(fresh)
			h.delete(fresh)
		}
	case n < 72:
		h.agent.End()
	case n < 74:
		h.agent.SkipNext(h.rng.IntN(2) == 0)
	case n < 76:
		h.agent.CutListings(1+h.rng.IntN(2), h.rng.IntN(8), "")
	case n < 77:
		h.agent.Forget()
	case n < 78:
		h.agent.Rehash()
	case n < 79:
		h.agent.Compact()
	case n < 80:
		h.agent.SendError("out of luck")
	case n < 81:
		h.agent.Reset()
	case n < 82:
		h.agent.SendLine("fleet", `{"row":[`)
	case n < 84:
		h.toggle()
	case n < 86:
		if h.release == nil {
			h.release = h.agent.HoldEOQ()
		} else {
			h.release()
			h.release = nil
		}
	case n < 87:
		h.relist()
	default:
		time.Sleep(time.Duration(h.rng.IntN(4)) * time.Millisecond)
	}
}

// toggle stops or kills the agent, or starts it again.
func (h *history) toggle() {
	switch {
	case h.down:
		h.wait("the port", func() bool { return h.agent.Start() == nil })
	case h.rng.IntN(2) == 0:
		h.agent.Stop()
	default:
		h.agent.Kill()
	}
	h.down = !h.down
}

// rest ends all faults that last.
func (h *history) rest() {
	if h.down {
		h.toggle()
	}
	if h.release != nil {
		h.release()
		h.release = nil
	}
	h.agent.CutListings(0, 0, "")
}

// truth returns what the registry should know.
func (h *history) truth() map[registry.Key]registry.Object {
	truth := map[registry.Key]registry.Object{}
	for _, r := range h.rows {
		text := func(name string) string { s, _ := r[name].(string); return s }
		n := strings.TrimSuffix(strings.TrimPrefix(text("metadata"), `{"n":"`), `"}`)
		m, err := registry.NewMachine(registry.MachineSpec{
			ID: text("id"), Network: text("network"), App: text("app"), Region: text("region"), State: text("state"),
			Metadata: map[string]string{"n": n},
		})
		if err != nil {
			h.t.Fatal(err)
		}
		truth[m.Key()] = m
	}
	return truth
}

// Whatever changes and whatever fails: at rest, what is known is what is true,
// and no listing was needed to get there that is not one of the source's own.
func TestHistory(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			h := &history{rng: rand.New(rand.NewPCG(seed, 4)), rows: map[string]corrosiontest.Row{}}
			h.fixture = start(t, corrosiontest.Options{NoHTTP2: seed%3 == 2, Lag: 20, Keep: 30}, Config{Queries: Queries{Machines: historySQL, Apps: DefaultQueries().Apps}},
				func(f *fixture) {
					f.agent.CreateTable("fleet", historyKey, "region", "process_group", "state", "private_ip", "metadata")
				})
			for round := range 12 {
				for range 100 {
					h.step()
				}
				h.rest()
				// A gap with nothing after it cannot be seen: one more change shows it.
				h.put(corrosiontest.Row{"id": "last", "network": "fdaa:0:18::/48", "app": "app-0", "state": fmt.Sprintf("round-%d", round), "metadata": `{"n":"0"}`})
				h.put(corrosiontest.Row{"id": "last", "network": "fdaa:0:18::/48", "app": "app-0", "state": "created", "metadata": fmt.Sprintf(`{"n":"%d"}`, round)})
				truth := h.truth()
				h.wait(fmt.Sprintf("what is known to be true, in round %d", round), func() bool {
					return reflect.DeepEqual(h.world.Seen().Objects, truth)
				})
			}
		})
	}
}
