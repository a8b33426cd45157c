package cluster

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// The client's network and another one, of which no client may see anything.
const (
	netA = "fdaa:0:18::/48"
	netB = "fdaa:0:99::/48"
)

// object is something a platform writes. It is not changed once it is made.
type object interface {
	key() string   // its etcd key, without the prefix
	value() string // its etcd value
}

type machine struct {
	id, app, network, state, region, addr string
	meta                                  map[string]string
	skip                                  bool
}

type peer struct{ name, network, addr, region string }
type address struct{ app, network, addr string }
type app struct{ name, network string }

func base(network string) string { return strings.TrimSuffix(network, "/48") }

func (m *machine) key() string { return "machines/" + base(m.network) + "/" + m.app + "/" + m.id }
func (p *peer) key() string    { return "peers/" + base(p.network) + "/" + p.name }
func (a *app) key() string     { return "apps/" + base(a.network) + "/" + a.name }
func (a *address) key() string {
	return "addresses/" + base(a.network) + "/" + a.app + "/" + a.addr
}

type fields = map[string]any

func (m *machine) json() fields {
	return fields{"id": m.id, "app": m.app, "network": m.network, "state": m.state, "region": m.region, "private_ip": m.addr,
		"config": fields{"metadata": m.meta, "dns": fields{"skip_registration": m.skip}}}
}
func (p *peer) json() fields {
	return fields{"name": p.name, "network": p.network, "private_ip": p.addr, "region": p.region}
}
func (a *app) json() fields     { return fields{"name": a.name, "network": a.network} }
func (a *address) json() fields { return fields{"app": a.app, "network": a.network, "address": a.addr} }

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func (m *machine) value() string { return encode(m.json()) }
func (p *peer) value() string    { return encode(p.json()) }
func (a *app) value() string     { return encode(a.json()) }
func (a *address) value() string { return encode(a.json()) }

// inFull returns an object's JSON.
func inFull(o object) json.RawMessage { return json.RawMessage(o.value()) }

// fileText returns objects, each in the JSON that text gives, as a registry file.
func fileText(all truth, text func(object) json.RawMessage) string {
	lists := map[string][]any{"apps": {}, "machines": {}, "peers": {}, "addresses": {}}
	machines := map[string][]json.RawMessage{}
	for _, o := range all {
		if m, ok := o.(*machine); ok {
			owner := (&app{m.app, m.network}).key()
			if all[owner] == nil {
				lists["machines"] = append(lists["machines"], text(m))
			}
			machines[owner] = append(machines[owner], text(m))
		}
	}
	for _, o := range all {
		switch o := o.(type) {
		case *app:
			f := o.json()
			f["machines"] = machines[o.key()]
			lists["apps"] = append(lists["apps"], f)
		case *peer:
			lists["peers"] = append(lists["peers"], text(o))
		case *address:
			lists["addresses"] = append(lists["addresses"], text(o))
		}
	}
	return encode(lists)
}

// truth is everything that is, by key. It is not changed once it is made.
type truth map[string]object

// machines returns the machines of netA that names speak of, sorted by app and
// id; of one app, unless that is empty.
func (w truth) machines(name string) []*machine {
	var all []*machine
	for _, o := range w {
		m, ok := o.(*machine)
		if !ok || m.network != netA || name != "" && m.app != name || m.skip ||
			slices.Contains([]string{"destroying", "destroyed", "replaced", "migrated"}, m.state) {
			continue
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *machine) int { return strings.Compare(a.app+"\x00"+a.id, b.app+"\x00"+b.id) })
	return all
}

// question is something to ask, and what the answer is in a given world, in the
// words of said. kind is the first part of the keys that it depends on.
type question struct {
	name   string
	typ    uint16
	kind   string
	answer func(truth) string
}

// aaaa asks for the started machines of an app that a condition holds for.
func aaaa(prefix, name string, holds func(*machine) bool) question {
	return question{prefix + name + ".internal", dns.TypeAAAA, "machines", func(w truth) string {
		machines := w.machines(name)
		if len(machines) == 0 && w[(&app{name, netA}).key()] == nil {
			return "NXDOMAIN"
		}
		matched := holds == nil
		var addrs []string
		for _, m := range machines {
			if holds == nil || holds(m) {
				matched = true
				if m.state == "started" {
					addrs = append(addrs, m.addr)
				}
			}
		}
		return words(matched, addrs)
	}}
}

// list asks for a TXT list of machines.
func list(name, of, sep string, all bool, entry func(*machine) string) question {
	return question{name, dns.TypeTXT, "machines", func(w truth) string {
		machines := w.machines(of)
		if of != "" && len(machines) == 0 && w[(&app{of, netA}).key()] == nil {
			return "NXDOMAIN"
		}
		var entries []string
		for _, m := range machines {
			if all || m.state == "started" {
				entries = append(entries, entry(m))
			}
		}
		if sep == "," && of != "" && !strings.Contains(name, "vms.") { // regions: a sorted set
			slices.Sort(entries)
			entries = slices.Compact(entries)
		}
		return words(true, entries[:min(1, len(entries))], strings.Join(entries, sep))
	}}
}

// words is NXDOMAIN, NODATA or the data; joined replaces them where it is given.
func words(exists bool, data []string, joined ...string) string {
	switch {
	case !exists:
		return "NXDOMAIN"
	case len(data) == 0:
		return "NODATA"
	case len(joined) > 0:
		return joined[0]
	}
	slices.Sort(data)
	return strings.Join(slices.Compact(data), " ")
}

func vm(name, id string) question {
	return aaaa(id+".vm.", name, func(m *machine) bool { return m.id == id })
}

func instances(all bool) question {
	name := "_instances.internal"
	if all {
		name = "all." + name
	}
	return list(name, "", ";", all, func(m *machine) string {
		return fmt.Sprintf("instance=%s,app=%s,ip=%s,region=%s", m.id, m.app, m.addr, m.region)
	})
}

func peerNamed(name string) question {
	return question{name + "._peer.internal", dns.TypeAAAA, "peers", func(w truth) string {
		if p, ok := w[(&peer{name: name, network: netA}).key()].(*peer); ok {
			return p.addr
		}
		return "NXDOMAIN"
	}}
}

func peerList() question {
	return question{"_peer.internal", dns.TypeTXT, "peers", func(w truth) string {
		var names []string
		for _, o := range w {
			if p, ok := o.(*peer); ok && p.network == netA {
				names = append(names, p.name)
			}
		}
		slices.Sort(names)
		return words(true, names, strings.Join(names, ","))
	}}
}

// flycast asks for an app's addresses.
func flycast(name string) question {
	return question{name + ".flycast", dns.TypeAAAA, "addresses", func(w truth) string {
		var addrs []string
		for _, o := range w {
			if a, ok := o.(*address); ok && a.app == name && a.network == netA {
				addrs = append(addrs, a.addr)
			}
		}
		return words(len(addrs) > 0, addrs)
	}}
}

// owner asks whose a machine's address is.
func owner(addr string) question {
	name, err := dns.ReverseAddr(netip.MustParseAddr(addr).String())
	if err != nil {
		panic(err)
	}
	return question{name, dns.TypePTR, "machines", func(w truth) string {
		var names []string
		for _, m := range w.machines("") {
			if m.addr == addr {
				names = append(names, m.id+".vm."+m.app+".internal.")
			}
		}
		return words(len(names) > 0, names)
	}}
}
