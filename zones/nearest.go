package zones

import (
	"maps"
	"math"
	"slices"

	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// nearest answers for <app> and for top<N>.nearest.of.<app>: the started
// machines, in order of distance from the client. Machines at equal distance
// form a run and take turns, and the limit is applied after that, so that one machine
// does not get a region's whole load.
func (l *lookup) nearest(f *registry.Fleet, n *name) *resolver.Answer {
	// Every N is a name of its own, and all N beyond the fleet's size have the same
	// answer: sockets need not keep one for each N that somebody makes up.
	l.noStore = n.top >= maxKeptTop
	if !l.wants(dns.TypeAAAA) {
		return l.otherType(dns.TypeAAAA)
	}
	if n.kind == kindApp {
		return l.reply(dns.TypeAAAA, l.order(f, "", false))
	}
	// Kept even if it is cheap: it serves every N, and the clients of one host are
	// in few regions.
	b := l.order(f, l.q.View.Region, true)
	first := b.nearest(n.top)
	if len(first.data) < len(b.data) {
		// A socket that keeps the answer must not keep all of the fleet's addresses
		// in memory: it gets a copy, or does not keep the answer.
		if len(first.data) <= maxKeptTop {
			first.data = copied(first.data)
		} else {
			l.noStore = true
		}
	}
	a := l.reply(dns.TypeAAAA, first)
	if a.Type != dns.TypeAAAA {
		return a
	}
	if n.top < len(a.Data) {
		a.Limit = n.top
	}
	if _, known := l.cfg.Regions.at[l.q.View.Region]; !known {
		a.EDE = append(other(unknownPlace(l.q.View.Region)), a.EDE...)
	}
	return a
}

// maxKeptTop is larger than any useful N: a thousand addresses fit into no UDP
// packet.
const maxKeptTop = 1000

// order returns all of a fleet's addresses, nearest to a region first; in the
// order of ids, as one run, where the region has no coordinates.
func (l *lookup) order(f *registry.Fleet, region string, keep bool) *body {
	here, known := l.cfg.Regions.at[region]
	n := &name{kind: kindApp}
	if known {
		n = &name{kind: kindNearest, arg: region}
	}
	return l.compute(f, n, keep, func() *body {
		if !known || f.Started() == 0 {
			return l.run(f, n, f.Deployed())
		}
		return l.pick(l.byDistance(here, f.Deployed()))
	})
}

// nearest returns the body's first runs, as many as have n addresses.
func (b *body) nearest(n int) *body {
	first, sum := *b, 0
	for i, run := range b.turns {
		if sum += run; sum >= n {
			first.turns = b.turns[:i+1]
			break
		}
	}
	first.data = b.data[:sum]
	return &first
}

func copied(data [][]byte) [][]byte {
	bytes := slices.Concat(data...)
	c := make([][]byte, 0, len(data))
	for i := range data {
		c = append(c, bytes[16*i:16*i+16:16*i+16])
	}
	return c
}

// unknownPlace says why the order of nearest is arbitrary.
func unknownPlace(region string) string {
	if region == "" {
		return "your region is not known, so the order is arbitrary"
	}
	return "your region " + clean(region) + " has no coordinates, so the order is arbitrary"
}

// farthest is the distance of a region without coordinates.
const farthest = math.MaxInt

// byDistance returns machines in order of distance from a place, those of
// regions without coordinates last, and the lengths of the runs of equal
// distance. Within a run the machines keep their order. It takes two steps for
// each machine.
func (l *lookup) byDistance(from point, machines []*registry.Machine) (ordered []*registry.Machine, runs []int) {
	if !l.budget.Need(2 * len(machines)) {
		return nil, nil
	}
	distances := map[string]int{} // of regions, as machines spell them
	size := map[int]int{}         // how many machines are at a distance
	for _, m := range machines {
		l.budget.Step(1)
		d, ok := distances[m.Region]
		if !ok {
			d = farthest
			if there, ok := l.cfg.Regions.at[registry.Lower(m.Region)]; ok {
				d = distance(from, there)
			}
			distances[m.Region] = d
		}
		size[d]++
	}
	next := make(map[int]int, len(size)) // where the next machine of a distance goes
	at := 0
	for _, d := range slices.Sorted(maps.Keys(size)) {
		next[d] = at
		at += size[d]
		runs = append(runs, size[d])
	}
	ordered = make([]*registry.Machine, len(machines))
	for _, m := range machines {
		l.budget.Step(1)
		d := distances[m.Region]
		ordered[next[d]] = m
		next[d]++
	}
	return ordered, runs
}

// earthRadius is the mean radius of the Earth (IUGG), in metres.
const earthRadius = 6_371_008.8

// distance returns the great-circle distance between two places in whole
// metres: coordinates are not more exact than that, and two regions at equal
// distance must not differ in the last bit of a float.
func distance(a, b point) int {
	sinLat := math.Sin((b.lat - a.lat) / 2)
	sinLon := math.Sin((b.lon - a.lon) / 2)
	h := sinLat*sinLat + math.Cos(a.lat)*math.Cos(b.lat)*sinLon*sinLon
	return int(math.Round(2 * earthRadius * math.Asin(math.Sqrt(min(h, 1)))))
}
