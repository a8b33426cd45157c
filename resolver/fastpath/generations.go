package fastpath

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
)

// generations is how many there are. The first is the status'; a host's few thousand apps
// rarely share one of the others.
const generations = 1 << 16

// Generations tell when an answer may have changed. One goroutine at a time calls
// Close, CloseAll and Open, as a registry.Fence is called; the rest is safe for concurrent use.
type Generations struct {
	words  []atomic.Uint64 // what the programs read
	seed   maphash.Seed
	closed []uint32 // since the last Open

	off bool // never changed, by a test that shows what they are for
}

// Generation is the state of an app and of the status at one time.
type Generation struct {
	slot        uint32
	app, status uint64
}

// fleet identifies an app.
type fleet struct {
	network netip.Prefix
	app     string
}

// slotOf says which of the words is an app's.
func (g *Generations) slotOf(network netip.Prefix, app string) uint32 {
	return 1 + uint32(maphash.Comparable(g.seed, fleet{network, app})%(generations-1))
}

// Generation returns the generation of an app, its name in lower case, of a network,
// and false while it changes.
func (g *Generations) Generation(network netip.Prefix, app string) (Generation, bool) {
	return g.now(g.slotOf(network, app))
}

func (g *Generations) now(s uint32) (Generation, bool) {
	now := Generation{slot: s, app: g.words[s].Load(), status: g.words[0].Load()}
	return now, (now.app|now.status)&1 == 0
}

// Close ends all answers that depend on an app, its name in lower case, of a network. No new ones
// are made until Open.
func (g *Generations) Close(network netip.Prefix, app string) { g.close(g.slotOf(network, app)) }

// CloseAll ends all answers. No new ones are made until Open.
func (g *Generations) CloseAll() { g.close(0) }

func (g *Generations) close(s uint32) {
	if g.words[s].Load()&1 != 0 || g.off { // another app's, closed already
		return
	}
	g.words[s].Add(1)
	g.closed = append(g.closed, s)
}

// Open lets answers be made from what was changed, which everybody sees by now.
func (g *Generations) Open() {
	for _, s := range g.closed {
		g.words[s].Add(1)
	}
	g.closed = g.closed[:0]
}
