package etcd

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"dnsd/registry"
	"dnsd/registry/etcd/etcdtest"
)

// TestOneMember holds what a cluster survives being asked one after the other.
func TestOneMember(t *testing.T) {
	c := start(t, etcdtest.Options{})
	for _, test := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"empty prefix", testEmpty},
		{"pages and changes", testPagesAndChanges},
		{"no gap between listing and watch", testNoGap},
		{"resume sends what was missed", testResume},
		{"compacted while disconnected", testCompactedAway},
		{"compacted during a listing", testCompactedListing},
		{"compacted before the watch", testCompactedWatch},
		{"a registry that is behind", testSlowFeed},
		{"bad objects", testBadObjects},
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

func testEmpty(t *testing.T, c *cluster) {
	c.put("/dnsd/v10/apps/fdaa:0:18::/next-door", `{}`)
	s, f := c.source(), &feed{}
	run := begin(t, s, f, false)
	eventually(t, "proof of life", func() bool { return f.alive() > 2 })
	if f.completed() != 1 || f.pages != 1 || len(f.world) != 0 {
		t.Errorf("%d listings, %d pages, %d objects; want a complete listing of nothing", f.listings, f.pages, len(f.world))
	}
	run.stop()
	if run.err == nil {
		t.Error("Follow returned nil")
	}
	begin(t, s, f, true)
	c.machine("m1", "started")
	c.settles(f)
	if f.completed() != 1 {
		t.Error("listed again instead of resuming")
	}
}

