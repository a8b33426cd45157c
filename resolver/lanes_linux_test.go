package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dnsd/resolver/internal/udpbatch"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// road is what packets go out by in a test: full or not.
type road struct {
	full bool
	sent int
}

func (r *road) Send(_, _ []byte, to netip.AddrPort) error {
	if r.full {
		return udpbatch.ErrFull
	}
	r.sent++
	return nil
}

// testLanes returns lanes, at most so many, whose roads the test has in its hand.
func testLanes(t *testing.T, most int) (l *lanes, opened *int) {
	t.Helper()
	opened = new(int)
	socket := func() (*net.UDPConn, error) {
		*opened++
		return net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	}
	spare, err := socket()
	if err != nil {
		t.Fatal(err)
	}
	l = newLanes(spare, socket, most, slog.New(slog.DiscardHandler))
	t.Cleanup(l.close)
	return l, opened
}

// clientOfNetwork is a client in the n-th network.
func clientOfNetwork(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("fdaa:0:%x::1", n)), 4242)
}

// roadOf puts a road in place of the socket of a client's lane.
func (l *lanes) roadOf(client netip.AddrPort) *road {
	own := l.lane(sharer(client.Addr()))
	if r, ok := own.send.(*road); ok {
		return r
	}
	r := new(road)
	own.send = r
	return r
}

// TestLaneOfItsOwn: a network whose lane is full keeps off the others' socket, for
// a while, and no other network does.
func TestLaneOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := testLanes(t, 10)
		a, b := clientOfNetwork(0xa), clientOfNetwork(0xb)
		l.roadOf(a).full = true
		l.roadOf(b)
		for range 3 {
			if err := l.send(nil, nil, a); !errors.Is(err, udpbatch.ErrFull) {
				t.Errorf("sending by a full lane: %v", err)
			}
			if err := l.send(nil, nil, b); err != nil {
				t.Errorf("sending by another: %v", err)
			}
		}
		if n := l.drops.Load(); n != 3 {
			t.Errorf("%d drops, want 3", n)
		}
		if !l.alone(a.Addr()) || !l.alone(netip.MustParseAddr("fdaa:0:a:ffff::77")) || l.alone(b.Addr()) {
			t.Error("a's network, and no other, must keep off the shared socket")
		}
		l.roadOf(a).full = false
		time.Sleep(laneKept - 1)
		if l.sweep(time.Now()); !l.alone(a.Addr()) {
			t.Error("a is let back too early")
		}
		time.Sleep(time.Nanosecond)
		if l.sweep(time.Now()); l.alone(a.Addr()) || l.full.Load() != 0 {
			t.Error("a is not let back")
		}
	})
}

// TestStrangersHaveALaneEach: clients outside of the private networks are nobody's.
func TestStrangersHaveALaneEach(t *testing.T) {
	l, _ := testLanes(t, 10)
	one, other := netip.MustParseAddrPort("172.17.0.2:1"), netip.MustParseAddrPort("172.17.0.3:1")
	l.roadOf(one).full = true
	_ = l.send(nil, nil, one)
	if !l.alone(one.Addr()) || l.alone(other.Addr()) {
		t.Error("a client outside of the private networks shares the lane of another")
	}
}

// TestLanesAreBounded: beyond the most there may be a network takes over the lane
// of another that is not full; and where all are full, its responses are dropped.
func TestLanesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, opened := testLanes(t, 3)
		for n := range 3 {
			l.roadOf(clientOfNetwork(n))
			time.Sleep(time.Second)
		}
		l.roadOf(clientOfNetwork(0)).full = true // the oldest, but full
		_ = l.send(nil, nil, clientOfNetwork(0))
		if err := l.send(nil, nil, clientOfNetwork(3)); err != nil {
			t.Error(err)
		}
		if *opened != 3 || l.count() != 3 {
			t.Errorf("%d sockets for %d networks, want 3 for 3", *opened, l.count())
		}
		if l.all[sharer(clientOfNetwork(1).Addr())] != nil {
			t.Error("not the lane that was used longest ago is taken over")
		}
		for n := range 4 {
			if n != 1 {
				l.roadOf(clientOfNetwork(n)).full = true
				_ = l.send(nil, nil, clientOfNetwork(n))
			}
		}
		before := l.drops.Load()
		if err := l.send(nil, nil, clientOfNetwork(1)); !errors.Is(err, udpbatch.ErrFull) || l.drops.Load() != before+1 {
			t.Errorf("with every lane full: %v, %d drops", err, l.drops.Load()-before)
		}
	})
}

