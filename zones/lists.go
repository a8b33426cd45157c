package zones

import (
	"slices"

	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// maxList bounds a list's rdata so that the response stays within the 65,535
// bytes of a TCP message: the header and the longest question take 271, the
// record's own fields 12, the OPT 11, and 200 are left for the EDE that gives
// the counts and an NSID.
const maxList = 65_535 - 271 - 12 - 11 - 200

// entries is a list to be written: how many, what they are, and how entry i is
// appended. Only the entries that fit are ever written.
type entries struct {
	n      int
	what   string // in the plural, for the EDE that counts them
	sep    byte
	append func(dst []byte, i int) []byte
}

// list answers with one TXT record; an empty list has none, for an empty TXT
// breaks clients, and empty says why.
func (l *lookup) list(e entries, empty string) *resolver.Answer {
	if e.n == 0 {
		return l.nodata(empty)
	}
	if l.q.Type == dns.TypeANY {
		return l.records(dns.TypeTXT, nil)
	}
	rdata, shown := packList(e)
	a := l.records(dns.TypeTXT, [][]byte{rdata})
	if shown < e.n {
		a.Partial = &resolver.Partial{Shown: shown, Total: e.n, What: e.what}
	}
	return a
}

// packList writes the entries that fit as a TXT record's rdata. A
// character-string ends right after a separator, which stays at its end, so
// that clients that join the strings, that read string by string, and that read
// record by record all find every entry. Only an entry that fits no string is
// cut within.
func packList(e entries) (rdata []byte, shown int) {
	rdata, head := []byte{0}, 0 // head: where the length of the string under way stands
	var piece []byte
	for ; shown < e.n; shown++ {
		piece = append(e.append(piece[:0], shown), e.sep)
		if len(rdata)+len(piece)+len(piece)/maxString+1 > maxList {
			break
		}
		if used := int(rdata[head]); used > 0 && used+len(piece) > maxString {
			head, rdata = len(rdata), append(rdata, 0)
		}
		for rest := piece; len(rest) > 0; {
			if rdata[head] == maxString {
				head, rdata = len(rdata), append(rdata, 0)
			}
			n := min(len(rest), maxString-int(rdata[head]))
			rdata = append(rdata, rest[:n]...)
			rdata[head] += byte(n)
			rest = rest[n:]
		}
	}
	// The last entry needs no separator, nor a string that held nothing else.
	if rdata[head] == 1 && head > 0 {
		return rdata[:head], shown
	}
	if rdata[head] > 0 {
		rdata[head]--
		rdata = rdata[:len(rdata)-1]
	}
	return rdata, shown
}

// pick returns the started ones of deployed machines, or all of them.
func pick(machines []*registry.Machine, all bool) []*registry.Machine {
	if all {
		return machines
	}
	var started []*registry.Machine
	for _, m := range machines {
		if m.Started() {
			started = append(started, m)
		}
	}
	return started
}

// vms answers for [all.]vms.<app>: "148e21dad76789 sea,4d89699c030518 ams".
func (l *lookup) vms(f *registry.Fleet, all bool) *resolver.Answer {
	if !l.wants(dns.TypeTXT) {
		return l.otherType(dns.TypeTXT)
	}
	machines := pick(f.Deployed(), all)
	return l.list(entries{n: len(machines), what: "machines", sep: ',',
		append: func(dst []byte, i int) []byte {
			m := machines[i]
			return append(append(append(dst, m.ID...), ' '), registry.Lower(m.Region)...)
		}}, noneStarted(f.Name(), &name{kind: kindVMs}, f.Deployed()))
}

// regionList answers for [all.]regions.<app>: "ams,iad". Regions match without
// regard to case, so they are written in one.
func (l *lookup) regionList(f *registry.Fleet, all bool) *resolver.Answer {
	if !l.wants(dns.TypeTXT) {
		return l.otherType(dns.TypeTXT)
	}
	machines := pick(f.Deployed(), all)
	seen := map[string]bool{"": true}
	var regions []string
	for _, m := range machines {
		if r := registry.Lower(m.Region); !seen[r] {
			seen[r] = true
			regions = append(regions, r)
		}
	}
	slices.Sort(regions)
	empty := f.Name() + ": no machine says its region"
	if len(machines) == 0 {
		empty = noneStarted(f.Name(), &name{kind: kindRegions}, f.Deployed())
	}
	return l.names("regions", regions, empty)
}

// apps answers for _apps.
func (l *lookup) apps() *resolver.Answer {
	if !l.wants(dns.TypeTXT) {
		return l.otherType(dns.TypeTXT)
	}
	var names []string
	for _, f := range l.fleets() {
		names = append(names, f.Name())
	}
	return l.names("apps", names, "no apps in your network")
}

// fleets returns the client's apps, those that exist.
func (l *lookup) fleets() []*registry.Fleet {
	fleets, ch := l.view.Fleets(l.network)
	return slices.DeleteFunc(watched(l, fleets, ch), func(f *registry.Fleet) bool { return !f.Exists() })
}

// peers answers for _peer.
func (l *lookup) peers() *resolver.Answer {
	if !l.wants(dns.TypeTXT) {
		return l.otherType(dns.TypeTXT)
	}
	var names []string
	for _, p := range l.namedPeers() {
		names = append(names, p.Name)
	}
	return l.names("peers", names, "no peers in your network")
}

// namedPeers returns the client's peers, those that are in DNS.
func (l *lookup) namedPeers() []*registry.Peer {
	peers, ch := l.view.Peers(l.network)
	return slices.DeleteFunc(watched(l, peers, ch), (*registry.Peer).Interactive)
}

// names answers with a list of names, which are sorted.
func (l *lookup) names(what string, names []string, empty string) *resolver.Answer {
	return l.list(entries{n: len(names), what: what, sep: ',',
		append: func(dst []byte, i int) []byte { return append(dst, names[i]...) }}, empty)
}

// instances answers for [all.]_instances:
// "instance=ID,app=APP,ip=IP,region=REG;instance=…".
func (l *lookup) instances(all bool) *resolver.Answer {
	if !l.wants(dns.TypeTXT) {
		return l.otherType(dns.TypeTXT)
	}
	var machines []*registry.Machine
	for _, f := range l.fleets() {
		machines = append(machines, pick(f.Deployed(), all)...)
	}
	empty := "no machine in your network is started"
	if all {
		empty = "no machines in your network"
	}
	return l.list(entries{n: len(machines), what: "machines", sep: ';',
		append: func(dst []byte, i int) []byte {
			m := machines[i]
			dst = append(append(dst, "instance="...), m.ID...)
			dst = append(append(dst, ",app="...), m.App...)
			dst = append(dst, ",ip="...)
			if m.Addr.IsValid() {
				dst = m.Addr.AppendTo(dst)
			}
			return append(append(dst, ",region="...), registry.Lower(m.Region)...)
		}}, empty)
}
