package lab

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// Packets pass between labs, and what the rules say happens to those that they are
// about, and to no others.
func TestSwitch(t *testing.T) {
	s := NewSwitch(t, rand.New(rand.NewPCG(1, 2)))
	var addrs [3]netip.Addr
	var labs [3]*Lab
	for i := range addrs {
		addrs[i] = netip.AddrFrom4([4]byte{10, 8, 0, byte(i + 1)})
		labs[i] = Open(t)
		s.Join(t, labs[i], addrs[i])
	}
	const packets = 50
	// arrive sends packets from one lab to another and returns how many arrived
	// and how long the last one took.
	arrive := func(from, to int) (n int, took time.Duration) {
		in, err := labs[to].ListenUDP(netip.AddrPortFrom(addrs[to], 53).String())
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		out, err := labs[from].Dial("udp", addrs[from], netip.AddrPortFrom(addrs[to], 53))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		began := time.Now()
		for i := range packets {
			fmt.Fprint(out, i)
		}
		for ; n < packets; n++ {
			_ = in.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := in.Read(make([]byte, 10)); err != nil {
				break
			}
			took = time.Since(began)
		}
		return n, took
	}
	between := func(from, to int) func(a, b netip.Addr) bool {
		return func(a, b netip.Addr) bool { return a == addrs[from] && b == addrs[to] }
	}
	for _, c := range []struct {
		name  string
		rules []*Rule
		there [2]int // from 0 to 1 there arrive from so many to so many packets
		waits time.Duration
	}{
		{"free", nil, [2]int{packets, packets}, 0},
		{"cut", []*Rule{{Holds: between(0, 1), Loss: 1}}, [2]int{0, 0}, 0},
		{"the_other_way", []*Rule{{Holds: between(1, 0), Loss: 1}, {Holds: between(0, 2), Loss: 1}}, [2]int{packets, packets}, 0},
		{"lossy", []*Rule{{Holds: between(0, 1), Loss: 0.5}}, [2]int{packets / 5, packets * 4 / 5}, 0},
		{"slow", []*Rule{{Holds: between(0, 1), Delay: 50 * time.Millisecond}, {Holds: between(0, 1), Delay: 50 * time.Millisecond, Jitter: 20 * time.Millisecond}},
			[2]int{packets, packets}, 100 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, r := range c.rules {
				s.Add(r)
			}
			n, took := arrive(0, 1)
			if n < c.there[0] || n > c.there[1] || took < c.waits {
				t.Errorf("%d packets arrive, the last after %v; want %v, after %v", n, took, c.there, c.waits)
			}
			if n, _ := arrive(2, 1); n != packets {
				t.Errorf("of those that no rule is about %d arrive", n)
			}
			for _, r := range c.rules {
				s.Remove(r)
			}
			if n, _ := arrive(0, 1); n != packets {
				t.Errorf("once the rules are lifted, %d arrive", n)
			}
		})
	}
}
