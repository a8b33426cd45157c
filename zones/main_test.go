package zones

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The two networks of the tests, and the parts of their addresses.
const (
	netA = "fdaa:0:18::/48"
	netB = "fdaa:0:99::/48"
)

// must returns v, or panics: the objects of a test are right by construction.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func put[T registry.Object](v T, err error) registry.Item { return registry.Put(must(v, err)) }

// machine returns an item from words: "148e web iad started fdaa:0:18::1
// role=primary skip". A word with "=" is metadata, "group=…" the process group;
// an address may be missing.
func machine(network, words string) registry.Item {
	f := strings.Fields(words)
	s := registry.MachineSpec{Network: network, ID: f[0], App: f[1], Region: f[2], State: f[3], Metadata: map[string]string{}}
	if s.Region == "-" {
		s.Region = ""
	}
	for _, w := range f[4:] {
		k, v, pair := strings.Cut(w, "=")
		switch {
		case w == "skip":
			s.SkipRegistration = true
		case k == "group":
			s.Metadata["fly_process_group"] = v
		case pair:
			s.Metadata[strings.ReplaceAll(k, "+", " ")] = strings.ReplaceAll(v, "+", " ")
		default:
			s.PrivateIP = w
		}
	}
	return put(registry.NewMachine(s))
}

func app(network, name string) registry.Item {
	return put(registry.NewApp(registry.AppSpec{Name: name, Network: network}))
}

func peer(name, addr, region string) registry.Item {
	return put(registry.NewPeer(registry.PeerSpec{Name: name, PrivateIP: addr, Region: region}))
}

func flycast(app, addr string) registry.Item {
	return put(registry.NewAddress(registry.AddressSpec{App: app, Address: addr}))
}

// serve returns zones over a live registry of items.
func serve(cfg Config, items ...registry.Item) (*registry.Registry, *Zones) {
	reg := registry.New()
	reg.Apply(items)
	reg.SetStatus(registry.Status{State: registry.Live, Source: "test:"})
	if cfg.TTL == 0 {
		cfg.TTL = 5
	}
	return reg, New(reg, cfg)
}

// split returns the labels of an absolute name without escapes, lower case, as
// the resolver hands them over; "\." stands for a dot within a label.
func split(name string) []string {
	if name == "" {
		return nil
	}
	labels := strings.Split(strings.ReplaceAll(registry.Lower(name), `\.`, "\x00"), ".")
	for i := range labels {
		labels[i] = strings.ReplaceAll(labels[i], "\x00", ".")
	}
	return labels
}

// route returns the zone with the longest matching origin, as the resolver does,
// and the question for it. The name has no final dot.
func route(t testing.TB, z *Zones, view resolver.View, client, name string, typ uint16) (zone resolver.Zone, q *resolver.Question) {
	t.Helper()
	labels := split(name)
	left := -1
	for _, c := range z.Zones() {
		origin := split(strings.TrimSuffix(c.Origin(), "."))
		n := len(labels) - len(origin)
		if n >= 0 && slices.Equal(labels[n:], origin) && (zone == nil || n < left) {
			zone, left = c, n
		}
	}
	if zone == nil {
		t.Fatalf("no zone has %s", name)
	}
	q = &resolver.Question{Labels: labels[:left], Type: typ, View: view}
	if client != "" {
		q.Client = netip.MustParseAddr(client)
	}
	return zone, q
}

// ask asks a question that can wait. Before and after it asks the same of a
// zone that may not take long, which gives the same answer or none.
func ask(t testing.TB, z *Zones, view resolver.View, client, name string, typ uint16) *resolver.Answer {
	t.Helper()
	zone, q := route(t, z, view, client, name, typ)
	before := zone.Answer(q)
	patient := *q
	patient.Pause = func() {}
	a := zone.Answer(&patient)
	if a == nil {
		t.Fatalf("%s %s: a question that can wait has no answer", name, typeName(typ))
	}
	for _, inline := range []*resolver.Answer{before, zone.Answer(q)} {
		if inline != nil && !same(inline, a) {
			t.Errorf("%s %s: answered %s at once and %s in time", name, typeName(typ), render(t, inline), render(t, a))
		}
	}
	if err := wellFormed(a, view, typ); err != "" {
		t.Errorf("%s %s: %s", name, typeName(typ), err)
	}
	return a
}

func typeName(t uint16) string { return dns.Type(t).String() }

// wellFormed checks what holds for every answer and returns what does not.
func wellFormed(a *resolver.Answer, view resolver.View, typ uint16) string {
	sum := 0
	for _, n := range a.Turns {
		sum += n
	}
	negative := len(a.Data) == 0 && (a.Rcode == dns.RcodeSuccess || a.Rcode == dns.RcodeNameError)
	switch {
	case a.Turns != nil && sum != len(a.Data):
		return fmt.Sprintf("the turns %v do not add up to %d records", a.Turns, len(a.Data))
	case len(a.Data) > 0 && a.Rcode != dns.RcodeSuccess:
		return "an error with records"
	case negative != (a.SOA != nil):
		return "an SOA goes with negative answers and no others"
	case negative && (a.SOA.TTL != 5):
		return fmt.Sprintf("the SOA is %+v", a.SOA)
	case len(a.Data) > 0 && a.Type != typ && (typ != dns.TypeANY || a.Type != dns.TypeHINFO || len(a.Data) != 1):
		return "the records are of type " + typeName(a.Type)
	case len(a.Data) > 0 && a.TTL != 5:
		return fmt.Sprintf("the TTL is %d", a.TTL)
	case a.Limit < 0 || a.Limit > len(a.Data):
		return fmt.Sprintf("a limit of %d for %d records", a.Limit, len(a.Data))
	case a.NoStore && a.Watch != nil:
		return "what is not kept needs no channels"
	case slices.Contains(a.Watch, nil):
		return "a channel is missing"
	}
	return ""
}

// render returns an answer as text: its records in the order of Data, joined by
// blanks, or NODATA, NXDOMAIN …; then the texts of its extended errors.
func render(t testing.TB, a *resolver.Answer) string {
	t.Helper()
	var parts []string
	for _, rdata := range a.Data {
		parts = append(parts, rdataText(t, a.Type, rdata))
	}
	s := strings.Join(parts, " ")
	switch {
	case a.Rcode != dns.RcodeSuccess:
		s = dns.RcodeToString[int(a.Rcode)]
	case len(a.Data) == 0:
		s = "NODATA"
	}
	if a.Limit > 0 {
		s += fmt.Sprintf(" (%d)", a.Limit)
	}
	for _, e := range a.EDE {
		s += fmt.Sprintf("; %d %s", e.Code, e.Text)
	}
	return s
}

// rdataText unpacks rdata with another implementation of the wire format.
func rdataText(t testing.TB, typ uint16, rdata []byte) string {
	t.Helper()
	wire := append([]byte{0}, byte(typ>>8), byte(typ), 0, 1, 0, 0, 0, 5)
	wire = append(binary.BigEndian.AppendUint16(wire, uint16(len(rdata))), rdata...)
	rr, end, err := dns.UnpackRR(wire, 0)
	if err != nil || end != len(wire) {
		t.Fatalf("rdata %x of type %s: %v, %d of %d bytes read", rdata, typeName(typ), err, end, len(wire))
	}
	return strings.TrimPrefix(rr.String(), rr.Header().String())
}
