package followtest

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/follow"
)

// A Fixture is a source and the world that it reads, which is empty at first.
type Fixture struct {
	Source follow.Source

	// Put writes objects, in place of those with the same keys, and Delete deletes
	// them. They return when a listing that begins now would tell. An object may be
	// one that nobody can use: a machine without a state, a peer without an address.
	// No key comes twice in one call. Not called between Break and Mend.
	Put    func(objects ...registry.Object)
	Delete func(keys ...registry.Key)

	// Break takes the world away from the source, and Mend gives it back as it was.
	Break, Mend func()
	// Waits says that Follow waits for Mend, as for a file that is not there, and
	// does not return at Break.
	Waits bool

	// Silence is for how long the source may say nothing of a world that is well, by
	// the times that it has in this test.
	Silence time.Duration
	// Patience is how long a world may say nothing before the source gives it up;
	// zero: it never does.
	Patience time.Duration
	// Secrets are what the source knows and must not tell.
	Secrets []string
	// Apart says that fixtures share nothing, so that clauses may run at once.
	Apart bool
}

// Conform holds a source to the contract of follow.Source and follow.Feed, clause
// by clause, each on a fixture of its own.
func Conform(t *testing.T, fixture func(t *testing.T) Fixture) {
	for _, c := range clauses {
		t.Run(c.name, func(t *testing.T) {
			f := fixture(t)
			if f.Apart && !c.measures {
				t.Parallel()
			}
			w := &world{t: t, Fixture: f, rec: &Recorder{}, truth: map[registry.Key]registry.Object{},
				wrote: map[registry.Key][]registry.Object{}, saw: map[registry.Key][]registry.Object{}}
			w.watch()
			c.check(w)
			w.inOrder()
		})
	}
}

var clauses = [...]struct {
	name     string
	check    func(*world)
	measures bool // what the process does, so that nothing else may run
}{
	{name: "an empty world is a complete listing", check: emptyWorld},
	{name: "a listing holds all that is there", check: wholeListing},
	{name: "every change follows, in order", check: everyChange},
	{name: "nothing is lost while it lists", check: writesWhileListing},
	{name: "a deletion is one", check: deletions},
	{name: "what is unusable costs itself", check: unusable},
	{name: "a sign of life comes in time", check: signsOfLife},
	{name: "it ends with its context", check: endsWithContext, measures: true},
	{name: "a call that failed is made up for", check: failedCalls},
	{name: "a broken world ends it or proves nothing", check: brokenWorld},
	{name: "a break loses and doubles nothing", check: breaks},
	{name: "asked to list, it lists", check: listsAfresh},
	{name: "its name stays and holds no secret", check: itsName},
	{name: "a registry that is behind is waited for", check: backPressure, measures: true},
	{name: "it makes one call at a time, and none after its return", check: oneCall},
}

// world is a fixture, what was written to it, and what became of that.
type world struct {
	Fixture
	t   *testing.T
	rec *Recorder

	mu         sync.Mutex
	truth      map[registry.Key]registry.Object
	wrote, saw map[registry.Key][]registry.Object // of each key, in order; nil: it is gone
	version    atomic.Int64
}

// watch begins with a registry that knows nothing.
func (w *world) watch() {
	w.rec = &Recorder{Became: func(key registry.Key, o registry.Object) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.saw[key] = append(w.saw[key], o)
	}}
	clear(w.saw)
}

func (w *world) follow(resume bool) *Run { w.t.Helper(); return Follow(w.t, w.Source, w.rec, resume) }

// put writes objects that are good. They are noted first: the source may be quick.
func (w *world) put(objects ...registry.Object) {
	w.mu.Lock()
	for _, o := range objects {
		key := o.Key()
		w.truth[key], w.wrote[key] = o, append(w.wrote[key], o)
	}
	w.mu.Unlock()
	w.Put(objects...)
}

func (w *world) delete(objects ...registry.Object) {
	var keys []registry.Key
	w.mu.Lock()
	for _, o := range objects {
		key := o.Key()
		keys = append(keys, key)
		delete(w.truth, key)
		w.wrote[key] = append(w.wrote[key], nil)
	}
	w.mu.Unlock()
	w.Delete(keys...)
}

// churn changes the objects from..from+5 of all kinds: some come, some go and some
// change, again and again.
func (w *world) churn(from int) {
	for i := range 30 {
		if o := four(from+i%6, int(w.version.Add(1))); i%4 == 3 {
			w.delete(o...)
		} else {
			w.put(o...)
		}
	}
}

// settles waits until what is known is what is there.
func (w *world) settles() {
	w.t.Helper()
	Eventually(w.t, "what is known to be what is there", func() bool { return w.difference() == "" }, w.difference)
}

func (w *world) difference() (text string) {
	w.rec.See(func(s *Seen) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for key, o := range w.truth {
			if known := s.Objects[key]; known == nil || !registry.Equal(known, o) {
				text = key.String() + " is not known, or otherwise"
			}
		}
		for key := range s.Objects {
			if w.truth[key] == nil {
				text = key.String() + " is known and does not exist"
			}
		}
	})
	return text
}

// inOrder checks that each object became only what it was, in that order.
func (w *world) inOrder() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, saw := range w.saw {
		rest := w.wrote[key]
		for _, o := range saw {
			i := slices.IndexFunc(rest, func(was registry.Object) bool {
				return was == nil && o == nil || was != nil && o != nil && registry.Equal(was, o)
			})
			if i < 0 {
				w.t.Errorf("%s became %+v, which it was not, or not any more", key, o)
				break
			}
			rest = rest[i+1:]
		}
	}
}

// listed waits for n listings.
func (w *world) listed(n int) {
	w.t.Helper()
	Eventually(w.t, "a complete listing", func() bool { return w.rec.Listings() >= n })
}

// proves waits for a sign of life.
func (w *world) proves() {
	w.t.Helper()
	n := w.rec.Proofs()
	Eventually(w.t, "a sign of life", func() bool { return w.rec.Proofs() > n })
}
