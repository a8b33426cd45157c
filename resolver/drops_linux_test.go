package resolver

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestDropsAreCounted: what the kernel throws away before dnsd sees it shows.
func TestDropsAreCounted(t *testing.T) {
	r := newResolver(t)
	if err := r.Listen(); err != nil {
		t.Fatal(err)
	}
	defer r.acceptors[0].listener.Close()
	if batched, single := gathered(t, r, "dnsd_udp_sockets", "mode", "batched"), gathered(t, r, "dnsd_udp_sockets", "mode", "single"); batched+single != 3 || batched > 0 && single > 0 {
		t.Errorf("%v sockets move many packets a call and %v one, want two and the side socket, all alike", batched, single)
	}
	for _, s := range r.sockets { // nobody reads them
		defer s.conn.Close()
		if err := s.conn.(*net.UDPConn).SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
	}
	c, err := net.Dial("udp", netip.AddrPortFrom(loopback.Addr(), r.Addresses()[0].Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for deadline := time.Now().Add(patience); gathered(t, r, "dnsd_receive_drops_total") == 0; {
		for range 100 {
			if _, err := c.Write(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the queue overflows and no drop is counted")
		}
	}
}
