package resolver

import (
	"net/netip"
	"sync"
	"time"
)

// perClientShare is the part of all connections that one client may hold: with
// an eighth, one machine does not take the half that its network can get.
const perClientShare = 8

// strangerPlaces is how many connections clients that dnsd does not serve may hold
// together. All they get is REFUSED.
const strangerPlaces = 16

// connTable bounds the TCP connections, in all, for each network and for each
// client. A network takes places while it holds fewer than are free, as the
// forwarder's questions do. Beyond that a connection is closed for the new one: the
// one of the same network that has been idle longest, since a client can open it
// again (RFC 7766, section 6.1); else one of the network that holds most. (Without
// that second rule, ten networks that come one after the other would each take half
// of what is left, and an eleventh would find nothing.) A network without a connection
// gets its first even if a busy one has to be closed, so that no network is locked out.
// Strangers have a few places of their own.
type connTable struct {
	max, perClient int // set once

	mu       sync.Mutex
	drained  time.Time // see drain; zero: not yet
	open     map[*conn]struct{}
	clients  map[netip.Prefix]int // connections of each
	networks map[netip.Prefix]int
	strange  int // connections of strangers, which are in open but not counted above
	evicted  uint64
	refused  uint64
}

func newConnTable(most int) *connTable {
	return &connTable{
		max:       most,
		perClient: max(most/perClientShare, 1),
		open:      make(map[*conn]struct{}),
		clients:   make(map[netip.Prefix]int),
		networks:  make(map[netip.Prefix]int),
	}
}

// clientOf is what counts as one client: a machine has a whole /112, any other client
// an address.
func clientOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if ula.Contains(a) {
		bits = 112
	}
	p, _ := a.Prefix(bits)
	return p
}

// networkOf is what counts as one network: a private network's /48 (docs/names.md), and
// everything outside of them, the zero Prefix.
func networkOf(a netip.Addr) netip.Prefix {
	a = a.WithZone("")
	if !ula.Contains(a) {
		return netip.Prefix{}
	}
	p, _ := a.Prefix(48)
	return p
}

// add takes a place for c. It reports false where there is none.
func (t *connTable) add(c *conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.makeRoom(c) {
		t.refused++
		return false
	}
	if !t.drained.IsZero() { // the kernel had it already
		c.drain(t.drained)
	}
	t.open[c] = struct{}{}
	if c.stranger {
		t.strange++
		return true
	}
	t.clients[c.client]++
	t.networks[c.network]++
	return true
}

// makeRoom reports whether c gets a place, for which another connection may have
// had to go. Needs mu.
func (t *connTable) makeRoom(c *conn) bool {
	if c.stranger {
		return t.strange < strangerPlaces
	}
	if t.clients[c.client] >= t.perClient {
		return t.evict(false, func(old *conn) bool { return old.client == c.client })
	}
	holds := t.networks[c.network]
	if holds < t.max-(len(t.open)-t.strange) || t.evict(false, func(old *conn) bool { return old.network == c.network }) {
		return true
	}
	var largest netip.Prefix
	for n, held := range t.networks {
		if held > t.networks[largest] {
			largest = n
		}
	}
	if holds+1 >= t.networks[largest] {
		return false // or the two would take places from each other for ever
	}
	return t.evict(holds == 0, func(old *conn) bool { return old.network == largest })
}

// evict closes the connection that has been idle longest of those that match;
// where none is idle and busy ones may go, the one whose last response, if any, is
// longest ago. It reports whether there was one. Needs mu.
func (t *connTable) evict(busy bool, match func(*conn) bool) bool {
	var oldest *conn
	var since int64
	var oldestIdle bool
	for c := range t.open {
		used, idle := c.idle()
		if c.stranger || !match(c) || !idle && (!busy || oldestIdle) {
			continue
		}
		if oldest == nil || idle && !oldestIdle || used < since {
			oldest, since, oldestIdle = c, used, idle
		}
	}
	if oldest == nil {
		return false
	}
	t.evicted++
	t.drop(oldest)
	oldest.close()
	return true
}

// remove gives c's place back, if it has not been taken already.
func (t *connTable) remove(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(c)
}

// drop gives c's place back. Needs mu.
func (t *connTable) drop(c *conn) {
	if _, ok := t.open[c]; !ok {
		return
	}
	delete(t.open, c)
	if c.stranger {
		t.strange--
		return
	}
	if t.clients[c.client]--; t.clients[c.client] == 0 {
		delete(t.clients, c.client)
	}
	if t.networks[c.network]--; t.networks[c.network] == 0 {
		delete(t.networks, c.network)
	}
}

// drain lets every connection answer what has been asked by then.
func (t *connTable) drain(by time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drained = by
	for c := range t.open {
		c.drain(by)
	}
}

// closeAll closes every connection.
func (t *connTable) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.open {
		c.close()
	}
}

func (t *connTable) counts() (open int, evicted, refused uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open), t.evicted, t.refused
}
