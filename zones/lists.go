package zones

import (
	"iter"
	"slices"
	"strings"

	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// maxList bounds a list's rdata so that the response stays within the 65,535
// bytes of a TCP message: the header and the longest question take 271, the
// record's own fields 12, the OPT 11, and 200 are left for the EDE that gives
// the counts and an NSID.
const maxList = 65_535 - 271 - 12 - 11 - 200

// textList is a TXT record's rdata under way. A character-string ends right after
// a separator, which stays at its end, so that clients that join the strings,
// that read string by string, and that read record by record all find every
// entry. Each entry fits into a string: the longest, of _instances, has 255 bytes
// with its separator.
type textList struct {
	rdata []byte
	head  int    // index of the length byte of the string under way
	entry []byte // empty; where the next entry is appended before it is added
	sep   byte
	shown int
	full  bool // an entry did not fit: it and all after it are left out
}

func newTextList(sep byte) *textList { return &textList{rdata: []byte{0}, sep: sep} }

// add adds an entry and reports whether it fits.
func (t *textList) add(entry []byte) bool {
	piece := append(entry, t.sep)
	t.entry = piece[:0]
	if t.full = t.full || len(t.rdata)+1+len(piece) > maxList; t.full {
		return false
	}
	t.shown++
	if int(t.rdata[t.head])+len(piece) > maxString {
		t.head = len(t.rdata)
		t.rdata = append(t.rdata, 0)
	}
	t.rdata[t.head] += byte(len(piece))
	t.rdata = append(t.rdata, piece...)
	return true
}

// add adds an entry to a list, and counts the steps of it.
func (l *lookup) add(t *textList, entry []byte) bool {
	return l.budget.Step(stepsEntry) && t.add(entry)
}

// body returns the list as one TXT record. what names the entries, of which total
// exist; those that fit are in the record. An empty list has no record, because an
// empty TXT breaks clients; then empty says why.
func (t *textList) body(total int, what string, empty func() string) *body {
	if t.shown == 0 {
		return &body{empty: empty()}
	}
	t.rdata[t.head]-- // the last entry has no separator
	b := &body{data: [][]byte{t.rdata[:len(t.rdata)-1]}}
	if t.full {
		b.partial = &resolver.Partial{Shown: t.shown, Total: total, What: what}
	}
	return b
}

// fleetList answers for the lists of an app.
func (l *lookup) fleetList(f *registry.Fleet, n *name) *resolver.Answer {
	return l.reply(dns.TypeTXT, l.compute(f, n, false, func() *body {
		if n.kind == kindRegions {
			return l.regions(f, n)
		}
		return l.vms(f, n)
	}))
}

// listed returns the machines that a list of f names, all deployed or all started
// ones, and their number.
func (l *lookup) listed(f *registry.Fleet, all bool) (machines iter.Seq[*registry.Machine], total int) {
	total = f.Started()
	if all {
		total = len(f.Deployed())
	}
	return func(yield func(*registry.Machine) bool) {
		left := total
		for _, m := range f.Deployed() {
			if left == 0 || !l.budget.Step(1) {
				return
			}
			if all || m.Started() {
				if left--; !yield(m) {
					return
				}
			}
		}
	}, total
}

// vms makes the list of [all.]vms.<app>: "148e21dad76789 sea,4d89699c030518 ams".
func (l *lookup) vms(f *registry.Fleet, n *name) *body {
	t := newTextList(',')
	machines, total := l.listed(f, n.all)
	for m := range machines {
		if !l.add(t, append(append(append(t.entry, m.ID...), ' '), registry.Lower(m.Region)...)) {
			break
		}
	}
	return t.body(total, "machines", func() string { return l.noneStarted(f.Name(), n, f.Deployed()) })
}

// regions makes the list of [all.]regions.<app>: "ams,iad". Regions match without
// regard to case, and are written in lower case.
func (l *lookup) regions(f *registry.Fleet, n *name) *body {
	seen := map[string]bool{"": true}
	var codes []string
	machines, total := l.listed(f, n.all)
	for m := range machines {
		if !seen[m.Region] {
			seen[m.Region] = true
			codes = append(codes, registry.Lower(m.Region))
		}
	}
	slices.SortFunc(codes, func(a, b string) int {
		l.budget.Step(1)
		return strings.Compare(a, b)
	})
	codes = slices.Compact(codes)
	t := newTextList(',')
	for _, code := range codes {
		l.add(t, append(t.entry, code...))
	}
	return t.body(len(codes), "regions", func() string {
		if total == 0 {
			return l.noneStarted(f.Name(), n, f.Deployed())
		}
		return f.Name() + ": no machine says its region"
	})
}

// apps answers for _apps.
func (l *lookup) apps() *resolver.Answer {
	fleets, ch := l.view.Fleets(l.network)
	return names(l, watched(l, fleets, ch), l.view.Counts(l.network).Apps, "apps",
		func(f *registry.Fleet) (string, bool) { return f.Name(), f.Exists() })
}

// peers answers for _peer.
func (l *lookup) peers() *resolver.Answer {
	peers, ch := l.view.Peers(l.network)
	return names(l, watched(l, peers, ch), l.view.Counts(l.network).Peers, "peers",
		func(p *registry.Peer) (string, bool) { return p.Name, !p.Interactive() })
}

// names answers with the names of rows, as far as they are shown; what names
// the rows, of which total are shown.
func names[T any](l *lookup, rows registry.Rows[T], total int, what string, name func(T) (name string, shown bool)) *resolver.Answer {
	t := newTextList(',')
	l.budget.Need(total * stepsRow) // if these are too many, the first step ends the loop
	for row := range rows.All {
		name, shown := name(row)
		if !l.budget.Step(stepsRow) || shown && !l.add(t, append(t.entry, name...)) {
			break
		}
	}
	return l.reply(dns.TypeTXT, t.body(total, what, func() string { return "no " + what + " in your network" }))
}

// instances answers for [all.]_instances:
// "instance=ID,app=APP,ip=IP,region=REG;instance=…".
func (l *lookup) instances(all bool) *resolver.Answer {
	t, total, have := newTextList(';'), 0, l.view.Counts(l.network)
	fleets, ch := l.view.Fleets(l.network)
	l.budget.Need(have.Apps * stepsRow) // if these are too many, the first step ends the loop
	for f := range watched(l, fleets, ch).All {
		if !l.budget.Step(stepsRow) {
			break
		}
		if t.full && all {
			total = have.Machines
			break
		}
		machines, n := l.listed(f, all)
		if total += n; t.full {
			continue // the others are only counted
		}
		for m := range machines {
			if !l.add(t, appendInstance(t.entry, m)) {
				break
			}
		}
	}
	return l.reply(dns.TypeTXT, t.body(total, "machines", func() string {
		if all {
			return "no machines in your network"
		}
		return "no machine in your network is started and has an address"
	}))
}

func appendInstance(dst []byte, m *registry.Machine) []byte {
	dst = append(append(dst, "instance="...), m.ID...)
	dst = append(append(dst, ",app="...), m.App...)
	dst = append(dst, ",ip="...)
	if m.Addr.IsValid() {
		dst = m.Addr.AppendTo(dst)
	}
	return append(append(dst, ",region="...), registry.Lower(m.Region)...)
}
