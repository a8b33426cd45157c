package cluster

import (
	"testing"
	"time"

	"dnsd/registry/corrosion/corrosiontest"
)

// agentStore is a Corrosion agent.
type agentStore struct {
	*corrosiontest.Agent
	t testing.TB
}

// table and row are an object as the default tables hold it.
func (m *machine) row() corrosiontest.Row {
	return corrosiontest.Row{"id": m.id, "network": m.network, "app": m.app, "region": m.region, "state": m.state,
		"private_ip": m.addr, "metadata": encode(m.meta)}
}
func (p *peer) row() corrosiontest.Row {
	return corrosiontest.Row{"network": p.network, "name": p.name, "private_ip": p.addr, "region": p.region}
}
func (a *app) row() corrosiontest.Row {
	return corrosiontest.Row{"network": a.network, "name": a.name}
}
func (a *address) row() corrosiontest.Row {
	return corrosiontest.Row{"network": a.network, "app": a.app, "address": a.addr}
}

func rowOf(o object) (table string, row corrosiontest.Row) {
	switch o := o.(type) {
	case *machine:
		return "machines", o.row()
	case *peer:
		return "peers", o.row()
	case *app:
		return "apps", o.row()
	case *address:
		return "app_addresses", o.row()
	}
	panic("no such object")
}

func (a *agentStore) put(objects ...object) {
	for _, o := range objects {
		table, row := rowOf(o)
		a.Put(table, row)
	}
}

func (a *agentStore) del(objects ...object) {
	for _, o := range objects {
		table, row := rowOf(o)
		a.Delete(table, row)
	}
}

func (a *agentStore) start() {
	a.t.Helper()
	if err := a.Start(); err != nil {
		a.t.Fatal(err)
	}
}

// TestAgent is about an agent that fails, and keeps the promises that etcd's
// failures are held to.
func TestAgent(t *testing.T) {
	for name, failure := range map[string]func(s *scene, a *agentStore){
		"killed": func(s *scene, a *agentStore) {
			a.Kill()
			s.turn()
			a.start()
		},
		"restarted": func(s *scene, a *agentStore) {
			for range 3 {
				a.Stop()
				a.start()
			}
			s.turn()
		},
		"frozen": func(s *scene, a *agentStore) {
			thaw := time.Now().Add(15 * time.Second)
			a.Freeze()
			s.goesStale()
			time.Sleep(time.Until(thaw))
			s.turn()
			a.Thaw()
		},
		"gone_for_long": func(s *scene, a *agentStore) {
			a.Stop()
			s.goesStale("connection refused")
			s.turn()
			a.start()
		},
		"emptied": func(s *scene, a *agentStore) {
			a.Kill()
			for _, o := range s.world {
				a.del(o)
			}
			a.start()
			s.awaitState(s.t, "held")
			s.agrees()
			delete(s.world, s.dead.key())
			s.world[s.fresh.key()] = s.fresh
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
			streams := a.Counts().Streams
			if name == "restarted" {
				// Over HTTP/1.1 the first proof of life opens a connection of its own. It
				// comes after the three questions of the start.
				s.await(t, "a proof of life", func() bool { return a.Counts().Queries > 3 })
				s.weigh()
			}
			failure(s, a)
			s.heals()
			if n := a.Counts().Streams; n != streams {
				t.Errorf("%d streams are open, before the failure %d", n, streams)
			}
		})
	}
}
