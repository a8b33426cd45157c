package forward

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"github.com/miekg/dns"
)

// These tests ask real resolvers, as found where Debian puts them, on loopback.
// An authoritative Knot has three zones, one signed; unbound, BIND and dnsmasq
// resolve them and are in turn dnsd's upstreams.

// program is a server process of the test's own.
type program struct {
	addr netip.AddrPort
	log  *lockedBuffer
	stop func()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// realConfig is what the servers' configurations are filled in with.
type realConfig struct {
	Dir       string
	Port      uint16
	Auth      uint16 // Knot's port
	Dnsd      uint16 // dnsd's port, for loops
	Key       string // DNSKEY rdata of the signed zone, in text
	KeyBase64 string
}

// startProgram writes the configuration, starts the server and waits until it
// answers the question. The test is skipped where the program is not installed.
func startProgram(t *testing.T, path, config string, c realConfig, files map[string]string, args ...string) *program {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not installed: apt-get install unbound bind9 knot dnsmasq-base", path)
	}
	c.Dir, c.Port = t.TempDir(), freePort(t)
	fill := func(s string) string {
		var out strings.Builder
		if err := template.Must(template.New("").Parse(s)).Execute(&out, c); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "conf"), []byte(fill(config)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(c.Dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	filled := make([]string, len(args))
	for i := range args {
		filled[i] = fill(args[i])
	}
	p := &program{addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), c.Port), log: &lockedBuffer{}}
	cmd := exec.Command(path, filled...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.Dir, p.log, p.log
	if err := cmd.Start(); err != nil {
		t.Skipf("%s cannot be started here: %v", path, err)
	}
	p.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", path, p.log)
		}
	})
	return p
}

// ready waits until the program answers a question.
func (p *program) ready(t *testing.T, name string) {
	t.Helper()
	eventually(t, "answered by "+p.addr.String(), func() bool {
		m, err := dns.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), p.addr.String())
		return err == nil && m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0
	})
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

const knotConf = `
server:
    rundir: "{{.Dir}}"
    listen: 127.0.0.1@{{.Port}}
log:
  - target: stderr
    any: info
database:
    storage: "{{.Dir}}"
template:
  - id: default
    storage: "{{.Dir}}"
    zonefile-sync: -1
    zonefile-load: difference-no-serial
    journal-content: all
zone:
  - domain: plain.example
  - domain: bogus.example
  - domain: signed.example
    dnssec-signing: on
`

const unboundConf = `
server:
    interface: 127.0.0.1
    port: {{.Port}}
    username: ""
    chroot: ""
    directory: "{{.Dir}}"
    pidfile: ""
    use-syslog: no
    logfile: ""
    do-ip6: no
    do-not-query-localhost: no
    ede: yes
    module-config: "validator iterator"
    root-hints: ""
{{- if .Key}}
    trust-anchor: "signed.example. IN DNSKEY {{.Key}}"
    trust-anchor: "bogus.example. IN DNSKEY {{.Key}}"
{{- end}}
remote-control:
    control-enable: no
{{- range $zone := .Zones}}
stub-zone:
    name: "{{$zone}}"
    stub-addr: 127.0.0.1@{{$.Auth}}
{{- end}}
{{- if .Dnsd}}
forward-zone:
    name: "loop.example"
    forward-addr: 127.0.0.1@{{.Dnsd}}
{{- end}}
`

const namedConf = `
options {
    directory "{{.Dir}}";
    listen-on port {{.Port}} { 127.0.0.1; };
    listen-on-v6 { none; };
    pid-file none;
    session-keyfile none;
    recursion yes;
    allow-query { any; };
    dnssec-validation {{if .Key}}yes{{else}}no{{end}};
};
controls { };
{{- if .Key}}
trust-anchors {
    signed.example. static-key 257 3 13 "{{.KeyBase64}}";
    bogus.example. static-key 257 3 13 "{{.KeyBase64}}";
};
{{- end}}
{{- range $zone := .Zones}}
zone "{{$zone}}" { type forward; forward only; forwarders { 127.0.0.1 port {{$.Auth}}; }; };
{{- end}}
{{- if .Dnsd}}
zone "loop.example" { type forward; forward only; forwarders { 127.0.0.1 port {{.Dnsd}}; }; };
{{- end}}
`

