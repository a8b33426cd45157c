package test

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/miekg/dns"
)

// aaaaSize is an AAAA record whose owner is a pointer to the question: 2 bytes
// of name, 10 of type, class, TTL and length, 16 of address.
const aaaaSize = 28

// fits is how many AAAA records a message of size bytes holds.
func fits(size int, name string, edns bool) int {
	rest := size - 12 - (len(dns.Fqdn(name)) + 1 + 4)
	if edns {
		rest -= 11
	}
	return rest / aaaaSize
}

// sizes checks what happens to a set that does not fit.
func (w *world) sizes(t *testing.T) {
	const name = hugeApp + ".internal"
	t.Run("WithoutEDNS", func(t *testing.T) {
		resp := w.ask(t, "large", "udp", question(name, dns.TypeAAAA, false))
		wantCut(t, resp, fits(512, name, false))
	})
	t.Run("WithEDNS", func(t *testing.T) {
		// Every size in which a boundary may be off by one, and those that a
		// client should not send.
		sizes := []int{0, 100, 511, 1231, 1232, 1233, 4096, 65535}
		for size := 512; size < 512+2*aaaaSize; size++ {
			sizes = append(sizes, size)
		}
		for _, size := range sizes {
			req := question(name, dns.TypeAAAA, true)
			req.IsEdns0().SetUDPSize(uint16(size))
			resp := w.ask(t, "large", "udp", req)
			wantCut(t, resp, fits(w.limit("udp", req), name, true))
		}
	})
	t.Run("PerResponse", func(t *testing.T) {
		// One client's limit does not apply to others.
		for range 3 {
			wantCut(t, w.ask(t, "large", "udp", question(name, dns.TypeAAAA, false)), fits(512, name, false))
			wantCut(t, w.ask(t, "large", "udp", question(name, dns.TypeAAAA, true)), fits(w.maxUDP, name, true))
			resp := w.ask(t, "large", "tcp", question("many.internal", dns.TypeAAAA, false))
			if len(resp.Answer) != manyMachines || resp.Truncated {
				t.Errorf("%d records over TCP, TC %v, want %d", len(resp.Answer), resp.Truncated, manyMachines)
			}
		}
	})
	t.Run("TooLargeForTCP", func(t *testing.T) {
		resp := w.ask(t, "large", "tcp", question(name, dns.TypeAAAA, true))
		shown := len(resp.Answer)
		// The extended error may cost a few records' room.
		if most := fits(65535, name, true); shown > most || shown < most-10 || !resp.Truncated {
			t.Errorf("%d records over TCP, TC %v; want %d or few less, and TC", shown, resp.Truncated, most)
		}
		wantCounts(t, resp, shown, hugeMachines)
		if all := data(resp, "AAAA"); len(slices.Compact(all)) != shown {
			t.Error("an address is twice in the answer")
		}
		wantCut(t, w.ask(t, "large", "tcp", question(name, dns.TypeAAAA, false)), fits(65535, name, false))
	})
	t.Run("List", func(t *testing.T) {
		// One record that does not fit: none of it, and TC.
		for _, edns := range []bool{false, true} {
			resp := w.ask(t, "large", "udp", question("vms.many.internal", dns.TypeTXT, edns))
			wantCut(t, resp, 0)
		}
		resp := w.ask(t, "large", "tcp", question("vms.huge.internal", dns.TypeTXT, true))
		if len(resp.Answer) != 1 || resp.Truncated {
			t.Fatalf("vms.huge: %d records, TC %v", len(resp.Answer), resp.Truncated)
		}
		if n := entries(resp, ","); n != hugeMachines {
			t.Errorf("vms.huge has %d entries, want %d", n, hugeMachines)
		}
	})
	t.Run("ListTooLargeForTCP", func(t *testing.T) {
		resp := w.ask(t, "large", "tcp", question("_instances.internal", dns.TypeTXT, true))
		if !resp.Truncated || len(resp.Answer) != 1 {
			t.Fatalf("_instances: %d records, TC %v, want one and TC", len(resp.Answer), resp.Truncated)
		}
		n := entries(resp, ";")
		wantCounts(t, resp, n, hugeMachines+manyMachines)
		if resp.Len() < 65535*9/10 {
			t.Errorf("_instances: only %d bytes of 65,535 are used", resp.Len())
		}
		last := regexp.MustCompile(`^instance=[0-9a-f]{14},app=(huge|many),ip=fdaa:0:c0:[0-9a-f:]+,region=\w+;?$`)
		txt := resp.Answer[0].(*dns.TXT).Txt
		if s := txt[len(txt)-1]; !last.MatchString(s[lastEntry(s):]) {
			t.Errorf("_instances ends in a part of an entry: %q", s)
		}
	})
}

