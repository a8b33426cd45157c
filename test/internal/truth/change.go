package truth

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
)

// Generator makes random changes to a world, and questions about what may be in
// it. The names are few, so that they meet.
type Generator struct {
	R       *rand.Rand
	Network string // of what it makes
	Mark    string // begins every machine's id
	Other   string // the network of every sixth machine and some addresses; empty: none is elsewhere
	Skips   bool   // some machines skip registration
}

// GeneratedApps are the apps that changes are about. The last one is never
// registered: it is there with its machines.
var GeneratedApps = []string{"web", "api", "db", "jobs"}

var (
	regions = []string{"fra", "iad", "nrt"}
	groups  = []string{"app", "worker"}
	states  = []string{"started", "started", "started", "stopped", "suspended", "replacing", "destroyed", "odd"}
	peers   = []string{"office", "home", "build"}
)

// GeneratedMachines is how many machines there may be. Each has one of two ids.
const GeneratedMachines = 40

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// AddrIn returns the i-th address of a network.
func AddrIn(network string, i int) string {
	return strings.TrimSuffix(network, ":/48") + fmt.Sprintf("a7b:7:%x:1:2", i+1)
}

// IDs returns the ids that a machine may have.
func (g *Generator) IDs(i int) []string {
	return []string{fmt.Sprintf("%sm%03d", g.Mark, i), fmt.Sprintf("%sr%03d", g.Mark, i)}
}

// Registered returns the apps that are there before any change.
func (g *Generator) Registered() (all []Object) {
	for _, name := range GeneratedApps[:len(GeneratedApps)-1] {
		all = append(all, &App{name, g.Network})
	}
	if g.Other != "" {
		all = append(all, &App{GeneratedApps[0], g.Other})
	}
	return all
}

// draw returns a machine of that number as it may be.
func (g *Generator) draw(i int) *Machine {
	m := &Machine{ID: g.IDs(i)[0], App: pick(g.R, GeneratedApps), Network: g.Network, State: pick(g.R, states),
		Region: pick(g.R, regions), Meta: map[string]string{"fly_process_group": pick(g.R, groups)}}
	if g.Other != "" && i%6 == 0 {
		m.Network = g.Other
	}
	m.Addr = AddrIn(m.Network, i*4+g.R.IntN(4)) // moved, perhaps
	if g.R.IntN(3) == 0 {
		m.Meta["role"] = pick(g.R, []string{"primary", "replica", "a.b"})
	}
	m.Skip = g.Skips && g.R.IntN(10) == 0
	return m
}

// Change draws one change to a world: what is put, and what is gone.
func (g *Generator) Change(now World) (put, gone []Object) {
	i := g.R.IntN(GeneratedMachines)
	n := g.R.IntN(20)
	switch n {
	case 0:
		put = []Object{&Peer{pick(g.R, peers), g.Network, AddrIn(g.Network, 5000+g.R.IntN(9)), "ams"}}
	case 1:
		a := &Address{App: pick(g.R, GeneratedApps), Network: g.Network}
		if g.Other != "" {
			a.Network = pick(g.R, []string{g.Network, g.Other})
		}
		a.Addr = AddrIn(a.Network, 6000+g.R.IntN(5))
		put = []Object{a}
	default:
		return g.machine(n, i, g.find(now, i))
	}
	if g.R.IntN(3) == 0 {
		return nil, put
	}
	return put, nil
}

// find returns the machine of that number, nil while there is none.
func (g *Generator) find(now World, i int) *Machine {
	for _, o := range now {
		if m, ok := o.(*Machine); ok {
			for _, id := range g.IDs(i) {
				if m.ID == id {
					return m
				}
			}
		}
	}
	return nil
}

// machine draws a change of the machine of number i, which is old; nil: it is not
// there.
func (g *Generator) machine(n, i int, old *Machine) (put, gone []Object) {
	switch {
	case old == nil: // created, or created again under the id it had
		return []Object{g.draw(i)}, nil
	case n < 10: // started, stopped, on its way out
		m := *old
		m.State = pick(g.R, states)
		return []Object{&m}, nil
	case n < 12: // deleted
		return nil, []Object{old}
	case n < 14: // renamed
		m := *old
		ids := g.IDs(i)
		if m.ID = ids[0]; old.ID == ids[0] {
			m.ID = ids[1]
		}
		return []Object{&m}, []Object{old}
	case n < 17: // another app or region, another address, other metadata
		m := g.draw(i)
		m.ID = old.ID
		if m.Key() != old.Key() {
			return []Object{m}, []Object{old}
		}
		return []Object{m}, nil
	default: // deleted and created again at once
		m := *old
		m.Addr = AddrIn(m.Network, i*4+g.R.IntN(4))
		return []Object{&m}, nil
	}
}

// After returns the world after a change.
func (w World) After(put, gone []Object) World {
	next := maps.Clone(w)
	next.Delete(gone...)
	next.Put(put...)
	return next
}

// Question draws a question about something that may be there.
func (g *Generator) Question() Question {
	r, n := g.R, Network(g.Network)
	app, i := pick(r, GeneratedApps), r.IntN(GeneratedMachines)
	has := func(key, value string) func(*Machine) bool {
		return func(m *Machine) bool { v, ok := m.Meta[key]; return ok && (value == "" || v == value) }
	}
	region, group := pick(r, regions), pick(r, groups)
	where := g.Network
	if g.Other != "" {
		where = pick(r, []string{g.Network, g.Other})
	}
	all := []func() Question{
		func() Question { return n.AAAA("", app, nil) },
		func() Question { return n.AAAA("top99.nearest.of.", app, nil) },
		func() Question { return n.AAAA(region+".", app, func(m *Machine) bool { return m.Region == region }) },
		func() Question { return n.AAAA(group+".process.", app, has("fly_process_group", group)) },
		func() Question { return n.AAAA("a.b.role.kv._metadata.", app, has("role", "a.b")) },
		func() Question { return n.AAAA("role.kv._metadata.", app, has("role", "")) },
		func() Question { return n.VM(app, pick(r, g.IDs(i))) },
		func() Question { return n.Machines(app, false) },
		func() Question { return n.Machines(app, true) },
		func() Question { return n.Regions(app, r.IntN(2) == 0) },
		func() Question { return n.Instances(r.IntN(2) == 0) },
		func() Question { return n.Owner(AddrIn(where, i*4+r.IntN(4))) },
		func() Question { return n.Peer(pick(r, peers)) },
		n.Apps,
		n.Peers,
		func() Question { return n.Flycast(app) },
	}
	return pick(r, all)()
}

// Everything returns the questions whose answers together make up all that
// changes are about.
func (g *Generator) Everything() []Question {
	n := Network(g.Network)
	all := []Question{n.Instances(true), n.Instances(false), n.Peers(), n.Apps()}
	for _, app := range GeneratedApps {
		all = append(all, n.AAAA("", app, nil), n.Machines(app, true), n.Regions(app, false), n.Flycast(app))
	}
	for _, name := range peers {
		all = append(all, n.Peer(name))
	}
	for i := range GeneratedMachines {
		for k, id := range g.IDs(i) {
			all = append(all, n.VM(GeneratedApps[(i+k)%len(GeneratedApps)], id), n.Owner(AddrIn(g.Network, i*4+k)))
		}
	}
	return all
}