func testPagesAndChanges(t *testing.T, c *cluster) {
	const n = 2000
	c.fill(n)
	c.put(prefix+"apps/fdaa:0:18::/quiet", `{"name":"quiet"}`)
	c.put(prefix+"peers/fdaa:0:18::/p", `{"private_ip":"fdaa:0:18::8"}`)
	c.put(prefix+"addresses/fdaa:0:99::/my-app/fdaa:0:99::9", `{}`)
	s, f := c.source(), &feed{}
	begin(t, s, f, false)
	eventually(t, "the listing", func() bool { return f.completed() == 1 })
	if got := get(f, func() int { return len(f.world) }); got != n+3 || f.pages != 3 {
		t.Fatalf("%d objects in %d pages, want %d in 3", got, f.pages, n+3)
	}
	c.settles(f)

	// One transaction is one change.
	if _, err := c.cli.Txn(c.Context()).Then(
		clientv3.OpPut(machineKey("m0001"), machineJSON("m0001", "stopped")),
		clientv3.OpDelete(machineKey("m0002")),
		clientv3.OpPut(prefix+"apps/fdaa:0:18::/loud", `{}`),
		clientv3.OpDelete(prefix+"peers/fdaa:0:18::/p"),
	).Commit(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change", func() bool { return get(f, func() int { return len(f.changes) }) > 0 })
	if f.changes[0][0].Object.(*registry.Machine).State != "stopped" || len(f.changes[0]) != 4 || len(f.changes) != 1 {
		t.Errorf("%+v, want four items in one change", f.changes)
	}
	c.settles(f)
	if got := get(f, func() int { return len(f.world) }); got != n+2 {
		t.Errorf("%d objects, want %d", got, n+2)
	}
}

func testNoGap(t *testing.T, c *cluster) {
	const n = 2000
	c.fill(n)
	written := 0
	churn := func(times int) { // stop, delete and create machines all over the keys
		for range times {
			id := fmt.Sprintf("m%04d", written*37%n)
			switch written % 3 {
			case 0:
				c.machine(id, "stopped")
			case 1:
				c.delete(machineKey(id))
			case 2:
				c.machine(fmt.Sprintf("n%04d", written), "started")
			}
			written++
		}
	}
	s, f := c.source(), &feed{}
	f.onList = func(int) { churn(30) } // between one page and the next
	var writer sync.WaitGroup
	begin(t, s, f, false)
	eventually(t, "the listing", func() bool { return f.completed() == 1 })
	writer.Go(func() { churn(100) }) // while the watch begins
	writer.Wait()
	c.settles(f)
	if f.completed() != 1 {
		t.Errorf("%d listings, want 1", f.listings)
	}
}

func testResume(t *testing.T, c *cluster) {
	c.fill(20)
	s, f := c.source(), &feed{}
	run := begin(t, s, f, false)
	c.machine("m0003", "stopped")
	c.settles(f)
	run.stop()
	c.machine("m0004", "stopped")
	c.delete(machineKey("m0005"))
	c.put("/elsewhere", "moves the revision on")
	run = begin(t, s, f, true)
	c.settles(f)
	eventually(t, "proof of life", func() bool { return f.alive() > 5 }) // progress moves the position on
	run.stop()
	run = begin(t, s, f, true)
	c.machine("m0006", "stopped")
	c.settles(f)
	if f.completed() != 1 {
		t.Errorf("%d listings, want 1", f.listings)
	}
	run.stop()
	begin(t, s, f, false)
	eventually(t, "a listing afresh", func() bool { return f.completed() == 2 })
}

func testCompactedAway(t *testing.T, c *cluster) {
	c.fill(20)
	s, f := c.source(), &feed{}
	run := begin(t, s, f, false)
	eventually(t, "proof of life", func() bool { return f.alive() > 0 })
	run.stop()
	c.machine("m0004", "stopped")
	c.delete(machineKey("m0005"))
	c.machine("m0020", "started")
	c.compact()
	begin(t, s, f, true)
	c.settles(f)
	if f.completed() != 2 {
		t.Errorf("%d listings, want 2", f.listings)
	}
}

func testCompactedListing(t *testing.T, c *cluster) {
	c.fill(2500)
	s, f := c.source(), &feed{}
	var once sync.Once
	f.onList = func(int) {
		once.Do(func() { c.machine("m0001", "stopped"); c.compact() })
	}
	begin(t, s, f, false).fails("compacted")
	if f.completed() != 0 {
		t.Error("a listing that was cut short completed")
	}
	begin(t, s, f, true)
	c.settles(f)
}

func testCompactedWatch(t *testing.T, c *cluster) {
	s, f := c.source(), &feed{}
	lose, listed := 1, 0
	f.onListed = func() {
		if listed++; listed <= lose {
			c.machine("m1", "started")
			c.machine("m1", "stopped")
			c.compact()
		}
	}
	run := begin(t, s, f, false)
	eventually(t, "a listing without a pause", func() bool { return f.completed() == 2 })
	c.machine("m2", "started")
	c.settles(f)
	run.stop()

	lose = 99
	begin(t, s, f, false).fails("compacted") // twice in a row
	if f.completed() != 4 {
		t.Errorf("%d listings, want 4", f.listings)
	}
}

// testSlowFeed keeps the feed busy for longer than a server may be silent.
func testSlowFeed(t *testing.T, c *cluster) {
	s, f := c.source(), &feed{}
	s.pace.silence = 300 * time.Millisecond
	release := make(chan struct{})
	f.onChange = func() { <-release }
	run := begin(t, s, f, false)
	eventually(t, "the listing", func() bool { return f.completed() == 1 })
	time.Sleep(3 * s.pace.silence) // the time that must pass without effect
	if !run.running() {
		t.Fatalf("Follow gave up on a live server: %v", run.err)
	}
	close(release)
	c.machine("m1", "started")
	c.settles(f)
}

func testBadObjects(t *testing.T, c *cluster) {
	c.machine("m1", "started")
	c.machine("m2", "started")
	c.put(prefix+"rubbish", "x")
	s, f := c.source(), &feed{}
	begin(t, s, f, false)
	eventually(t, "the listing", func() bool { return f.completed() == 1 })
	if len(f.rejected) != 1 || f.rejected[0].Key != (registry.Key{AnyNetwork: true}) || len(f.machines()) != 2 {
		t.Fatalf("rejected %+v, machines %v", f.rejected, f.machines())
	}
	c.put(machineKey("m1"), `{"state":`)
	c.delete(prefix + "rubbish")
	c.machine("m2", "stopped")
	eventually(t, "the change after the bad ones", func() bool { return slices.Contains(f.machines(), "m2 stopped") })
	want := registry.Key{Kind: registry.KindMachine, Network: 0x18, Name: "my-app", ID: "m1"}
	if len(f.rejected) != 2 || f.rejected[1].Key != want || f.rejected[1].Where != machineKey("m1") {
		t.Errorf("rejected %+v", f.rejected)
	}
	if got := f.machines(); !slices.Equal(got, []string{"m1 started", "m2 stopped"}) {
		t.Errorf("%v: the version known before is gone", got)
	}
}

func TestKillAndRestart(t *testing.T) {
	c := start(t, etcdtest.Options{})
	c.fill(2500)
	s, f := c.source(), &feed{}
	var once sync.Once
	f.onList = func(int) { // a listing outlives a restart
		once.Do(func() { c.Kill(0); c.Restart(0) })
	}
	run := begin(t, s, f, false)
	eventually(t, "proof of life", func() bool { return f.alive() > 0 })
	c.settles(f)

	c.Kill(0)
	run.fails("watching")
	begin(t, s, f, true).fails("connection refused") // at once, and not silence
	c.Restart(0)
	c.machine("m0001", "stopped")
	c.delete(machineKey("m0002"))
	begin(t, s, f, true)
	c.settles(f)
	if f.completed() != 1 {
		t.Errorf("%d listings, want 1: a restart loses nothing", f.listings)
	}
}

func TestFrozenServer(t *testing.T) {
	c := start(t, etcdtest.Options{})
	c.fill(10)
	s, f := c.source(func(c *Config) { c.Timeout = time.Second }), &feed{}
	run := begin(t, s, f, false)
	eventually(t, "proof of life", func() bool { return f.alive() > 0 })
	c.Stop(0)
	run.fails(errSilent.Error())
	alive := f.alive()
	begin(t, s, f, true).fails("no answer within 1s")
	if f.alive() != alive {
		t.Error("a frozen server gave proof of life")
	}
	c.Cont(0)
	insist(t, s, f)
	c.machine("m0001", "stopped")
	c.settles(f)
	eventually(t, "proof of life", func() bool { return f.alive() > alive+1 })
}

func TestQuorumLost(t *testing.T) {
	c := start(t, etcdtest.Options{Members: 3})
	c.fill(10)
	last := c.Endpoints()[:1]
	s, f := c.source(func(c *Config) { c.Endpoints = last }), &feed{}
	s.pace.silence = time.Hour
	run := begin(t, s, f, false)
	eventually(t, "proof of life", func() bool { return f.alive() > 0 })
	c.Kill(1, 2)
	run.fails("no leader")
	begin(t, s, f, true).fails("no leader")
	c.Restart(1, 2)
	insist(t, s, f)
	c.machine("m0001", "stopped")
	c.settles(f)

	// With all end points given, one that is gone is somebody else's turn.
	all, g := c.source(), &feed{}
	insist(t, all, g)
	c.settles(g)
	c.Kill(0)
	c.machine("m0002", "stopped")
	c.settles(g)
	if g.completed() != 1 {
		t.Errorf("%d listings, want 1", g.listings)
	}
}

func TestWiped(t *testing.T) {
	c := start(t, etcdtest.Options{})
	c.fill(300)
	s, f := c.source(), &feed{}
	run := begin(t, s, f, false)
	for i := range 20 { // revisions that the new data will not reach
		c.machine(fmt.Sprintf("m%04d", i), "stopped")
	}
	c.settles(f)
	c.Wipe()
	run.fails("watching")
	c.machine("m0001", "started")
	run = begin(t, s, f, true)
	c.settles(f)
	if f.completed() != 2 {
		t.Errorf("%d listings, want 2: the revision went back", f.listings)
	}
	run.stop()

	// New data that have come further than the old are told by their witness.
	c.Wipe()
	for i := range 10 {
		c.machine(fmt.Sprintf("n%04d", i), "started")
	}
	if s.at.rev >= 10 {
		t.Fatalf("the position %+v is ahead of the new data", s.at)
	}
	begin(t, s, f, true)
	c.settles(f)
	if f.completed() != 3 {
		t.Errorf("%d listings, want 3: another history", f.listings)
	}
}

// TestWipedAndRefilled fills a wiped cluster, in the same term, up to the same
// revision.
func TestWipedAndRefilled(t *testing.T) {
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
	run := begin(t, s, f, false)
	eventually(t, "an empty listing", func() bool { return f.completed() == 1 })
	for i, refill := range []func(){
		func() { put("a", "b", "z") },
		func() { put("c", "d", "z") },                       // the same last change
		func() { c.machine("c", "stopped"); put("d", "z") }, // the same keys
		func() { put("c", "d", "z", "z") },
		func() { put("c", "d", "z", "z", "y") }, // what was deleted by now
	} {
		run.stop()
		c.Wipe()
		refill()
		s.term = 0 // whatever the elections took
		run = begin(t, s, f, true)
		c.settles(f)
		if got := f.completed(); got != i+2 {
			t.Fatalf("refilled %d times: %d listings", i+1, got)
		}
		if i == 3 {
			c.delete(machineKey("z"))
			c.settles(f)
		}
	}
}

func TestRestored(t *testing.T) {
	c := start(t, etcdtest.Options{})
	c.fill(10)
	s, f := c.source(), &feed{}
	insist(t, s, f)
	c.settles(f)
	backup := c.Backup()
	c.machine("m0001", "stopped")
	c.delete(machineKey("m0002"))
	c.machine("m0010", "started")
	c.settles(f)
	listings := f.completed()
	c.Restore(backup)
	c.settles(f)
	if f.completed() != listings+1 {
		t.Errorf("%d listings since the restore, want 1", f.completed()-listings)
	}
	c.machine("m0003", "stopped")
	c.settles(f)
}

// TestStopsAtOnce ends the context in every phase.
func TestStopsAtOnce(t *testing.T) {
	s, err := New(Config{Endpoints: []string{"127.0.0.1:1"}, Prefix: prefix}, nil)
	if err != nil {
		t.Fatal(err)
	}
	begin(t, s, &feed{}, false).fails("connection refused")

	c := start(t, etcdtest.Options{})
	c.fill(1500)
	f := &feed{}
	var run *following
	ready := make(chan struct{})
	f.onList = func(int) { <-ready; run.cancel() }
	run = begin(t, c.source(), f, false)
	close(ready)
	run.fails("context canceled")
	if f.completed() != 0 {
		t.Error("a cancelled listing completed")
	}
	frozen := c.source(func(c *Config) { c.Timeout = time.Hour })
	c.Stop(0)
	run = begin(t, frozen, &feed{}, false)
	run.stop()
	if errors.Is(run.err, errHistory) || run.err == nil {
		t.Errorf("Follow: %v", run.err)
	}
}
