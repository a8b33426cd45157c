package corrosion

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestMembersAreRemembered(t *testing.T) {
	var w wholeness
	w.remember(&knowledge{Self: "B", Members: 2, Sites: map[string]site{"B": {Head: 1}}})
	w.remember(&knowledge{Self: "B", Members: 0, Sites: map[string]site{"B": {Head: 2}}})
	if w.known.Members != 2 || w.known.Sites["B"].Head != 2 || w.known.alone() {
		t.Errorf("remembered: %+v", w.known)
	}
	for _, k := range []*knowledge{{Self: "B"}, {Self: "B", Sites: map[string]site{"B": {Head: 1}}}} {
		if !k.alone() {
			t.Errorf("%+v is not alone", k)
		}
	}
}

// What is missing of one site after the other shows as each is heard of.
func TestNewAgentLearnsOfSites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wholeness{pace: defaultPace}
		look := func(k *knowledge) {
			w.note(k, w.lacking(k))
			time.Sleep(15 * time.Second)
		}
		k := &knowledge{Self: "B", Members: 2, Sites: map[string]site{}}
		look(k)
		if d := w.patience(k); d != standstillEmpty {
			t.Errorf("an empty database is waited for for %v", d)
		}
		for i := range 5 {
			k.Sites[fmt.Sprint("A", i)] = site{Head: 10, Gaps: []span{{1, 9}}}
			look(k)
			if d := time.Since(w.since.nearer); d != 15*time.Second || w.patience(k) < d {
				t.Errorf("with %d sites: no nearer for %v, and the patience is %v", i+1, d, w.patience(k))
			}
		}
		look(k)
		if d := time.Since(w.since.nearer); d != 30*time.Second || w.patience(k) > d {
			t.Errorf("with nothing new: no nearer for %v, and the patience is %v", d, w.patience(k))
		}
	})
}

// A new database is given some time from when it first learned anything, or
// longer if it learns nothing.
func TestSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wholeness{pace: defaultPace, known: &knowledge{Self: "B1", Sites: map[string]site{"A": {Head: 10}}}}
		k := &knowledge{Self: "B2", Sites: map[string]site{"A": {Head: 10}}}
		after := func(d time.Duration, want bool) {
			t.Helper()
			time.Sleep(d)
			w.note(k, w.lacking(k))
			if w.settled(k) != want {
				t.Errorf("settled: %v", !want)
			}
		}
		after(0, false)
		after(standstill-time.Second, false)
		after(time.Second, true)
		w.since = waiting{}
		after(0, false)
		k.Sites["A"] = site{Head: 12, Gaps: []span{{11, 11}}}
		after(time.Second, false)
		after(settle-time.Second, false)
		after(time.Second, false) // there is a gap
		k.Sites["A"] = site{Head: 12}
		after(0, true)
		w.since = waiting{}
		after(0, false)
		k.Sites["A"] = site{Head: 13}
		after(0, false)
		after(settle-time.Second, false)
		after(time.Second, true)
	})
}

func TestLacks(t *testing.T) {
	one := func(head uint64, gaps ...span) *knowledge {
		return &knowledge{Self: "B", Sites: map[string]site{"A": {head, gaps}}}
	}
	for _, test := range []struct {
		name        string
		before, now *knowledge
		want        uint64
	}{
		{"the same", one(10), one(10), 0},
		{"more", one(10), one(12), 0},
		{"a gap above", one(10), one(20, span{11, 19}), 0},
		{"nothing", one(10), &knowledge{}, 10},
		{"nothing of a site with gaps", one(10, span{2, 3}), &knowledge{}, 8},
		{"less", one(10), one(7), 3},
		{"less, and a gap that was there", one(10, span{8, 9}), one(7), 1},
		{"a gap", one(10), one(10, span{3, 5}), 3},
		{"a gap that was there", one(10, span{3, 5}), one(10, span{3, 5}), 0},
		{"a gap that has grown", one(10, span{4, 4}), one(10, span{3, 5}), 2},
		{"a gap across the head", one(10), one(20, span{9, 12}), 2},
		{"a gap across both heads", one(10), one(5, span{4, 12}), 7},
		{"another site", one(10), &knowledge{Sites: map[string]site{"C": {99, nil}}}, 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.now.lacks(test.before); got != test.want {
				t.Errorf("lacks %d, want %d", got, test.want)
			}
		})
	}
}

// The same of random knowledge, as sets.
func TestLacksIsADifferenceOfSets(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	random := func() (*knowledge, map[uint64]bool) {
		head, set := rng.Uint64N(30), map[uint64]bool{}
		var gaps []span
		for range rng.IntN(5) {
			first := 1 + rng.Uint64N(30)
			gaps = append(gaps, span{first, first + rng.Uint64N(5)})
		}
		for n := uint64(1); n <= head; n++ {
			set[n] = !slices.ContainsFunc(gaps, func(g span) bool { return g.First <= n && n <= g.Last })
		}
		return &knowledge{Sites: map[string]site{"A": {head, union(gaps)}}}, set
	}
	for range 2000 {
		before, had := random()
		now, has := random()
		want := uint64(0)
		for n, ok := range had {
			if ok && !has[n] {
				want++
			}
		}
		if got := now.lacks(before); got != want {
			t.Fatalf("%v after %v lacks %d, want %d", now.Sites, before.Sites, got, want)
		}
	}
}
