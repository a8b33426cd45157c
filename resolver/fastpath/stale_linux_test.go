//go:build amd64 || arm64

package fastpath_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/resolver"
	"dnsd/resolver/fastpath"
	"dnsd/zones"

	"github.com/miekg/dns"
)

const clientAddr = "fdaa:0:18:1::2"

// server is a dnsd without its sources: a registry, its zones, a resolver and the
// kernel, in a network of its own.
type server struct {
	reg    *registry.Registry
	kernel *fastpath.Path
	client *space
}

func newServer(t testing.TB, blocks int, prepare func(*fastpath.Path)) *server {
	t.Helper()
	host, client := pair(t, clientAddr)
	kernel, err := fastpath.OpenSmall(fastpath.Config{Devices: []string{"fast*"}, Limit: 1232, Log: slog.New(slog.DiscardHandler)}, blocks)
	if err != nil {
		skip(t, err.Error())
	}
	t.Cleanup(kernel.Finish)
	if prepare != nil {
		prepare(kernel)
	}
	reg := registry.New()
	reg.SetFence(kernel)
	reg.SetStatus(registry.Status{State: registry.Live})
	z := zones.New(reg, zones.Config{TTL: 5})
	listen := netip.MustParseAddrPort("[fdaa::3]:53")
	r, err := resolver.New(resolver.Config{Kernel: kernel, Listen: []netip.AddrPort{listen}, Zones: z.Zones(), Viewer: z.Viewer(), Epoch: reg.Epoch, Drain: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	host.do(func() { err = errors.Join(r.Listen(), kernel.Scan([]netip.AddrPort{listen})) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		if err := kernel.Fill(ctx); err != nil {
			t.Error(err)
		}
	})
	kernel.Renew() // answers hold from the first question on
	wg.Go(func() {
		for ctx.Err() == nil {
			kernel.Renew()
			time.Sleep(100 * time.Millisecond)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	return &server{reg: reg, kernel: kernel, client: client}
}

// dial returns a socket of the client's.
func (s *server) dial(t testing.TB) net.Conn {
	t.Helper()
	var conn net.Conn
	var err error
	s.client.do(func() { conn, err = net.Dial("udp", "[fdaa::3]:53") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// machineAt returns the machine of an app with a version in its address.
func machineAt(app string, version uint64) *registry.Machine {
	b := netip.MustParseAddr("fdaa:0:18::2").As16()
	binary.BigEndian.PutUint64(b[6:14], version)
	m := registry.Machine{ID: app + "-m", App: app, Network: 0x18, State: "started", Addr: netip.AddrFrom16(b)}
	return &m
}

// exchange asks and returns the version in the answer.
func exchange(conn net.Conn, req, buf []byte) (version uint64, err error) {
	if _, err := conn.Write(req); err != nil {
		return 0, err
	}
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, err := conn.Read(buf)
	if err != nil {
		return 0, err
	}
	if n < len(req)+28 || buf[7] != 1 {
		return 0, fmt.Errorf("answer %x", buf[:n])
	}
	return binary.BigEndian.Uint64(buf[len(req)+12+6:]), nil
}

// race changes apps, all the time or with pauses, while clients ask for them, and returns how many
// answers were older than a change that was finished before the question was asked. At least so many hits make it
// a test.
func (s *server) race(t *testing.T, questions, hits int, pause time.Duration) (stale uint64) {
	t.Helper()
	const apps, clients = 4, 3
	var done [apps]atomic.Uint64 // the newest version that the registry has applied
	name := func(i int) string { return fmt.Sprintf("app%d", i) }
	for i := range apps {
		s.reg.Apply([]registry.Item{{Object: machineAt(name(i), uint64(i))}})
	}
	ctx, stop := context.WithCancel(context.Background())
	var changing, asking sync.WaitGroup
	changes := 0
	changing.Go(func() {
		for v := uint64(1); ctx.Err() == nil; v++ {
			for i := range apps {
				s.reg.Apply([]registry.Item{{Object: machineAt(name(i), v*apps+uint64(i))}})
				done[i].Store(v)
				changes++
			}
			if pause > 0 {
				time.Sleep(pause)
			} else {
				runtime.Gosched()
			}
		}
	})
	var old atomic.Uint64
	for c := range clients {
		conn := s.dial(t)
		asking.Go(func() {
			var reqs [apps][]byte
			for i := range reqs {
				reqs[i], _ = new(dns.Msg).SetQuestion(name(i)+".internal.", dns.TypeAAAA).Pack()
			}
			buf := make([]byte, 1500)
			few := func() bool { return s.kernel.Results()[fastpath.Hit] < uint64(hits) }
			for n := 0; n < questions/clients || n < 50*questions/clients && few(); n++ {
				i := (n + c) % apps
				least := done[i].Load()
				got, err := exchange(conn, reqs[i], buf)
				if err != nil {
					t.Error(err)
					return
				}
				if got%apps != uint64(i) {
					t.Errorf("app %d is answered with version %d of app %d", i, got/apps, got%apps)
				}
				if got/apps < least {
					old.Add(1)
				}
			}
		})
	}
	asking.Wait()
	stop()
	changing.Wait()
	r := s.kernel.Results()
	t.Logf("%d questions during %d changes: %d stale; the programs: %d hits, %d misses, %d stale", questions, changes, old.Load(), r[fastpath.Hit], r[fastpath.Miss], r[fastpath.Stale])
	if r[fastpath.Hit] < uint64(hits) {
		t.Errorf("too few answers came from the kernel to show anything: %v", r)
	}
	return old.Load()
}

// questionsFor returns how many questions a test asks.
func questionsFor(usual, full int) int {
	if os.Getenv("DNSD_TEST_FULL") != "" {
		return full
	}
	return usual
}

// No answer is older than what the registry had when its question was asked.
func TestNeverStale(t *testing.T) {
	for _, c := range []struct {
		name   string
		blocks int
		hits   int
		pause  time.Duration
	}{
		{"changes_with_pauses", 1 << 10, 1000, 2 * time.Millisecond},
		{"changes_as_fast_as_can_be", 1 << 10, 100, 0},
		{"no_room", 2, 1, 2 * time.Millisecond}, // blocks are used again all the time
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t, c.blocks, nil)
			if n := s.race(t, questionsFor(20_000, 300_000), c.hits, c.pause); n > 0 {
				t.Errorf("%d answers were stale", n)
			}
			if s.kernel.Results()[fastpath.Stale] == 0 {
				t.Error("no answer has ended in the kernel")
			}
		})
	}
}

// The same test finds stale answers where generations do not change: it can fail.
func TestStaleIsFound(t *testing.T) {
	s := newServer(t, 1<<10, func(k *fastpath.Path) { k.SwitchOff() })
	if n := s.race(t, 20_000, 1000, 2*time.Millisecond); n == 0 {
		t.Error("no answer is stale although nothing ends them")
	}
}

// A change of the status ends all answers: those that follow say that they may be old.
func TestStatusEndsAnswers(t *testing.T) {
	s := newServer(t, 1<<10, nil)
	s.reg.Apply([]registry.Item{{Object: machineAt("app0", 7)}})
	conn, buf := s.dial(t), make([]byte, 1500)
	req, err := new(dns.Msg).SetQuestion("app0.internal.", dns.TypeAAAA).SetEdns0(1232, false).Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range []registry.State{registry.Live, registry.Stale, registry.Live, registry.Cached} {
		s.reg.SetStatus(registry.Status{State: state})
		hits := s.kernel.Results()[fastpath.Hit]
		for n := 0; s.kernel.Results()[fastpath.Hit] < hits+3; n++ {
			if _, err := conn.Write(req); err != nil {
				t.Fatal(err)
			}
			conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			length, err := conn.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if stale := bytes.Contains(buf[:length], []byte("last known state")); stale != (state != registry.Live) {
				t.Fatalf("%s: the answer number %d says %t that it is old", state, n, stale)
			}
			if n > 10_000 {
				t.Fatalf("%s: the kernel does not answer: %v", state, s.kernel.Results())
			}
		}
	}
}
