package follow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/registrytest"

	"github.com/prometheus/client_golang/prometheus"
)

// running returns n started machines with addresses, after edits to their specs.
func running(t testing.TB, n int, edits ...func(*registry.MachineSpec)) []registry.Item {
	items := make([]registry.Item, 0, n)
	for i := range n {
		addr := registrytest.At(fmt.Sprintf("fdaa:0:18:1::%x:2", i+1))
		items = append(items, registry.Put(registrytest.Machine(t, fmt.Sprintf("m%04d", i), append([]func(*registry.MachineSpec){addr}, edits...)...)))
	}
	return items
}

// others returns n objects each of the other kinds: peers, flycast addresses, apps.
func others(t testing.TB, n int) (peers, addresses, apps []registry.Item) {
	for i := range n {
		peer, err := registry.NewPeer(registry.PeerSpec{Name: fmt.Sprint("p", i), PrivateIP: fmt.Sprintf("fdaa:0:18:2::%x", i+1)})
		address, err2 := registry.NewAddress(registry.AddressSpec{App: fmt.Sprint("a", i), Address: fmt.Sprintf("fdaa:0:18:3::%x", i+1)})
		app, err3 := registry.NewApp(registry.AppSpec{Name: fmt.Sprint("a", i), Network: "fdaa:0:18::/48"})
		if err := errors.Join(err, err2, err3); err != nil {
			t.Fatal(err)
		}
		peers, addresses, apps = append(peers, registry.Put(peer)), append(addresses, registry.Put(address)), append(apps, registry.Put(app))
	}
	return peers, addresses, apps
}

// answering returns how much answers hold, by class, counted from scratch.
func answering(r *registry.Registry) (sizes [registry.Classes]int) {
	v := r.Snapshot()
	for _, k := range registry.Kinds() {
		v.Each(k, func(o registry.Object) bool {
			if c := registry.ClassOf(o); c != registry.Unseen {
				sizes[c]++
			}
			return true
		})
	}
	return sizes
}

// guarded is a puppet that is followed, and what is checked of it.
type guarded struct {
	*puppet
	t *testing.T
	r *registry.Registry
	f *Follower
}

// guarding runs check with a registry that has just listed items.
func guarding(t *testing.T, items []registry.Item, check func(g *guarded)) {
	p := newPuppet(items)
	follow(t, p, Config{}, func(t *testing.T, r *registry.Registry, f *Follower) { check(&guarded{p, t, r, f}) })
}

// lists has the source list items, and expect says what answers hold after it.
func (g *guarded) lists(items ...[]registry.Item) {
	g.t.Helper()
	g.list(g.t, slices.Concat(items...), "")
}

// expect compares what answers hold, and what the guard holds back, by class.
func (g *guarded) expect(what string, answers, held [registry.Classes]int) {
	g.t.Helper()
	if got := answering(g.r); got != answers {
		g.t.Errorf("%s: answers hold %v, want %v", what, got, answers)
	}
	total, state := 0, registry.Live
	for c, n := range held {
		if total += n; n > 0 {
			state = registry.Held
		}
		if got := g.metric("dnsd_registry_held", registry.Class(c).Label()); got != float64(n) {
			g.t.Errorf("%s: %v %s held, want %d", what, got, registry.Class(c).Plural(), n)
		}
	}
	if s := g.r.Status(); s.Held != total || s.State != state || (s.Hold == "") != (total == 0) {
		g.t.Errorf("%s: %d held, %s (%s); want %d, %s", what, s.Held, s.State, s.Hold, total, state)
	}
	if got := g.metric("dnsd_registry_started_machines", ""); got != float64(answers[registry.StartedMachines]) {
		g.t.Errorf("%s: the metric says %v started machines, want %d", what, got, answers[registry.StartedMachines])
	}
}

