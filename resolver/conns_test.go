package resolver

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

func TestClientOf(t *testing.T) {
	for addr, want := range map[string]string{
		"fdaa:0:18:a7b:7d:f066:b83b:2": "fdaa:0:18:a7b:7d:f066:b83b:0/112",
		"2001:db8::1":                  "2001:db8::1/128",
		"::ffff:192.0.2.1":             "192.0.2.1/32",
		"fe80::1%eth0":                 "fe80::1/128",
	} {
		if got := clientOf(netip.MustParseAddr(addr)).String(); got != want {
			t.Errorf("client of %s is %s, want %s", addr, got, want)
		}
	}
}

func TestNetworkOf(t *testing.T) {
	for addr, want := range map[string]netip.Prefix{
		"fdaa:0:18:a7b:7d:f066:b83b:2": network,
		"fdaa:0:18::3%eth0":            network,
		"fdab::1":                      {},
		"127.0.0.1":                    {},
		"::ffff:192.0.2.1":             {},
	} {
		if got := networkOf(netip.MustParseAddr(addr)); got != want {
			t.Errorf("network of %s is %s, want %s", addr, got, want)
		}
	}
}

// tableConn returns a connection for a table: of a machine of the n-th network,
// last used at a time, and busy or not.
func tableConn(n, machine int, used int64, busy bool) *conn {
	b := [16]byte{0: 0xfd, 1: 0xaa, 5: byte(n), 13: byte(machine)}
	a := netip.AddrFrom16(b)
	c := &conn{nc: new(net.TCPConn), client: clientOf(a), network: networkOf(a)}
	c.used.Store(used)
	if busy {
		c.busy.Store(1)
	}
	return c
}

func (t *connTable) has(c *conn) bool { _, ok := t.open[c]; return ok }

// fillTable opens connections of the n-th network, each of another machine,
// until it gets no more or has got most.
func fillTable(table *connTable, n, most int, busy bool) (got int) {
	for got < most && table.add(tableConn(n, got, int64(got), busy)) {
		got++
	}
	return got
}

func TestPlacesOfBusyNetworks(t *testing.T) {
	table := newConnTable(200)
	if got := []int{fillTable(table, 0, 250, true), fillTable(table, 1, 250, true), fillTable(table, 2, 250, true)}; fmt.Sprint(got) != "[100 50 25]" {
		t.Errorf("three networks took %v places one after the other", got)
	}
	for n := 3; len(table.open) < table.max; n++ {
		if fillTable(table, n, 250, true) == 0 {
			t.Fatalf("%d places are held and network %d gets none", len(table.open), n)
		}
	}
	if table.evicted != 0 {
		t.Errorf("%d had to go while there was room", table.evicted)
	}
	// However many have come, each new one gets a place, and one place only.
	for n := 100; n < 150; n++ {
		if got := fillTable(table, n, 250, true); got != 1 {
			t.Errorf("network %d gets %d places of a full table, want 1", n, got)
		}
	}
	first := tableConn(0, 0, 0, true).network
	if len(table.open) != table.max || table.evicted != 50 || table.networks[first] >= 100 {
		t.Errorf("%d places are held, %d by the first, %d had to go", len(table.open), table.networks[first], table.evicted)
	}
}

// TestFirstPlace: the first connection of a network takes an idle one's place
// rather than a busy one's, however long that has been busy.
func TestFirstPlace(t *testing.T) {
	table := newConnTable(4)
	busy, idle := tableConn(0, 0, 1, true), tableConn(0, 1, 1000, false)
	for _, c := range []*conn{busy, idle, tableConn(1, 0, 0, true), tableConn(2, 0, 0, true), tableConn(3, 0, 0, true)} {
		if !table.add(c) {
			t.Fatal("no place")
		}
	}
	if !table.has(busy) || table.has(idle) {
		t.Error("a busy connection had to go while one was idle")
	}
}

