// Package fastpath tests the real dnsd with --fast-path: machines behind devices at
// which the kernel answers, beside machines of the same networks behind devices at
// which it does not.
package fastpath

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// The machines. The devices of a and b are fast, that of slow, which is in the network of a, is not.
var (
	machineA = netip.MustParseAddr("fdaa:0:a:a7b:7d:1:1:2")
	slowA    = netip.MustParseAddr("fdaa:0:a:ffff::2")
	machineB = netip.MustParseAddr("fdaa:0:b:a7b:7d:2:1:2")
	server   = netip.MustParseAddrPort("[fdaa::3]:53")
)

// scene is a host with its dnsd and the machines that run on it.
type scene struct {
	*lab.Lab
	t       *testing.T
	dnsd    *lab.Server
	a, b    *lab.Tenant
	slow    *lab.Tenant
	path    string // of the registry file
	version int
}

type object = map[string]any

// newHost makes a host and its machines.
func newHost(t *testing.T) *scene {
	t.Helper()
	s := &scene{Lab: lab.Open(t, "fdaa::3"), t: t, path: filepath.Join(t.TempDir(), "registry.json")}
	s.Sysctl(t, "net/ipv6/conf/all/forwarding", "1")
	s.a, s.b = s.Tenant(t, "a", machineA), s.Tenant(t, "b", machineB)
	s.slow = s.TenantIn(t, "slow", slowA, netip.PrefixFrom(slowA, 64).Masked())
	s.write()
	return s
}

// privileges are what the documentation says that dnsd needs.
var privileges = []uintptr{unix.CAP_NET_BIND_SERVICE, unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON}

