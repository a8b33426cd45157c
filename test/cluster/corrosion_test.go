package cluster

import (
	"encoding/json"
	"testing"

	"dnsd/registry/corrosion/corrosiontest"
)

// agentStore is a Corrosion agent.
type agentStore struct {
	*corrosiontest.Agent
	t testing.TB
}

// rowOf returns an object as the default tables hold it.
func rowOf(o object) (table string, row corrosiontest.Row) {
	switch o := o.(type) {
	case *machine:
		meta, err := json.Marshal(o.Meta)
		if err != nil {
			panic(err) // of strings
		}
		return "machines", corrosiontest.Row{"id": o.ID, "network": o.Network, "app": o.App, "region": o.Region, "state": o.State,
			"private_ip": o.Addr, "metadata": string(meta)}
	case *peer:
		return "peers", corrosiontest.Row{"network": o.Network, "name": o.Name, "private_ip": o.Addr, "region": o.Region}
	case *app:
		return "apps", corrosiontest.Row{"network": o.Network, "name": o.Name}
	case *address:
		return "app_addresses", corrosiontest.Row{"network": o.Network, "app": o.App, "address": o.Addr}
	}
	panic("no such object")
}

// row is an object without the name of its table.
func row(o object) corrosiontest.Row { _, r := rowOf(o); return r }

func (a *agentStore) put(objects ...object) {
	for _, o := range objects {
		a.Put(rowOf(o))
	}
}

func (a *agentStore) del(objects ...object) {
	for _, o := range objects {
		a.Delete(rowOf(o))
	}
}

func (a *agentStore) start() {
	a.t.Helper()
	if err := a.Start(); err != nil {
		a.t.Fatal(err)
	}
}

// endures plays a failure of an agent to its end, after which as many streams are
// open as before.
func (s *scene) endures(a *agentStore, failure func()) {
	s.t.Helper()
	streams := a.Counts().Streams
	failure()
	s.heals()
	if n := a.Counts().Streams; n != streams {
		s.t.Errorf("%d streams are open, before the failure %d", n, streams)
	}
}

// TestAgent is about an agent that is alone and fails. What becomes of one among
// others is TestAgentsProcess.
func TestAgent(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]func(s *scene, a *agentStore){
		"restarted": func(s *scene, a *agentStore) {
			for range 3 {
				a.Stop()
				a.start()
			}
			s.turn()
		},
		"emptied": func(s *scene, a *agentStore) {
			a.Kill()
			for _, o := range s.world {
				a.del(o)
			}
			a.start()
			s.awaitState(s.t, "held")
			s.agrees()
			delete(s.world, s.dead.Key())
			s.world[s.fresh.Key()] = s.fresh
			for _, o := range s.world {
				a.put(o)
			}
			s.await(s.t, "one removal yet held", func() bool { return s.held() == 1 })
			a.Kill() // the next listing, half a minute after the first, still lacks one machine
			a.start()
		},
		"stumbling": func(s *scene, a *agentStore) {
			a.SkipNext(true)
			s.turn()
			a.CutListings(3, 5, "machines")
			a.Forget()
			a.HoldEOQ()()
			a.SendLine("machines", `{"row":[`)
			a.SendError("out of luck")
			a.Compact()
			a.Reset()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := &agentStore{newAgent(t, corrosiontest.Options{NoHTTP2: name == "restarted"}), t}
			s := play(t, a, "corrosion://"+a.Addr())
			if name == "restarted" {
				// Over HTTP/1.1 the first proof of life opens a connection of its own. It
				// comes after the three questions of the start.
				s.await(t, "a proof of life", func() bool { return a.Counts().Queries > 3 })
				s.weigh()
			}
			s.endures(a, func() { failure(s, a) })
		})
	}
}
