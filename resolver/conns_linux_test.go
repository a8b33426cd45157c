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
	r := newResolver(t, listenOn("[::]:53"), func(c *Config) { c.MaxTCPConns, c.Drain = places, time.Millisecond })
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
	var conns []net.Conn
	var problem error
	elsewhere(t, addrs, func() {
		if problem = r.Listen(); problem != nil {
			return
		}
		serveBound(t, r)
		questions := pipelined(t, 400, "huge.internal.")
		for i := range machines * each {
			c, err := dialTCP(fmt.Sprintf("fdaa:0:18:1:%d::2", i%machines+1))
			if problem = errors.Join(problem, err); err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			problem = errors.Join(problem, c.SetReadBuffer(4096)) // is full all the sooner
			_, _ = c.Write(questions)                             // fails where the connection was turned away
		}
		for deadline := time.Now().Add(patience); !allBusy(r.conns); time.Sleep(2 * time.Millisecond) {
			if time.Now().After(deadline) {
				problem = errors.New("the connections never are all busy")
				return
			}
		}
		for range 2 {
			c, err := dialTCP(other)
			problem = errors.Join(problem, err)
			conns = append(conns, c)
		}
		c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(other)}, net.UDPAddrFromAddrPort(server))
		problem = errors.Join(problem, err)
		conns = append(conns, c)
	})
	if problem != nil {
		t.Fatal(problem)
	}
	for i, c := range conns {
		defer c.Close()
		proto := TCP
		if i == 2 {
			proto = UDP
		}
		if m := askFrom(t, c, proto, "my-app.internal.", dns.TypeAAAA); m == nil || len(m.Answer) != 3 {
			t.Errorf("a client of another network gets\n%v", m)
		}
	}
	if n := gathered(t, r, "dnsd_tcp_connections"); n != places/2+2 {
		t.Errorf("one network holds %v of %d connections", n-2, places)
	}
}

// TestUnreadResponses: what a client does not read is soon no longer computed.
func TestUnreadResponses(t *testing.T) {
	r := newResolver(t)
	r.messageTime = 200 * time.Millisecond
	addr := run(t, r)
	c := dialFrom(t, "127.0.0.1", addr).(*net.TCPConn)
	if err := c.SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(pipelined(t, 400, "huge.internal.")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the client loses its connection", func() bool {
		return gathered(t, r, "dnsd_write_errors_total", "proto", "tcp") == 1
	})
	if n := gathered(t, r, "dnsd_responses_total", "proto", "tcp"); n > 8 {
		t.Errorf("%v responses were computed for a client that reads none", n)
	}
}

// TestStrangersTakeNoClientsPlace: however many connect, in silence, the clients'
// idle connections stay; and a stranger that asks is told once that it may not.
func TestStrangersTakeNoClientsPlace(t *testing.T) {
	const client, strange, places = "fdaa:0:18:1::2", "2001:db8::1", 16
	r := newResolver(t, listenOn("[::]:53"), func(c *Config) {
		c.MaxTCPConns, c.TCPIdle, c.Drain = places, time.Hour, time.Millisecond
	})
	r.strangerTime = 300 * time.Millisecond
	var clients []net.Conn
	var silent, asking net.Conn
	var problem error
	elsewhere(t, []string{"fdaa::3/128", client + "/128", strange + "/128"}, func() {
		if problem = r.Listen(); problem != nil {
			return
		}
		serveBound(t, r)
		dial := func(from string) net.Conn {
			c, err := net.DialTCP("tcp", &net.TCPAddr{IP: net.ParseIP(from)}, &net.TCPAddr{IP: net.ParseIP("fdaa::3"), Port: 53})
			if problem = errors.Join(problem, err); err != nil {
				return nil
			}
			t.Cleanup(func() { c.Close() })
			problem = errors.Join(problem, c.SetDeadline(time.Now().Add(patience)))
			return c
		}
		for range places / perClientShare {
			clients = append(clients, dial(client))
		}
		if asking = dial(strange); problem != nil {
			return
		}
		_, err := asking.Write(pipelined(t, 2, "my-app.internal."))
		problem = errors.Join(problem, err)
		for range places + strangerPlaces {
			silent = dial(strange)
		}
	})
	if problem != nil {
		t.Fatal(problem)
	}
	resp, err := receive(TCP, asking)
	if err != nil || unpack(t, resp).Rcode != dns.RcodeRefused || !closed(t, asking) {
		t.Errorf("a stranger gets %x, %v, want REFUSED, once", resp, err)
	}
	if !closed(t, silent) {
		t.Error("a silent stranger stays")
	}
	eventually(t, "all strangers are gone", func() bool {
		open, evicted, _ := r.conns.counts()
		return open == len(clients) && evicted == 0
	})
	for _, c := range clients {
		defer c.Close()
		if m := askFrom(t, c, TCP, "my-app.internal.", dns.TypeAAAA); m == nil || len(m.Answer) != 3 {
			t.Errorf("a client gets\n%v", m)
		}
	}
}

// allBusy reports whether as many connections as one network gets are open, and
// each waits for its client to take a response.
func allBusy(table *connTable) bool {
	table.mu.Lock()
	defer table.mu.Unlock()
	for c := range table.open {
		if _, idle := c.idle(); idle {
			return false
		}
	}
	return len(table.open) >= table.max/2
}