// TestLaneWhereDescriptorsRunOut: there is one lane then still.
func TestLaneWhereDescriptorsRunOut(t *testing.T) {
	l, _ := testLanes(t, 10)
	l.open = func() (*net.UDPConn, error) { return nil, errors.New("too many open files") }
	for n := range 3 {
		l.roadOf(clientOfNetwork(n))
		if err := l.send(nil, nil, clientOfNetwork(n)); err != nil {
			t.Errorf("network %d: %v", n, err)
		}
	}
}

// TestLanesClose: what nobody sends by any more is closed, but for one.
func TestLanesClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := testLanes(t, 10)
		var conns []*net.UDPConn
		for n := range 5 {
			conns = append(conns, l.lane(sharer(clientOfNetwork(n).Addr())).conn)
		}
		open := func() (n int) {
			for _, c := range conns {
				if c.SetDeadline(time.Time{}) == nil {
					n++
				}
			}
			return n
		}
		time.Sleep(laneIdle - 1)
		if l.sweep(time.Now()); open() != 5 {
			t.Errorf("%d are open before their time, want 5", open())
		}
		time.Sleep(time.Nanosecond)
		if l.sweep(time.Now()); open() != 1 || l.count() != 0 {
			t.Errorf("%d are open and %d networks have one, want 1 and 0", open(), l.count())
		}
		if own := l.lane(sharer(clientOfNetwork(7).Addr())); own == nil || own.conn.SetDeadline(time.Time{}) != nil {
			t.Error("the one that was kept cannot be used")
		}
		conns = append(conns, l.lane(sharer(clientOfNetwork(8).Addr())).conn)
		time.Sleep(laneIdle)
		l.lane(sharer(clientOfNetwork(8).Addr()))
		if l.sweep(time.Now()); open() != 2 || l.count() != 1 {
			t.Errorf("%d are open and %d networks have one, want 2, one to spare, and 1", open(), l.count())
		}
		if l.close(); open() != 0 || l.count() != 0 || l.lane(sharer(machine.Addr())) != nil {
			t.Errorf("%d are open in the end, %d networks have one", open(), l.count())
		}
	})
}

// TestSweep: networks are looked at now and then while dnsd runs.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(t)
		for range 2 {
			l, _ := testLanes(t, 10)
			l.roadOf(machine).full = true
			_ = l.send(nil, nil, machine)
			a := newAside(func([]netip.Prefix) error { return nil }, r.log)
			a.put(machine.Addr(), time.Now())
			r.lanes, r.asides = append(r.lanes, l), append(r.asides, a)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var sweeping sync.WaitGroup
		sweeping.Go(func() { r.sweep(ctx) })
		time.Sleep(laneKept - 1)
		for i, l := range r.lanes {
			if !l.alone(machine.Addr()) || r.asides[i].count() != 0 {
				t.Errorf("address %d: has its lane alone: %t, %d aside, want true, 0", i, l.alone(machine.Addr()), r.asides[i].count())
			}
		}
		time.Sleep(2 * sweepEvery)
		for i, l := range r.lanes {
			if l.alone(machine.Addr()) {
				t.Errorf("address %d: the network is not let back", i)
			}
		}
		cancel()
		sweeping.Wait()
	})
}

// TestNoLanes: a system without them drops what there is no room for.
func TestNoLanes(t *testing.T) {
	l := newLanes(nil, nil, 10, slog.New(slog.DiscardHandler))
	if err := l.send(nil, nil, machine); !errors.Is(err, udpbatch.ErrFull) || l.drops.Load() != 1 {
		t.Errorf("%v, %d drops", err, l.drops.Load())
	}
}

// TestCloggedNetworkIsLogged: once, and by name.
func TestCloggedNetworkIsLogged(t *testing.T) {
	l, _ := testLanes(t, 10)
	var text strings.Builder
	l.log = logTo(io.Writer(&text))
	l.roadOf(machine).full = true
	for range 5 {
		_ = l.send(nil, nil, machine)
	}
	if s := text.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "network=fdaa:0:18::/48") {
		t.Errorf("the log says\n%s", s)
	}
}

