// Package registry holds what runs on the platform: machines, apps, peers and
// addresses, in an in-memory database that readers see through transactions. It
// is the only state an internal answer depends on. Package follow keeps it current.
package registry

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-memdb"
)

// Registry is the database. Reading is safe for concurrent use and takes no
// lock; there is one writer at a time.
type Registry struct {
	db     *memdb.MemDB
	shown  atomic.Pointer[Snapshot] // db as of the last change whose channels have all closed
	writer sync.Mutex               // held while a change is made; guards nothing that readers touch
	epoch  atomic.Uint64
	counts [4]atomic.Int64
	sizes  [Classes]atomic.Int64 // how much answers hold, by class
	status atomic.Pointer[Status]
	alive  atomic.Pointer[time.Time] // when the source last proved to be alive; nil: never
	fence  Fence                     // set once, before the first change; nil: none
}

// A Fence is told before somebody can see a change, and again when everybody does. One
// goroutine at a time calls it, which it must not delay.
type Fence interface {
	// Close says that an app, its name in lower case, of a network is about to change.
	Close(network netip.Prefix, app string)
	// CloseAll says that answers about anything are about to change.
	CloseAll()
	// Open says that everybody sees the changes since the last Open.
	Open()
}

// SetFence has f told of changes. It must be called before the first one.
func (r *Registry) SetFence(f Fence) { r.fence = f }

// closeAll and open tell the fence, if there is one.
func (r *Registry) closeAll() {
	if r.fence != nil {
		r.fence.CloseAll()
	}
}

func (r *Registry) open() {
	if r.fence != nil {
		r.fence.Open()
	}
}

// Epoch returns a number that goes up with each change, after the channels of what
// was read before have closed and before anybody can see the change. While it stays
// the same, an answer whose channels were open is not older than what anybody else
// sees: comparing one number replaces a look at many channels. Safe for concurrent
// use.
func (r *Registry) Epoch() uint64 { return r.epoch.Load() }

// New returns an empty registry in state listing.
func New() *Registry {
	db, err := memdb.NewMemDB(schema())
	must(err)
	r := &Registry{db: db}
	r.show()
	r.status.Store(&Status{State: Listing, changed: make(chan struct{})})
	return r
}

// Snapshot returns the registry as it is now. When a change can be seen in it, the
// channels of earlier snapshots that it concerns have closed.
func (r *Registry) Snapshot() *Snapshot { return r.shown.Load() }

// show lets snapshots see all that was committed.
func (r *Registry) show() { r.shown.Store(&Snapshot{r.db.Txn(false)}) }

// Count returns how many objects of a kind the registry holds.
func (r *Registry) Count(k Kind) int { return int(r.counts[k].Load()) }

// Empty reports whether the registry holds no object at all, of any network. It
// follows a change a moment after snapshots do.
func (r *Registry) Empty() bool {
	for i := range r.counts {
		if r.counts[i].Load() != 0 {
			return false
		}
	}
	return true
}

// Size returns how much of a class answers hold.
func (r *Registry) Size(c Class) int { return int(r.sizes[c].Load()) }

// State says how the registry stands with its source.
type State string

// The states. Only in the first are internal names unanswerable.
const (
	Listing    State = "listing"     // nothing known yet; the first listing is awaited
	Cached     State = "cached"      // the last known state from disk; the source has not listed yet
	Live       State = "live"        // listed, and the stream is proven and caught up with
	CatchingUp State = "catching-up" // listed, and the stream is proven, but changes that the source has made are still to be applied
	Stale      State = "stale"       // listed once, but the source has been silent for too long
	Held       State = "held"        // live, but what a listing takes away is held back by the sweep guard
)

// States lists every state.
func States() []State { return []State{Listing, Cached, Live, CatchingUp, Stale, Held} }

// Status is a registry's standing with its source at one moment.
type Status struct {
	State    State
	Source   string    // the source's name
	SyncedAt time.Time // when the last complete listing was applied (or written to disk, if Cached); zero: never
	Held     int       // how many of a listing's losses the sweep guard holds back
	Hold     string    // what is held and what lets it go, in a sentence; empty: nothing is
	Behind   string    // how far the registry is behind its source, in a sentence; empty unless it is catching up
	Doubt    string    // why the source's last listing may lack what is there, in a sentence; empty: it is whole
	Unsaved  string    // why the last known state cannot be kept on disk, in a sentence; empty: it can, or is not to be
	Problem  string    // what the source last failed with, in a sentence; empty while it is well

	changed chan struct{}
}

// Synced reports whether there is anything to answer from.
func (s *Status) Synced() bool { return s.State != Listing }

// Stale reports whether answers must say that they may be out of date.
func (s *Status) Stale() bool {
	return s.State == Cached || s.State == Stale || s.State == CatchingUp
}

