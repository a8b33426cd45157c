package follow

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"dnsd/registry"
)

// model is the guard as its documentation has it: slow, and without a listing's
// bits, views and transactions.
type model struct {
	t      *testing.T
	known  map[registry.Key]registry.Object
	held   map[registry.Key]heldInModel
	passed map[registry.Key]passed

	// since says for how long listings have had a key's loss without a break; it
	// is what no held object may be lost without.
	since map[registry.Key]time.Time

	// What changes have said since the listing under way began; nil: there is none.
	decided  map[registry.Key]bool
	unusable []registry.Item
}

type heldInModel struct {
	next  registry.Object // nil: deleted
	since time.Time       // zero: only listings in doubt
}

func newModel(t *testing.T) *model {
	return &model{t: t, known: map[registry.Key]registry.Object{}, held: map[registry.Key]heldInModel{}, passed: map[registry.Key]passed{}, since: map[registry.Key]time.Time{}}
}

// rank is an object's class, also where there is none.
func rankOf(o registry.Object) registry.Class {
	if o == nil {
		return registry.Unseen
	}
	return registry.ClassOf(o)
}

// set is what a change does, and what a listing does that may.
func (m *model) set(key registry.Key, o registry.Object) {
	delete(m.held, key)
	if o == nil {
		delete(m.known, key)
	} else {
		m.known[key] = o
	}
}

// follow does what the follower should have done.
func (m *model) follow(events []event) {
	for _, e := range events {
		switch e.what {
		case "begins":
			m.name(e.items)
			m.decided, m.unusable = map[registry.Key]bool{}, nil
		case "lists":
			m.list(e)
		default:
			m.change(e.items)
		}
	}
}

// change is what a stream says.
func (m *model) change(items []registry.Item) {
	for i := range items {
		item := &items[i]
		if item.Err != nil {
			m.name([]registry.Item{*item})
			m.unusable = append(m.unusable, *item)
			continue
		}
		if m.decided != nil {
			m.decided[item.About()] = true
		}
		delete(m.since, item.About())
		m.set(item.About(), item.Object)
	}
	m.back(items)
}

// back takes note of what is there again.
func (m *model) back(items []registry.Item) {
	last := map[registry.Key]registry.Object{}
	for _, item := range items {
		if item.Object != nil {
			last[item.About()] = item.Object
		}
	}
	for key, p := range m.passed {
		if o := last[key]; o != nil && rankOf(o) <= p.class {
			delete(m.passed, key)
		}
	}
}

// name takes note of objects that were named without being usable.
func (m *model) name(items []registry.Item) keeper {
	named := keeper{}
	for _, item := range items {
		if item.Err != nil {
			named.add(item.Key)
		}
	}
	for key, o := range m.known {
		if named.has(o) {
			delete(m.held, key)
			delete(m.since, key)
		}
	}
	return named
}

func (m *model) release() {
	for key, h := range m.held {
		delete(m.since, key)
		m.set(key, h.next)
	}
	m.passed = map[registry.Key]passed{}
}

func (m *model) list(e event) {
	named, listed := m.name(slices.Concat(e.items, m.unusable)), map[registry.Key]registry.Object{}
	for _, item := range e.items {
		if item.Err == nil {
			listed[item.About()] = item.Object
		}
	}
	for key := range m.decided { // it is as the listing has it
		if delete(listed, key); m.known[key] != nil {
			listed[key] = m.known[key]
		}
	}
	m.decided = nil
	before := maps.Clone(m.known)
	losses := map[registry.Key]registry.Object{} // what is known, and is to be less
	for key, o := range m.known {
		next, there := listed[key]
		if !there && named.has(o) {
			continue
		}
		if rankOf(next) > rankOf(o) {
			losses[key] = o
			if m.since[key].IsZero() && !e.doubted {
				m.since[key] = e.now
			}
		} else {
			delete(m.since, key)
			if !there && !e.doubted {
				m.set(key, nil)
			}
		}
	}
	for key, o := range listed {
		if losses[key] == nil {
			m.set(key, o)
		}
	}
	for key := range m.held {
		if losses[key] == nil {
			delete(m.held, key)
		}
	}
	m.back(e.items)
	m.judge(e, before, losses, listed)
}

