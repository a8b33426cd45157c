package etcd

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/etcd/etcdtest"
	"dnsd/registry/follow/followtest"
)

// link is a slow line to a cluster.
type link struct {
	addr string
	rate atomic.Int64 // towards the source, bytes a second
}

// slow returns a line to the cluster's first member.
func (c *cluster) slow(t *testing.T, bits int64) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{addr: listener.Addr().String()}
	l.rate.Store(bits / 8)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", c.Endpoints()[0])
			if err != nil {
				in.Close()
				continue
			}
			// A line holds little: what is sent waits with its sender.
			_ = in.(*net.TCPConn).SetWriteBuffer(16 << 10)
			_ = out.(*net.TCPConn).SetReadBuffer(16 << 10)
			end := context.AfterFunc(ctx, func() { in.Close(); out.Close() })
			wg.Go(func() { defer out.Close(); _, _ = io.Copy(out, in) })
			wg.Go(func() { defer end(); defer in.Close(); l.carry(in, out) })
		}
	})
	t.Cleanup(func() { cancel(); listener.Close(); wg.Wait() })
	return l
}

// carry copies at the line's rate, in steps of a hundredth of a second.
func (l *link) carry(to io.Writer, from io.Reader) {
	const step = 10 * time.Millisecond
	for next := time.Now(); ; next = next.Add(step) {
		if late := time.Since(next); late > step {
			next = time.Now() // it was idle: that is not made up for
		}
		time.Sleep(time.Until(next))
		if _, err := io.CopyN(to, from, max(1, l.rate.Load()/100)); err != nil {
			return
		}
	}
}

// through has a source follow through the line.
func (l *link) through(conf *Config) { conf.Endpoints = []string{l.addr} }

// A slow line takes a listing, in pages that it can carry; one that has become slow in
// the midst of it, too.
func TestSlowLine(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	c.fill(1500) // some 250 kB on the line
	for name, test := range map[string]struct {
		bits, then int64
		pages      pages
	}{
		"400 kbit/s":              {400_000, 400_000, defaultPages},
		"400 kbit/s, large pages": {400_000, 400_000, pages{first: 1500, most: 20_000, aim: time.Second}},
		"slow in the midst":       {100_000_000, 400_000, pages{first: 300, most: 300, aim: time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := *c
			d.t = t
			line := d.slow(t, test.bits)
			s := d.source(line.through, func(conf *Config) { conf.Timeout = 1500 * time.Millisecond })
			s.pages, s.pace = test.pages, defaultPace
			f := during(1, func() { line.rate.Store(test.then / 8) })
			followtest.Follow(t, s, f, false)
			d.settles(f)
			if s.stats.cut.Load() == 0 && test.pages.first == 1500 {
				t.Error("a page that takes 5 s was read within 1.5 s")
			}
		})
	}
}

// A change does not wait for the listing beside which it comes, whether the source
// goes on where it was or begins.
func TestAChangeOvertakesAListing(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	c.fill(5000) // some 800 kB on the line, 6 s
	for name, first := range map[string]bool{"first": true, "again": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := *c
			d.t = t
			id := "new-" + name
			line := d.slow(t, 1_000_000_000)
			s, f := d.source(line.through), &feed{}
			s.pace, s.pages = defaultPace, defaultPages
			if !first {
				run := followtest.Follow(t, s, f, false)
				followtest.Eventually(t, "the listing", func() bool { return f.Listings() == 1 })
				run.Stop()
			}
			line.rate.Store(1_000_000 / 8)
			listings := f.Listings()
			f.See(func(s *followtest.Seen) { s.Pages = 0 })
			followtest.Follow(t, s, f, false)
			followtest.Eventually(t, "a page", func() bool { return f.Get(func(s *followtest.Seen) int { return s.Pages }) > 0 })
			d.machine(id, "started")
			key := registry.Key{Kind: registry.KindMachine, Network: 0x18, Name: "my-app", ID: id}
			var during bool
			followtest.Eventually(t, "the change", func() (known bool) {
				f.See(func(seen *followtest.Seen) {
					known, during = seen.Objects[key] != nil, seen.Listings == listings
				})
				return known
			})
			if !during {
				t.Error("the change came after the listing")
			}
			followtest.Eventually(t, "the listing", func() bool { return f.Listings() == listings+1 })
			d.settles(f)
		})
	}
}

