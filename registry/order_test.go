package registry

import (
	"fmt"
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
		f, watch := r.View().Fleet(24, app)
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
