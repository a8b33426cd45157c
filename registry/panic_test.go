package registry

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
)

func TestContain(t *testing.T) {
	sentinel := errors.New("an error")
	if err := Contain(func() error { return sentinel }); err != sentinel {
		t.Errorf("an error became %v", err)
	}
	var none []int
	var bug *PanicError
	err := Contain(func() error { _ = none[3]; return nil })
	if !errors.As(err, &bug) || !strings.Contains(bug.Place, "TestContain") || !strings.Contains(bug.Place, "panic_test.go:") ||
		!strings.Contains(err.Error(), "index out of range") || !strings.Contains(string(bug.Stack), "TestContain") {
		t.Errorf("a panic became %v", err)
	}
}

// bugs are items that make dnsd panic: while they are looked at, and while they
// are applied (a machine that changed after it was handed over).
func bugs(t *testing.T) (known, then []Item) {
	moved := machine(t, "moved", at("fdaa:0:18:5::2"))
	next := *moved
	known = []Item{Put(moved)}
	next.State, next.Addr = "stopped", netip.MustParseAddr("fdaa:0:18:6::2")
	return known, []Item{Item{Object: (*Machine)(nil)}, Put(&next)}
}

// One object that makes dnsd panic costs itself: on the stream, in a listing, and
// behind one.
func TestAPanicCostsOneObject(t *testing.T) {
	send := func(feed func(ctx context.Context, feed Feed, items []Item) error) func(g *guarded, items []Item) {
		return func(g *guarded, items []Item) {
			g.pull(g.t, func(ctx context.Context, f Feed) error { return feed(ctx, f, items) })
		}
	}
	for name, sent := range map[string]func(g *guarded, items []Item){
		"on the stream": send(func(ctx context.Context, feed Feed, items []Item) error { return feed.Change(ctx, items) }),
		"in a listing": send(func(ctx context.Context, feed Feed, items []Item) error {
			return errors.Join(feed.List(ctx, items), feed.Listed(ctx, ""))
		}),
	} {
		t.Run(name, func(t *testing.T) {
			known, then := bugs(t)
			log := &bytes.Buffer{}
			src := newPuppet(append(fleetOf(t, 2), known...))
			follow(t, src, FollowerConfig{Log: textLog(log)}, func(t *testing.T, r *Registry, f *Follower) {
				g := &guarded{src, t, r, f}
				known[0].Object.(*Machine).Addr = netip.MustParseAddr("fdaa:0:18:7::2") // which no source may do
				good := fleetOf(t, 60)
				_, watch := r.View().Fleet(24, "web")
				status := r.Status().Changed()
				for range 3 {
					sent(g, append(append(append([]Item{}, good[:40]...), then...), good[40:]...))
				}
				if r.Count(KindMachine) != 61 || !closed(watch) || !closed(status) || r.Version()%2 != 0 {
					t.Errorf("%d machines, want all sixty and what was known; answers are worked out anew: %t and %t",
						r.Count(KindMachine), closed(watch), closed(status))
				}
				if s := r.Status(); s.State != Live || src.calls() != 1 {
					t.Errorf("%s, followed %d times", s.State, src.calls())
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
	follow(t, src, FollowerConfig{Log: textLog(log)}, func(t *testing.T, r *Registry, f *Follower) {
		var errs []error
		src.pull(t, func(ctx context.Context, feed Feed) error {
			err := errors.Join(feed.List(ctx, nil), feed.Change(ctx, []Item{Item{Object: (*Machine)(nil)}}), feed.Listed(ctx, ""))
			errs = append(errs, err)
			return err
		})
		var bug *PanicError
		if len(errs) != 1 || !errors.As(errs[0], &bug) {
			t.Errorf("the source is told %v", errs)
		}
		if r.Count(KindMachine) != 50 {
			t.Errorf("%d machines are left", r.Count(KindMachine))
		}
		src.set(fleetOf(t, 40), "")
		pass(time.Second)
		if r.Count(KindMachine) != 40 || src.calls() != 2 || r.Status().State != Live {
			t.Errorf("%d machines after the source was followed %d times", r.Count(KindMachine), src.calls())
		}
		if n := f.panics.count.Load(); n != 1 {
			t.Errorf("counted %d times", n)
		}
	})
	if n := strings.Count(log.String(), "a panic was contained"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log)
	}
}

// trap is a log that panics at some messages.
type trap struct{ slog.Handler }

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
	follow(t, src, FollowerConfig{Log: slog.New(trap{slog.NewTextHandler(log, nil)})}, func(t *testing.T, r *Registry, f *Follower) {
		src.set(append(fleetOf(t, 50), Put(machine(t, "new"))), "")
		src.change(t, Put(machine(t, "new")), Reject(machine(t, "m0001").Key(), "", errors.New("unusable")))
		pass(time.Second)
		if r.Count(KindMachine) != 51 || src.calls() != 2 || r.Status().State != Live {
			t.Errorf("%d machines, followed %d times, %s", r.Count(KindMachine), src.calls(), r.Status().State)
		}
		f.Release()
		src.change(t, Put(machine(t, "another")))
		if r.Count(KindMachine) != 52 {
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
	follow(t, src, FollowerConfig{Log: slog.New(trap{slog.NewTextHandler(log, nil)})}, func(t *testing.T, r *Registry, f *Follower) {
		pass(6 * time.Minute)
		if s := r.Status(); r.Count(KindMachine) != 7 || s.State != Live {
			t.Errorf("%d machines, %s", r.Count(KindMachine), s.State)
		}
		if n := f.panics.count.Load(); n < 200 {
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
	follow(t, src, FollowerConfig{Log: textLog(log)}, func(t *testing.T, r *Registry, f *Follower) {
		pass(10 * time.Minute)
		if r.Count(KindMachine) != 5 || !strings.Contains(r.Status().Problem, "out of luck") {
			t.Errorf("%d machines, problem %q", r.Count(KindMachine), r.Status().Problem)
		}
		if calls < 10 || calls > 100 {
			t.Errorf("followed %d times within ten minutes", calls)
		}
		if n := f.panics.count.Load(); n != int64(calls) {
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

// faulty is a source whose identity cannot be told: whatever concerns the state on
// disk panics.
type faulty struct{ Source }

func (faulty) Identity() string { panic("who am I?") }

func TestAPanicCostsTheSaving(t *testing.T) {
	dir, log := t.TempDir(), &bytes.Buffer{}
	run(t, newPuppet(fleetOf(t, 3)), dir, time.Second, log)
	follow(t, faulty{newPuppet(fleetOf(t, 4))}, FollowerConfig{StateDir: dir, Log: textLog(log)}, func(t *testing.T, r *Registry, f *Follower) {
		if n := f.panics.count.Load(); n != 3 {
			t.Errorf("%d panics are counted, want those of two states and an attempt", n)
		}
		pass(3 * time.Minute)
		if s := r.Status(); s.State != Live || r.Count(KindMachine) != 4 || !strings.Contains(s.Unsaved, "who am I?") {
			t.Errorf("%s with %d machines, unsaved because %q", s.State, r.Count(KindMachine), s.Unsaved)
		}
	})
	if n := strings.Count(log.String(), "a panic was contained"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log)
	}
}

// In a file, a machine whose reading panics is one that cannot be used.
func TestAPanicInAFileCostsOneObject(t *testing.T) {
	for list, want := range map[string]string{
		"machines":  "machine web/m1",
		"peers":     "peer p",
		"addresses": "address web/fdaa:0:18::1",
	} {
		p := newParser([]byte(`[{"id": "m1", "app": "web", "name": "p", "network": "fdaa:0:18::/48", "private_ip": "fdaa:0:18::1", "address": "fdaa:0:18::1"}]`))
		beyond := span{1, 10_000} // an object that ends behind the text
		switch list {
		case "machines":
			p.machine(beyond, Scope{})
		case "peers":
			p.peer(beyond)
		default:
			p.address(beyond)
		}
		var bug *PanicError
		if len(p.items) != 1 || !errors.As(p.items[0].Err, &bug) || !strings.HasPrefix(p.items[0].Key.String(), want) {
			t.Errorf("%s: %+v, want a rejection of %s", list, p.items, want)
		}
	}
}
