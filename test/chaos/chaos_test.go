package chaos

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"dnsd/test/internal/lab"
)

var (
	howLong = flag.Duration("chaos.for", 0, "how long things are broken; 0: 2m where DNSD_TEST_FULL is set, else 8s")
	seed    = flag.Uint64("chaos.seed", 0, "what the plan is drawn from; 0: another one each time")
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// TestChaos is the run that the package comment is about.
func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 20 s at least")
	}
	length := *howLong
	if length == 0 {
		length = lab.Full(8*time.Second, 2*time.Minute)
	}
	if *seed == 0 {
		*seed = rand.Uint64N(1e9) + 1
	}
	t.Logf("go test ./test/chaos -v -chaos.for %v -chaos.seed %d -timeout %v", length, *seed, 2*length+10*time.Minute)
	s := newScene(t, *seed)
	defer func() { t.Logf("seed %d; what happened:\n%s", *seed, s.timeline()) }()

	var writing, asking sync.WaitGroup
	stop := make(chan struct{})
	defer func() { s.fail(nil); asking.Wait(); s.watching.Wait(); writing.Wait() }()
	s.pulse = newPulse()
	s.watching.Go(s.pulsate)
	for _, h := range s.hosts {
		if why := h.agrees(time.Now().Add(recovery)); why != "" {
			t.Fatalf("%v is not well at first: %s", h, why)
		}
		h.light = h.weigh()
		h.settle()
		s.watching.Go(h.monitor)
		for _, m := range h.machine {
			for _, proto := range []string{"udp", "tcp"} {
				c := newClient(h, m, proto, s.rand(fmt.Sprint(h, m.net.mark, proto)))
				asking.Go(c.run)
			}
		}
	}
	for _, n := range s.nets {
		writing.Go(func() { s.platform.write(n, s.rand("writer of "+n.mark), stop) })
	}
	s.log("all is well")
	all := lanes(s)
	s.run(length, all)
	close(stop)
	writing.Wait()
	s.fail(nil)
	asking.Wait()
	s.watching.Wait()
	s.verdict(all)
}

// verdict says how the run went, and looks at what is left of it.
func (s *scene) verdict(all []*lane) {
	t := s.t
	for _, l := range all {
		var made []string
		for _, name := range slices.Sorted(maps.Keys(l.made)) {
			made = append(made, fmt.Sprintf("%s (%d)", name, l.made[name]))
		}
		t.Logf("%s: %v", l.name, made)
	}
	t.Logf("%d changes, the outcome of %d unknown at first; all were well %v after the last fault at most",
		s.platform.changes.Load(), s.platform.unknown.Load(), s.slowest.Round(time.Millisecond))
	t.Logf("the test itself stood still %d times, for %v at most", s.pulse.times, s.pulse.worst.Round(time.Millisecond))
	for _, h := range s.hosts {
		t.Logf("%v: %d answers, %d of them marked stale; %d of outside names; %d questions asked again; %d late answers not held against it; %d processes",
			h, h.answered.Load(), h.stale.Load(), h.forwarded.Load(), h.again.Load(), h.excused.Load(), h.started)
		if h.answered.Load() == 0 || h.forwarded.Load() == 0 {
			t.Errorf("%v was not asked", h)
		}
	}
	if t.Failed() {
		return
	}
	if n := s.platform.changes.Load(); n < few {
		t.Errorf("%d changes: too few to show anything", n)
	}
	if why := s.hosts[0].leaks(); why != "" {
		t.Errorf("%v leaks: %s", s.hosts[0], why)
	}
}
