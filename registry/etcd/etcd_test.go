package etcd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"dnsd/registry"
	"dnsd/registry/etcd/etcdtest"
	"dnsd/registry/follow/followtest"
)

// TestOneMember holds what a cluster survives being asked one after the other.
func TestOneMember(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	for _, test := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"pages and changes", testPagesAndChanges},
		{"resume sends what was missed", testResume},
		{"compacted while disconnected", testCompactedAway},
		{"compacted during a listing", testCompactedListing},
		{"compacted before the watch", testCompactedWatch},
		{"changed during a listing", testChangedListing},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := *c
			d.t = t
			if _, err := d.cli.Delete(d.Context(), "/", clientv3.WithPrefix()); err != nil {
				t.Fatal(err)
			}
			test.run(t, &d)
		})
	}
}

func testPagesAndChanges(t *testing.T, c *cluster) {
	const n = 2000
	c.fill(n)
	c.put(prefix+"apps/fdaa:0:18::/quiet", `{"name":"quiet"}`)
	c.put(prefix+"peers/fdaa:0:18::/p", `{"private_ip":"fdaa:0:18::8"}`)
	c.put(prefix+"addresses/fdaa:0:99::/my-app/fdaa:0:99::9", `{}`)
	listed := 0
	s, f := c.source(), &feed{Before: func(_ context.Context, call followtest.Call, items []registry.Item) {
		if call == followtest.List {
			listed += len(items)
		}
	}}
	followtest.Follow(t, s, f, false)
	followtest.Eventually(t, "the listing", func() bool { return f.Listings() == 1 })
	if seen := f.Seen(); len(seen.Objects) != n+3 || listed != n+3 || seen.Pages != 3 {
		t.Fatalf("%d objects, %d rows in %d pages, want %d in 3", len(seen.Objects), listed, seen.Pages, n+3)
	}

	// One transaction is one change.
	if _, err := c.cli.Txn(c.Context()).Then(
		clientv3.OpPut(machineKey("m0001"), machineJSON("m0001", "stopped")),
		clientv3.OpDelete(machineKey("m0002")),
		clientv3.OpPut(prefix+"apps/fdaa:0:18::/loud", `{}`),
		clientv3.OpDelete(prefix+"peers/fdaa:0:18::/p"),
	).Commit(); err != nil {
		t.Fatal(err)
	}
	c.settles(f)
	if seen := f.Seen(); len(seen.Changes) != 1 || len(seen.Changes[0]) != 4 || len(seen.Objects) != n+2 {
		t.Errorf("%+v, want four items in one change", seen.Changes)
	}
}

func testResume(t *testing.T, c *cluster) {
	c.fill(20)
	s, f := c.source(), &feed{}
	run := followtest.Follow(t, s, f, false)
	c.machine("m0003", "stopped")
	c.settles(f)
	run.Stop()
	c.machine("m0004", "stopped")
	c.delete(machineKey("m0005"))
	c.put("/elsewhere", "moves the revision on")
	run = followtest.Follow(t, s, f, true)
	c.settles(f)
	followtest.Eventually(t, "proof of life", func() bool { return f.Proofs() > 5 }) // progress moves the position on
	run.Stop()
	followtest.Follow(t, s, f, true)
	c.machine("m0006", "stopped")
	c.settles(f)
	if f.Listings() != 1 {
		t.Errorf("%d listings, want 1", f.Listings())
	}
}

func testCompactedAway(t *testing.T, c *cluster) {
	c.fill(20)
	s, f := c.source(), &feed{}
	run := followtest.Follow(t, s, f, false)
	c.settles(f)
	followtest.Eventually(t, "proof of life", func() bool { return f.Proofs() > 0 })
	run.Stop()
	c.machine("m0004", "stopped")
	c.delete(machineKey("m0005"))
	c.machine("m0020", "started")
	c.compact()
	log := c.log(s)
	run = followtest.Follow(t, s, f, true)
	c.settles(f)
	run.Stop()
	if f.Listings() != 2 || !strings.Contains(log.String(), "cannot resume") {
		t.Errorf("%d listings, want 2; the log: %s", f.Listings(), log)
	}
}

