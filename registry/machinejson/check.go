package machinejson

import (
	"cmp"
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

// Check reads a registry file as Parse does and sums it up.
func Check(data []byte) Report {
	p := newParser(data)
	if err := p.file(); err != nil {
		whole := err.(*fileError) // it fails with no other
		return Report{Problems: []Problem{{whole.line, whole.column, whole.text}}, Unusable: true}
	}
	r := Report{States: map[string]int{}, Problems: p.problems}
	networks := map[registry.Network]*NetworkReport{}
	for i := range p.items {
		o := p.items[i].Object
		if o == nil {
			continue
		}
		key := o.Key()
		r.Objects[key.Kind]++
		n := networks[key.Network]
		if n == nil {
			n = &NetworkReport{Network: key.Network}
			networks[key.Network] = n
		}
		n.Objects[key.Kind]++
		if m, ok := o.(*registry.Machine); ok {
			r.States[m.State]++
		}
	}
	for _, n := range networks {
		r.Networks = append(r.Networks, *n)
	}
	slices.SortFunc(r.Networks, func(a, b NetworkReport) int { return cmp.Compare(a.Network, b.Network) })
	slices.SortStableFunc(r.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return r
}

// rejectedName names a rejected object in a report, as far as it has a name.
func rejectedName(k registry.Key) string {
	switch {
	case k.Name == "" && k.ID == "":
		return k.Kind.String()
	case k.Name == "":
		return k.Kind.String() + " " + k.ID
	case k.ID == "":
		return k.Kind.String() + " " + k.Name
	}
	return k.Kind.String() + " " + k.Name + "/" + k.ID
}
