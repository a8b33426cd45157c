package zones

import (
	"maps"
	"math"
	"slices"

	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// nearest answers for top<N>.nearest.of.<app>: the started machines in order of
// distance from the client. Machines at equal distance form a run and take
// turns, and the limit is counted after that, so that a region's whole load does
// not meet one machine.
func (l *lookup) nearest(f *registry.Fleet, n *name) *resolver.Answer {
	// Every N is a name of its own, of which all beyond the fleet's size have
	// one answer: made-up ones are not worth keeping.
	l.noStore = n.top >= maxKeptTop
	if !l.wants(dns.TypeAAAA) {
		return l.otherType(dns.TypeAAAA)
	}
	runs, known := l.cfg.Regions.runs(l.q.View.Region, f.Deployed())
	data, turns := pickAddresses(f, runs, n.top)
	if len(data) == 0 {
		return l.nodata(noneStarted(f.Name(), n, f.Deployed()))
	}
	a := l.records(dns.TypeAAAA, data)
	if a.Type != dns.TypeAAAA {
		return a
	}
	a.Turns = turns
	if n.top < len(data) {
		a.Limit = n.top
	}
	if !known {
		a.EDE = append(other(unknownPlace(l.q.View.Region)), a.EDE...)
	}
	return a
}

// maxKeptTop is beyond any N that a client has a use for: a thousand addresses
// fit into no UDP packet.
const maxKeptTop = 1000

// unknownPlace says why the order of nearest is arbitrary.
func unknownPlace(region string) string {
	if region == "" {
		return "your region is not known, so the order is arbitrary"
	}
	return "your region " + clean(region) + " has no coordinates, so the order is arbitrary"
}

// farthest stands for the distance of a region without coordinates.
const farthest = math.MaxInt

// runs cuts machines into runs of equal distance from a region, nearest first,
// those of regions without coordinates last. It returns false, and all machines
// as one run, when the region itself has no coordinates. Within a run the
// machines keep their order.
func (r *Regions) runs(from string, machines []*registry.Machine) ([][]*registry.Machine, bool) {
	here, ok := r.at[from]
	if !ok {
		return [][]*registry.Machine{machines}, false
	}
	regions := map[string]int{} // distances already worked out
	byDistance := map[int][]*registry.Machine{}
	for _, m := range machines {
		code := registry.Lower(m.Region)
		d, ok := regions[code]
		if !ok {
			d = farthest
			if there, ok := r.at[code]; ok {
				d = distance(here, there)
			}
			regions[code] = d
		}
		byDistance[d] = append(byDistance[d], m)
	}
	runs := make([][]*registry.Machine, 0, len(byDistance))
	for _, d := range slices.Sorted(maps.Keys(byDistance)) {
		runs = append(runs, byDistance[d])
	}
	return runs, true
}

// earthRadius is the mean radius of the Earth (IUGG), in metres.
const earthRadius = 6_371_008.8

// distance returns the great-circle distance between two places in whole
// metres: coordinates are no more exact, and two regions that a table puts
// equally far must not differ by the last bit of a float.
func distance(a, b point) int {
	sinLat := math.Sin((b.lat - a.lat) / 2)
	sinLon := math.Sin((b.lon - a.lon) / 2)
	h := sinLat*sinLat + math.Cos(a.lat)*math.Cos(b.lat)*sinLon*sinLon
	return int(math.Round(2 * earthRadius * math.Asin(math.Sqrt(min(h, 1)))))
}
