package follow

import (
	"testing"
	"time"

	"dnsd/registry"
)

// An apply loop that waits has turned, and one that stands still has not.
func TestTurned(t *testing.T) {
	follow(t, dead(), Config{}, func(t *testing.T, _ *registry.Registry, f *Follower) {
		f.Turned()
		for range 3 {
			if pass(tick); !f.Turned() {
				t.Error("it waits, and has not turned")
			}
		}
		done := make(chan error) // which nobody reads
		f.ops <- op{done: done}
		pass(tick)
		f.Turned()
		if pass(time.Hour); f.Turned() {
			t.Error("it stands still, and has turned")
		}
		<-done
		if pass(tick); !f.Turned() {
			t.Error("it has not turned since")
		}
	})
}
