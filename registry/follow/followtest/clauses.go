package followtest

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/goleak"

	"dnsd/registry"
)

func emptyWorld(w *world) {
	w.follow(false)
	w.listed(1)
	w.settles()
	w.rec.See(func(s *Seen) {
		if s.Doubts[0] != "" || len(s.Rejects) > 0 {
			w.t.Errorf("listed with doubt %q; rejected %v", s.Doubts[0], s.Rejects)
		}
	})
	w.put(four(1, 0)...)
	w.settles()
}

// many returns more objects than a source has in a page.
func many() (objects []registry.Object) {
	for n := range 1200 {
		objects = append(objects, four(100+n, 0)[n%4])
	}
	return objects
}

func wholeListing(w *world) {
	w.put(many()...)
	w.follow(false)
	w.listed(1)
	if d := w.difference(); d != "" {
		w.t.Errorf("after the listing %s", d)
	}
	w.rec.See(func(s *Seen) {
		if s.Listings != 1 || len(s.Changes) > 0 || len(s.Rejects) > 0 {
			w.t.Errorf("%d listings, changes %v, rejected %v of a world at rest", s.Listings, s.Changes, s.Rejects)
		}
	})
}

func everyChange(w *world) {
	w.put(four(1, 0)...)
	w.follow(false)
	w.settles()
	for i := range four(0, 0) {
		w.put(four(2, 0)[i])
		w.settles()
		w.put(four(1, i+1)[i])
		w.settles()
		w.delete(four(2, 0)[i])
		w.settles()
	}
	w.churn(1)
	w.settles()
}

func writesWhileListing(w *world) {
	w.put(many()...)
	during := map[Call]int{List: 3, Listed: 1, Change: 1} // how often, in the midst of which
	w.rec.Before = func(_ context.Context, call Call, _ []registry.Item) {
		if during[call]--; during[call] >= 0 {
			w.churn(100 + 500*during[call]) // before and after what is listed already
		}
	}
	w.follow(false)
	w.listed(1)
	w.churn(1) // while it begins to follow
	w.settles()
	w.proves()
	w.settles()
}

func deletions(w *world) {
	for n := range 4 {
		w.put(four(n, 0)...)
	}
	run := w.follow(false)
	w.settles()
	w.delete(four(1, 0)...)
	w.settles()
	w.put(four(1, 1)...)
	w.settles()
	w.delete(four(2, 0)...)
	w.delete(four(3, 0)...)
	w.settles()
	run.Stop()
	w.delete(four(1, 1)...)
	w.follow(false)
	w.settles()
}

func unusable(w *world) {
	// An app and an address are nothing but their keys: they cannot be spoilt.
	o := four(1, 0)
	bad := spoilt(o)
	w.put(o...)
	run := w.follow(false)
	w.settles()
	rejected := func() {
		w.t.Helper()
		w.rec.See(func(s *Seen) {
			for _, b := range bad {
				if !slices.ContainsFunc(s.Rejects, func(i registry.Item) bool { return Covers(i.Key, b.Key()) && i.Where != "" && i.Err != nil }) {
					w.t.Errorf("%s is not among what is rejected, with a place: %+v", b.Key(), s.Rejects)
				}
			}
			s.Rejects = nil
		})
	}
	w.Put(bad...)
	w.put(four(2, 0)...)
	told := func() { // that comes with a listing or beside it, before the rest or after it
		w.t.Helper()
		Eventually(w.t, "the rejections", func() bool { return w.rec.Get(func(s *Seen) int { return len(s.Rejects) }) >= len(bad) })
		rejected()
	}
	w.settles() // what was known stays
	told()
	if !run.Running() {
		w.t.Errorf("what is unusable ended it: %s", run.Failed())
	}
	run.Stop()
	w.put(four(3, 0)...)
	Insist(w.t, w.Source, w.rec, 50*time.Millisecond) // that they are mended may take a listing
	w.settles()
	told()
	w.put(four(1, 1)...)
	w.settles()
}

// slack is added to a source's own times: the machine may be busy.
const slack = 2 * time.Second

func signsOfLife(w *world) {
	w.put(four(1, 0)...)
	w.follow(false)
	w.listed(1)
	for end := time.Now().Add(10 * w.Silence); time.Now().Before(end); {
		began := time.Now()
		w.proves()
		if took := time.Since(began); took > w.Silence+slack {
			w.t.Errorf("a sign of life after %v, want one within %v", took, w.Silence)
		}
	}
	if n := w.rec.Get(func(s *Seen) int { return s.Listings + len(s.Changes) }); n != 1 {
		w.t.Errorf("%d listings and changes of a world at rest, want one listing", n)
	}
}

// prompt is how soon Follow returns when its context has ended: sooner than after
// any of a source's time-outs.
const prompt = 4 * time.Second

func endsWithContext(w *world) {
	w.put(four(1, 0)...)
	for _, in := range []Call{"", List, Listed, Change} {
		w.watch()
		var reached atomic.Bool
		w.rec.Before = func(ctx context.Context, call Call, _ []registry.Item) {
			if call == in {
				reached.Store(true)
				<-ctx.Done()
			}
		}
		before := goleak.IgnoreCurrent()
		run := w.follow(false)
		if in == "" {
			w.proves()
		} else {
			Eventually(w.t, "the call of "+string(in), reached.Load)
		}
		began := time.Now()
		run.Stop()
		if took := time.Since(began); took > prompt {
			w.t.Errorf("Follow returned %v after its context had ended", took)
		}
		if err := goleak.Find(before); err != nil {
			w.t.Errorf("after Follow has returned: %v", err)
		}
	}
}

