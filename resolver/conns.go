package resolver

import (
	"net/netip"
	"sync"
)

// perClientShare is the part of all connections that one client may hold: with
// an eighth it takes eight of them acting together to fill the table.
const perClientShare = 8

// connTable bounds the TCP connections, in all and for each client. Where there
// is no place, the connection that has been idle longest gives up its own, since
// idle ones cost nothing to open again (RFC 7766, section 6.1) and clients that hoard
// them must not lock out others; only where all are busy is the new one turned away.
type connTable struct {
	max, perClient int // set once

	mu       sync.Mutex
	draining bool
	open     map[*conn]struct{}
	clients  map[netip.Prefix]int
	evicted  uint64
	refused  uint64
}

func newConnTable(most int) *connTable {
	return &connTable{
		max:       most,
		perClient: max(most/perClientShare, 1),
		open:      make(map[*conn]struct{}),
		clients:   make(map[netip.Prefix]int),
	}
}

// clientOf is what counts as one client: a machine has a whole /112 (NAMES.md,
// "Who is asking"), anyone else an address.
func clientOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if ula.Contains(a) {
		bits = 112
	}
	p, _ := a.Prefix(bits)
	return p
}

// add takes a place for c. It reports false where there is none.
func (t *connTable) add(c *conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	ok := !t.draining
	if ok && t.clients[c.client] >= t.perClient {
		ok = t.evict(func(old *conn) bool { return old.client == c.client })
	}
	if ok && len(t.open) >= t.max {
		ok = t.evict(func(*conn) bool { return true })
	}
	if !ok {
		t.refused++
		return false
	}
	t.open[c] = struct{}{}
	t.clients[c.client]++
	return true
}

// evict closes the connection that has been idle longest of those that match.
// Needs mu.
func (t *connTable) evict(match func(*conn) bool) bool {
	var oldest *conn
	var since int64
	for c := range t.open {
		if used, idle := c.idle(); idle && match(c) && (oldest == nil || used < since) {
			oldest, since = c, used
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

// drop forgets c. Needs mu.
func (t *connTable) drop(c *conn) {
	if _, ok := t.open[c]; !ok {
		return
	}
	delete(t.open, c)
	if t.clients[c.client]--; t.clients[c.client] == 0 {
		delete(t.clients, c.client)
	}
}

// drain lets every connection finish what it has in hand, and no new ones in.
func (t *connTable) drain() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draining = true
	for c := range t.open {
		c.drain()
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
