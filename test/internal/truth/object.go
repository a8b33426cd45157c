// Package truth is what end-to-end tests hold answers against: the objects that
// a platform writes, the world that they make, questions with the answer that
// each world gives, and the history of worlds. It finds its answers by looking at
// everything there is, in the plainest way.
package truth

import (
	"encoding/json"
	"slices"
	"strings"
)

// Object is something a platform writes. It is not changed once it is made.
type Object interface {
	Key() string   // its etcd key, without the prefix
	Value() string // its etcd value
}

// Machine, Peer, Address and App are the kinds of objects. Networks are written
// as prefixes, such as fdaa:0:18::/48.
type (
	Machine struct {
		ID, App, Network, State, Region, Addr string
		Meta                                  map[string]string
		Skip                                  bool
	}
	Peer    struct{ Name, Network, Addr, Region string }
	Address struct{ App, Network, Addr string }
	App     struct{ Name, Network string }
)

func base(network string) string { return strings.TrimSuffix(network, "/48") }

// Key implements Object.
func (m *Machine) Key() string { return "machines/" + base(m.Network) + "/" + m.App + "/" + m.ID }
func (p *Peer) Key() string    { return "peers/" + base(p.Network) + "/" + p.Name }
func (a *App) Key() string     { return "apps/" + base(a.Network) + "/" + a.Name }
func (a *Address) Key() string {
	return "addresses/" + base(a.Network) + "/" + a.App + "/" + a.Addr
}

// fields is a JSON object.
type fields = map[string]any

// Value implements Object.
func (m *Machine) Value() string {
	return encode(fields{"id": m.ID, "app": m.App, "network": m.Network, "state": m.State, "region": m.Region, "private_ip": m.Addr,
		"config": fields{"metadata": m.Meta, "dns": fields{"skip_registration": m.Skip}}})
}
func (p *Peer) Value() string {
	return encode(fields{"name": p.Name, "network": p.Network, "private_ip": p.Addr, "region": p.Region})
}
func (a *App) Value() string { return encode(a.json()) }
func (a *Address) Value() string {
	return encode(fields{"app": a.App, "network": a.Network, "address": a.Addr})
}

func (a *App) json() fields { return fields{"name": a.Name, "network": a.Network} }

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of strings and maps
	}
	return string(b)
}

// deployed reports whether names speak of the machine.
func (m *Machine) deployed() bool {
	return !m.Skip && !slices.Contains([]string{"destroying", "destroyed", "replaced", "migrated"}, m.State)
}

// World is everything that is, by key. It is not changed once it is in a History.
type World map[string]Object

// Of returns the world of some objects.
func Of(objects ...Object) World {
	w := World{}
	w.Put(objects...)
	return w
}

// Put and Delete change the world.
func (w World) Put(objects ...Object) {
	for _, o := range objects {
		w[o.Key()] = o
	}
}
func (w World) Delete(objects ...Object) {
	for _, o := range objects {
		delete(w, o.Key())
	}
}

// File returns the world as a registry file, each object in the JSON that text
// gives; nil means its Value.
func (w World) File(text func(Object) json.RawMessage) string {
	if text == nil {
		text = func(o Object) json.RawMessage { return json.RawMessage(o.Value()) }
	}
	lists := map[string][]any{"apps": {}, "machines": {}, "peers": {}, "addresses": {}}
	machines := map[string][]json.RawMessage{}
	for _, o := range w {
		if m, ok := o.(*Machine); ok {
			owner := (&App{m.App, m.Network}).Key()
			if w[owner] == nil {
				lists["machines"] = append(lists["machines"], text(m))
			}
			machines[owner] = append(machines[owner], text(m))
		}
	}
	for _, o := range w {
		switch o := o.(type) {
		case *App:
			f := o.json()
			f["machines"] = machines[o.Key()]
			lists["apps"] = append(lists["apps"], f)
		case *Peer:
			lists["peers"] = append(lists["peers"], text(o))
		case *Address:
			lists["addresses"] = append(lists["addresses"], text(o))
		}
	}
	return encode(lists)
}