// during has do called by the feed at the n-th chunk of a listing.
func during(n int, do func()) *feed {
	chunks := 0
	return &feed{Before: func(_ context.Context, call followtest.Call, items []registry.Item) {
		if call != followtest.List || len(items) == 0 {
			return
		}
		if chunks++; chunks == n {
			do()
		}
	}}
}

// meddle changes what is listed already and what is not: puts, deletions and what
// is both.
func (c *cluster) meddle() {
	for _, at := range []int{3, 2400} {
		id := func(i int) string { return fmt.Sprintf("m%04d", at+i) }
		c.machine(id(0), "stopped")
		c.delete(machineKey(id(1)))
		c.machine(id(2), "stopped")
		c.delete(machineKey(id(2)))
		c.delete(machineKey(id(3)))
		c.machine(id(3), "stopped")
		c.machine(id(4), "") // which nobody can use
		c.machine(id(0)+"new", "started")
		c.machine(id(0)+"short", "started")
		c.delete(machineKey(id(0) + "short"))
	}
}

// What is compacted during a listing is listed as it is by then, and the stream
// knows what it was before.
func testCompactedListing(t *testing.T, c *cluster) {
	c.fill(2500)
	s := c.source()
	s.pages.first, s.pages.most = 500, 500 // the fourth and the fifth page are asked for after the compaction
	f := during(2, func() {
		// etcd looks ten times a second for streams to be brought up to date, and ends
		// one whose beginning is compacted before that. Nothing shows when it has.
		time.Sleep(time.Second)
		c.meddle()
		c.compact()
	})
	followtest.Follow(t, s, f, false)
	followtest.Eventually(t, "the listing", func() bool { return f.Listings() == 1 })
	c.agrees(t, s, f, func(id string) bool { return id < "m1000" })
}

// Changes that come beside a listing win over it, whether it has their objects already or
// not yet.
func testChangedListing(t *testing.T, c *cluster) {
	c.fill(2500)
	s := c.source()
	f := during(2, c.meddle)
	run := followtest.Follow(t, s, f, false)
	followtest.Eventually(t, "the listing", func() bool { return f.Listings() == 1 })
	c.agrees(t, s, f, func(string) bool { return true })
	run.Stop()
	f.See(func(s *followtest.Seen) { s.Objects = nil }) // a registry that knows nothing
	f.Before = during(2, c.meddle).Before
	followtest.Follow(t, s, f, false)
	followtest.Eventually(t, "another listing", func() bool { return f.Listings() == 2 })
	c.agrees(t, s, f, func(string) bool { return false })
}