// Changed returns a channel that closes when Synced, Stale or whether the state is
// CatchingUp may have changed: what answers say of the state.
func (s *Status) Changed() <-chan struct{} { return s.changed }

// Status returns the current status. It is immutable.
func (r *Registry) Status() *Status { return r.status.Load() }

// LastAlive returns when the source was last proven alive, zero for never. It
// keeps its monotonic reading, so that a clock that is set does not change the age.
func (r *Registry) LastAlive() time.Time {
	if t := r.alive.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// Heard notes that the source was proven alive at a time.
func (r *Registry) Heard(now time.Time) { r.alive.Store(&now) }

// SetStatus replaces the status. The old one's channel closes only if that has
// changed which Changed names. The follower calls it, and tests that need a given state.
func (r *Registry) SetStatus(s Status) {
	r.writer.Lock()
	defer r.writer.Unlock()
	old := r.status.Load()
	if s.changed = old.changed; s == *old {
		return
	}
	if old.Synced() == s.Synced() && old.Stale() == s.Stale() && (old.State == CatchingUp) == (s.State == CatchingUp) {
		r.status.Store(&s)
		return
	}
	s.changed = make(chan struct{})
	r.closeAll()
	defer r.open()
	close(old.changed)
	r.epoch.Add(1)
	r.status.Store(&s)
}

// Wake closes the channel of the status, which all answers watch, so that each is
// computed again: after a change that panicked none can be trusted.
func (r *Registry) Wake() {
	r.writer.Lock()
	defer r.writer.Unlock()
	s := *r.status.Load()
	r.closeAll()
	defer r.open()
	close(s.changed)
	s.changed = make(chan struct{})
	r.epoch.Add(1)
	r.status.Store(&s)
}

// Apply makes changes in one transaction, in order, and returns how many
// objects it changed. What is already as it should be is not written, so the
// watch channels of unchanged answers stay open. Rejected items are passed over.
func (r *Registry) Apply(items []Item) int {
	r.writer.Lock()
	defer r.writer.Unlock()
	e := r.edit()
	defer e.txn.Abort() // after a panic; it does nothing after a commit
	for i := range items {
		e.apply(&items[i])
	}
	return e.commit()
}

// edit is a write transaction under way. The machines of a fleet are gathered
// and its row written once, however many of them change.
type edit struct {
	r       *Registry
	txn     *memdb.Txn
	fleets  map[fleetKey]*fleetEdit
	buckets map[bucketKey][]*Machine // those that change, as they will be
	counts  [4]int64
	sizes   [Classes]int64
	changed int

	networks map[Network]Counts // what the counts of a network change by
}

type fleetKey struct {
	network Network
	app     string // lower case
}

// fleetEdit is a fleet as it will be.
type fleetEdit struct {
	old        *Fleet // nil: the fleet is new
	name       string
	registered bool
	machines   map[string]*Machine // by lower-case id, those that change; nil: removed
	metadata   [][]Pair            // of some machines, to be shared; mostly one for each process group
	dirty      bool
}

// maxShared is how many metadata a fleet's edit compares a new machine's with.
const maxShared = 8

func (r *Registry) edit() *edit {
	return &edit{r: r, txn: r.db.Txn(true), fleets: map[fleetKey]*fleetEdit{}, buckets: map[bucketKey][]*Machine{}, networks: map[Network]Counts{}}
}

func (e *edit) apply(item *Item) {
	switch o := item.Object.(type) {
	case *Machine:
		e.putMachine(o)
	case *App:
		f := e.fleet(fleetKey{o.Network, Lower(o.Name)})
		if !f.registered {
			e.count(KindApp, Apps, 1)
		} else if f.name == o.Name {
			return
		}
		f.registered, f.name, f.dirty = true, o.Name, true
		e.changed++
	case *Peer:
		put(e, tablePeers, o)
	case *Address:
		put(e, tableAddresses, o)
	case nil:
		if item.Err == nil {
			e.delete(item.Key)
		}
	}
}

// put writes a peer or an address unless it is there already.
func put[T Object](e *edit, table string, o T) {
	indexer := e.r.db.DBSchema().Tables[table].Indexes[indexID].Indexer.(indexer)
	old, err := e.txn.First(table, indexID, indexer(o))
	must(err)
	if old != nil {
		if old.(T).equal(o) {
			return
		}
	} else {
		e.count(o.Key().Kind, ClassOf(o), 1)
		e.countPeer(o, 1)
	}
	must(e.txn.Insert(table, o))
	e.changed++
}

func (e *edit) delete(key Key) {
	switch key.Kind {
	case KindMachine:
		e.deleteMachine(key)
	case KindApp:
		f := e.fleet(fleetKey{key.Network, key.Name})
		if f.registered {
			f.registered, f.dirty = false, true
			e.count(KindApp, Apps, -1)
			e.changed++
		}
	case KindPeer:
		e.deleteRow(tablePeers, key, nameKey(key.Network, key.Name))
	case KindAddress:
		if addr, err := netip.ParseAddr(key.ID); err == nil {
			e.deleteRow(tableAddresses, key, addressKey(key.Network, key.Name, addr))
		}
	}
}

// deleteRow deletes the peer or address that key names and id finds, if it is there.
func (e *edit) deleteRow(table string, key Key, id []byte) {
	row, err := e.txn.First(table, indexID, id)
	must(err)
	if row == nil || row.(Object).Key() != key {
		return
	}
	must(e.txn.Delete(table, row))
	e.count(key.Kind, ClassOf(row.(Object)), -1)
	e.countPeer(row.(Object), -1)
	e.changed++
}

func (e *edit) count(k Kind, c Class, by int64) {
	e.counts[k] += by
	if c != Unseen {
		e.sizes[c] += by
	}
}

// fleet returns the fleet under edit, loading it at first use.
func (e *edit) fleet(key fleetKey) *fleetEdit {
	f := e.fleets[key]
	if f == nil {
		f = &fleetEdit{machines: map[string]*Machine{}}
		row, err := e.txn.First(tableFleets, indexID, nameKey(key.network, key.app))
		must(err)
		if row != nil {
			f.old = row.(*Fleet)
			f.name, f.registered = f.old.name, f.old.registered
		}
		e.fleets[key] = f
	}
	return f
}

// machine returns the machine as the edit has it so far.
func (f *fleetEdit) machine(id string) *Machine {
	if m, ok := f.machines[id]; ok {
		return m
	}
	if f.old != nil {
		if i, ok := find(f.old.all, id); ok {
			return f.old.all[i]
		}
	}
	return nil
}

func (e *edit) putMachine(m *Machine) {
	f := e.fleet(fleetKey{m.Network, Lower(m.App)})
	id := Lower(m.ID)
	old := f.machine(id)
	if old != nil && old.equal(m) {
		return
	}
	e.count(KindMachine, ClassOf(m), 1)
	if old != nil {
		e.count(KindMachine, ClassOf(old), -1)
	}
	e.place(m, old)
	if f.name == "" {
		f.name = m.App
	}
	f.share(m, old)
	f.machines[id], f.dirty = m, true
	e.changed++
}

// share lets a new machine, which nobody has seen yet, hold the metadata that
// its former version or its siblings hold: 160 bytes less for five pairs, and
// one class less in the fleet's index.
func (f *fleetEdit) share(m, old *Machine) {
	if old != nil && slices.Equal(m.Metadata, old.Metadata) {
		m.Metadata = old.Metadata
		return
	}
	if f.metadata == nil && f.old != nil {
		for i := 0; i < len(f.old.all); i += len(f.old.all)/maxShared + 1 {
			f.metadata = append(f.metadata, f.old.all[i].Metadata)
		}
	}
	for _, known := range f.metadata {
		if slices.Equal(m.Metadata, known) {
			m.Metadata = known
			return
		}
	}
	if len(f.metadata) >= maxShared {
		f.metadata = slices.Delete(f.metadata, 0, 1)
	}
	f.metadata = append(f.metadata, m.Metadata)
}

func (e *edit) deleteMachine(key Key) {
	f := e.fleet(fleetKey{key.Network, key.Name})
	old := f.machine(key.ID)
	if old == nil {
		return
	}
	e.place(nil, old)
	f.machines[key.ID], f.dirty = nil, true
	e.count(KindMachine, ClassOf(old), -1)
	e.changed++
}

// commit writes the fleets and swaps the root; then the channels of what
// changed close. It returns how many objects changed.
func (e *edit) commit() int {
	for key, f := range e.fleets {
		if !f.dirty {
			continue
		}
		next := f.old.with(key.network, f.name, f.registered, f.machines)
		switch {
		case len(next.all) > 0 || f.registered:
			must(e.txn.Insert(tableFleets, next))
		case f.old != nil:
			must(e.txn.Delete(tableFleets, f.old))
		}
		e.countFleet(f.old, next)
	}
	e.writeBuckets()
	e.writeCounts()
	if e.changed == 0 {
		return 0
	}
	e.publish()
	for k, by := range e.counts {
		e.r.counts[k].Add(by)
	}
	for c, by := range e.sizes {
		e.r.sizes[c].Add(by)
	}
	return e.changed
}

// publish makes the change, in the order that Epoch promises. Commit swaps the
// database's root and then closes the channels; readers are shown the root last.
func (e *edit) publish() {
	defer func() {
		e.r.epoch.Add(1)
		e.r.show()
		e.r.open()
	}()
	e.fence()
	e.txn.Commit()
}

// fence tells the fence which apps the transaction changes.
func (e *edit) fence() {
	if e.r.fence == nil {
		return
	}
	for key, f := range e.fleets {
		if f.dirty {
			e.r.fence.Close(key.network.Prefix(), key.app)
		}
	}
}
