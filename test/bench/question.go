package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"

	"dnsd/registry"

	"github.com/miekg/dns"
)

// question is one question and what a right answer to it looks like.
type question struct {
	name    string // absolute
	typ     uint16
	network registry.Network // of the client that asks
	edns    bool             // asked with an OPT record, of payloadSize
	rcode   int
	records int      // in the answer section; -1: some, with TC set
	data    []string // the records' values, sorted; nil: they change and are not checked
}

// seed makes every run ask the same questions in the same order.
const seed = 20180

func newRand() *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// payloadSize is what dnsd, NSD and dnsperf take for safe: no fragments on any
// path (DNS flag day 2020).
const payloadSize = 1232

// message returns the question as a message with a new id.
func (q *question) message() *dns.Msg {
	m := new(dns.Msg).SetQuestion(q.name, q.typ)
	if q.edns {
		m.SetEdns0(payloadSize, false)
	}
	return m
}

// withEDNS returns the questions with an OPT record.
func withEDNS(qs []question) []question {
	out := slices.Clone(qs)
	for i := range out {
		out[i].edns = true
	}
	return out
}

// mix returns four questions for each app, a quarter each of the kinds: the
// app, a region of it, one of its machines, and its list of machines.
func (f *fleet) mix(r *rand.Rand) []question {
	var out []question
	for _, a := range f.apps {
		m := a.machines[r.IntN(len(a.machines))]
		out = append(out, a.all(), a.inRegion(m.region), a.vm(m), a.list())
	}
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func (a *app) all() question {
	return a.aaaa(a.name+".internal.", func(instance) bool { return true })
}

func (a *app) inRegion(region string) question {
	return a.aaaa(region+"."+a.name+".internal.", func(m instance) bool { return m.region == region })
}

func (a *app) vm(m instance) question {
	return question{name: m.id + ".vm." + a.name + ".internal.", typ: dns.TypeAAAA, network: a.network, records: 1, data: []string{m.addr.String()}}
}

func (a *app) list() question {
	return question{name: "vms." + a.name + ".internal.", typ: dns.TypeTXT, network: a.network, records: 1, data: []string{a.vms()}}
}

func (a *app) aaaa(name string, which func(instance) bool) question {
	q := question{name: name, typ: dns.TypeAAAA, network: a.network}
	for _, m := range a.machines {
		if which(m) {
			q.data = append(q.data, m.addr.String())
		}
	}
	q.records = len(q.data)
	slices.Sort(q.data)
	return q
}

// addresses returns two questions for each app: all its machines, and one.
// Forwarded names have answers of the same shapes.
func (f *fleet) addresses() []question {
	var out []question
	for _, a := range f.apps {
		out = append(out, a.all(), a.vm(a.machines[0]))
	}
	return shuffled(out)
}

func shuffled(qs []question) []question {
	newRand().Shuffle(len(qs), func(i, j int) { qs[i], qs[j] = qs[j], qs[i] })
	return qs
}

// withMissing returns the questions times over, with every twentieth of them
// replaced by one for a name that does not exist. No such name comes twice, as
// with names that are mistyped or made up.
func withMissing(qs []question, times int) []question {
	out := make([]question, 0, len(qs)*times)
	for i := range len(qs) * times {
		q := qs[i%len(qs)]
		if i%20 == 7 {
			q = question{name: fmt.Sprintf("missing-%06d.internal.", i), typ: dns.TypeAAAA, network: q.network, rcode: dns.RcodeNameError}
			if i%40 == 7 {
				q.name = fmt.Sprintf("%014x.vm.%s", i, parent(qs[i%len(qs)].name))
			}
		}
		out = append(out, q)
	}
	return out
}

// parent returns the app's own name of any name in it.
func parent(name string) string {
	labels := dns.SplitDomainName(name)
	return strings.Join(labels[len(labels)-2:], ".") + "."
}

// randomCase returns the questions with letters in upper or lower case at
// random, as resolvers do that guard against spoofing.
func randomCase(qs []question, r *rand.Rand) []question {
	out := slices.Clone(qs)
	for i := range out {
		name := []byte(out[i].name)
		for j, c := range name {
			if 'a' <= c && c <= 'z' && r.IntN(2) == 0 {
				name[j] = c - 'a' + 'A'
			}
		}
		out[i].name = string(name)
	}
	return out
}

// zipf returns n questions of the mix about apps drawn by Zipf's law: the k-th
// app is asked for in proportion to 1/k. Which of an app's machines or regions
// is asked for is drawn evenly.
func (f *fleet) zipf(n int, r *rand.Rand) []question {
	// The generator wants an exponent above 1; at 1.01 the difference is small.
	z := rand.NewZipf(r, 1.01, 1, uint64(len(f.apps)-1))
	order := r.Perm(len(f.apps)) // so that the much asked lie in many networks
	out := make([]question, n)
	for i := range out {
		a := f.apps[order[z.Uint64()]]
		m := a.machines[r.IntN(len(a.machines))]
		switch i % 4 {
		case 0:
			out[i] = a.all()
		case 1:
			out[i] = a.inRegion(m.region)
		case 2:
			out[i] = a.vm(m)
		case 3:
			out[i] = a.list()
		}
	}
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// distinct counts the different questions.
func distinct(qs []question) int {
	type key struct {
		network registry.Network
		name    string
		typ     uint16
	}
	seen := make(map[key]bool)
	for _, q := range qs {
		seen[key{q.network, q.name, q.typ}] = true
	}
	return len(seen)
}

// writeQuestions writes questions in dnsperf's format.
func writeQuestions(file string, qs []question) error {
	return writeFile(file, func(w io.Writer) error {
		for _, q := range qs {
			if _, err := fmt.Fprintf(w, "%s %s\n", q.name, dns.TypeToString[q.typ]); err != nil {
				return err
			}
		}
		return nil
	})
}

// changing returns the questions without the values, where these change while
// they are asked for. How many records there are stays.
func changing(qs []question) []question {
	out := slices.Clone(qs)
	for i := range out {
		out[i].data = nil
	}
	return out
}