// agrees waits until the feed holds what the cluster does, but for what cannot be used,
// and checks that the source knows how many keys there are. Of what cannot be used, the
// version before stays where it was known.
func (c *cluster) agrees(t *testing.T, s *Source, f *feed, known func(id string) bool) {
	t.Helper()
	r, err := c.cli.Get(c.Context(), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{}
	for _, kv := range r.Kvs {
		if o := s.put(kv.Key, kv.Value).Object; o != nil {
			m := o.(*registry.Machine)
			want = append(want, m.ID+" "+m.State)
		} else if id := string(kv.Key[len(machineKey("")):]); known(id) {
			want = append(want, id+" started")
		}
	}
	slices.Sort(want)
	followtest.Eventually(t, "the feed to hold what etcd holds", func() bool { return slices.Equal(machines(f), want) }, func() string {
		return fmt.Sprintf("too much: %v\nlacking: %v", without(machines(f), want), without(want, machines(f)))
	})
	followtest.Eventually(t, "a proof", func() bool { return s.stats.proven.Load() > 0 || s.stats.lost.Load() > 0 })
	if n := s.stats.lost.Load(); n > 0 {
		t.Errorf("%d proofs say that something was lost", n)
	}
}

// without returns what of a is not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// A position that was compacted away before the watch began is none.
func testCompactedWatch(t *testing.T, c *cluster) {
	s, f := c.source(), &feed{}
	var once sync.Once
	f.Before = func(_ context.Context, call followtest.Call, _ []registry.Item) {
		once.Do(func() {
			c.machine("m1", "started")
			c.machine("m1", "stopped")
			c.compact()
		})
	}
	followtest.Follow(t, s, f, false).Fails("compacted")
	if f.Listings() != 0 {
		t.Error("a listing that was cut short completed")
	}
	followtest.Follow(t, s, f, true)
	c.machine("m2", "started")
	c.settles(f)
}

func TestKillAndRestart(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	c.fill(2500)
	s, f := c.source(), &feed{}
	var once sync.Once
	f.Before = func(context.Context, followtest.Call, []registry.Item) { // a listing outlives a restart
		once.Do(func() { c.Kill(0); c.Restart(0) })
	}
	run := followtest.Follow(t, s, f, false)
	followtest.Eventually(t, "proof of life", func() bool { return f.Proofs() > 0 })
	c.settles(f)

	impatient := c.source(func(conf *Config) { conf.Timeout = time.Second })
	g := &feed{Before: func(context.Context, followtest.Call, []registry.Item) { c.Kill(0) }}
	followtest.Follow(t, impatient, g, false).Fails("connect") // outlives no end
	run.Fails("watching")
	followtest.Follow(t, s, f, true).Fails("connection refused") // at once, and not silence
	c.Restart(0)
	c.machine("m0001", "stopped")
	c.delete(machineKey("m0002"))
	followtest.Follow(t, s, f, true)
	c.settles(f)
	if f.Listings() != 1 {
		t.Errorf("%d listings, want 1: a restart loses nothing", f.Listings())
	}
}

func TestFrozenServer(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	c.fill(10)
	s, f := c.source(func(c *Config) { c.Timeout = time.Second }), &feed{}
	run := followtest.Follow(t, s, f, false)
	followtest.Eventually(t, "proof of life", func() bool { return f.Proofs() > 0 })
	c.Stop(0)
	run.Fails(errSilent.Error())
	alive := f.Proofs()
	followtest.Follow(t, s, f, true).Fails("no answer within 1s")
	if f.Proofs() != alive {
		t.Error("a frozen server gave proof of life")
	}
	c.Cont(0)
	followtest.Insist(t, s, f, 100*time.Millisecond)
	c.machine("m0001", "stopped")
	c.settles(f)
	followtest.Eventually(t, "proof of life", func() bool { return f.Proofs() > alive+1 })
}

func TestQuorumLost(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{Members: 3})
	c.fill(10)
	last := c.Endpoints()[:1]
	s, f := c.source(func(c *Config) { c.Endpoints = last }), &feed{}
	s.pace.silence = time.Hour
	run := followtest.Follow(t, s, f, false)
	followtest.Eventually(t, "proof of life", func() bool { return f.Proofs() > 0 })
	c.Kill(1, 2)
	run.Fails("no leader")
	followtest.Follow(t, s, f, true).Fails("no leader")
	c.Restart(1, 2)
	followtest.Insist(t, s, f, 100*time.Millisecond)
	c.machine("m0001", "stopped")
	c.settles(f)

	// With all end points given, one that is gone is somebody else's turn.
	all, g := c.source(), &feed{}
	followtest.Insist(t, all, g, 100*time.Millisecond)
	c.settles(g)
	c.Kill(0)
	c.machine("m0002", "stopped")
	c.settles(g)
	if g.Listings() != 1 {
		t.Errorf("%d listings, want 1", g.Listings())
	}
}

