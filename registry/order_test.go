package registry

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// Whoever sees a change sees that the channels of what was before are closed. An
// answer that is kept until its channels close, and one that is worked out anew
// beside it, would otherwise be of two times, the newer one first.
func TestChannelsCloseBeforeAChangeIsSeen(t *testing.T) {
	const apps, rounds = 1000, 20
	r := New()
	change := func(round int) []Item {
		items := make([]Item, 0, apps)
		for i := range apps {
			items = append(items, Put(machine(t, fmt.Sprintf("m%04d", i), func(s *MachineSpec) {
				s.App, s.Region = fmt.Sprintf("app-%04d", i), fmt.Sprintf("r%d", round)
			})))
		}
		return items
	}
	region := func(app string) (string, <-chan struct{}) {
		f, watch := r.Snapshot().Fleet(24, app)
		return f.all[0].Region, watch
	}
	r.Apply(change(0))
	for round := 1; round <= rounds; round++ {
		var watches []<-chan struct{}
		for i := range apps {
			_, watch := region(fmt.Sprintf("app-%04d", i))
			watches = append(watches, watch)
		}
		items, next := change(round), fmt.Sprintf("r%d", round)
		var looking sync.WaitGroup
		looking.Go(func() {
			for {
				if now, _ := region("app-0000"); now == next {
					break
				}
			}
			for i, watch := range watches {
				if !closed(watch) {
					t.Errorf("round %d: a change is seen, and the channel of %d of %d answers before it is open", round, len(watches)-i, len(watches))
					return
				}
			}
		})
		r.Apply(items)
		looking.Wait()
		if t.Failed() {
			return
		}
	}
}

// The epoch is another one, and the channel closed, before a change or a status can
// be seen. What lies between are nanoseconds: many rounds, with a reader that is
// already looking.
func TestWhatIsNewIsShownLast(t *testing.T) {
	const rounds = 5_000
	r := New()
	r.Apply([]Item{Put(machine(t, "m1", inState("r0")))})
	for what, c := range map[string]struct {
		change func(next string)
		look   func() (state string, watch <-chan struct{})
	}{
		"a change": {
			func(next string) { r.Apply([]Item{Put(machine(t, "m1", inState(next)))}) },
			func() (string, <-chan struct{}) {
				f, watch := r.Snapshot().Fleet(24, "web")
				return f.all[0].State, watch
			},
		},
		"a status": {
			func(next string) { r.SetStatus(Status{State: map[string]State{"r0": Live, "r1": Stale}[next]}) },
			func() (string, <-chan struct{}) {
				s := r.Status()
				return map[State]string{Live: "r0", Stale: "r1"}[s.State], s.Changed()
			},
		},
	} {
		c.change("r0")
		for round := 1; round <= rounds && !t.Failed(); round++ {
			next := fmt.Sprint("r", round%2)
			_, old := c.look()
			epoch := r.Epoch()
			var looks atomic.Int64
			var looking sync.WaitGroup
			looking.Go(func() {
				for now := ""; now != next; now, _ = c.look() {
					looks.Add(1)
				}
				if now := r.Epoch(); now == epoch || !closed(old) {
					t.Errorf("%s is seen in round %d: in the same epoch: %t; with the channel of what was before closed: %t", what, round, now == epoch, closed(old))
				}
			})
			for looks.Load() < 2 {
				runtime.Gosched()
			}
			c.change(next)
			looking.Wait()
		}
	}
}