// metric returns the value of a metric, of one kind where it has several.
func (g *guarded) metric(name, kind string) float64 {
	g.t.Helper()
	metrics := prometheus.NewPedanticRegistry()
	metrics.MustRegister(NewCollector(g.f))
	families, err := metrics.Gather()
	if err != nil {
		g.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if labels := m.GetLabel(); family.GetName() == name && (kind == "" || labels[0].GetValue() == kind) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	g.t.Fatalf("no metric %s of kind %q", name, kind)
	return 0
}

// A listing in which all machines are stopped is valid, and most likely wrong.
func TestAllMachinesStopped(t *testing.T) {
	for _, state := range []string{"stopped", "destroyed", "a state that is new"} {
		all := running(t, 500)
		stopped := running(t, 500, registrytest.InState(state))
		after := [registry.Classes]int{registry.OtherMachines: 500}
		if state == "destroyed" {
			after = [registry.Classes]int{}
		}
		guarding(t, all, func(g *guarded) {
			_, watch := g.r.Snapshot().Fleet(24, "web")
			g.lists(stopped)
			g.expect(state, [registry.Classes]int{500}, [registry.Classes]int{500})
			if registrytest.Closed(watch) {
				t.Error("an answer is computed anew though nothing may change")
			}
			if hold := g.r.Status().Hold; !strings.Contains(hold, "500 of 500 started machines") || !strings.Contains(hold, "30 s") {
				t.Errorf("/readyz would say %q", hold)
			}
			pass(29 * time.Second)
			g.expect("for nearly half a minute", [registry.Classes]int{500}, [registry.Classes]int{500})
			pass(3 * time.Second)
			g.expect("a second listing is asked for and agrees", after, [registry.Classes]int{})
		})
		guarding(t, all, func(g *guarded) {
			g.lists(stopped)
			g.f.Release()
			pass(time.Second)
			g.expect("released", after, [registry.Classes]int{})
		})
		guarding(t, all, func(g *guarded) {
			g.lists(stopped)
			g.lists(all)
			g.expect("mended", [registry.Classes]int{500}, [registry.Classes]int{})
			pass(time.Minute)
			if g.calls() != 1 {
				t.Error("nothing is held and another listing was asked for")
			}
		})
	}
}

// What a machine loses by which it leaves AAAA answers is a loss; what it merely
// is from now on is not.
func TestWhatIsALoss(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*registry.MachineSpec)
		loss bool
	}{
		"stopped":           {registrytest.InState("stopped"), true},
		"hidden":            {func(s *registry.MachineSpec) { s.SkipRegistration = true }, true},
		"without address":   {func(s *registry.MachineSpec) { s.PrivateIP, s.Network = "", "fdaa:0:18::/48" }, true},
		"with another one":  {func(s *registry.MachineSpec) { s.PrivateIP = strings.Replace(s.PrivateIP, "18:1:", "18:9:", 1) }, false},
		"in another region": {func(s *registry.MachineSpec) { s.Region = "syd" }, false},
		"with metadata":     {func(s *registry.MachineSpec) { s.Metadata = map[string]string{"role": "db"} }, false},
	} {
		guarding(t, running(t, 100), func(g *guarded) {
			g.lists(running(t, 100, c.edit))
			held := [registry.Classes]int{}
			if c.loss {
				held[registry.StartedMachines] = 100
			}
			g.expect(name, [registry.Classes]int{100}, held)
			fleet, _ := g.r.Snapshot().Fleet(24, "web")
			old := running(t, 1)[0].Object
			if is := registry.Equal(fleet.Machine("m0000"), old); is != c.loss {
				t.Errorf("%s: the old version is there: %t", name, is)
			}
		})
	}
}