const dnsmasqConf = `
keep-in-foreground
log-facility=-
port={{.Port}}
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
user=root
pid-file={{.Dir}}/pid
edns-packet-max=1232
{{- range $zone := .Zones}}
server=/{{$zone}}/127.0.0.1#{{$.Auth}}
{{- end}}
{{- if .Dnsd}}
server=/loop.example/127.0.0.1#{{.Dnsd}}
{{- end}}
`

// Zones lists Knot's zones, for the templates.
func (c realConfig) Zones() []string {
	if c.Auth == 0 {
		return nil
	}
	return []string{"plain.example", "bogus.example", "signed.example"}
}

// resolvers are the upstreams to test with, and how they are started.
var resolvers = []struct {
	name, path, conf string
	args             []string
	validates        bool
}{
	{"unbound", "/usr/sbin/unbound", unboundConf, []string{"-d", "-p", "-c", "{{.Dir}}/conf"}, true},
	{"named", "/usr/sbin/named", namedConf, []string{"-g", "-n", "1", "-c", "{{.Dir}}/conf"}, true},
	{"dnsmasq", "/usr/sbin/dnsmasq", dnsmasqConf, []string{"--conf-file={{.Dir}}/conf"}, false},
}

const zoneHead = `$ORIGIN %s.
$TTL 60
@ SOA ns hostmaster 1 3600 600 86400 30
@ NS ns
ns A 127.0.0.1
www A 192.0.2.1
alias CNAME second
second CNAME www
`

// startKnot starts the authoritative server and returns what its resolvers need.
func startKnot(t *testing.T) (knot *program, c realConfig) {
	t.Helper()
	var big strings.Builder
	for i := range 90 { // more than UDP carries, fewer than BIND's bound of 100
		fmt.Fprintf(&big, "big A 198.51.100.%d\n", i)
	}
	files := map[string]string{}
	for _, zone := range (realConfig{Auth: 1}).Zones() {
		files[zone+".zone"] = fmt.Sprintf(zoneHead, zone) + big.String()
	}
	knot = startProgram(t, "/usr/sbin/knotd", knotConf, realConfig{}, files, "-c", "{{.Dir}}/conf")
	c.Auth = knot.addr.Port()
	knot.ready(t, "www.signed.example.")
	eventually(t, "signed", func() bool {
		m, err := dns.Exchange(new(dns.Msg).SetQuestion("signed.example.", dns.TypeDNSKEY), knot.addr.String())
		if err != nil {
			return false
		}
		for _, rr := range m.Answer {
			if k, ok := rr.(*dns.DNSKEY); ok && k.Flags == 257 {
				c.Key, c.KeyBase64 = fmt.Sprintf("257 3 %d %s", k.Algorithm, k.PublicKey), k.PublicKey
			}
		}
		return c.Key != ""
	})
	return knot, c
}

func TestRealResolvers(t *testing.T) {
	knot, c := startKnot(t)
	t.Run("knotd", func(t *testing.T) { testNames(t, knot.addr, false) })
	for _, r := range resolvers {
		t.Run(r.name, func(t *testing.T) {
			p := startProgram(t, r.path, r.conf, c, nil, r.args...)
			p.ready(t, "www.plain.example.")
			testNames(t, p.addr, r.validates)
		})
	}
}

