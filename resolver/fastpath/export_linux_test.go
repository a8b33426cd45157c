//go:build amd64 || arm64

package fastpath

import (
	"context"
	"net/netip"
)

// OpenSmall is Open with room for so many answers, a power of two.
func OpenSmall(cfg Config, blocks int) (*Path, error) { return open(cfg, blocks) }

// Scan looks at the devices of the calling thread's network.
func (p *Path) Scan(listen []netip.AddrPort) error { p.listen = listen; return p.scan() }

// Fill places answers until ctx ends.
func (p *Path) Fill(ctx context.Context) error { return p.fill(ctx) }

// Renew lets answers be given for the time of a lease.
func (p *Path) Renew() { p.renew(monotonic()) }

// Finish closes everything.
func (p *Path) Finish() { p.end(); p.detach(); p.kernel.finish() }

// Results returns how many packets had each result.
func (p *Path) Results() (n [results]uint64) { return p.kernel.counts().Results }

// SwitchOff makes all answers hold for ever.
func (g *Generations) SwitchOff() { g.off = true }

// Forge links an answer where the programs look for another, as if the hashes of both
// questions were the same. Nothing else may use the table.
func (t *Table) Forge(a, instead *Answer) error {
	if err := t.insert(a); err != nil {
		return err
	}
	h := hash(t.seed, networkOf(instead), instead.Type, instead.Name)
	first := int(h%uint64(len(t.buckets)/bucketEntries)) * bucketEntries
	t.buckets[first].Store(h>>32<<32 | uint64(a.place.Load().block+1))
	return nil
}
