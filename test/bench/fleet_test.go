package main

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dnsd/registry"
	"dnsd/registry/machinejson"

	"github.com/miekg/dns"
)

// What dnsd reads, what the others read and what is expected of answers is one
// and the same.
func TestZoneAnswersTheQuestions(t *testing.T) {
	f := newFleet(20, 20, 20) // lists of several strings
	file := filepath.Join(t.TempDir(), "zone")
	if err := f.writeZone(file); err != nil {
		t.Fatal(err)
	}
	r, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sets := make(map[string][]dns.RR)
	z := dns.NewZoneParser(r, "", file)
	for rr, ok := z.Next(); ok; rr, ok = z.Next() {
		h := rr.Header()
		if h.Ttl != 5 {
			t.Fatalf("%s: the TTL is not dnsd's", rr)
		}
		key := h.Name + dns.TypeToString[h.Rrtype]
		sets[key] = append(sets[key], rr)
	}
	if err := z.Err(); err != nil {
		t.Fatal(err)
	}
	kinds := make(map[uint16]int)
	for _, q := range f.mix(newRand()) {
		kinds[q.typ]++
		m := &dns.Msg{Answer: sets[q.name+dns.TypeToString[q.typ]]}
		if err := q.right(m); err != nil {
			t.Errorf("%s: %v", q.name, err)
		}
	}
	if want := map[uint16]int{dns.TypeAAAA: 60, dns.TypeTXT: 20}; !maps.Equal(kinds, want) {
		t.Errorf("types asked for: %v, want %v", kinds, want)
	}
}

func TestFleetIsTakenWhole(t *testing.T) {
	f := newFleet(30, 5, 10)
	seen := make(map[netip.Addr]bool)
	networks := make(map[registry.Network]bool)
	for _, a := range f.apps {
		networks[a.network] = true
		for _, m := range a.machines {
			_, value := a.keyValue(m)
			got, err := machinejson.DecodeMachine([]byte(value), machinejson.Scope{})
			if err != nil {
				t.Fatal(err)
			}
			if !got.Started() || got.Network != a.network || seen[m.addr] {
				t.Errorf("machine %+v of %s", got, a.network)
			}
			seen[m.addr] = true
		}
	}
	if len(seen) != f.machines() || len(networks) != 3 {
		t.Errorf("%d addresses in %d networks", len(seen), len(networks))
	}
}

// Strings are cut where dnsd cuts them, so that answers have the same size.
func TestSplit(t *testing.T) {
	var entries []string
	for i := range 40 {
		entries = append(entries, fmt.Sprintf("%014d iad", i))
	}
	list := strings.Join(entries, ",")
	parts := split(list)
	if strings.Join(parts, "") != list || len(parts) != 4 {
		t.Errorf("%d parts, want 4 that make the whole", len(parts))
	}
	for i, p := range parts {
		if len(p) > 255 || i < len(parts)-1 && !strings.HasSuffix(p, ",") {
			t.Errorf("part %d is %q", i, p)
		}
	}
}

func TestWithMissing(t *testing.T) {
	qs := withMissing(newFleet(100, 5, 100).mix(newRand()), 10)
	var names []string
	for _, q := range qs {
		if q.rcode == dns.RcodeNameError {
			names = append(names, q.name)
		}
	}
	if len(qs) != 4000 || len(names) != 200 {
		t.Fatalf("%d of %d questions are for missing names, want a twentieth", len(names), len(qs))
	}
	slices.Sort(names)
	if n := len(slices.Compact(names)); n != 200 {
		t.Errorf("%d different missing names, want 200", n)
	}
}

func TestRandomCase(t *testing.T) {
	plain := newFleet(50, 5, 50).mix(newRand())
	mixed := randomCase(plain, newRand())
	changed := 0
	for i, q := range mixed {
		if !strings.EqualFold(q.name, plain[i].name) {
			t.Errorf("%s became %s", plain[i].name, q.name)
		}
		if q.name != plain[i].name {
			changed++
		}
	}
	if changed < len(plain)*9/10 {
		t.Errorf("%d of %d names changed", changed, len(plain))
	}
}

func TestZipfLeansTowardsFew(t *testing.T) {
	f := newFleet(1000, 5, 10)
	counts := make(map[string]int)
	for _, q := range f.zipf(10_000, newRand()) {
		counts[parent(q.name)]++
	}
	most := slices.Max(slices.Collect(maps.Values(counts)))
	// 1/1 of the sum of 1/1 to 1/1000, which is 7.5: 13 %.
	if most < 1000 || most > 1700 {
		t.Errorf("the app most asked for has %d of 10,000 questions", most)
	}
	if len(counts) < 500 {
		t.Errorf("%d of 1,000 apps are asked for", len(counts))
	}
}

// Every change is one: no machine moves to where it is.
func TestChange(t *testing.T) {
	f := newFleet(2, 3, 2)
	last := make(map[string]netip.Addr)
	for _, a := range f.apps {
		for _, m := range a.machines {
			last[m.id] = m.addr
		}
	}
	moved := make(map[string]int)
	for n := range 6 * 300 {
		_, m := change(f.apps, n)
		if last[m.id] == m.addr {
			t.Fatalf("change %d is none", n)
		}
		if slot := netip.PrefixFrom(m.addr, 112).Masked(); !slot.Contains(last[m.id]) {
			t.Fatalf("machine %s leaves its /112", m.id)
		}
		last[m.id] = m.addr
		moved[m.id]++
	}
	if len(moved) != 6 {
		t.Errorf("%d machines move, want all 6", len(moved))
	}
}