// failedCalls ends the context in calls of each kind, whose items are lost to the
// registry, and resumes.
func failedCalls(w *world) {
	for i, in := range []Call{List, Listed, Change} {
		w.put(four(10*i+1, 0)...)
		w.put(four(10*i+2, 0)...)
		listings := w.rec.Listings()
		ctx, cancel := context.WithCancel(w.t.Context())
		var cut atomic.Bool
		w.rec.Before = func(_ context.Context, call Call, items []registry.Item) {
			if call == in && (in != Change || len(items) > 0) {
				cancel()
				cut.Store(true)
			}
		}
		var done atomic.Bool
		go func() { _ = w.rec.Follow(ctx, w.Source, false); done.Store(true) }()
		if in == Change { // a source may list instead
			told := func() bool { return cut.Load() || w.difference() == "" }
			Eventually(w.t, "a listing and what it lacks", told)
			w.churn(10 * i)
			Eventually(w.t, "a change", told)
		} else {
			Eventually(w.t, "the call of "+string(in), cut.Load)
		}
		cancel()
		Eventually(w.t, "Follow to return, whose context has ended", done.Load)
		if in != Change && w.rec.Listings() != listings {
			w.t.Errorf("a listing that was cut short in %s is complete", in)
		}
		w.rec.Before = nil
		w.delete(four(10*i+1, 0)...)
		run := w.follow(true)
		w.settles()
		run.Stop()
	}
}

func brokenWorld(w *world) {
	w.put(four(1, 0)...)
	run := w.follow(false)
	w.settles()
	w.proves()
	w.Break()
	if !w.Waits {
		run.Fails("")
	}
	time.Sleep(100 * time.Millisecond) // one that was on its way
	heard := func(s *Seen) int { return s.Proofs + s.Listings + len(s.Changes) }
	n := w.rec.Get(heard)
	if !w.Waits {
		run = w.follow(true)
	}
	time.Sleep(500 * time.Millisecond)
	if more := w.rec.Get(heard); more > n {
		w.t.Errorf("the feed heard of a broken world %d times", more-n)
	}
	if w.difference() != "" {
		w.t.Errorf("with a broken world, %s", w.difference())
	}
	run.Stop()
	w.Mend()
	Insist(w.t, w.Source, w.rec, 50*time.Millisecond)
	w.put(four(2, 0)...)
	w.settles()
}

func breaks(w *world) {
	w.put(four(1, 0)...)
	run := w.follow(false)
	w.settles()
	for i, meanwhile := range []func(){
		func() { w.put(four(1, 99)...) }, // one of each kind, which nothing makes up for
		func() {},
		func() { w.delete(four(1, 99)...) },
		func() { w.churn(1) },
	} {
		w.put(four(8, i)...) // what there is to resume from
		w.settles()
		w.Break()
		if !w.Waits {
			run.Fails("")
		}
		run.Stop()
		w.Mend()
		meanwhile()
		run = w.follow(true)
		w.settles()
		w.proves()
		w.inOrder()
	}
}

func listsAfresh(w *world) {
	w.put(four(1, 0)...)
	run := w.follow(false)
	w.settles()
	w.put(four(2, 0)...) // so that a listing has more than the first one had
	w.settles()
	run.Stop()
	w.watch() // a registry that knows nothing
	w.follow(false)
	w.listed(1)
	if d := w.difference(); d != "" {
		w.t.Errorf("after the second listing %s", d)
	}
	if n := w.rec.Get(func(s *Seen) int { return s.Listings + len(s.Changes) }); n != 1 {
		w.t.Errorf("%d listings and changes, want one listing", n)
	}
}

func itsName(w *world) {
	names := []string{w.Source.String()}
	run := w.follow(false)
	w.proves()
	names = append(names, w.Source.String())
	w.Break()
	if !w.Waits {
		run.Fails("")
	}
	run.Stop()
	names = append(names, w.Source.String(), run.Failed())
	w.Mend()
	if names[1] != names[0] || names[2] != names[0] || names[0] == "" {
		w.t.Errorf("its names: %q", names[:3])
	}
	for _, text := range names {
		for _, secret := range w.Secrets {
			if strings.Contains(text, secret) {
				w.t.Errorf("%q tells the secret %q", text, secret)
			}
		}
	}
}

func backPressure(w *world) {
	w.put(four(1, 0)...)
	release := make(chan struct{})
	var behind atomic.Bool
	w.rec.Before = func(_ context.Context, call Call, _ []registry.Item) {
		if call == Change {
			behind.Store(true)
			<-release
		}
	}
	run := w.follow(false)
	Eventually(w.t, "a call of change", behind.Load)
	for range 10 {
		w.churn(1)
	}
	time.Sleep(w.Patience * 3 / 2) // the time that must pass without effect
	cpu, window := processor(), 300*time.Millisecond
	time.Sleep(window)
	if used := processor() - cpu; used > window/4 {
		w.t.Errorf("%v of processor time in %v of waiting for the registry", used, window)
	}
	if !run.Running() {
		w.t.Errorf("it gave up a world that is well: %s", run.Failed())
	}
	close(release)
	w.settles()
	w.churn(1)
	w.settles()
}

func oneCall(w *world) {
	w.put(four(1, 0)...)
	w.rec.Before = func(context.Context, Call, []registry.Item) { time.Sleep(time.Millisecond) }
	run := w.follow(false)
	w.churn(1)
	w.settles()
	w.churn(1)
	run.Stop()
	time.Sleep(100 * time.Millisecond) // the time in which nothing may come; the run tells of faults
}

// processor returns what the process has used of processors.
func processor() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // fails only for a wrong argument
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
