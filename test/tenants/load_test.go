package tenants

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// questions gives the i-th question of a client as a message whose id the client sets.
type questions func(i int) []byte

// only asks the same question again and again.
func only(name string, qtype uint16) questions {
	msg := pack(name, qtype)
	return func(int) []byte { return msg }
}

// each asks a new name every time: format has a %d.
func each(format string, qtype uint16) questions {
	return func(i int) []byte { return pack(fmt.Sprintf(format, i), qtype) }
}

func pack(name string, qtype uint16) []byte {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	m.SetEdns0(1232, false)
	b, err := m.Pack()
	if err != nil {
		panic(err) // the names are ours
	}
	return b
}

// fate is what became of a client's questions.
type fate struct {
	sent, wrong int
	took        []time.Duration // of those that were answered, sorted
	paused      time.Duration   // the longest that the client itself did not run
}

func (f fate) lost() int { return f.sent - len(f.took) }

// later counts the answers that took longer than d.
func (f fate) later(d time.Duration) int {
	i, _ := slices.BinarySearch(f.took, d+1)
	return len(f.took) - i
}

func (f fate) quantile(q float64) time.Duration {
	if len(f.took) == 0 {
		return 0
	}
	return f.took[int(q*float64(len(f.took)-1))]
}

func (f fate) String() string {
	return fmt.Sprintf("%d sent, %d lost, %d wrong, p50 %v, p99 %v, worst %v, paused %v", f.sent, f.lost(), f.wrong,
		f.quantile(0.5).Round(10*time.Microsecond), f.quantile(0.99).Round(10*time.Microsecond), f.quantile(1).Round(10*time.Microsecond), f.paused.Round(10*time.Microsecond))
}

// longest is how long a client waits for an answer: what comes later is lost. It
// is what Go, glibc and dig wait.
const longest = 5 * time.Second

// ask asks rate questions a second for d, whatever is answered, and waits for
// what is outstanding. Every answer must be NOERROR with as many records as want
// says.
func ask(t testing.TB, m *lab.Tenant, server netip.AddrPort, rate int, d time.Duration, next questions, want int) fate {
	t.Helper()
	conn, err := m.Dial("udp", m.Addr, server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var f fate
	var mu sync.Mutex // guards asked and open
	asked := make(map[uint16]time.Time)
	received := make(chan struct{})
	go func() {
		defer close(received)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			now := time.Now()
			id := binary.BigEndian.Uint16(buf)
			mu.Lock()
			at, ok := asked[id]
			delete(asked, id)
			mu.Unlock()
			if !ok {
				continue // a second answer, or one that nobody waits for
			}
			f.took = append(f.took, now.Sub(at))
			if n < 12 || buf[3]&0xf != dns.RcodeSuccess || int(binary.BigEndian.Uint16(buf[6:])) != want {
				f.wrong++
			}
		}
	}()
	f.paused = pace(context.Background(), rate, d, func(i int) {
		msg := slices.Clone(next(i))
		id := uint16(i)
		binary.BigEndian.PutUint16(msg, id)
		mu.Lock()
		asked[id] = time.Now()
		mu.Unlock()
		_, _ = conn.Write(msg) // one that the kernel refuses is lost
		f.sent++
	})
	lab.Until(longest, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(asked) == 0
	})
	_ = conn.SetReadDeadline(time.Unix(1, 0))
	<-received
	slices.Sort(f.took)
	return f
}

// pace calls do rate times a second for d or until ctx ends. It returns the longest
// time for which it did not run, although it asks for a turn each millisecond.
func pace(ctx context.Context, rate int, d time.Duration, do func(i int)) (paused time.Duration) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	began, n := time.Now(), 0
	for last := began; ctx.Err() == nil; {
		<-tick.C
		now := time.Now()
		paused, last = max(paused, now.Sub(last)), now
		gone := now.Sub(began)
		for due := int(min(gone, d).Seconds() * float64(rate)); n < due; n++ {
			do(n)
		}
		if gone >= d {
			break
		}
	}
	return paused
}

// flood is a client that asks and never listens. From is the addresses it asks
// from, in turns; nobody need have them.
type flood struct {
	rate int
	next questions
	from []netip.Addr // none: the tenant's own
}

// run floods until ctx ends and returns how much was sent.
func (fl flood) run(ctx context.Context, t testing.TB, m *lab.Tenant, server netip.AddrPort) int {
	conn, err := m.ListenUDP(netip.AddrPortFrom(m.Addr, 0).String())
	if err != nil {
		t.Error(err)
		return 0
	}
	defer conn.Close()
	control := make([][]byte, len(fl.from))
	for i, a := range fl.from {
		control[i] = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: a.As16()})
	}
	sent := 0
	pace(ctx, fl.rate, time.Hour, func(i int) {
		var oob []byte
		if len(control) > 0 {
			oob = control[i%len(control)]
		}
		msg := slices.Clone(fl.next(i))
		binary.BigEndian.PutUint16(msg, uint16(i))
		_, _, err := conn.WriteMsgUDPAddrPort(msg, oob, server)
		switch {
		case err == nil:
			sent++
		case errors.Is(err, unix.EINVAL), errors.Is(err, os.ErrPermission), errors.Is(err, net.ErrClosed):
			t.Errorf("flooding: %v", err)
		}
	})
	return sent
}

// addresses returns n addresses of a machine's /112, other than the first few.
func addresses(machine netip.Addr, n int) []netip.Addr {
	list := make([]netip.Addr, n)
	for i := range list {
		a := machine.As16()
		binary.BigEndian.PutUint16(a[14:], uint16(0x100+i))
		list[i] = netip.AddrFrom16(a)
	}
	return list
}