// TestLanesReceiveNothing: whatever sockets share the port, the receivers get all
// packets, and of several each its part.
func TestLanesReceiveNothing(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0", "0.0.0.0:0"} {
		for _, sockets := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s by %d", listen, sockets), func(t *testing.T) {
				r, addr, _ := start(t, listenOn(listen), func(c *Config) { c.Sockets = sockets })
				for n := range 10 {
					if r.lanes[0].lane(sharer(clientOfNetwork(n).Addr())) == nil {
						t.Fatal("no lane")
					}
				}
				if addr.Addr().IsUnspecified() {
					addr = netip.AddrPortFrom(map[bool]netip.Addr{true: netip.IPv6Loopback(), false: netip.MustParseAddr("127.0.0.1")}[addr.Addr().Is6()], addr.Port())
				}
				const clients = 150
				for range clients {
					if m := unpack(t, askLate(t, UDP, addr, query(t, "my-app.internal.", dns.TypeAAAA))); len(m.Answer) != 3 {
						t.Fatalf("response is\n%v", m)
					}
				}
				for i, s := range r.sockets {
					if s.side {
						continue
					}
					if n := s.stats.types[typeSlot(dns.TypeAAAA)].Load(); n < uint64(clients/sockets/3) {
						t.Errorf("socket %d of %d has received %d of %d questions", i, sockets, n, clients)
					}
				}
			})
		}
	}
}

// TestSentByALane: a response by a lane comes from the address and port asked.
func TestSentByALane(t *testing.T) {
	for listen, asked := range map[string][]string{
		"127.0.0.1:0": {"127.0.0.1"}, "[::1]:0": {"::1"}, "0.0.0.0:0": {"127.0.0.1", "127.8.9.10"}, "[::]:0": {"::1", "127.0.0.1", "127.8.9.10"},
	} {
		g := newGate(t)
		close(g.open)
		r, addr, _ := start(t, listenOn(listen), func(c *Config) { c.Forward, c.Sockets = g, 1 })
		for _, a := range asked {
			c := dial(t, UDP, netip.AddrPortFrom(netip.MustParseAddr(a), addr.Port()))
			defer c.Close()
			l := r.lanes[0]
			own := l.lane(sharer(c.LocalAddr().(*net.UDPAddr).AddrPort().Addr()))
			l.mu.Lock()
			own.full = time.Now()
			used := own.used
			l.mu.Unlock()
			l.full.Store(1)
			for _, name := range []string{"my-app.internal.", "waiting01."} {
				send(t, UDP, c, query(t, name, dns.TypeAAAA))
				if resp, err := receive(UDP, c); err != nil || len(unpack(t, resp).Answer) == 0 {
					t.Errorf("%s asked at %s, %s: %x, %v", listen, a, name, resp, err)
				}
			}
			l.mu.Lock()
			if !own.used.After(used) {
				t.Errorf("%s asked at %s: the lane was not used", listen, a)
			}
			l.mu.Unlock()
		}
	}
}

// TestSetAside: packets of those that are set aside go to the side socket, all
// others to the others, and back when their time has passed. So it is where the
// sockets were another process's, which has found some of them.
func TestSetAside(t *testing.T) {
	for _, sockets := range []int{1, 3, -1, -3} { // negative: given
		t.Run(fmt.Sprint(sockets), func(t *testing.T) {
			any := listenOn("0.0.0.0:0")
			r, addr, stop := start(t, any, func(c *Config) { c.Sockets = max(sockets, -sockets) })
			if sockets < 0 {
				old := r
				old.asides[0].put(netip.MustParseAddr("127.0.0.4"), time.Now())
				r, addr, _ = startAfter(t, old, any)
				stop()
			}
			to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addr.Port())
			received := func(side bool) (n uint64) {
				for _, s := range r.sockets {
					if s.side == side {
						n += s.stats.types[typeSlot(dns.TypeAAAA)].Load()
					}
				}
				return n
			}
			// asks asks from an address 20 times and returns how many of the
			// questions the side socket has received.
			asks := func(from string) int {
				before, all := received(true), received(false)+received(true)
				for range 20 {
					askAs(t, from, to, "my-app.internal.")
				}
				eventually(t, "all are counted", func() bool { return received(false)+received(true) == all+20 })
				return int(received(true) - before)
			}
			expect := func(what string, want map[string]int) {
				t.Helper()
				for from, want := range want {
					if got := asks(from); got != want {
						t.Errorf("%s: %d of 20 questions of %s are set aside, want %d", what, got, from, want)
					}
				}
			}
			one, two, three := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3"), "127.0.0.4"
			now, a := time.Now(), r.asides[0]
			if sockets < 0 {
				expect("one is, by the process before", map[string]int{three: 20, one.String(): 0})
				if n := a.count(); n != 1 {
					t.Errorf("%d are known to be set aside, want 1", n)
				}
				now = time.Now()
				a.put(netip.MustParseAddr("fdaa:0:19::1"), now)
				expect("it stays when another one is found", map[string]int{three: 20, one.String(): 0})
				if sockets == -1 {
					a.put(netip.MustParseAddr(three), now)
					a.sweep(now.Add(asideFor))
					expect("it stays where this process finds the same", map[string]int{three: 20, one.String(): 0})
				}
				a.sweep(now.Add(asideFor + 1))
				a.seen(one, now)
				if n := a.count(); n != 0 {
					t.Errorf("%d are set aside because of what this process has set aside, want none", n)
				}
			}
			expect("nobody is", map[string]int{one.String(): 0, two.String(): 0, three: 0})
			a.put(one, now)
			expect("one is", map[string]int{one.String(): 20, two.String(): 0, three: 0})
			a.put(two, now.Add(time.Second))
			a.put(netip.MustParseAddr("fdaa:0:18::1"), now) // as if
			expect("two are", map[string]int{one.String(): 20, two.String(): 20, three: 0})
			if n := gathered(t, r, "dnsd_networks_aside"); n != 3 {
				t.Errorf("dnsd_networks_aside is %v, want 3", n)
			}
			a.sweep(now.Add(asideFor + 1))
			expect("one is let back", map[string]int{one.String(): 0, two.String(): 20, three: 0})
			a.put(two, now.Add(time.Second))
			a.sweep(now.Add(asideFor + time.Second + 1))
			expect("both are", map[string]int{one.String(): 0, two.String(): 0, three: 0})
		})
	}
}