// judge is the last part of list: what of the losses is made.
func (m *model) judge(e event, before, losses, listed map[registry.Key]registry.Object) {
	var lost, answers [registry.Classes + 1]int
	count := func(to *[registry.Classes + 1]int, c registry.Class) { to[c]++; to[registry.Classes]++ }
	for key, p := range m.passed {
		if e.now.Sub(p.at) >= 30*time.Second {
			delete(m.passed, key)
		} else {
			count(&lost, p.class)
		}
	}
	for key, o := range before {
		if losses[key] == nil && rankOf(o) != registry.Unseen {
			count(&answers, rankOf(o))
		}
	}
	var fresh []registry.Key
	for key, o := range losses {
		h, held := m.held[key]
		switch {
		case held && !h.since.IsZero() && !e.doubted && e.began.Sub(h.since) >= 30*time.Second:
			if e.began.Sub(m.since[key]) < 30*time.Second || m.since[key].IsZero() {
				m.t.Errorf("%s was held and is lost, and listings have lacked it since %v only", key, m.since[key])
			}
			m.set(key, listed[key])
			continue
		case held && !h.since.IsZero() || e.doubted:
			m.held[key] = heldInModel{listed[key], h.since}
		default:
			fresh = append(fresh, key)
		}
		count(&lost, rankOf(o))
	}
	for _, key := range fresh {
		c := rankOf(losses[key])
		swept := false
		for _, c := range []int{int(c), registry.Classes} {
			swept = swept || lost[c] > 20 && lost[c] > answers[c]
		}
		if swept {
			m.held[key] = heldInModel{listed[key], e.now}
			continue
		}
		m.set(key, listed[key])
		m.passed[key] = passed{c, e.now}
	}
}

// compare says where the registry and the guard are not as the model has them.
func (m *model) compare(r *registry.Registry, f *Follower) bool {
	ok := true
	wrong := func(format string, args ...any) {
		ok = false
		m.t.Errorf(format, args...)
	}
	n := 0
	for _, k := range registry.Kinds() {
		r.Snapshot().Each(k, func(o registry.Object) bool {
			n++
			if want := m.known[o.Key()]; want == nil || !registry.Equal(want, o) {
				wrong("the registry holds %+v, want %+v", o, want)
			}
			return true
		})
	}
	if n != len(m.known) {
		wrong("the registry holds %d objects, want %d", n, len(m.known))
	}
	if len(f.guard.held) != len(m.held) || r.Status().Held != len(m.held) {
		wrong("%d are held and the status says %d, want %d", len(f.guard.held), r.Status().Held, len(m.held))
	}
	var counts [registry.Classes]int
	for key, h := range m.held {
		l, held := f.guard.held[key]
		switch {
		case !held:
			wrong("%s is not held", key)
		case !l.since.Equal(h.since):
			wrong("%s is held since %v, want %v", key, l.since, h.since)
		case (l.put == nil) != (h.next == nil) || l.put != nil && !registry.Equal(l.put, h.next):
			wrong("%s is held to become %+v, want %+v", key, l.put, h.next)
		}
		counts[rankOf(m.known[key])]++
	}
	if f.guard.counts != counts {
		wrong("held by class are %v, want %v", f.guard.counts, counts)
	}
	f.ops <- op{} // whatever the apply loop writes next, it writes after this look
	for c, n := range answering(r) {
		if got := r.Size(registry.Class(c)); got != n {
			wrong("%d %s are counted, want %d", got, registry.Class(c).Plural(), n)
		}
	}
	return ok
}

// dice makes random histories of a small world.
type dice struct {
	*rand.Rand
	t *testing.T
}

