package follow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/contain"
	"dnsd/registry/registrytest"
)

// bugs are items that make dnsd panic: while they are looked at, and while they
// are applied (a machine that changed after it was handed over).
func bugs(t *testing.T) (known, then []registry.Item) {
	moved := registrytest.Machine(t, "moved", registrytest.At("fdaa:0:18:5::2"))
	next := *moved
	known = []registry.Item{registry.Put(moved)}
	next.State, next.Addr = "stopped", netip.MustParseAddr("fdaa:0:18:6::2")
	return known, []registry.Item{registry.Item{Object: (*registry.Machine)(nil)}, registry.Put(&next)}
}

// One object that makes dnsd panic costs itself: on the stream, in a listing, and
// behind one.
func TestAPanicCostsOneObject(t *testing.T) {
	send := func(feed func(ctx context.Context, feed Feed, items []registry.Item) error) func(g *guarded, items []registry.Item) {
		return func(g *guarded, items []registry.Item) {
			g.pull(g.t, func(ctx context.Context, f Feed) error { return feed(ctx, f, items) })
		}
	}
	for name, sent := range map[string]func(g *guarded, items []registry.Item){
		"on the stream": send(func(ctx context.Context, feed Feed, items []registry.Item) error { return feed.Change(ctx, items) }),
		"in a listing": send(func(ctx context.Context, feed Feed, items []registry.Item) error {
			return errors.Join(feed.List(ctx, items), feed.Listed(ctx, ""))
		}),
	} {
		t.Run(name, func(t *testing.T) {
			known, then := bugs(t)
			log := &bytes.Buffer{}
			src := newPuppet(append(fleetOf(t, 2), known...))
			follow(t, src, Config{Log: registrytest.TextLog(log)}, func(t *testing.T, r *registry.Registry, f *Follower) {
				g := &guarded{src, t, r, f}
				known[0].Object.(*registry.Machine).Addr = netip.MustParseAddr("fdaa:0:18:7::2") // which no source may do
				good := fleetOf(t, 60)
				_, watch := r.Snapshot().Fleet(24, "web")
				status := r.Status().Changed()
				for range 3 {
					sent(g, append(append(append([]registry.Item{}, good[:40]...), then...), good[40:]...))
				}
				if r.Count(registry.KindMachine) != 61 || !registrytest.Closed(watch) || !registrytest.Closed(status) {
					t.Errorf("%d machines, want all sixty and what was known; answers are worked out anew: %t and %t",
						r.Count(registry.KindMachine), registrytest.Closed(watch), registrytest.Closed(status))
				}
				if s := r.Status(); s.State != registry.Live || src.calls() != 1 {
					t.Errorf("%s, followed %d times", s.State, src.calls())
				}
				if n := g.metric("dnsd_registry_changes_total", ""); n != 61 {
					t.Errorf("%v changes are counted, want 61", n)
				}
				if n := g.metric("dnsd_registry_panics_total", ""); n != 6 {
					t.Errorf("%v panics are counted, want two in each of three rounds", n)
				}
			})
			if n := strings.Count(log.String(), "a panic was contained"); n != 2 || !strings.Contains(log.String(), "goroutine ") {
				t.Errorf("%d panics are logged, want each of two once, with a stack:\n%s", n, log)
			}
		})
	}
}

// A panic of the apply loop costs what it was at: the listing is dropped and done
// again after a pause, and what was known stays.
func TestAPanicCostsOneListing(t *testing.T) {
	log := &bytes.Buffer{}
	src := newPuppet(fleetOf(t, 50))
	follow(t, src, Config{Log: slog.New(once{slog.NewTextHandler(log, nil), new(bool)})}, func(t *testing.T, r *registry.Registry, f *Follower) {
		var errs []error
		src.pull(t, func(ctx context.Context, feed Feed) error {
			err := errors.Join(feed.List(ctx, nil), feed.Listed(ctx, ""))
			errs = append(errs, err)
			return err
		})
		var bug *contain.Error
		if len(errs) != 1 || !errors.As(errs[0], &bug) {
			t.Errorf("the source is told %v", errs)
		}
		if r.Count(registry.KindMachine) != 50 {
			t.Errorf("%d machines are left", r.Count(registry.KindMachine))
		}
		src.set(fleetOf(t, 51), "")
		pass(time.Second)
		if r.Count(registry.KindMachine) != 51 || src.calls() != 2 || r.Status().State != registry.Live {
			t.Errorf("%d machines after the source was followed %d times", r.Count(registry.KindMachine), src.calls())
		}
		if n := f.panics.Count(); n != 1 {
			t.Errorf("counted %d times", n)
		}
	})
	if n := strings.Count(log.String(), "a panic was contained"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log)
	}
}

// trap is a log that panics at some messages.
type trap struct{ slog.Handler }

// once is a log that panics once.
type once struct {
	slog.Handler
	done *bool
}

func (h once) Handle(ctx context.Context, r slog.Record) error {
	if !*h.done && strings.Contains(r.Message, "takes away most") {
		*h.done = true
		panic("no such log")
	}
	return h.Handler.Handle(ctx, r)
}