// What is in no answer may leave without asking, and hides no loss either.
func TestWhatIsInNoAnswerIsNotGuarded(t *testing.T) {
	gone := running(t, 300, registrytest.InState("destroyed"), registrytest.InApp("gone"))
	var guests []registry.Item
	for i := range 100 {
		p, err := registry.NewPeer(registry.PeerSpec{Name: fmt.Sprint("Interactive-", i), PrivateIP: fmt.Sprintf("fdaa:0:18:7::%x", i)})
		if err != nil {
			t.Fatal(err)
		}
		guests = append(guests, registry.Put(p))
	}
	all := running(t, 50)
	guarding(t, slices.Concat(gone, guests, all), func(g *guarded) {
		g.lists(all[:49])
		g.expect("what is in no answer has gone", [registry.Classes]int{49}, [registry.Classes]int{})
		if n, p := g.r.Count(registry.KindMachine), g.r.Count(registry.KindPeer); n != 49 || p != 0 {
			t.Errorf("%d machines and %d peers are left", n, p)
		}
	})
	hidden := running(t, 60, func(s *registry.MachineSpec) { s.SkipRegistration = true }, registrytest.InApp("hidden"))
	guarding(t, slices.Concat(hidden, all), func(g *guarded) {
		g.lists(all)
		g.expect("hidden machines ask, and are told where they are", [registry.Classes]int{50, 60}, [registry.Classes]int{0, 60})
	})
	guarding(t, slices.Concat(gone, guests, all), func(g *guarded) {
		g.lists(gone, guests)
		g.expect("what answers held", [registry.Classes]int{50}, [registry.Classes]int{50})
	})
}

// Each class is judged by itself: the many of one do not hide the few of another,
// and pay nothing for them.
func TestEachClassIsJudgedByItself(t *testing.T) {
	machines := running(t, 90)
	peers, addresses, apps := others(t, 90)
	stopped := running(t, 90, registrytest.InState("stopped"), registrytest.InApp("jobs"))
	whole := [registry.Classes]int{90, 90, 90, 90, 90}
	all := [registry.Classes][]registry.Item{machines, stopped, peers, addresses, apps}
	for c := range registry.Classes {
		guarding(t, slices.Concat(all[:]...), func(g *guarded) {
			some := all
			some[c] = nil
			for other := range some {
				if other != c {
					some[other] = some[other][10:]
				}
			}
			g.lists(some[:]...)
			want := whole
			for other := range want {
				if other != c {
					want[other] -= 10
				}
			}
			var held [registry.Classes]int
			held[c] = whole[c]
			g.expect("without "+registry.Class(c).Plural(), want, held)
		})
	}
	// A registry of little of each is guarded as a whole.
	few := slices.Concat(machines[:15], stopped[:15], peers[:15], addresses[:15], apps[:15])
	guarding(t, few, func(g *guarded) {
		g.lists()
		g.expect("little of each", [registry.Classes]int{15, 15, 15, 15, 15}, [registry.Classes]int{15, 15, 15, 15, 15})
	})
	guarding(t, few[:20], func(g *guarded) {
		g.lists()
		g.expect("twenty in all", [registry.Classes]int{}, [registry.Classes]int{})
	})
	guarding(t, few[:21], func(g *guarded) {
		g.lists()
		g.expect("one more", [registry.Classes]int{15, 6}, [registry.Classes]int{15, 6})
	})
}

// Every key has its own half minute.
func TestEachKeyHasItsOwnTime(t *testing.T) {
	all := running(t, 200)
	guarding(t, all, func(g *guarded) {
		g.lists(all[:80])
		pass(28 * time.Second)
		g.lists(all[:35])
		g.expect("more are missing later", [registry.Classes]int{200}, [registry.Classes]int{165})
		pass(4 * time.Second) // the follower has asked for another listing
		g.expect("the first have had their time", [registry.Classes]int{80}, [registry.Classes]int{45})
		pass(24 * time.Second)
		g.lists(all[:35])
		g.expect("and the others not yet", [registry.Classes]int{80}, [registry.Classes]int{45})
		pass(4 * time.Second)
		g.expect("and then they have", [registry.Classes]int{35}, [registry.Classes]int{})
	})
	// One that was there in between begins anew.
	guarding(t, all, func(g *guarded) {
		g.lists()
		pass(20 * time.Second)
		g.lists(all[:100])
		g.expect("half is back", [registry.Classes]int{200}, [registry.Classes]int{100})
		g.lists()
		pass(12 * time.Second)
		g.expect("what was missing all the time", [registry.Classes]int{100}, [registry.Classes]int{100})
		pass(20 * time.Second)
		g.expect("and the rest", [registry.Classes]int{}, [registry.Classes]int{})
	})
}

