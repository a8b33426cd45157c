package registry

import (
	"fmt"
	"strconv"
	"sync"
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
// be seen. What lies between are nanoseconds: many changes, and a reader that does
// nothing else between its looks.
func TestWhatIsNewIsShownLast(t *testing.T) {
	r := New()
	shownLast(t, r, 10_000, r.Snapshot,
		func(round int) {
			r.Apply([]Item{Put(machine(t, "m1", func(s *MachineSpec) { s.State = strconv.Itoa(round) }))})
		},
		func(s *Snapshot) (string, <-chan struct{}) {
			f, watch := s.Fleet(24, "web")
			return f.all[0].State, watch
		})
	shownLast(t, r, 200_000, r.Status,
		func(round int) {
			r.SetStatus(Status{State: []State{Live, Stale}[round%2], Source: strconv.Itoa(round)})
		},
		func(s *Status) (string, <-chan struct{}) { return s.Source, s.Changed() })
}

// shownLast makes many changes, of which look shows the last, and read what that says.
func shownLast[T any](t *testing.T, r *Registry, rounds int, look func() *T, change func(round int), read func(*T) (round string, watch <-chan struct{})) {
	change(0)
	base, last := r.Epoch(), look()
	_, old := read(last)
	var looking sync.WaitGroup
	looking.Go(func() {
		for seen := 0; seen < rounds; {
			now := look()
			epoch, woken := r.Epoch(), closed(old)
			if now == last {
				continue
			}
			var round string
			round, old = read(now)
			last = now
			if seen, _ = strconv.Atoi(round); epoch-base < uint64(seen) || !woken {
				t.Errorf("%T %d is seen in epoch %d, with the channel of what was before closed: %t", now, seen, epoch-base, woken)
				return
			}
		}
	})
	for round := range rounds {
		change(round + 1)
	}
	looking.Wait()
}