// TestAsideIsBounded: the program does not grow for ever, and nobody is set aside
// whom it could not tell from others.
func TestAsideIsBounded(t *testing.T) {
	var told []netip.Prefix
	a := newAside(func(o []netip.Prefix) error { told = o; return nil }, slog.New(slog.DiscardHandler))
	now := time.Now()
	a.put(netip.MustParseAddr("2001:db8::1"), now)
	if told != nil {
		t.Error("a client over IPv6 outside of the private networks is set aside")
	}
	for n := range 2 * mostAside {
		a.put(clientOfNetwork(n).Addr(), now)
		a.put(clientOfNetwork(n).Addr().Next(), now) // the same network
	}
	if len(told) != mostAside || a.count() != mostAside {
		t.Errorf("%d are set aside, %d known to the program, want %d", a.count(), len(told), mostAside)
	}
	if len(steering(3, told)) > 4096 { // BPF_MAXINSNS
		t.Error("the program is too long")
	}
	// A network's id is in bytes 2 to 5 of the source, which is at 8 in an IPv6 header.
	for i, op := range steering(3, told[:1]) {
		if want := binary.BigEndian.Uint32(told[0].Addr().AsSlice()[2:]); op.Code == unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K && op.K == want {
			const source = -0x100000 + 8
			if load := steering(3, told[:1])[i-1]; int32(load.K) != source+2 {
				t.Errorf("a network's id is looked for at %d, want %d", int32(load.K), source+2)
			}
			told = nil
			break
		}
	}
	if told != nil {
		t.Error("the program does not look for a network's id")
	}
	a.sweep(now.Add(asideFor + 1))
	if len(told) != 0 {
		t.Errorf("%d are left", len(told))
	}
}

// TestNotSent: what there is no room for is a drop, what the kernel refuses an error,
// and what was sent neither.
func TestNotSent(t *testing.T) {
	r := newResolver(t)
	l := newLanes(nil, nil, 0, r.log)
	s := &socket{r: r, lanes: l, stats: &stats{proto: UDP}, log: r.log}
	r.stats, r.lanes, r.asides = append(r.stats, s.stats), append(r.lanes, l), append(r.asides, newAside(nil, r.log))
	for _, err := range []error{nil, net.ErrClosed, udpbatch.ErrFull, unix.EPERM} {
		s.notSent(nil, nil, machine, err)
	}
	if drops, errs := gathered(t, r, "dnsd_send_drops_total"), gathered(t, r, "dnsd_write_errors_total"); drops != 1 || errs != 1 {
		t.Errorf("%v drops and %v errors are counted, want 1 and 1", drops, errs)
	}
}

// TestLanesAreCounted: over all listen addresses, as networks set aside are.
func TestLanesAreCounted(t *testing.T) {
	r := newResolver(t)
	for range 2 {
		l, _ := testLanes(t, 10)
		l.lane(sharer(machine.Addr()))
		a := newAside(func([]netip.Prefix) error { return nil }, r.log)
		a.put(machine.Addr(), time.Now())
		r.lanes, r.asides = append(r.lanes, l), append(r.asides, a)
	}
	if open, aside := gathered(t, r, "dnsd_send_lanes"), gathered(t, r, "dnsd_networks_aside"); open != 2 || aside != 2 {
		t.Errorf("%v lanes and %v networks aside are counted, want 2 and 2", open, aside)
	}
}
