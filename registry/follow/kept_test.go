package follow

import (
	"testing"
	"time"

	"dnsd/registry"
)

// TestKept: a last known state is there if one was loaded or saved, and is not counted
// on where its directory is in trouble.
func TestKept(t *testing.T) {
	dir, broken := t.TempDir(), new(disk)
	broken.broken.Store(true)
	for _, c := range []struct {
		what    string
		src     Source
		dir     string
		want    bool
		prepare []func(*Follower)
	}{
		{"no directory", newPuppet(fleetOf(t, 3)), "", false, nil},
		{"saved", newPuppet(fleetOf(t, 3)), dir, true, nil},
		{"loaded", dead(), dir, true, nil},
		{"nothing to load", dead(), t.TempDir(), false, nil},
		{"loaded, and the disk has broken since", newPuppet(fleetOf(t, 4)), dir, false, []func(*Follower){broken.use}},
	} {
		follow(t, named{c.src, ""}, Config{StateDir: c.dir}, func(t *testing.T, _ *registry.Registry, f *Follower) {
			pass(3 * time.Second)
			if f.Kept() != c.want {
				t.Errorf("%s: a state is kept: %t, want %t", c.what, !c.want, c.want)
			}
		}, c.prepare...)
	}
}