// TestSlowSite is 100,000 machines at the end of a line of 5 Mbit/s, with the product's
// own times. It takes some minutes.
func TestSlowSite(t *testing.T) {
	if os.Getenv("DNSD_TEST_FULL") == "" {
		t.Skip("takes minutes; set DNSD_TEST_FULL to run it")
	}
	c := start(t, etcdtest.Options{})
	c.fill(100_000)
	line := c.slow(t, 5_000_000)
	s, f := c.source(line.through, func(conf *Config) { conf.Timeout = defaultTimeout }), &feed{}
	s.pace, s.pages, s.proving = defaultPace, defaultPages, defaultProving
	began := time.Now()
	run := followtest.Follow(t, s, f, false)
	for f.Listings() == 0 && run.Running() {
		time.Sleep(time.Second)
	}
	t.Logf("%d machines listed after %v, in %d pages, %d cut", len(machines(f)), time.Since(began).Round(time.Second), s.stats.pages.Load(), s.stats.cut.Load())
	if f.Listings() != 1 || len(machines(f)) != 100_000 {
		t.Errorf("%d listings of %d machines: %s", f.Listings(), len(machines(f)), run.Failed())
	}
}

// A source says how far it is: what the cluster has when it is followed again, at once,
// and all when it has caught up, also where the rest is of other keys.
func TestSaysHowFarItIs(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	c.fill(10)
	var said [][2]int64
	var mu sync.Mutex
	s, f := c.source(), &feed{}
	s.pace, s.proving = defaultPace, defaultProving
	f.Reaches = func(at, head int64) { mu.Lock(); defer mu.Unlock(); said = append(said, [2]int64{at, head}) }
	run := followtest.Follow(t, s, f, false)
	followtest.Eventually(t, "the listing", func() bool { return f.Listings() == 1 })
	run.Stop()
	last := said[len(said)-1]
	if said[0][0] != 0 || last[0] != last[1] || last[0] != said[0][1] {
		t.Errorf("while it listed it said %v", said)
	}
	for range 5 {
		c.machine("m0001", "stopped")
		c.machine("m0001", "started")
		c.put("/elsewhere", "")
	}
	mu.Lock()
	said = nil
	mu.Unlock()
	run = followtest.Follow(t, s, f, true)
	head := last[1] + 15
	followtest.Eventually(t, "all to be reached", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(said) > 0 && said[len(said)-1] == [2]int64{head, head}
	})
	run.Stop()
	if said[0] != [2]int64{last[0], head} {
		t.Errorf("it said %v first, want that it is at %d of %d", said[0], last[0], head)
	}
}

// A registry that is busy for long has the cluster asked how far that is: what is under
// way to it says only how far it was.
func TestABusyRegistryAsksHowFarTheClusterIs(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	c.fill(10)
	s, f := c.source(), &feed{}
	s.pace, s.proving = defaultPace, defaultProving
	var slow atomic.Bool
	f.Before = func(_ context.Context, call followtest.Call, items []registry.Item) {
		if call == followtest.Change && slow.Load() {
			time.Sleep(300 * time.Millisecond)
		}
	}
	run := followtest.Follow(t, s, f, false)
	followtest.Eventually(t, "the listing", func() bool { return f.Listings() == 1 && f.Proofs() > 0 })
	slow.Store(true)
	for range 30 {
		c.machine("m0001", "stopped")
		c.machine("m0001", "started")
	}
	r, err := c.cli.Get(c.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	followtest.Eventually(t, "the source to know how far the cluster is", func() (ok bool) {
		f.See(func(s *followtest.Seen) { ok = s.Head >= r.Header.Revision && s.At < s.Head-10 })
		return ok
	})
	slow.Store(false)
	run.Stop()
}
