package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// The crowd: two networks of some thousand machines.
var crowds = []tenant{
	{"large", netLarge, "lima"},
	{"long", netLong, "oscar"},
}

const (
	crowdSize = 2400 // machines of a network; with two the file is of 1 MB, which is read whole at each change
	bigApp    = 300  // of them, in one app, whose answers fit into no UDP message
	perApp    = 12
	maxJobs   = 100 // apps that live for half a minute
)

// crowdApp names the app that the i-th machine of a network belongs to.
func crowdApp(i int) string {
	if i < bigApp {
		return "crowd-big"
	}
	return fmt.Sprintf("crowd-%03d", (i-bigApp)/perApp)
}

// crowd is the part of the registry that is large. What a version of it holds is
// never changed, but replaced.
type crowd struct {
	apps []*app
	at   map[string]int // index in apps, by network and name
	jobs []*app         // the youngest last; each has a name, ids and addresses that never were before
	born int
}

func newCrowd(r *rand.Rand) *crowd {
	c := &crowd{at: make(map[string]int)}
	for _, n := range crowds {
		for i := range crowdSize {
			key := n.network + crowdApp(i)
			if _, ok := c.at[key]; !ok {
				c.at[key] = len(c.apps)
				c.apps = append(c.apps, &app{Name: crowdApp(i), Network: n.network})
			}
			if r.IntN(10) > 0 { // as many as changes leave
				a := c.apps[c.at[key]]
				a.Machines = append(a.Machines, newMachine(r, n, i))
			}
		}
	}
	return c
}

// newMachine returns the i-th machine of a network as it may be.
func newMachine(r *rand.Rand, n tenant, i int) *machine {
	m := &machine{ID: fmt.Sprintf("%s%04d", n.mark, i), State: states[r.IntN(len(states))],
		Region: sharedRegions[r.IntN(len(sharedRegions))], PrivateIP: n.addr(i, r.IntN(2)),
		Config: &config{Metadata: map[string]string{"fly_process_group": sharedGroups[r.IntN(2)]}}}
	if r.IntN(2) == 0 {
		m.Config.Metadata["role"] = []string{"primary", "replica"}[r.IntN(2)]
	}
	return m
}

// change changes or removes n machines, or brings them back, and has a new job
// take the place of the oldest.
func (c *crowd) change(r *rand.Rand, n int) {
	c.apps = slices.Clone(c.apps)
	for range n {
		t, i := crowds[r.IntN(len(crowds))], r.IntN(crowdSize)
		at := c.at[t.network+crowdApp(i)]
		a, m := *c.apps[at], newMachine(r, t, i)
		c.apps[at] = &a
		a.Machines = slices.Clone(a.Machines)
		k := slices.IndexFunc(a.Machines, func(x *machine) bool { return x.ID == m.ID })
		switch {
		case k < 0:
			a.Machines = append(a.Machines, m)
		case r.IntN(9) == 0:
			a.Machines = slices.Delete(a.Machines, k, k+1)
		default:
			a.Machines[k] = m
		}
	}
	c.born++
	job := &app{Name: fmt.Sprintf("job-%d", c.born), Network: netLarge}
	for i := range 3 {
		job.Machines = append(job.Machines, &machine{ID: fmt.Sprintf("lima-job-%d-%d", c.born, i), State: "started",
			Region: "iad", PrivateIP: fmt.Sprintf("fdaa:0:c0:a7b:2:%x:%x:2", c.born&0xffff, i+1),
			Config: &config{Metadata: map[string]string{"run": fmt.Sprint(c.born)}}})
	}
	c.jobs = append(slices.Clone(c.jobs), job)
	c.jobs = c.jobs[max(0, len(c.jobs)-maxJobs):]
}

// replace renames a file of v into place.
func replace(path string, v any) error {
	data, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(path+".new", data, 0o644)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	return err
}

// shot is a question that is asked again and again.
type shot struct {
	name, typ string
	wire      []byte
	random    int   // where in wire twelve letters stand that are new each time; 0: nowhere
	may       []int // the codes that the answer may have
	right     judge // nil: the model would take too long
}

// judge reports whether got, in the words of the model, is the answer to name.
type judge func(m *model, name, got string) bool

const randomLetters = "xxxxxxxxxxxx"

// newShot packs a question, every other with EDNS.
func newShot(r *rand.Rand, name, typ string, may []int, right judge) shot {
	wire, err := question(name, dns.StringToType[typ], r.IntN(2) == 0).Pack()
	if err != nil {
		panic(err)
	}
	return shot{name, typ, wire, max(0, bytes.Index(wire, []byte(randomLetters))), may, right}
}

// always is right of names whose answer never changes.
func always(want string) judge { return func(_ *model, _, got string) bool { return got == want } }