func TestWiped(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	c.fill(300)
	s, f := c.source(), &feed{}
	run := followtest.Follow(t, s, f, false)
	for i := range 20 { // revisions that the new data will not reach
		c.machine(fmt.Sprintf("m%04d", i), "stopped")
	}
	c.settles(f)
	c.Wipe()
	run.Fails("watching")
	c.machine("m0001", "started")
	run = followtest.Follow(t, s, f, true)
	c.settles(f)
	if f.Listings() != 2 {
		t.Errorf("%d listings, want 2: the revision went back", f.Listings())
	}
	run.Stop()

	// New data that have come further than the old are told by their witness.
	c.Wipe()
	for i := range 10 {
		c.machine(fmt.Sprintf("n%04d", i), "started")
	}
	if s.at.rev >= 10 {
		t.Fatalf("the position %+v is ahead of the new data", s.at)
	}
	followtest.Follow(t, s, f, true)
	c.settles(f)
	if f.Listings() != 3 {
		t.Errorf("%d listings, want 3: another history", f.Listings())
	}
}

// TestWipedAndRefilled fills a wiped cluster, in the same term, up to the same
// revision.
func TestWipedAndRefilled(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	put := func(ids ...string) {
		for _, id := range ids {
			c.machine(id, "started")
		}
	}
	for range 3 { // at revision 4 there is nothing
		c.put("/x", "")
	}
	s, f := c.source(), &feed{}
	run := followtest.Follow(t, s, f, false)
	followtest.Eventually(t, "an empty listing", func() bool { return f.Listings() == 1 })
	for i, refill := range []func(){
		func() { put("a", "b", "z") },
		func() { put("c", "d", "z") },                       // the same last change
		func() { c.machine("c", "stopped"); put("d", "z") }, // the same keys
		func() { put("c", "d", "z", "z") },
		func() { put("c", "d", "z", "z", "y") }, // what was deleted by now
	} {
		run.Stop()
		c.Wipe()
		refill()
		s.term.Store(0) // whatever the elections took
		run = followtest.Follow(t, s, f, true)
		c.settles(f)
		if got := f.Listings(); got != i+2 {
			t.Fatalf("refilled %d times: %d listings", i+1, got)
		}
		if i == 3 {
			c.delete(machineKey("z"))
			c.settles(f)
		}
	}
}

func TestRestored(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	c.fill(10)
	s, f := c.source(), &feed{}
	followtest.Insist(t, s, f, 100*time.Millisecond)
	c.settles(f)
	backup := c.Backup()
	c.machine("m0001", "stopped")
	c.delete(machineKey("m0002"))
	c.machine("m0010", "started")
	c.settles(f)
	listings := f.Listings()
	c.Restore(backup)
	c.settles(f)
	if f.Listings() != listings+1 {
		t.Errorf("%d listings since the restore, want 1", f.Listings()-listings)
	}
	c.machine("m0003", "stopped")
	c.settles(f)
}

// What cannot be reached is said, and what does not answer is not waited for when
// the context ends.
func TestStopsAtOnce(t *testing.T) {
	t.Parallel()
	for timeout, want := range map[time.Duration]string{0: "connection refused", time.Hour: "connection refused", 1: "no answer within 1ns"} {
		s, err := New(Config{Endpoints: []string{"127.0.0.1:1"}, Prefix: prefix, Timeout: timeout}, nil)
		if err != nil {
			t.Fatal(err)
		}
		followtest.Follow(t, s, &feed{}, false).Fails(want)
	}

	c := start(t, etcdtest.Options{})
	frozen := c.source(func(c *Config) { c.Timeout = time.Hour })
	c.Stop(0)
	run := followtest.Follow(t, frozen, &feed{}, false)
	run.Stop()
	if strings.Contains(run.Failed(), errHistory.Error()) {
		t.Errorf("Follow: %s", run.Failed())
	}
}
