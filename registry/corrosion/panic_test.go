package corrosion

import (
	"errors"
	"strings"
	"testing"

	"dnsd/registry"
	"dnsd/registry/contain"
	"dnsd/registry/corrosion/corrosiontest"
)

// What makes dnsd panic costs one row, or, in a stream's own work, the stream.
func TestAPanicCostsOneRow(t *testing.T) {
	t.Parallel()
	f := start(t, corrosiontest.Options{}, Config{}, func(f *fixture) {
		f.agent.Put("machines", row("m1", "started"), row("m2", "started"))
		s := *f.src.subs[0].shape
		read := s.object
		s.object = func(cells []string) (registry.Object, error) {
			if cells[0] == "m1" {
				panic("what is this?")
			}
			return read(cells)
		}
		f.src.subs[0].shape = &s
	})
	f.waitListed(1)
	f.agent.Put("machines", row("m1", "stopped"), row("m3", "started"))
	f.waitState("m3", "started")
	if n := len(f.world.Seen().Rejects); n != 2 || f.failed() != "" {
		t.Errorf("%d rows are rejected, want m1 twice; Follow returned %s", n, f.failed())
	}
	for _, item := range f.world.Seen().Rejects {
		if !errors.As(item.Err, new(*contain.Error)) || item.Key.ID != "m1" {
			t.Errorf("rejected %+v", item)
		}
	}
}

func TestAPanicEndsAStream(t *testing.T) {
	t.Parallel()
	f := start(t, corrosiontest.Options{}, Config{}, func(f *fixture) {
		f.agent.Put("machines", row("m1", "started"))
		s := *f.src.subs[0].shape
		s.columns = nil // so that what is bound lacks all that is read
		s.key = nil
		s.object = func([]string) (registry.Object, error) { return nil, errors.New("unusable") }
		f.src.subs[0].shape = &s
	})
	f.wait("Follow to fail again and again", func() bool { return strings.Count(f.failed(), "which is a bug") > 2 })
}