// A second opinion is a listing that began when the time was up.
func TestASecondOpinionMustBegin(t *testing.T) {
	guarding(t, running(t, 100), func(g *guarded) {
		g.lists()
		g.slow(40 * time.Second)
		g.set(nil, "")
		g.strings <- g.listing // begins now
		pass(41 * time.Second)
		g.expect("a listing that began too early", [registry.Classes]int{100}, [registry.Classes]int{100})
		pass(time.Minute)
		g.expect("one that began in time", [registry.Classes]int{}, [registry.Classes]int{})
		if g.calls() != 2 {
			t.Errorf("followed %d times: a listing under way was begun again", g.calls())
		}
	})
}

// Half of everything and half of the rest and so on is a sweep as well.
func TestSmallStepsAreASweep(t *testing.T) {
	all := running(t, 500)
	guarding(t, all, func(g *guarded) {
		for _, n := range []int{251, 126, 64, 33, 17, 9, 0} {
			g.lists(all[:n])
		}
		g.expect("by halves within a second", [registry.Classes]int{251}, [registry.Classes]int{251})
	})
	guarding(t, all, func(g *guarded) {
		for n := 480; n >= 0; n -= 20 {
			g.lists(all[:n])
		}
		g.expect("by twenty within a second", [registry.Classes]int{260}, [registry.Classes]int{260})
	})
	stopped := running(t, 500, registrytest.InState("stopped"))
	guarding(t, all, func(g *guarded) {
		for n := 480; n >= 0; n -= 20 {
			g.lists(all[:n], stopped[n:n+20])
		}
		g.expect("stopped, and then gone", [registry.Classes]int{320, 160}, [registry.Classes]int{320, 160})
	})
	// A day's work is none: what went half a minute ago is settled.
	guarding(t, all, func(g *guarded) {
		for n := 480; n >= 0; n -= 20 {
			g.lists(all[:n])
			pass(guardHold)
		}
		g.expect("by twenty, slowly", [registry.Classes]int{}, [registry.Classes]int{})
	})
	// Nor is a machine after the other that is started again.
	guarding(t, all[:50], func(g *guarded) {
		for round := range 3 {
			for i := range 50 {
				g.lists(all[:i], stopped[i:i+1], all[i+1:50])
			}
			g.lists(all[:50])
			g.expect(fmt.Sprint("restarted one by one ", round), [registry.Classes]int{50}, [registry.Classes]int{})
		}
	})
}

// What a listing took away is remembered for as long as it counts.
func TestPassedLossesAreForgotten(t *testing.T) {
	all := running(t, 100)
	guarding(t, all, func(g *guarded) {
		g.lists(all[:60])
		remembered := func() int {
			pass(0) // so that the apply loop waits
			n := len(g.f.guard.passed)
			g.f.ops <- op{} // whatever it writes next, it writes after this look
			return n
		}
		if n := remembered(); n != 40 {
			t.Errorf("%d are remembered, want 40", n)
		}
		pass(32 * time.Second)
		if n := remembered(); n != 0 {
			t.Errorf("%d are remembered after half a minute", n)
		}
	})
}

// What has its second opinion, or an operator's word, is settled.
func TestConfirmedLossesDoNotCount(t *testing.T) {
	all := running(t, 500)
	guarding(t, all, func(g *guarded) {
		g.lists(all[:100])
		pass(32 * time.Second)
		g.expect("confirmed", [registry.Classes]int{100}, [registry.Classes]int{})
		g.lists(all[:60])
		g.expect("and less than half of what is left", [registry.Classes]int{60}, [registry.Classes]int{})
	})
	guarding(t, all, func(g *guarded) {
		g.lists(all[:260])
		g.f.Release()
		pass(0)
		g.lists(all[:150])
		g.expect("vouched for", [registry.Classes]int{150}, [registry.Classes]int{})
	})
}

