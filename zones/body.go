package zones

import (
	"slices"

	"dnsd/registry"
	"dnsd/resolver"
)

// body is the part of an answer that depends on a fleet alone. It may be kept with
// the fleet and used by many answers; it does not change.
type body struct {
	data    [][]byte
	turns   []int
	partial *resolver.Partial
	empty   string // why there are no data
	shared  bool   // the data are those of another body of the fleet
}

// reply answers with a body's records, of type typ.
func (l *lookup) reply(typ uint16, b *body) *resolver.Answer {
	if len(b.data) == 0 {
		return l.nodata(b.empty)
	}
	a := l.records(typ, b.data)
	if a.Type == typ {
		a.Turns, a.Partial = b.turns, b.partial
	}
	return a
}

// key identifies a body among those of one fleet.
func (n *name) key() string {
	b := make([]byte, 0, 64)
	b = append(b, byte(n.kind), byte(len(n.arg)))
	if n.all {
		b = append(b, "all"...)
	}
	return string(append(append(b, n.arg...), n.value...))
}

// kept returns the body that the fleet keeps under a name, nil where it does not.
func kept(f *registry.Fleet, n *name) *body {
	if !f.Keeps() {
		return nil
	}
	b, _ := f.Kept(n.key()).(*body)
	return b
}

// compute returns the body that the fleet keeps under a name, or else what work
// makes. If that took too long for a socket to wait, the fleet keeps it: it is then
// computed once, and not for each socket, each connection and each client.
func (l *lookup) compute(f *registry.Fleet, n *name, keep bool, work func() *body) *body {
	if b := kept(f, n); b != nil {
		return b
	}
	b := work()
	if f.Keeps() && (keep || l.budget.Steps() > l.inline) && !l.budget.Over() {
		f.Keep(n.key(), b, b.size())
	}
	return b
}

// size is roughly what the body takes in memory, in addresses.
func (b *body) size() int {
	if b.shared {
		return 0
	}
	const address = 16 + 24 // its bytes and the slice of them
	n := 0
	for _, d := range b.data {
		n += 24 + len(d)
	}
	return n / address
}

// run returns the addresses of machines as one run, or why there are none.
func (l *lookup) run(f *registry.Fleet, n *name, machines []*registry.Machine) *body {
	b := l.pick(machines, []int{len(machines)})
	if len(b.data) == 0 {
		b.empty = l.noneStarted(f.Name(), n, machines)
	}
	return b
}

// fewAddresses is the number of addresses up to which comparing each with all is
// cheaper than a map.
const fewAddresses = 16

// pick returns the addresses of the started machines of each run, of which runs
// has the lengths. An address counts once, in the first run that has it: an
// RRset holds no record twice (RFC 2181, section 5), and two machines share an
// address for a moment when one is renamed. It takes two steps for each machine.
//
// The result is kept as long as the answer, so it has no spare capacity.
func (l *lookup) pick(machines []*registry.Machine, runs []int) *body {
	b, n := &body{}, 0
	if !l.budget.Need(2 * len(machines)) {
		return b
	}
	for _, m := range machines {
		l.budget.Step(1)
		if m.Started() {
			n++
		}
	}
	if n == 0 {
		return b
	}
	b.data = make([][]byte, 0, n)
	bytes := make([]byte, 0, 16*n) // never grows: data points into it
	var many map[[16]byte]struct{} // those in data
	if n > fewAddresses {
		many = make(map[[16]byte]struct{}, n)
	}
	for _, run := range runs {
		before := len(b.data)
		for _, m := range machines[:run] {
			l.budget.Step(1)
			if !m.Started() {
				continue
			}
			addr := m.Addr.As16()
			if many == nil {
				if slices.ContainsFunc(b.data, func(d []byte) bool { return [16]byte(d) == addr }) {
					continue
				}
			} else if many[addr] = struct{}{}; len(many) == len(b.data) { // it was there already
				continue
			}
			bytes = append(bytes, addr[:]...)
			b.data = append(b.data, bytes[len(bytes)-16:len(bytes):len(bytes)])
		}
		if machines = machines[run:]; len(b.data) > before {
			b.turns = append(b.turns, len(b.data)-before)
		}
	}
	return b
}
