package zones

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// stringsOf cuts a TXT record's rdata into its character-strings.
func stringsOf(t *testing.T, rdata []byte) []string {
	t.Helper()
	var list []string
	for len(rdata) > 0 {
		n := int(rdata[0])
		if n == 0 || n >= len(rdata) {
			t.Fatalf("a character-string of %d bytes with %d left", n, len(rdata)-1)
		}
		list = append(list, string(rdata[1:1+n]))
		rdata = rdata[1+n:]
	}
	return list
}

// The three ways in which clients read a list.
func joined(s []string, sep string) []string { return strings.Split(strings.Join(s, ""), sep) }

func stringByString(s []string, sep string) (entries []string) {
	for _, one := range s {
		entries = append(entries, strings.Split(strings.TrimSuffix(one, sep), sep)...)
	}
	return entries
}

func recordByRecord(records [][]string, sep string) (entries []string) {
	for _, record := range records {
		entries = append(entries, joined(record, sep)...)
	}
	return entries
}

// pack returns the character-strings of a list.
func pack(t *testing.T, sep byte, list []string) []string {
	t.Helper()
	l := newTextList(sep)
	for _, entry := range list {
		l.add(append(l.entry, entry...))
	}
	b := l.body(len(list), "entries", nil)
	if l.shown != len(list) || b.partial != nil {
		t.Fatalf("%d of %d entries of %d bytes in all are shown", l.shown, len(list), len(strings.Join(list, ",")))
	}
	return stringsOf(t, b.data[0])
}

func TestPackListForEveryClient(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 2000 {
		longest := []int{4, 30, 127, 128, 254}[round%5]
		list := make([]string, 1+rng.IntN(60))
		for i := range list {
			list[i] = strings.Repeat(string(rune('a'+i%26)), 1+rng.IntN(longest))
		}
		s := pack(t, ',', list)
		if got := joined(s, ","); !slices.Equal(got, list) {
			t.Fatalf("joined: %q\nwant %q", got, list)
		}
		if got := recordByRecord([][]string{s}, ","); !slices.Equal(got, list) {
			t.Fatalf("record by record: %q\nwant %q", got, list)
		}
		if got := stringByString(s, ","); !slices.Equal(got, list) {
			t.Fatalf("string by string: %q\nwant %q", got, list)
		}
		for i, one := range s {
			if last := i == len(s)-1; last == strings.HasSuffix(one, ",") {
				t.Fatalf("string %d of %d ends in %q", i+1, len(s), one[len(one)-1:])
			}
		}
	}
}

// Strings hold as much as fits: 255 bytes with the separator.
func TestPackListBoundaries(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	for _, test := range []struct {
		list []string
		want string // lengths of the strings
	}{
		{[]string{"a"}, "[1]"},
		{[]string{x(254)}, "[254]"},
		{[]string{x(254), x(254), "a"}, "[255 255 1]"},
		{[]string{x(127), x(126)}, "[254]"},
		{[]string{x(127), x(127), "a"}, "[128 129]"},
		{[]string{x(126), x(127), "a"}, "[255 1]"},
		{[]string{"a", x(254), "b"}, "[2 255 1]"},
	} {
		var lengths []int
		for _, s := range pack(t, ';', test.list) {
			lengths = append(lengths, len(s))
		}
		if got := fmt.Sprint(lengths); got != test.want {
			t.Errorf("entries of %d bytes: strings of %s, want %s", len(strings.Join(test.list, ""))/len(test.list), got, test.want)
		}
	}
}

// The longest entry that there can be fits into a string.
func TestTheLongestInstanceFitsIntoAString(t *testing.T) {
	label := strings.Repeat("x", 63)
	addr := "fdaa:1111:2222:3333:4444:5555:6666:777"
	_, z := serve(Config{}, machine("fdaa:1111:2222::/48", fmt.Sprintf("%s %s %s started %s1", label, label, label, addr)),
		machine("fdaa:1111:2222::/48", fmt.Sprintf("%sy %s %s started %s2", label[1:], label, label, addr)))
	a := ask(t, z, resolver.View{Network: netip.MustParsePrefix("fdaa:1111:2222::/48")}, "", "_instances.internal", dns.TypeTXT)
	if s := stringsOf(t, a.Data[0]); len(s) != 2 || len(s[0]) != maxString || len(s[1]) != maxString-1 {
		t.Errorf("%q", s)
	}
}

