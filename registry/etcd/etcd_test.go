package etcd

import (
	"context"
	"fmt"
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

func testCompactedListing(t *testing.T, c *cluster) {
	c.fill(2500)
	s, f := c.source(func(conf *Config) { conf.Timeout = time.Hour }), &feed{} // it is not waited out
	var once sync.Once
	f.Before = func(context.Context, followtest.Call, []registry.Item) {
		once.Do(func() { c.machine("m0001", "stopped"); c.compact() })
	}
	followtest.Follow(t, s, f, false).Fails("compacted")
	if f.Listings() != 0 {
		t.Error("a listing that was cut short completed")
	}
	followtest.Follow(t, s, f, true)
	c.settles(f)
}

func testCompactedWatch(t *testing.T, c *cluster) {
	s, f := c.source(), &feed{}
	lose, listed := 1, 0
	f.Before = func(_ context.Context, call followtest.Call, _ []registry.Item) {
		if call != followtest.Listed {
			return
		}
		if listed++; listed <= lose {
			c.machine("m1", "started")
			c.machine("m1", "stopped")
			c.compact()
		}
	}
	log := c.log(s)
	run := followtest.Follow(t, s, f, false)
	followtest.Eventually(t, "a listing without a pause", func() bool { return f.Listings() == 2 })
	c.machine("m2", "started")
	c.settles(f)
	run.Stop()
	if !strings.Contains(log.String(), "cannot watch on") {
		t.Errorf("the log: %s", log)
	}

	lose = 99
	followtest.Follow(t, s, f, false).Fails("compacted") // twice in a row
	if f.Listings() != 4 {
		t.Errorf("%d listings, want 4", f.Listings())
	}
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
	followtest.Follow(t, impatient, g, false).Fails("listing: connection error") // outlives no end
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
		s.term = 0 // whatever the elections took
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