// lastEntry is where the last entry of an instances string begins.
func lastEntry(s string) int {
	at := 0
	for i := 0; i < len(s)-1; i++ {
		if s[i] == ';' {
			at = i + 1
		}
	}
	return at
}

// entries counts those of a list.
func entries(resp *dns.Msg, sep string) int {
	n := 0
	for _, e := range regexp.MustCompile(sep).Split(data(resp, "TXT")[0], -1) {
		if e != "" {
			n++
		}
	}
	return n
}

// wantCut checks a response that had room for n records only.
func wantCut(t *testing.T, resp *dns.Msg, n int) {
	t.Helper()
	if !resp.Truncated || len(resp.Answer) != n || resp.Rcode != dns.RcodeSuccess {
		t.Errorf("%s with %d records, TC %v; want %d and TC", dns.RcodeToString[resp.Rcode], len(resp.Answer), resp.Truncated, n)
	}
}

// wantCounts checks the extended error of a set larger than any message.
func wantCounts(t *testing.T, resp *dns.Msg, shown, total int) {
	t.Helper()
	counts := regexp.MustCompile(`(\d+) of (\d+)`)
	for _, text := range texts(resp) {
		if m := counts.FindStringSubmatch(text); m != nil {
			if m[1] != strconv.Itoa(shown) || m[2] != strconv.Itoa(total) {
				t.Errorf("extended error says %q, want %s", text, fmt.Sprintf("%d of %d", shown, total))
			}
			return
		}
	}
	t.Errorf("no extended error says %d of %d: %q", shown, total, texts(resp))
}

// orderIsFair checks that each machine is first equally often, and that all of
// them are there each time.
func (w *world) orderIsFair(t *testing.T) {
	const rounds = 600
	for _, proto := range []string{"udp", "tcp"} {
		first := make(map[string]int)
		n := rounds
		if proto == "tcp" {
			n = rounds / 2
		}
		for i := range n {
			resp := w.ask(t, "a", proto, question("my-app.internal", dns.TypeAAAA, i%2 == 0))
			if len(resp.Answer) != 3 {
				t.Fatalf("%d records, want all 3", len(resp.Answer))
			}
			first[resp.Answer[0].(*dns.AAAA).AAAA.String()]++
		}
		fair(t, "first of my-app over "+proto, first, n, 3)
	}
}

// nearestIsFair checks that machines at equal distance take turns, and that the
// nearer always come before the farther.
func (w *world) nearestIsFair(t *testing.T) {
	const rounds = 400
	name := make(map[string]string) // by address
	for k, addr := range w.book {
		name[addr] = k[len(netA)+1:]
	}
	first, fourth := make(map[string]int), make(map[string]int)
	for range rounds {
		resp := w.ask(t, "a", "udp", question("top1.nearest.of.near.internal", dns.TypeAAAA, true))
		if len(resp.Answer) != 1 {
			t.Fatalf("top1 has %d records", len(resp.Answer))
		}
		first[name[resp.Answer[0].(*dns.AAAA).AAAA.String()]]++

		resp = w.ask(t, "a", "udp", question("top4.nearest.of.near.internal", dns.TypeAAAA, true))
		var order []string
		for _, rr := range resp.Answer {
			order = append(order, name[rr.(*dns.AAAA).AAAA.String()])
		}
		if len(order) != 4 || order[0][:8] != "near-iad" || order[1][:8] != "near-iad" || order[2] != "near-ewr-1" {
			t.Fatalf("top4 is %v", order)
		}
		fourth[order[3]]++

		resp = w.ask(t, "a", "udp", question("top9.nearest.of.near.internal", dns.TypeAAAA, true))
		if last := resp.Answer[len(resp.Answer)-1].(*dns.AAAA).AAAA.String(); name[last] != "near-xyz-1" {
			t.Fatalf("the machine in a region without coordinates is not the last of top9: %v", resp)
		}
	}
	fair(t, "top1", first, rounds, 2)
	fair(t, "last of top4", fourth, rounds, 2)
}

// fair checks that n outcomes are spread evenly over so many: each within six
// standard deviations, which chance breaks once in 500 million times.
func fair(t *testing.T, what string, counts map[string]int, n, outcomes int) {
	t.Helper()
	mean := float64(n) / float64(outcomes)
	slack := 36 * mean * (1 - 1/float64(outcomes)) // six deviations, squared
	bad := len(counts) != outcomes
	for _, c := range counts {
		bad = bad || (float64(c)-mean)*(float64(c)-mean) > slack
	}
	if bad {
		t.Errorf("%s: %v, want %d outcomes about %.0f times each", what, counts, outcomes, mean)
	}
}