// serve starts dnsd as nobody with some privileges.
func (s *scene) serve(caps []uintptr, args ...string) {
	s.t.Helper()
	lab.Reachable(s.t, filepath.Dir(s.path)) // dnsd is nobody
	cmd := lab.Command(lab.Binary(s.t), nil, append([]string{"--metrics-listen", lab.Admin, "--registry", "file:" + s.path, "--upstream", "none",
		"--listen", server.String(), "--region", "fra"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: caps}
	s.dnsd = s.Launch(s.t, cmd)
	s.dnsd.Ready(s.t)
}

// start makes a host whose dnsd answers in the kernel what comes from a and b.
func start(t *testing.T, args ...string) *scene {
	t.Helper()
	s := newHost(t)
	s.serve(privileges, append([]string{"--fast-path", "to-?"}, args...)...)
	s.devices(2)
	return s
}

// devices waits until the kernel answers at so many devices.
func (s *scene) devices(n int) {
	s.t.Helper()
	if !lab.Until(lab.Patience, func() bool { return s.Metric(s.t, "dnsd_fast_path_devices") == float64(n) }) {
		s.t.Fatalf("the kernel answers at %v devices, want %d", s.Metric(s.t, "dnsd_fast_path_devices"), n)
	}
}

// write writes the registry file, a new version of it each time: the last machine of
// changing has the version in its address.
func (s *scene) write() {
	s.t.Helper()
	s.version++
	machines := func(addr netip.Addr, n int, more object) (out []object) {
		for i := range n {
			b := addr.As16()
			b[13] += byte(i)
			m := object{"id": fmt.Sprintf("m%d", i), "state": "started", "region": []string{"fra", "iad"}[i%2], "private_ip": netip.AddrFrom16(b).String()}
			for k, v := range more {
				m[k] = v
			}
			out = append(out, m)
		}
		return out
	}
	app := func(name string, addr netip.Addr, m []object) object {
		return object{"name": name, "network": netip.PrefixFrom(addr, 48).Masked().String(), "machines": m}
	}
	at := func(addr netip.Addr, host uint16) netip.Addr {
		b := addr.As16()
		b[8], b[9] = byte(host>>8), byte(host)
		return netip.AddrFrom16(b)
	}
	changing := at(machineA, uint16(s.version))
	data, err := json.Marshal(object{"apps": []object{
		app("home", machineA, machines(machineA, 3, object{"config": object{"metadata": object{"fly_process_group": "web", "role": "primary"}}})),
		app("home", machineB, machines(machineB, 2, nil)),
		app("changing", machineA, machines(changing, 1, nil)),
		app("many", machineA, machines(at(machineA, 0x100), 18, nil)),
		app("toomany", machineA, machines(at(machineA, 0x101), 19, nil)),
		app("crowd", machineA, machines(at(machineA, 0x102), 60, nil)),
		app("stopped", machineA, machines(at(machineA, 0x103), 2, object{"state": "stopped"})),
		app("single", machineA, machines(at(machineA, 0x104), 1, nil)),
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.path+".new", data, 0o644); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(s.path+".new", s.path); err != nil {
		s.t.Fatal(err)
	}
}

// results lists what the programs count, in the order of counts.
var results = [...]string{"hit", "miss", "stale", "route", "shape"}

type counts [len(results)]int

// counts returns the number of packets that the programs have seen, by result.
func (s *scene) counts() (c counts) {
	s.t.Helper()
	status, text := s.Get("http://" + lab.Admin + "/metrics")
	if status != 200 {
		s.t.Fatalf("/metrics answers %d: %s", status, text)
	}
	for i, r := range results {
		_, rest, found := strings.Cut(text, "\ndnsd_fast_path_packets_total{result=\""+r+"\"} ")
		line, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.ParseFloat(line, 64)
		if !found || err != nil {
			s.t.Fatalf("no count of %s: %v", r, err)
		}
		c[i] = int(n)
	}
	return c
}

// since names the results that were counted since.
func (s *scene) since(before counts) (names string) {
	for i, n := range s.counts() {
		if n != before[i] {
			names += results[i]
		}
	}
	return names
}

// hits returns how many questions the kernel has answered.
func (s *scene) hits() int { s.t.Helper(); return s.counts()[0] }

// query returns a question in wire form.
func query(name string, typ uint16, change func(*dns.Msg)) []byte {
	m := new(dns.Msg).SetQuestion(name, typ)
	m.Id = 0x1234
	if change != nil {
		change(m)
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

func edns(size uint16) func(*dns.Msg) { return func(m *dns.Msg) { m.SetEdns0(size, false) } }

// ask asks from a machine.
func (s *scene) ask(from *lab.Tenant, req []byte) []byte {
	s.t.Helper()
	resp, err := lab.Client{Lab: from.Lab, From: from.Addr, To: server}.Exchange("udp", req)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp
}

// warm asks until the kernel answers.
func (s *scene) warm(from *lab.Tenant, req []byte) {
	s.t.Helper()
	if !lab.Until(lab.Patience, func() bool {
		before := s.hits()
		s.ask(from, req)
		return s.hits() > before
	}) {
		s.t.Fatalf("the kernel does not answer %x; %v: %v", req, results, s.counts())
	}
}

// canonical returns a response as text: all of it, but with its answers in order. Which
// those of a truncated one are is chance.
func canonical(resp []byte) string {
	var m dns.Msg
	if err := m.Unpack(resp); err != nil {
		return fmt.Sprintf("%x: %v", resp, err)
	}
	var records []string
	at := len(resp)
	for i := len(m.Extra) - 1; i >= 0; i-- {
		at -= dns.Len(m.Extra[i]) // never compressed
	}
	for _, rr := range m.Answer {
		if !m.Truncated {
			records = append(records, fmt.Sprintf("%s %d", rr, rr.Header().Rdlength))
		}
	}
	slices.Sort(records)
	for _, rr := range m.Ns {
		records = append(records, "authority "+rr.String())
	}
	question := len(resp)
	if len(m.Question) == 1 {
		question = 12 + len(m.Question[0].Name) + 1 + 4
	}
	return fmt.Sprintf("%x %d\n%s\n%x", resp[:min(question, len(resp))], len(resp), strings.Join(records, "\n"), resp[at:])
}

// soon is how long what happens at once may take.
const soon = 5 * time.Second
