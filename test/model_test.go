package test

import (
	"fmt"
	"slices"
	"strings"
)

// model answers questions from a fleet as docs/names.md says, by looking at
// everything there is, in the plainest way.
type model struct {
	fleet *fleet
}

// deployed returns the machines of a network that still count, sorted by app
// and id. An empty app means all.
func (m *model) deployed(network, name string) (all []*machine, apps []string) {
	list := slices.Clone(m.fleet.Apps)
	slices.SortFunc(list, func(a, b *app) int { return strings.Compare(a.Name, b.Name) })
	for _, a := range list {
		if a.Network != network || name != "" && a.Name != name {
			continue
		}
		machines := slices.Clone(a.Machines)
		slices.SortFunc(machines, func(a, b *machine) int { return strings.Compare(a.ID, b.ID) })
		for _, x := range machines {
			gone := slices.Contains([]string{"destroying", "destroyed", "replaced", "migrated"}, x.State)
			if !gone && !(x.Config != nil && x.Config.DNS.Skip) {
				all, apps = append(all, x), append(apps, a.Name)
			}
		}
	}
	return all, apps
}

// exists reports whether an app is registered; in a file each app is.
func (m *model) exists(network, name string) bool {
	return slices.ContainsFunc(m.fleet.Apps, func(a *app) bool { return a.Network == network && a.Name == name })
}

func meta(x *machine, key string) (string, bool) {
	if x.Config == nil {
		return "", false
	}
	v, ok := x.Config.Metadata[key]
	return v, ok
}

// aaaa answers for the started machines of an app that a condition holds for:
// the addresses, sorted and joined, or NODATA or NXDOMAIN.
func (m *model) aaaa(network, name string, holds func(*machine) bool) string {
	if !m.exists(network, name) {
		return "NXDOMAIN"
	}
	machines, _ := m.deployed(network, name)
	var addrs []string
	matched := holds == nil
	for _, x := range machines {
		if holds != nil && !holds(x) {
			continue
		}
		matched = true
		if x.State == "started" {
			addrs = append(addrs, x.PrivateIP)
		}
	}
	switch {
	case !matched:
		return "NXDOMAIN"
	case len(addrs) == 0:
		return "NODATA"
	}
	slices.Sort(addrs)
	return strings.Join(addrs, " ")
}

// list answers a TXT list: what entry makes of each machine, without doubles.
func (m *model) list(network, name, sep string, all bool, entry func(x *machine, app string) string) string {
	if name != "" && !m.exists(network, name) {
		return "NXDOMAIN"
	}
	machines, apps := m.deployed(network, name)
	var out []string
	for i, x := range machines {
		if e := entry(x, apps[i]); (all || x.State == "started") && !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	if len(out) == 0 {
		return "NODATA"
	}
	return strings.Join(out, sep)
}

// ask is one question of the model's: what to send, and what it means.
type ask struct {
	name, typ string
	answer    func(m *model) string
}

// asks are the questions that a client of a network may ask about an app.
func asks(network, app, region, group, id, addr string) []ask {
	in := func(r string) func(*machine) bool { return func(x *machine) bool { return x.Region == r } }
	inGroup := func(x *machine) bool { v, ok := meta(x, "fly_process_group"); return ok && v == group }
	aaaa := func(prefix string, holds func(*machine) bool) ask {
		return ask{prefix + app + ".internal.", "AAAA", func(m *model) string { return m.aaaa(network, app, holds) }}
	}
	vm := func(x *machine, _ string) string { return x.ID + " " + x.Region }
	instance := func(x *machine, app string) string {
		return fmt.Sprintf("instance=%s,app=%s,ip=%s,region=%s", x.ID, app, x.PrivateIP, x.Region)
	}
	regions := func(m *model, all bool) string {
		s := m.list(network, app, ",", all, func(x *machine, _ string) string { return x.Region })
		if strings.HasPrefix(s, "N") { // regions are in lower case
			return s
		}
		list := strings.Split(s, ",")
		slices.Sort(list)
		return strings.Join(list, ",")
	}
	return []ask{
		aaaa("", nil), aaaa("", nil), aaaa("global.", nil), aaaa("top1000.nearest.of.", nil),
		aaaa(region+".", in(region)),
		aaaa(group+".process.", inGroup),
		aaaa(group+".fly_process_group.kv._metadata.", inGroup),
		aaaa("role.kv._metadata.", func(x *machine) bool { _, ok := meta(x, "role"); return ok }),
		aaaa(id+".vm.", func(x *machine) bool { return x.ID == id }),
		{"vms." + app + ".internal.", "TXT", func(m *model) string { return m.list(network, app, ",", false, vm) }},
		{"all.vms." + app + ".internal.", "TXT", func(m *model) string { return m.list(network, app, ",", true, vm) }},
		{"regions." + app + ".internal.", "TXT", func(m *model) string { return regions(m, false) }},
		{"all.regions." + app + ".internal.", "TXT", func(m *model) string { return regions(m, true) }},
		{"_instances.internal.", "TXT", func(m *model) string { return m.list(network, "", ";", false, instance) }},
		{"all._instances.internal.", "TXT", func(m *model) string { return m.list(network, "", ";", true, instance) }},
		{"_apps.internal.", "TXT", func(m *model) string {
			var names []string
			for _, a := range m.fleet.Apps {
				if a.Network == network {
					names = append(names, a.Name)
				}
			}
			slices.Sort(names)
			if len(names) == 0 {
				return "NODATA"
			}
			return strings.Join(names, ",")
		}},
		{nibbles(addr, 32), "PTR", func(m *model) string {
			machines, apps := m.deployed(network, "")
			for i, x := range machines {
				if x.PrivateIP == addr {
					return x.ID + ".vm." + apps[i] + ".internal."
				}
			}
			return "NXDOMAIN"
		}},
	}
}