// A change on the stream is taken at its word, and settles what is held.
func TestChangesAreNotGuarded(t *testing.T) {
	all := running(t, 100)
	guarding(t, all, func(g *guarded) {
		g.change(t, running(t, 100, registrytest.InState("stopped"))...)
		g.expect("all stopped by a change", [registry.Classes]int{registry.OtherMachines: 100}, [registry.Classes]int{})
	})
	guarding(t, all, func(g *guarded) {
		g.lists()
		other := running(t, 30, func(s *registry.MachineSpec) { s.Region = "syd" })
		gone := []registry.Item{registry.Delete(all[98].Object.Key()), registry.Delete(all[99].Object.Key())}
		g.change(t, slices.Concat(other, running(t, 31, registrytest.InState("stopped"))[30:], gone)...)
		g.expect("thirty replaced, one stopped, two deleted", [registry.Classes]int{97, 1}, [registry.Classes]int{67})
		pass(35 * time.Second)
		g.expect("their own time begins when a listing lacks them again", [registry.Classes]int{30, 1}, [registry.Classes]int{30, 1})
	})
	guarding(t, all, func(g *guarded) {
		g.lists()
		g.change(t, all...)
		g.expect("all of it settled", [registry.Classes]int{100}, [registry.Classes]int{})
		g.set(all, "")
		pass(time.Minute)
		if g.calls() != 1 {
			t.Error("nothing is held and another listing was asked for")
		}
	})
	// What a change brings back is no longer lost.
	for name, back := range map[string]func(g *guarded, left int){
		"by a change": func(g *guarded, left int) { g.change(t, all[left:40]...) },
		"during a listing": func(g *guarded, left int) {
			g.pull(t, func(ctx context.Context, feed Feed) error {
				return errors.Join(feed.List(ctx, all[:left]), feed.Change(ctx, all[left:40]), feed.Listed(ctx, ""))
			})
		},
	} {
		for _, left := range []int{20, 39} {
			guarding(t, all[:40], func(g *guarded) {
				g.lists(all[:left])
				back(g, left)
				g.lists(all[20:40])
				g.expect(fmt.Sprint("all but ", left, " were lost and came back ", name), [registry.Classes]int{20}, [registry.Classes]int{})
			})
		}
	}
	// Also where it comes while the listing is under way.
	guarding(t, all, func(g *guarded) {
		g.set(nil, "")
		g.pull(t, func(ctx context.Context, feed Feed) error {
			err := feed.List(ctx, nil)
			return errors.Join(err, feed.Change(ctx, all[:60]), feed.Change(ctx, []registry.Item{registry.Delete(all[60].Object.Key()),
				registry.Reject(registry.Key{Kind: registry.KindMachine, ID: "m0061", AnyNetwork: true}, "", errors.New("unusable"))}), feed.Listed(ctx, ""))
		})
		g.expect("thirty-eight are lacking and nothing says otherwise", [registry.Classes]int{61}, [registry.Classes]int{})
	})
}

// An object that the source names is there, usable or not.
func TestAHeldObjectThatComesBackUnusableStays(t *testing.T) {
	all := running(t, 100)
	guests, _, _ := others(t, 30)
	bad := []registry.Item{
		registry.Reject(registry.Key{Kind: registry.KindMachine, ID: "m0001", AnyNetwork: true}, "", errors.New("network is missing")),
		registry.Reject(registry.Key{Kind: registry.KindMachine, Network: 24, Name: "elsewhere", ID: "m0002"}, "", errors.New("state is missing")),
		registry.Reject(registry.Key{Kind: registry.KindPeer, Network: 24, ID: "fdaa:0:18:2::5"}, "", errors.New("name is missing")),
	}
	for name, back := range map[string]func(g *guarded){
		"by a change":  func(g *guarded) { g.change(t, bad...) },
		"by a listing": func(g *guarded) { g.lists(bad) },
		"by a listing that breaks": func(g *guarded) {
			g.pull(t, func(ctx context.Context, feed Feed) error {
				return errors.Join(feed.List(ctx, bad), errors.New("broken"))
			})
		},
	} {
		for _, released := range []bool{true, false} {
			guarding(t, slices.Concat(all, guests), func(g *guarded) {
				g.lists()
				g.expect("all are missing", [registry.Classes]int{registry.StartedMachines: 100, registry.Peers: 30}, [registry.Classes]int{registry.StartedMachines: 100, registry.Peers: 30})
				back(g)
				g.expect(name, [registry.Classes]int{registry.StartedMachines: 100, registry.Peers: 30}, [registry.Classes]int{registry.StartedMachines: 98, registry.Peers: 29})
				if released {
					g.f.Release()
				} else {
					g.set(bad, "")
				}
				pass(35 * time.Second)
				g.expect(name+", and the others go", [registry.Classes]int{registry.StartedMachines: 2, registry.Peers: 1}, [registry.Classes]int{})
			})
		}
	}
}