// object returns some version of the object with a number.
func (d dice) object(i int) registry.Object {
	id := fmt.Sprint("x", i)
	var o registry.Object
	var err error
	switch {
	case i < 60:
		spec := registry.MachineSpec{ID: id, App: fmt.Sprint("app", i%3), State: "started", Region: []string{"iad", "syd"}[d.IntN(2)],
			PrivateIP: fmt.Sprintf("fdaa:0:18:1::%x:2", i+1), SkipRegistration: d.IntN(40) == 0}
		if d.IntN(8) == 0 {
			spec.State = []string{"stopped", "destroyed"}[d.IntN(2)]
		}
		o, err = registry.NewMachine(spec)
	case i < 90:
		o, err = registry.NewPeer(registry.PeerSpec{Name: map[bool]string{true: "interactive-"}[i%6 == 0] + id, PrivateIP: fmt.Sprintf("fdaa:0:18:2::%x", i)})
	case i < 115:
		o, err = registry.NewAddress(registry.AddressSpec{App: "app0", Address: fmt.Sprintf("fdaa:0:18:3::%x", i)})
	default:
		o, err = registry.NewApp(registry.AppSpec{Name: fmt.Sprint("app", i-115), Network: "fdaa:0:18::/48"})
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return o
}

const worldSize = 140

// listing returns one of a share of the world, a few of it unusable, a few twice,
// sometimes with all machines stopped.
func (d dice) listing() []registry.Item {
	share := []float64{1, 1, 0.95, 0.7, 0.6, 0.45, 0.2, 0}[d.IntN(8)]
	stopped, only := d.IntN(6) == 0, d.IntN(6)
	var items []registry.Item
	for i := range worldSize {
		kind := d.object(i).Key().Kind
		if d.Float64() >= share && (only > 3 || registry.Kind(only) == kind) {
			continue
		}
		for range 1 + d.IntN(30)/29 {
			o := d.object(i)
			if m, ok := o.(*registry.Machine); ok && stopped && d.IntN(20) > 0 {
				m.State = "stopped"
			}
			items = append(items, registry.Put(o))
		}
	}
	for range d.IntN(3) {
		items = append(items, d.reject())
	}
	return items
}

func (d dice) reject() registry.Item {
	key := d.object(d.IntN(worldSize)).Key()
	if key.AnyNetwork = d.IntN(2) == 0; key.AnyNetwork {
		key.Network = 0
	}
	return registry.Reject(key, "", errors.New("unusable"))
}

func (d dice) changes() []registry.Item {
	var items []registry.Item
	for range 1 + d.IntN(40) {
		switch o := d.object(d.IntN(worldSize)); d.IntN(6) {
		case 0:
			items = append(items, registry.Delete(o.Key()))
		case 1:
			items = append(items, d.reject())
		default:
			items = append(items, registry.Put(o))
		}
	}
	return items
}

// Whatever happens, the guard does what its model does, and no held object is
// lost but by two listings half a minute apart, a release or a change.
func TestGuardFollowsItsModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for n := range uint64(5) {
		d := dice{rand.New(rand.NewPCG(seed, n)), t}
		src := newPuppet(d.listing())
		follow(t, src, Config{}, func(t *testing.T, r *registry.Registry, f *Follower) {
			m := newModel(t)
			heldMost := 0
			for step := range 250 {
				what := "waits"
				switch d.IntN(12) {
				case 0, 1, 2, 3:
					what = "lists"
					src.list(t, d.listing(), []string{"", "", "", gaps}[d.IntN(4)])
				case 4, 5:
					what = "changes"
					src.change(t, d.changes()...)
				case 6:
					if d.IntN(4) == 0 {
						what = "releases"
						f.Release()
						pass(0)
						m.follow(src.events())
						m.release()
					}
				case 7: // a slow listing
					src.slow(time.Duration(d.IntN(40)) * time.Second)
					src.set(d.listing(), "")
				default:
					pass(time.Duration(d.IntN(20_000)) * time.Millisecond)
				}
				// The apply loop owns the guard. What it wrote happens before it is read
				// here, for the race detector as well.
				done := make(chan error, 1)
				f.ops <- op{done: done}
				<-done
				pass(0)
				m.follow(src.events())
				heldMost = max(heldMost, len(m.held))
				if !m.compare(r, f) {
					t.Errorf("seed %d, history %d, after step %d, which %s", seed, n, step, what)
					return
				}
			}
			if heldMost < 20 {
				t.Errorf("seed %d, history %d: never more than %d were held", seed, n, heldMost)
			}
		})
	}
}
