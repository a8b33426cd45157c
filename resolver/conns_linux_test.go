package resolver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestOneNetworkLeavesRoom: the machines of one network ask for large answers on
// as many connections as they get and read none; a client of another
// network is still served, over TCP as over UDP.
func TestOneNetworkLeavesRoom(t *testing.T) {
	const machines, each, places = 9, 9, 64
	r := newResolver(t, listenOn("[::]:53"), func(c *Config) { c.MaxTCPConns = places })
	r.messageTime = time.Hour // none is closed for reading nothing
	other := "fdaa:0:99:1::2"
	addrs := []string{"fdaa::3/128", other + "/128"}
	for i := range machines {
		addrs = append(addrs, fmt.Sprintf("fdaa:0:18:1:%d::2/128", i+1))
	}
	server := netip.MustParseAddrPort("[fdaa::3]:53")
	dialTCP := func(from string) (*net.TCPConn, error) {
		return net.DialTCP("tcp", &net.TCPAddr{IP: net.ParseIP(from)}, net.TCPAddrFromAddrPort(server))
	}
	var greedy, fresh []*net.TCPConn
	var udp *net.UDPConn
	var problem error
	elsewhere(t, addrs, func() {
		if problem = r.Listen(); problem != nil {
			return
		}
		for i := range machines * each {
			c, err := dialTCP(fmt.Sprintf("fdaa:0:18:1:%d::2", i%machines+1))
			problem = errors.Join(problem, err)
			greedy = append(greedy, c)
		}
		for range 3 { // accepted after the others
			c, err := dialTCP(other)
			problem = errors.Join(problem, err)
			fresh = append(fresh, c)
		}
		var err error
		udp, err = net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(other)}, net.UDPAddrFromAddrPort(server))
		problem = errors.Join(problem, err)
	})
	if problem != nil {
		t.Fatal(problem)
	}
	questions := pipelined(t, 400, "huge.internal.")
	for _, c := range greedy {
		defer c.Close()
		if _, err := c.Write(questions); err != nil {
			t.Fatal(err)
		}
	}
	r.cfg.Drain = time.Millisecond
	serveBound(t, r)
	for _, c := range append([]net.Conn{udp}, fresh[0], fresh[1], fresh[2]) {
		defer c.Close()
		proto := TCP
		if c == net.Conn(udp) {
			proto = UDP
		}
		if m := askFrom(t, c, proto, "my-app.internal.", dns.TypeAAAA); m == nil || len(m.Answer) != 3 {
			t.Errorf("a client of another network gets\n%v", m)
		}
	}
	if n := gathered(t, r, "dnsd_tcp_connections"); n > places/2+3 {
		t.Errorf("one network holds %v of %d connections", n-3, places)
	}
}
