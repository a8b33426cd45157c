package cluster

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"dnsd/registry/corrosion/corrosiontest"
	"dnsd/registry/etcd/etcdtest"
)

func TestHistoryOfFile(t *testing.T) {
	recount(t, &filePlatform{t: t, path: filepath.Join(t.TempDir(), "registry.json"), world: world{}, texts: map[object]json.RawMessage{}}, false)
}

func TestHistoryOfEtcd(t *testing.T) {
	e := newEtcd(t, etcdtest.Options{})
	p := &etcdPlatform{etcdStore: e}
	p.proxy, p.through = e.through()
	recount(t, p, false)
}

func TestHistoryOfCorrosion(t *testing.T) {
	a := &agentStore{newAgent(t, corrosiontest.Options{Lag: 200, Keep: 100}), t}
	recount(t, &agentPlatform{agentStore: a}, true)
}

// filePlatform is a file, which is written anew for every change.
type filePlatform struct {
	t     testing.TB
	path  string
	world world
	texts map[object]json.RawMessage // of all objects so far: they recur in every version
}

func (p *filePlatform) text(o object) json.RawMessage {
	if p.texts[o] == nil {
		p.texts[o] = json.RawMessage(o.Value())
	}
	return p.texts[o]
}

func (p *filePlatform) url() string { return "file:" + p.path }

func (p *filePlatform) commit(put, gone []object) {
	for _, o := range gone {
		delete(p.world, o.Key())
	}
	for _, o := range put {
		p.world[o.Key()] = o
	}
	p.replace(p.world.File(p.text))
}

func (p *filePlatform) put(objects ...object) { p.commit(objects, nil) }
func (p *filePlatform) del(objects ...object) { p.commit(nil, objects) }

// replace writes the file beside its place and puts it there.
func (p *filePlatform) replace(text string) {
	p.t.Helper()
	next := fmt.Sprintf("%s.new", p.path)
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(next, p.path); err != nil {
		p.t.Fatal(err)
	}
}

func (p *filePlatform) fault(r *rand.Rand, _ bool) {
	text := p.world.File(p.text)
	var err error
	switch r.IntN(5) {
	case 0:
		err = os.Remove(p.path)
	case 1: // half of it, for good
		p.replace(text[:len(text)/2])
	case 2: // half of it for a moment
		err = os.WriteFile(p.path, []byte(text[:len(text)/2]), 0o600)
	case 3:
		p.replace("")
	case 4: // a directory in its place
		if err = os.Remove(p.path); err == nil {
			if err = os.Mkdir(p.path, 0o700); err == nil {
				err = os.Remove(p.path)
			}
		}
	}
	if err != nil && !os.IsNotExist(err) {
		p.t.Fatal(err)
	}
}

func (p *filePlatform) heal() { p.commit(nil, nil) }

// etcdPlatform is an etcd of one member behind a proxy.
type etcdPlatform struct {
	*etcdStore
	proxy   *etcdtest.Proxy
	through string
	parted  bool
}

func (p *etcdPlatform) url() string { return p.through }

// commit writes the change in one transaction.
func (p *etcdPlatform) commit(put, gone []object) { p.write(put, gone) }

func (p *etcdPlatform) fault(r *rand.Rand, rough bool) {
	if p.parted {
		p.heal()
		return
	}
	if !rough {
		switch r.IntN(3) {
		case 0:
			p.compact()
		case 1: // what is no object must not disturb the others
			p.spoil("machines/fdaa:0:18::/spoilt/m1", `{"state":`)
		case 2:
			p.spoil("rubbish", "")
		}
		return
	}
	switch r.IntN(3) {
	case 0:
		p.c.Kill(0)
		p.c.Restart(0)
	case 1:
		p.proxy.Part()
		p.proxy.Join()
	case 2: // changes are missed, and perhaps compacted
		p.proxy.Part()
		p.parted = true
	}
}

func (p *etcdPlatform) spoil(key, value string) {
	p.persist(func() error {
		_, err := p.cli.Put(p.c.Context(), p.prefix+key, value)
		return err
	})
}

func (p *etcdPlatform) heal() {
	if p.parted {
		p.proxy.Join()
		p.parted = false
	}
}

// agentPlatform is a Corrosion agent.
type agentPlatform struct {
	*agentStore
	down bool
}

func (p *agentPlatform) url() string { return "corrosion://" + p.Addr() }

// commit changes rows. The table's key of a machine is its id alone: one that
// moves to another app is one row that is updated.
func (p *agentPlatform) commit(put, gone []object) {
	stay := map[string]bool{}
	for _, o := range put {
		if m, ok := o.(*machine); ok {
			stay[m.ID] = true
		}
	}
	p.put(put...)
	for _, o := range gone {
		if m, ok := o.(*machine); !ok || !stay[m.ID] {
			p.del(o)
		}
	}
}

func (p *agentPlatform) fault(r *rand.Rand, rough bool) {
	if p.down {
		p.heal()
		return
	}
	if !rough {
		switch r.IntN(3) {
		case 0:
			p.SkipNext(false)
		case 1:
			p.CutListings(1, r.IntN(20), "")
		case 2:
			p.Compact()
		}
		return
	}
	switch r.IntN(9) {
	case 0:
		p.End()
	case 1:
		p.SkipNext(true)
	case 2:
		p.Forget()
	case 3:
		p.Rehash()
		p.End()
	case 4:
		p.SendError("out of luck")
	case 5:
		p.Reset()
	case 6:
		p.SendLine("machines", `{"row":[`)
	case 7:
		p.Stop()
		p.down = true
	case 8:
		p.Kill()
		p.down = true
	}
}

func (p *agentPlatform) heal() {
	if p.down {
		p.start()
		p.down = false
	}
	p.CutListings(0, 0, "")
	// A gap shows with the next change.
	for range 2 {
		elsewhere := "fdaa:0:77::/48"
		for _, o := range []object{&machine{ID: "gap", App: "gap", Network: elsewhere, State: "stopped", Meta: map[string]string{}},
			&peer{Name: "gap", Network: elsewhere, Addr: "fdaa:0:77::1"}, &address{App: "gap", Network: elsewhere, Addr: "fdaa:0:77::2"}} {
			p.put(o)
			p.del(o)
		}
	}
}