// pool returns what the clients of a network ask for: always the same names, so
// that dnsd keeps no more answers in the end than after the warm-up.
func pool(n tenant, r *rand.Rand) []shot {
	known := []int{dns.RcodeSuccess, dns.RcodeNameError}
	shots := outside(r, 20, false)
	for range 1000 {
		app, i, id := sharedApps[r.IntN(len(sharedApps))], r.IntN(idsPerTenant), n.id
		if slices.Contains(crowds, n) {
			i = r.IntN(crowdSize)
			app, id = crowdApp(i), func(i int) string { return fmt.Sprintf("%s%04d", n.mark, i) }
		}
		all := asks(n.network, app, sharedRegions[r.IntN(3)], sharedGroups[r.IntN(2)], id(i), n.addr(i, r.IntN(2)))
		q := all[r.IntN(len(all))]
		right := judge(func(m *model, _, got string) bool { return q.answer(m) == got })
		if slices.Contains(crowds, n) && (q.typ == "PTR" || strings.Contains(q.name, "_instances")) {
			right = nil // looks at each machine of the network
		}
		shots = append(shots, newShot(r, q.name, q.typ, known, right))
		switch {
		case i%20 == 0:
			shots = append(shots, newShot(r, randomLetters+".internal.", "AAAA", known[1:], always("NXDOMAIN")))
		case i%20 == 1 && slices.Contains(crowds, n): // whose clients are no machines, so that they are where the server is
			shots = append(shots, newShot(r, "top3.nearest.of."+app+".internal.", "AAAA", known, nearest(n.network, app, 3)))
		}
	}
	return shots
}

// nearest is right of answers that hold the n started machines of an app that are
// nearest to the server, which is in the first of the regions.
func nearest(network, app string, n int) judge {
	return func(m *model, _, got string) bool {
		all := m.aaaa(network, app, nil)
		if strings.HasPrefix(all, "N") { // NXDOMAIN or NODATA
			return got == all
		}
		rest, left := strings.Fields(got), n
		for _, region := range sharedRegions { // the nearest first
			here := strings.Fields(m.aaaa(network, app, func(x *machine) bool { return x.Region == region }))
			found := len(rest)
			rest = slices.DeleteFunc(rest, func(addr string) bool { return slices.Contains(here, addr) })
			here = slices.DeleteFunc(here, func(addr string) bool { return strings.HasPrefix(addr, "N") })
			if found -= len(rest); found != min(left, len(here)) {
				return false
			}
			left -= found
		}
		return len(rest) == 0
	}
}

// outside returns questions that go to the upstream. Those for a name that never
// was before go there each time, and now and then one that it does not answer.
func outside(r *rand.Rand, n int, unique bool) (shots []shot) {
	for i := range n {
		for _, kind := range "aastnf" {
			name, may, right := fmt.Sprintf("%c-%d.example.", kind, i), dns.RcodeSuccess, judge(func(_ *model, name, got string) bool {
				return got == scripted(name)
			})
			if unique {
				name = fmt.Sprintf("%c-%s.example.", kind, randomLetters)
			}
			switch kind {
			case 'n':
				may, right = dns.RcodeNameError, always("NXDOMAIN")
			case 'f':
				may, right = dns.RcodeServerFailure, always("SERVFAIL")
			}
			shots = append(shots, newShot(r, name, "A", []int{may}, right))
		}
	}
	if unique {
		shots = append(shots, newShot(r, "d-"+randomLetters+".example.", "A", []int{dns.RcodeServerFailure}, always("SERVFAIL")))
	}
	return shots
}

// scripted is the one that the upstream has for a name.
func scripted(name string) string {
	h := fnv.New32a()
	io.WriteString(h, strings.ToLower(name))
	sum := h.Sum(nil)
	return net.IPv4(198, 18, sum[0], sum[1]).String()
}

// script is the upstream: the first letter of a name says what becomes of it.
func script(rw dns.ResponseWriter, req *dns.Msg) {
	name := strings.ToLower(req.Question[0].Name)
	resp := new(dns.Msg).SetReply(req)
	resp.RecursionAvailable = true
	hdr := dns.RR_Header{Name: req.Question[0].Name, Class: dns.ClassINET, Ttl: 2}
	_, overUDP := rw.RemoteAddr().(*net.UDPAddr)
	switch name[0] {
	case 'd':
		return
	case 'n':
		resp.Rcode, hdr.Name, hdr.Rrtype = dns.RcodeNameError, "example.", dns.TypeSOA
		resp.Ns = []dns.RR{&dns.SOA{Hdr: hdr, Ns: "example.", Mbox: "example.", Minttl: 2}}
	case 'f':
		resp.Rcode = dns.RcodeServerFailure
	case 's':
		time.Sleep(20 * time.Millisecond)
		fallthrough
	case 'a', 't':
		if resp.Truncated = name[0] == 't' && overUDP; !resp.Truncated {
			hdr.Rrtype = dns.TypeA
			resp.Answer = []dns.RR{&dns.A{Hdr: hdr, A: net.ParseIP(scripted(name))}}
		}
	}
	rw.WriteMsg(resp)
}
