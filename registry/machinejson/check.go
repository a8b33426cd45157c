package machinejson

import (
	"cmp"
	"fmt"
	"slices"

	"dnsd/registry"
)

// Report is what a registry file holds and what is wrong with it.
type Report struct {
	Objects  [4]int          // usable objects, by Kind
	Networks []NetworkReport // sorted by network
	States   map[string]int  // machines by state
	Problems []Problem       // sorted by place; empty: the file is good
	Unusable bool            // the file as a whole cannot be used: the one problem says why
}

// NetworkReport counts the usable objects of one network.
type NetworkReport struct {
	Network registry.Network
	Objects [4]int // by Kind
}

// Problem is something wrong at one place of a file. Lines and columns count
// from 1, columns in bytes.
type Problem struct {
	Line, Column int
	Text         string
}

// Error implements error.
func (p *Problem) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", p.Line, p.Column, p.Text)
}

// Check reads a registry file as Parse does and sums it up.
func Check(data []byte) Report {
	r := Report{States: map[string]int{}}
	networks := map[registry.Network]*NetworkReport{}
	p := newParser(data, func(items []registry.Item) error {
		for i := range items {
			if o := items[i].Object; o != nil {
				r.count(o, networks)
			}
		}
		return nil
	})
	if err := p.file(); err != nil {
		return Report{Problems: []Problem{*err.(*Problem)}, Unusable: true} // it fails with no other
	}
	for _, n := range networks {
		r.Networks = append(r.Networks, *n)
	}
	slices.SortFunc(r.Networks, func(a, b NetworkReport) int { return cmp.Compare(a.Network, b.Network) })
	r.Problems = p.problems
	slices.SortStableFunc(r.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return r
}

func (r *Report) count(o registry.Object, networks map[registry.Network]*NetworkReport) {
	key := o.Key()
	n := networks[key.Network]
	if n == nil {
		n = &NetworkReport{Network: key.Network}
		networks[key.Network] = n
	}
	r.Objects[key.Kind]++
	n.Objects[key.Kind]++
	if m, ok := o.(*registry.Machine); ok {
		r.States[m.State]++
	}
}
