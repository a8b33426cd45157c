package registry

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// FleetChange says how an app and its machines are to be: what a state on disk is
// made of. An app that is not registered and has no machine left does not exist.
type FleetChange struct {
	Network    Network
	Name       string // as the source writes it
	Registered bool
	Put        []*Machine // new, or other than before; sorted by lower-case id
	Gone       []string   // lower-case ids of machines that exist no longer
}

// Since calls fleet and other with what has changed from old, which may be nil, to
// v, until one of them returns false. Objects that have not changed are told by
// being the same in memory, so that it takes a look at each app and at the machines
// of those that have changed.
func (v *Snapshot) Since(old *Snapshot, fleet func(FleetChange) bool, other func(Item) bool) {
	if old == nil {
		old = New().Snapshot()
	}
	_ = eachChange(v, old, tableFleets, func(was, is *Fleet) bool { return fleet(is.since(was)) }) &&
		eachChange(v, old, tablePeers, func(was, is *Peer) bool { return other(changeOf(was, is, is == nil)) }) &&
		eachChange(v, old, tableAddresses, func(was, is *Address) bool { return other(changeOf(was, is, is == nil)) })
}

func changeOf(was, is Object, gone bool) Item {
	if gone {
		return Delete(was.Key())
	}
	return Put(is)
}

// eachChange calls fn with each row that differs, nil for one that is not there, and
// returns false if fn did.
func eachChange[T any](v, old *Snapshot, table string, fn func(was, is *T) bool) bool {
	olds, err := old.txn.Get(table, indexPrefix, []byte{})
	must(err)
	news, err := v.txn.Get(table, indexPrefix, []byte{})
	must(err)
	key := schema().Tables[table].Indexes[indexID].Indexer.(indexer)
	was, is := olds.Next(), news.Next()
	for was != nil || is != nil {
		var order int
		switch {
		case was == is:
			was, is = olds.Next(), news.Next()
			continue
		case was == nil:
			order = 1
		case is == nil:
			order = -1
		default:
			order = bytes.Compare(key(was), key(is))
		}
		var before, now *T
		if order <= 0 {
			before, was = was.(*T), olds.Next()
		}
		if order >= 0 {
			now, is = is.(*T), news.Next()
		}
		if !fn(before, now) {
			return false
		}
	}
	return true
}

// since returns how f, which is nil where it does not exist any more, differs from old.
func (f *Fleet) since(old *Fleet) FleetChange {
	if f == nil {
		f = &Fleet{name: old.name, network: old.network}
	}
	if old == nil {
		return FleetChange{Network: f.network, Name: f.name, Registered: f.registered, Put: f.all}
	}
	c := FleetChange{Network: f.network, Name: f.name, Registered: f.registered}
	was, is := old.all, f.all
	for len(was) > 0 || len(is) > 0 {
		order := 0
		switch {
		case len(was) == 0:
			order = 1
		case len(is) == 0:
			order = -1
		case was[0] != is[0]:
			order = strings.Compare(Lower(was[0].ID), Lower(is[0].ID))
		}
		if order >= 0 && (order > 0 || was[0] != is[0]) {
			c.Put = append(c.Put, is[0])
		}
		if order < 0 {
			c.Gone = append(c.Gone, Lower(was[0].ID))
		}
		if order <= 0 {
			was = was[1:]
		}
		if order >= 0 {
			is = is[1:]
		}
	}
	return c
}

// NewFleet returns an app with its machines, which are sorted by lower-case id and
// valid. It keeps the slice.
func NewFleet(n Network, name string, registered bool, machines []*Machine) (*Fleet, error) {
	if err := CheckLabel("name", name); err != nil {
		return nil, err
	}
	f := &Fleet{name: name, network: n, registered: registered, all: machines, deployed: machines}
	hidden := 0
	app := Lower(name)
	for i, m := range machines {
		if m.Network != n || !equalFold(m.App, app) {
			return nil, fmt.Errorf("machine %s belongs to another app", m.ID)
		}
		if i > 0 && compareFold(machines[i-1].ID, Lower(m.ID)) >= 0 {
			return nil, fmt.Errorf("machine %s is out of order", m.ID)
		}
		hidden += count(!m.named())
		f.started += count(m.named() && m.Started())
	}
	if hidden > 0 {
		f.deployed = slices.DeleteFunc(slices.Clone(machines), func(m *Machine) bool { return !m.named() })
	}
	if len(f.deployed) >= indexFrom {
		f.index = new(index)
	}
	return f, nil
}

// Restore makes an empty registry hold fleets and others, which are peers and
// addresses, in one transaction. No app is twice among the fleets.
func (r *Registry) Restore(fleets []*Fleet, others []Object) {
	r.writer.Lock()
	defer r.writer.Unlock()
	e := r.edit()
	defer e.txn.Abort()
	for _, f := range fleets {
		must(e.txn.Insert(tableFleets, f))
		e.countFleet(nil, f)
		e.changed += len(f.all)
		if f.registered {
			e.count(KindApp, Apps, 1)
			e.changed++
		}
		for _, m := range f.all {
			e.count(KindMachine, ClassOf(m), 1)
		}
	}
	e.placeAll(fleets)
	r.closeAll()
	defer r.open() // again, where there was nothing to commit
	for _, o := range others {
		e.apply(&Item{Object: o})
	}
	e.commit()
}

// Valid reports what of a machine, but for its metadata, NewMachine would not have made.
func (m *Machine) Valid() error {
	errs := []error{CheckLabel("id", m.ID), CheckLabel("app", m.App), optionalLabel("region", m.Region), checkState(m.State)}
	if n, ok := NetworkOf(m.Addr); m.Addr.IsValid() && (!ok || n != m.Network) {
		errs = append(errs, errors.New("its address lies in another network"))
	}
	return errors.Join(errs...)
}

// ValidMetadata reports whether pairs are as NewMachine makes them.
func ValidMetadata(pairs []Pair) bool {
	size := 0
	for i, p := range pairs {
		size += len(p.Key) + len(p.Value)
		if i > 0 && comparePairs(pairs[i-1], p) >= 0 {
			return false
		}
	}
	return len(pairs) <= maxPairs && size <= maxMetadata
}