// Of a machine that a listing has twice the last version counts.
func TestListedTwiceIsJudgedByTheLast(t *testing.T) {
	all, stopped := running(t, 100), running(t, 100, registrytest.InState("stopped"))
	moved := running(t, 100, func(s *registry.MachineSpec) { s.Region = "syd" })
	guarding(t, all, func(g *guarded) {
		g.lists(stopped, moved)
		g.expect("stopped, then started", [registry.Classes]int{100}, [registry.Classes]int{})
		g.lists(all, stopped)
		g.expect("started, then stopped", [registry.Classes]int{100}, [registry.Classes]int{100})
		fleet, _ := g.r.Snapshot().Fleet(24, "web")
		if m := fleet.Machine("m0000"); m.Region != "syd" {
			t.Errorf("held in %s, want the version known before", m.Region)
		}
	})
}

// A sweep is said once for each class, loudly, with what to do.
func TestASweepIsLoggedOnce(t *testing.T) {
	log := &bytes.Buffer{}
	all := running(t, 500)
	guests, _, _ := others(t, 90)
	src := newPuppet(slices.Concat(all, guests))
	follow(t, src, Config{Log: registrytest.TextLog(log)}, func(t *testing.T, r *registry.Registry, f *Follower) {
		src.list(t, slices.Concat(all, guests[:89]), gaps)
		for n := 100; n > 0; n -= 10 {
			src.list(t, slices.Concat(all[:n], guests[:89]), "")
		}
		src.list(t, slices.Concat(all[:1], guests[:87]), "")
		src.list(t, all[:1], "")
		src.list(t, slices.Concat(all, guests), "")
		src.list(t, guests[:89], "") // another day
	})
	for want, times := range map[string]int{
		`what="started machines" held=400 of=500 source=puppet://`: 1,
		`what="started machines" held=500 of=500 source=puppet://`: 1,
		`what=peers held=1 of=90 source=puppet://`:                 2,
		`what=peers held=3 of=90 source=puppet://`:                 1,
		`what=peers held=90 of=90 source=puppet://`:                1,
	} {
		if n := strings.Count(log.String(), want); n != times {
			t.Errorf("%q is logged %d times, want %d", want, n, times)
		}
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 6 || strings.Count(log.String(), "SIGUSR1 lets it go") != 6 {
		t.Errorf("%d errors, want 6, with what to do:\n%s", n, log)
	}
}

func TestAReleaseIsLogged(t *testing.T) {
	log := &bytes.Buffer{}
	src := newPuppet(running(t, 30))
	follow(t, src, Config{Log: registrytest.TextLog(log)}, func(t *testing.T, r *registry.Registry, f *Follower) {
		f.Release()
		pass(time.Second)
		if !strings.Contains(log.String(), "nothing is held back") || strings.Contains(log.String(), "level=WARN") {
			t.Errorf("of nothing: %s", log)
		}
		src.list(t, nil, "")
		f.Release()
		pass(time.Second)
		if !strings.Contains(log.String(), `msg="what was held back is let through" objects=30 by=SIGUSR1`) {
			t.Errorf("of 30 machines: %s", log)
		}
	})
}