func (h trap) Handle(ctx context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "cannot be used") || strings.Contains(r.Message, "is silent") {
		panic("no such log")
	}
	return h.Handler.Handle(ctx, r)
}

// Changes that are lost with their batch are made good by a listing.
func TestAPanicThatCostsABatch(t *testing.T) {
	log := &bytes.Buffer{}
	src := newPuppet(fleetOf(t, 50))
	follow(t, src, Config{Log: slog.New(trap{slog.NewTextHandler(log, nil)})}, func(t *testing.T, r *registry.Registry, f *Follower) {
		src.set(append(fleetOf(t, 50), registry.Put(registrytest.Machine(t, "new"))), "")
		src.change(t, registry.Put(registrytest.Machine(t, "new")), registry.Reject(registrytest.Machine(t, "m0001").Key(), "", errors.New("unusable")))
		pass(time.Second)
		if r.Count(registry.KindMachine) != 51 || src.calls() != 2 || r.Status().State != registry.Live {
			t.Errorf("%d machines, followed %d times, %s", r.Count(registry.KindMachine), src.calls(), r.Status().State)
		}
		f.Release()
		src.change(t, registry.Put(registrytest.Machine(t, "another")))
		if r.Count(registry.KindMachine) != 52 {
			t.Error("the apply loop has ended")
		}
	})
	if n := strings.Count(log.String(), "a panic was contained"); n != 1 || strings.Count(log.String(), "broke off") != 1 {
		t.Errorf("logged %d times:\n%s", n, log)
	}
}

// What the apply loop does by the clock may panic each time, and costs no change.
func TestAPanicByTheClock(t *testing.T) {
	log := &bytes.Buffer{}
	src := &script{steps: []func(context.Context, Feed, bool) error{func(ctx context.Context, feed Feed, _ bool) error {
		err := errors.Join(feed.List(ctx, fleetOf(t, 5)), feed.Listed(ctx, ""))
		time.Sleep(5 * time.Minute)
		return errors.Join(err, feed.Change(ctx, fleetOf(t, 7)), stayAlive(ctx, feed))
	}}}
	follow(t, src, Config{Log: slog.New(trap{slog.NewTextHandler(log, nil)})}, func(t *testing.T, r *registry.Registry, f *Follower) {
		pass(6 * time.Minute)
		if s := r.Status(); r.Count(registry.KindMachine) != 7 || s.State != registry.Live {
			t.Errorf("%d machines, %s", r.Count(registry.KindMachine), s.State)
		}
		if n := f.panics.Count(); n < 200 {
			t.Errorf("%d panics are counted", n)
		}
	})
	if n := strings.Count(log.String(), "a panic was contained"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log)
	}
}

// A source that panics is one that breaks off: followed again after a pause, and
// not resumed.
func TestASourceThatPanics(t *testing.T) {
	log := &bytes.Buffer{}
	var calls int
	src := &script{steps: []func(context.Context, Feed, bool) error{
		func(ctx context.Context, feed Feed, _ bool) error {
			return errors.Join(feed.List(ctx, fleetOf(t, 5)), feed.Listed(ctx, ""), errors.New("broken"))
		},
		func(context.Context, Feed, bool) error { calls++; panic(fmt.Sprint("out of luck ", calls)) },
	}}
	follow(t, src, Config{Log: registrytest.TextLog(log)}, func(t *testing.T, r *registry.Registry, f *Follower) {
		pass(10 * time.Minute)
		if r.Count(registry.KindMachine) != 5 || !strings.Contains(r.Status().Problem, "out of luck") {
			t.Errorf("%d machines, problem %q", r.Count(registry.KindMachine), r.Status().Problem)
		}
		if calls < 10 || calls > 100 {
			t.Errorf("followed %d times within ten minutes", calls)
		}
		if n := f.panics.Count(); n != int64(calls) {
			t.Errorf("%d panics are counted, want %d", n, calls)
		}
		if src.calls[1] != true || src.calls[2] != false || src.calls[3] != false {
			t.Errorf("resume was %v", src.calls[:4])
		}
	})
	if n := strings.Count(log.String(), "a panic was contained"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log)
	}
}

// What panics while the state is read or written costs the state.
func TestAPanicCostsTheSaving(t *testing.T) {
	log := &bytes.Buffer{}
	d := &disk{}
	follow(t, newPuppet(fleetOf(t, 4)), Config{StateDir: "/state", Log: registrytest.TextLog(log)}, func(t *testing.T, r *registry.Registry, f *Follower) {
		if n := f.panics.Count(); n != 1 {
			t.Errorf("%d panics are counted, want that of an attempt", n)
		}
		pass(3 * time.Minute)
		if s := r.Status(); s.State != registry.Live || r.Count(registry.KindMachine) != 4 || !strings.Contains(s.Unsaved, "no such disk") {
			t.Errorf("%s with %d machines, unsaved because %q", s.State, r.Count(registry.KindMachine), s.Unsaved)
		}
		if n := f.panics.Count(); n != 4 {
			t.Errorf("%d panics are counted, want one a minute", n)
		}
	}, d.use, func(f *Follower) {
		f.saver.write = func(*registry.Snapshot, time.Time) error { panic("no such disk") }
	})
	if n := strings.Count(log.String(), "a panic was contained"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log)
	}
}