// TestIdlePlacesAreShared: a busy network gets another's idle places until both
// have as many.
func TestIdlePlacesAreShared(t *testing.T) {
	table := newConnTable(60)
	fillTable(table, 0, 30, false)
	if got := fillTable(table, 1, 250, true); got != 22 || len(table.open) != 45 || table.evicted != 7 {
		t.Errorf("of 45 connections the busy network has %d, %d had to go", got, table.evicted)
	}
}

// TestWhoHasToGo: a network's own idle connection before another's, and of
// others' only those of the one that holds most.
func TestWhoHasToGo(t *testing.T) {
	table := newConnTable(40)
	fillTable(table, 0, 19, true)
	oldest := tableConn(0, 99, 500, false)
	if !table.add(oldest) { // 20 of network 0
		t.Fatal("no place")
	}
	own, older := tableConn(1, 0, 1000, false), tableConn(2, 0, 1, false)
	table.add(own)
	table.add(older)
	for i := 1; table.networks[own.network] < table.max-len(table.open); i++ {
		table.add(tableConn(1, i, 0, true))
	}
	fresh := tableConn(1, 50, 2000, true)
	if !table.add(fresh) || table.has(own) || !table.has(oldest) || !table.has(older) {
		t.Error("another connection than the network's own idle one had to go")
	}
	if !table.add(tableConn(1, 51, 2000, true)) || table.has(oldest) || !table.has(older) {
		t.Error("another connection than the largest network's idle one had to go")
	}
	if table.add(tableConn(1, 52, 2000, true)) || !table.has(older) || table.networks[oldest.network] != 19 {
		t.Error("a busy connection or that of a smaller network had to go")
	}
	if counts := len(table.open); counts > table.max || len(table.networks) != 3 {
		t.Errorf("%d connections of %d networks", counts, len(table.networks))
	}
}

// TestStrangersPlaces: strangers have places of their own, which neither take
// from the clients' nor give to them.
func TestStrangersPlaces(t *testing.T) {
	table := newConnTable(20)
	idle := tableConn(0, 0, 1, false)
	table.add(idle)
	strangers := func() (got int) {
		for ; got < 100; got++ {
			c := tableConn(0, 0, 0, false)
			c.stranger, c.network = true, netip.Prefix{}
			if !table.add(c) {
				return got
			}
			if got == 0 {
				defer table.remove(c)
			}
		}
		return got
	}
	if got := strangers(); got != strangerPlaces || !table.has(idle) {
		t.Errorf("strangers got %d places, want %d and nobody else's", got, strangerPlaces)
	}
	got := 0
	for ; got < 100; got++ { // clients outside of all private networks, as strangers are
		c := tableConn(0, got+1, 0, true)
		if c.network = (netip.Prefix{}); !table.add(c) {
			break
		}
	}
	if got != 10 || table.evicted != 0 {
		t.Errorf("clients got %d places beside strangers, want 10; %d had to go", got, table.evicted)
	}
	if got := strangers(); got != 1 {
		t.Errorf("strangers got %d places, want the one that came back", got)
	}
}

func TestPlacesOfOneClient(t *testing.T) {
	for most, want := range map[int]int{1: 1, perClientShare: 1, 2*perClientShare - 1: 1, 2 * perClientShare: 2} {
		if got := newConnTable(most).perClient; got != want {
			t.Errorf("of %d connections one client may hold %d, want %d", most, got, want)
		}
	}
}

func TestPlacesComeBack(t *testing.T) {
	table := newConnTable(16)
	for range 100 {
		c := tableConn(0, 0, 0, true)
		if !table.add(c) {
			t.Fatal("no place though none is held")
		}
		table.remove(c)
		table.remove(c)
	}
	if len(table.open)+len(table.networks)+len(table.clients) != 0 {
		t.Errorf("held: %v, %v", table.networks, table.clients)
	}
}

// pipelined returns n questions as one connection sends them.
func pipelined(t *testing.T, n int, name string) (all []byte) {
	req := query(t, name, dns.TypeAAAA)
	for range n {
		all = append(binary.BigEndian.AppendUint16(all, uint16(len(req))), req...)
	}
	return all
}
