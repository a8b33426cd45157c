package lab

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Switch joins labs to one network of IPv4, 10.8.0.0/24. Every packet passes
// through the test, which can lose it or hold it up, in one direction or in both:
// that takes no kernel but one with TUN devices. Safe for concurrent use.
type Switch struct {
	wg sync.WaitGroup

	mu    sync.Mutex
	r     *rand.Rand
	ports map[netip.Addr]*os.File
	rules map[*Rule]struct{}
}

// Rule is what happens to packets between some of a switch's addresses. Where
// several hold for a packet, it is lost if one of them loses it, and held up by
// all of them.
type Rule struct {
	Holds  func(from, to netip.Addr) bool
	Loss   float64       // the share of packets that get lost; 1: all
	Delay  time.Duration // of every packet
	Jitter time.Duration // at most, on top of Delay; packets may overtake each other
}

// NewSwitch returns a switch without ports, which ends with the test. What it
// loses is drawn from r, which is the switch's from now on.
func NewSwitch(t testing.TB, r *rand.Rand) *Switch {
	s := &Switch{r: r, ports: map[netip.Addr]*os.File{}, rules: map[*Rule]struct{}{}}
	t.Cleanup(s.close)
	return s
}

func (s *Switch) close() {
	s.mu.Lock()
	for _, port := range s.ports {
		port.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Join gives a lab an address on the switch. It skips the test where there are no
// TUN devices.
func (s *Switch) Join(t testing.TB, l *Lab, addr netip.Addr) {
	t.Helper()
	var fd int
	var err error
	l.Do(func() { fd, err = openTUN("eth0") })
	if err != nil {
		Skip(t, "no TUN device: "+err.Error())
	}
	l.IP(t, fmt.Sprintf("addr add %s/24 dev eth0", addr), "link set eth0 up")
	port := os.NewFile(uintptr(fd), "tun")
	s.mu.Lock()
	s.ports[addr] = port
	s.mu.Unlock()
	s.wg.Go(func() { s.carry(port) })
}

// openTUN makes a TUN device in the network namespace of the calling thread.
func openTUN(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// Add puts a rule in force, Remove lifts it. What is held up by then still
// arrives.
func (s *Switch) Add(r *Rule)    { s.mu.Lock(); defer s.mu.Unlock(); s.rules[r] = struct{}{} }
func (s *Switch) Remove(r *Rule) { s.mu.Lock(); defer s.mu.Unlock(); delete(s.rules, r) }

// carry takes what one port sends to where it belongs, until the port closes.
func (s *Switch) carry(port *os.File) {
	buf := make([]byte, 65535)
	for {
		n, err := port.Read(buf)
		if err != nil {
			return
		}
		packet := buf[:n]
		if n < 20 || packet[0]>>4 != 4 { // the IPv6 that a device sends by itself
			continue
		}
		from, to := netip.AddrFrom4([4]byte(packet[12:])), netip.AddrFrom4([4]byte(packet[16:]))
		out, wait := s.way(from, to)
		switch {
		case out == nil:
		case wait == 0:
			_, _ = out.Write(packet) // to a device that is down it is lost
		default:
			packet := append([]byte(nil), packet...)
			s.wg.Add(1)
			time.AfterFunc(wait, func() {
				defer s.wg.Done()
				_, _ = out.Write(packet)
			})
		}
	}
}

// way returns where a packet goes and how long it takes; nil: it is lost.
func (s *Switch) way(from, to netip.Addr) (*os.File, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, wait := s.ports[to], time.Duration(0)
	for r := range s.rules {
		if !r.Holds(from, to) {
			continue
		}
		if s.r.Float64() < r.Loss {
			return nil, 0
		}
		wait += r.Delay
		if r.Jitter > 0 {
			wait += time.Duration(s.r.Int64N(int64(r.Jitter)))
		}
	}
	return out, wait
}
