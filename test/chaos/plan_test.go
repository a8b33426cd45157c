package chaos

import (
	"math/rand/v2"
	"sync"
	"time"
)

// fault is something that goes wrong for a while. do makes it, waits, and mends
// it; it returns early when the run ends.
type fault struct {
	name        string
	least, most time.Duration // how long it lasts
	do          func(s *scene, r *rand.Rand, lasts time.Duration)
}

// lane makes faults one after the other. Faults of different lanes overlap; those
// of one lane do not, since they would disturb each other's mending.
type lane struct {
	name   string
	faults []fault
	rest   time.Duration         // between two, at most
	first  func(until time.Time) // what must have happened before each, nil: nothing
	r      *rand.Rand
	deck   []int // of faults, those to be drawn next; all come before any comes again
	made   map[string]int
}

// next draws a fault that fits into the time that is left, and how long it lasts.
// False: none does.
func (l *lane) next(left time.Duration) (fault, time.Duration, bool) {
	if len(l.deck) == 0 {
		l.deck = l.r.Perm(len(l.faults))
	}
	for i, k := range l.deck {
		f := l.faults[k]
		if f.least > left {
			continue
		}
		l.deck = append(l.deck[:i:i], l.deck[i+1:]...)
		lasts := f.least
		if spread := min(f.most, left) - f.least; spread > 0 {
			lasts += time.Duration(l.r.Int64N(int64(spread)))
		}
		return f, lasts, true
	}
	return fault{}, 0, false
}

// run makes faults until a time, and has mended them all when it returns.
func (l *lane) run(s *scene, until time.Time) {
	for {
		if l.first != nil {
			l.first(until)
		}
		if !s.sleep(time.Duration(l.r.Int64N(int64(l.rest)))) {
			return
		}
		f, lasts, ok := l.next(time.Until(until))
		if !ok {
			return
		}
		l.made[f.name]++
		f.do(s, l.r, lasts)
	}
}

// round is how long faults are made before everything must be well again.
const round = 50 * time.Second

// run breaks things for so long, in rounds.
func (s *scene) run(length time.Duration, lanes []*lane) {
	for end := time.Now().Add(length); ; {
		left := time.Until(end)
		if left < time.Second || s.ctx.Err() != nil {
			return
		}
		until := time.Now().Add(min(left, round))
		s.log("faults for %v", min(left, round).Round(time.Second))
		var others sync.WaitGroup
		for _, l := range lanes[1:] {
			others.Go(func() { l.run(s, until) })
		}
		// The first is the test's goroutine, in which a cluster may fail the test.
		func() {
			defer others.Wait()
			lanes[0].run(s, until)
		}()
		s.calm()
	}
}
