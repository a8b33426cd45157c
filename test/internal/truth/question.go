package truth

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Network asks about one network, as its clients do.
type Network string

// Question is something to ask, and what the answer is in a given world: what
// each object adds to it, put together.
type Question struct {
	Name string // without the last dot
	Type uint16
	Kind string // the first part of the keys that it depends on

	there bool   // the name exists whatever there is
	sep   string // between the entries of the answer
	adds  func(Object) part
}

// part is what an object adds to an answer.
type part struct {
	exists bool   // with it the name exists
	order  string // where its entry stands among the others; empty: where its text does
	text   string // its entry; empty: none
}

func (p part) none() bool { return p == part{} }

// Answer returns what is said in a world, in the words of Said.
func (q *Question) Answer(w World) string {
	exists := q.there
	var entries []part
	for _, o := range w {
		p := q.adds(o)
		exists = exists || p.exists
		if p.text != "" {
			entries = append(entries, p)
		}
	}
	return q.words(exists, entries)
}

func (q *Question) words(exists bool, entries []part) string {
	switch {
	case !exists:
		return "NXDOMAIN"
	case len(entries) == 0:
		return "NODATA"
	}
	slices.SortFunc(entries, func(a, b part) int {
		return strings.Compare(a.order+"\x00"+a.text, b.order+"\x00"+b.text)
	})
	var texts []string
	for _, e := range slices.Compact(entries) {
		texts = append(texts, e.text)
	}
	return strings.Join(texts, q.sep)
}

// Said puts a response in the model's words: its records, sorted and with a
// space between them, a list as it is, or NODATA, or the response code.
func Said(resp *dns.Msg) string {
	if resp.Rcode != dns.RcodeSuccess {
		return dns.RcodeToString[resp.Rcode]
	}
	var data []string
	for _, rr := range resp.Answer {
		switch rr := rr.(type) {
		case *dns.AAAA:
			data = append(data, rr.AAAA.String())
		case *dns.TXT:
			data = append(data, strings.Join(rr.Txt, ""))
		case *dns.PTR:
			data = append(data, rr.Ptr)
		}
	}
	if len(data) == 0 {
		return "NODATA"
	}
	slices.Sort(data)
	return strings.Join(data, " ")
}

// ofMachine is what a deployed machine of the network and of an app adds; an
// empty app is any.
func (n Network) ofMachine(app string, adds func(*Machine) part) func(Object) part {
	return func(o Object) part {
		m, ok := o.(*Machine)
		if !ok || m.Network != string(n) || app != "" && m.App != app || !m.deployed() {
			return part{}
		}
		return adds(m)
	}
}

// orApp is adds, and the registered app lets the name exist.
func (n Network) orApp(app string, adds func(Object) part) func(Object) part {
	return func(o Object) part {
		if a, ok := o.(*App); ok && a.Network == string(n) && a.Name == app {
			return part{exists: true}
		}
		return adds(o)
	}
}

// AAAA asks for the started machines of an app that a condition holds for; nil
// holds for all.
func (n Network) AAAA(prefix, app string, holds func(*Machine) bool) Question {
	adds := n.ofMachine(app, func(m *Machine) part {
		if holds != nil && !holds(m) {
			return part{}
		}
		p := part{exists: true}
		if m.State == "started" {
			p.text = m.Addr
		}
		return p
	})
	if holds == nil {
		adds = n.orApp(app, adds)
	}
	return Question{Name: prefix + app + ".internal", Type: dns.TypeAAAA, Kind: "machines", sep: " ", adds: adds}
}

// VM asks for one machine.
func (n Network) VM(app, id string) Question {
	return n.AAAA(id+".vm.", app, func(m *Machine) bool { return m.ID == id })
}

// Machines asks for the list of an app's machines: all deployed ones, or those
// that are started.
func (n Network) Machines(app string, all bool) Question {
	return n.list("vms."+app, app, ",", all, func(m *Machine) part { return part{order: m.ID, text: m.ID + " " + m.Region} })
}

// Regions asks for the regions of an app's machines.
func (n Network) Regions(app string, all bool) Question {
	return n.list("regions."+app, app, ",", all, func(m *Machine) part { return part{text: m.Region} })
}

// Instances asks for the list of the network's machines.
func (n Network) Instances(all bool) Question {
	q := n.list("_instances", "", ";", all, func(m *Machine) part {
		return part{order: m.App + "\x00" + m.ID, text: fmt.Sprintf("instance=%s,app=%s,ip=%s,region=%s", m.ID, m.App, m.Addr, m.Region)}
	})
	q.there = true
	return q
}

func (n Network) list(name, app, sep string, all bool, entry func(*Machine) part) Question {
	if all {
		name = "all." + name
	}
	adds := n.ofMachine(app, func(m *Machine) (p part) {
		if all || m.State == "started" {
			p = entry(m)
		}
		p.exists = true
		return p
	})
	if app != "" {
		adds = n.orApp(app, adds)
	}
	return Question{Name: name + ".internal", Type: dns.TypeTXT, Kind: "machines", sep: sep, adds: adds}
}

// Apps asks for the list of the network's apps.
func (n Network) Apps() Question {
	machines := n.ofMachine("", func(m *Machine) part { return part{exists: true, text: m.App} })
	return Question{Name: "_apps.internal", Type: dns.TypeTXT, Kind: "machines", there: true, sep: ",", adds: func(o Object) part {
		if a, ok := o.(*App); ok && a.Network == string(n) {
			return part{exists: true, text: a.Name}
		}
		return machines(o)
	}}
}

// Peer asks for a peer's address.
func (n Network) Peer(name string) Question {
	return Question{Name: name + "._peer.internal", Type: dns.TypeAAAA, Kind: "peers", adds: func(o Object) part {
		if p, ok := o.(*Peer); ok && p.Network == string(n) && p.Name == name {
			return part{exists: true, text: p.Addr}
		}
		return part{}
	}}
}

// Peers asks for the list of peers.
func (n Network) Peers() Question {
	return Question{Name: "_peer.internal", Type: dns.TypeTXT, Kind: "peers", there: true, sep: ",", adds: func(o Object) part {
		if p, ok := o.(*Peer); ok && p.Network == string(n) {
			return part{exists: true, text: p.Name}
		}
		return part{}
	}}
}

// Flycast asks for an app's addresses.
func (n Network) Flycast(app string) Question {
	return Question{Name: app + ".flycast", Type: dns.TypeAAAA, Kind: "addresses", sep: " ", adds: func(o Object) part {
		if a, ok := o.(*Address); ok && a.Network == string(n) && a.App == app {
			return part{exists: true, text: a.Addr}
		}
		return part{}
	}}
}

// Owner asks whose a machine's address is.
func (n Network) Owner(addr string) Question {
	name, err := dns.ReverseAddr(netip.MustParseAddr(addr).String())
	if err != nil {
		panic(err) // it is an address
	}
	return Question{Name: strings.TrimSuffix(name, "."), Type: dns.TypePTR, Kind: "machines", sep: " ", adds: n.ofMachine("", func(m *Machine) part {
		if m.Addr != addr {
			return part{}
		}
		return part{exists: true, text: m.ID + ".vm." + m.App + ".internal."}
	})}
}