// Once a list is full, no more machines are looked at: only counted.
func TestFullListWalksNoFurther(t *testing.T) {
	var items []registry.Item
	for i := range 2000 {
		items = append(items, machine(netA, fmt.Sprintf("%014x a-first-app-with-a-long-name iad started fdaa:0:18:a:%x::2", i, i+1)))
	}
	for i := range 5000 {
		items = append(items, machine(netA, fmt.Sprintf("%014x b iad stopped fdaa:0:18:b:%x::2", i, i+1)))
	}
	items = append(items, machine(netA, "last b iad started fdaa:0:18:c::2"))
	for i := range 5000 {
		items = append(items, app(netA, fmt.Sprint("c", i)))
	}
	_, z := serve(Config{}, items...)
	for name, want := range map[string]struct{ total, steps int }{
		"_instances.internal":     {2001, 1100*(1+stepsEntry) + 5002*stepsRow},
		"all._instances.internal": {7001, 1100*(1+stepsEntry) + 2*stepsRow},
	} {
		a, steps := stepsOf(t, z, asked{name: name, typ: dns.TypeTXT, view: resolver.View{Network: netip.MustParsePrefix(netA)}}, func() {})
		if a.Partial == nil || a.Partial.Total != want.total || steps > want.steps {
			t.Errorf("%s: %+v in %d steps, want %d of them", name, a.Partial, steps, want.steps)
		}
	}
}

// A list is as long as the longest message has room for, to the byte: with 254
// entries of 256 bytes, their lengths included, 16 are left for a 255th.
func TestPackListToTheByte(t *testing.T) {
	for n, fits := range map[int]bool{15: true, 16: false} {
		l := newTextList(',')
		for range 254 {
			l.add(append(l.entry, strings.Repeat("x", 254)...))
		}
		if got := l.add(append(l.entry, strings.Repeat("x", n)...)); l.shown < 254 || got != fits {
			t.Errorf("an entry of %d bytes behind %d others fits: %t", n, l.shown, got)
		}
	}
}

// Behind the first entry that does not fit there is none.
func TestPackListHasNoGap(t *testing.T) {
	l := newTextList(',')
	for l.add(append(l.entry, strings.Repeat("x", 200)...)) {
	}
	if shown := l.shown; l.add(append(l.entry, 'y')) || l.shown != shown || !l.full {
		t.Error("a short entry is shown behind one that is left out")
	}
}

// A list that no message can hold shows the entries that fit, and counts them.
func TestListTooLong(t *testing.T) {
	const total, most = 3000, 65_041 // bytes of a list: see maxList
	var items []registry.Item
	for i := range total {
		items = append(items, machine(netA, fmt.Sprintf("%014x big iad started fdaa:0:18:a:%x::2", i, i+1)))
		items = append(items, app(netA, fmt.Sprintf("an-app-with-a-rather-long-name-number-%04d", i)))
	}
	_, z := serve(Config{}, items...)
	view := resolver.View{Network: netip.MustParsePrefix(netA)}
	for _, test := range []struct {
		name, sep, first, what string
		total                  int
	}{
		{"vms.big.internal", ",", "00000000000000 iad", "", 0},
		{"_instances.internal", ";", "instance=00000000000000,app=big,ip=fdaa:0:18:a:1::2,region=iad", "machines", total},
		{"all._instances.internal", ";", "instance=00000000000000,app=big,ip=fdaa:0:18:a:1::2,region=iad", "machines", total},
		{"_apps.internal", ",", "an-app-with-a-rather-long-name-number-0000", "apps", total + 1},
	} {
		a := ask(t, z, view, "", test.name, dns.TypeTXT)
		if len(a.Data) != 1 || len(a.Data[0]) > most {
			t.Fatalf("%s: %d records, the first of %d bytes", test.name, len(a.Data), len(a.Data[0]))
		}
		list := joined(stringsOf(t, a.Data[0]), test.sep)
		if list[0] != test.first || len(list[len(list)-1]) < len(test.first) {
			t.Errorf("%s: from %q to %q", test.name, list[0], list[len(list)-1])
		}
		if test.total == 0 {
			if a.Partial != nil || len(list) != total {
				t.Errorf("%s: %d entries, %+v", test.name, len(list), a.Partial)
			}
			continue
		}
		if a.Partial == nil || *a.Partial != (resolver.Partial{Shown: len(list), Total: test.total, What: test.what}) {
			t.Errorf("%s: %d entries, %+v", test.name, len(list), a.Partial)
		}
		if room := most - len(a.Data[0]); room > 2*len(test.first) {
			t.Errorf("%s: %d bytes are left unused", test.name, room)
		}
	}
	if a := ask(t, z, view, "", "big.internal", dns.TypeAAAA); len(a.Data) != total {
		t.Errorf("%d addresses, want %d", len(a.Data), total)
	}
}