// testNames asks one upstream for every kind of answer, each twice: from the
// upstream, and from the cache.
func testNames(t *testing.T, addr netip.AddrPort, validates bool) {
	f := newReal(t, Config{Upstreams: []Upstream{{Domain: ".", Addr: addr}}})
	for _, c := range []struct {
		name  string
		qtype uint16
		do    bool
		rcode int
		types string // of the answer's records
		ad    bool
	}{
		{"www.plain.example.", dns.TypeA, false, dns.RcodeSuccess, "A", false},
		{"www.signed.example.", dns.TypeA, false, dns.RcodeSuccess, "A", true},
		{"www.signed.example.", dns.TypeA, true, dns.RcodeSuccess, "A RRSIG", true},
		{"alias.plain.example.", dns.TypeA, false, dns.RcodeSuccess, "CNAME CNAME A", false},
		{"alias.signed.example.", dns.TypeA, false, dns.RcodeSuccess, "CNAME CNAME A", true},
		{"big.plain.example.", dns.TypeA, false, dns.RcodeSuccess, strings.TrimSpace(strings.Repeat("A ", 90)), false},
		{"nowhere.plain.example.", dns.TypeA, false, dns.RcodeNameError, "", false},
		{"nowhere.signed.example.", dns.TypeA, false, dns.RcodeNameError, "", true},
		{"www.plain.example.", dns.TypeMX, false, dns.RcodeSuccess, "", false},
		{"www.bogus.example.", dns.TypeA, false, dns.RcodeServerFailure, "", false},
	} {
		if !validates {
			c.ad = false
			if strings.Contains(c.name, "bogus") {
				c.rcode, c.types = dns.RcodeSuccess, "A"
			}
		}
		q := query(c.name, c.qtype)
		q.DO = c.do
		for _, r := range []*Reply{f.Resolve(t.Context(), q), f.Immediate(q)} {
			if r == nil {
				t.Errorf("%s %s: not kept", c.name, dns.Type(c.qtype))
				continue
			}
			m := response(t, q, r, dns.MaxMsgSize)
			var types []string
			for _, rr := range m.Answer {
				types = append(types, dns.Type(rr.Header().Rrtype).String())
			}
			if got := strings.Join(types, " "); m.Rcode != c.rcode || got != c.types || r.AD != c.ad {
				t.Errorf("%s %s: got %s, AD %v, %s, EDE %v", c.name, dns.Type(c.qtype), dns.RcodeToString[m.Rcode], r.AD, got, r.EDE)
			}
			if c.rcode == dns.RcodeNameError && findSOA(m.Ns) == nil {
				t.Errorf("%s: no SOA", c.name)
			}
			if c.rcode == dns.RcodeServerFailure && len(r.EDE) == 0 {
				t.Errorf("%s: no EDE", c.name)
			}
		}
	}
	if f.upstreams[0].isDown() || value(f.upstreams[0].metrics.mismatched) != 0 {
		t.Errorf("down %v, mismatched %v", f.upstreams[0].isDown(), value(f.upstreams[0].metrics.mismatched))
	}
}

// TestRealLoops: each resolver sends a domain back to dnsd.
func TestRealLoops(t *testing.T) {
	for _, r := range resolvers {
		t.Run(r.name, func(t *testing.T) {
			var f *Forwarder
			ready := make(chan struct{})
			front := serve(t, func() *Forwarder { <-ready; return f })
			p := startProgram(t, r.path, r.conf, realConfig{Dnsd: front.addr.Port()}, nil, r.args...)
			f = newReal(t, Config{Upstreams: []Upstream{{Domain: ".", Addr: p.addr}}})
			close(ready)
			eventually(t, "answering", func() bool {
				m := new(dns.Msg).SetQuestion("version.bind.", dns.TypeTXT)
				m.Question[0].Qclass = dns.ClassCHAOS // needs no other server
				_, err := dns.Exchange(m, p.addr.String())
				return err == nil
			})
			for _, name := range []string{"loop.example", "www.loop.example"} {
				q, start := query(name, dns.TypeA), time.Now()
				wantLoop(t, q, f.Resolve(t.Context(), q), p.addr.String())
				t.Logf("%s: recognised after %s", name, time.Since(start))
			}
		})
	}
}

// TestRealOutage: the upstream is killed; what is known is served stale.
func TestRealOutage(t *testing.T) {
	knot, _ := startKnot(t)
	f := newReal(t, Config{Upstreams: []Upstream{{Domain: ".", Addr: knot.addr}}})
	q := query("www.plain.example", dns.TypeA)
	if r := f.Resolve(t.Context(), q); r.Rcode != dns.RcodeSuccess {
		t.Fatalf("got %v", r)
	}
	e := f.cache.get(f.cache.keyOf(q), q.Name)
	e.fresh = time.Now() // as though its minute were over
	knot.stop()
	wantText(t, q, f.Resolve(t.Context(), q), "NOERROR; www.plain.example. 30 IN A 192.0.2.1; EDE 3")
	other := query("second.plain.example", dns.TypeA)
	wantText(t, other, f.Resolve(t.Context(), other), "SERVFAIL; EDE 22")
	if !f.upstreams[0].isDown() {
		t.Error("not down")
	}
}
