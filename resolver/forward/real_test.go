package forward

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/template"
	"time"

	"github.com/miekg/dns"
)

// These tests ask real resolvers, as found where Debian puts them, on loopback.
// An authoritative Knot has three zones, one signed; the resolvers ask it for them and
// are in turn dnsd's upstreams.

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
	Port      uint16 // zero: any
	Auth      uint16 // Knot's port
	Dnsd      uint16 // dnsd's port, for loops
	TLS       uint16 // unbound's port for DNS over TLS
	Key       string // DNSKEY rdata of the signed zone, in text
	KeyBase64 string
}

// startProgram writes the configuration, starts the server and waits until it
// answers the question. The test is skipped where the program is not installed.
func startProgram(t *testing.T, path, config string, c realConfig, files map[string]string, args ...string) *program {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		skip(t, path+" is not installed: apt-get install unbound bind9 knot knot-resolver dnsmasq-base")
	}
	c.Dir = t.TempDir()
	if c.Port == 0 {
		c.Port = freePort(t)
	}
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
		skip(t, fmt.Sprintf("%s cannot be started here: %v", path, err))
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

// skip skips the test, or fails it where all have to run.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("DNSD_TEST_NO_SKIP") != "" {
		t.Fatal("would be skipped: " + why)
	}
	t.Skip(why)
}

// ready waits until the program answers a question.
func (p *program) ready(t *testing.T, name string) {
	t.Helper()
	eventually(t, "answered by "+p.addr.String(), func() bool {
		m, err := dns.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), p.addr.String())
		return err == nil && m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0
	})
}

// answersAtAll waits until the program answers a question that needs no other server.
func (p *program) answersAtAll(t *testing.T) {
	t.Helper()
	eventually(t, "answering", func() bool {
		m := new(dns.Msg).SetQuestion("version.bind.", dns.TypeTXT)
		m.Question[0].Qclass = dns.ClassCHAOS
		_, err := dns.Exchange(m, p.addr.String())
		return err == nil
	})
}

// freePort returns a port that is free for UDP and TCP. It is none of those that the kernel
// gives to whoever asks for any, so that it stays free until its server has started.
func freePort(t *testing.T) uint16 {
	t.Helper()
	for range 100 {
		addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(10_000+rand.IntN(20_000)))
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
		if err != nil {
			continue
		}
		l.Close()
		if c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr)); err == nil {
			c.Close()
			return addr.Port()
		}
	}
	t.Fatal("no port is free")
	return 0
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
{{- if .TLS}}
    interface: 127.0.0.1@{{.TLS}}
    tls-port: {{.TLS}}
    tls-service-key: "{{.Dir}}/key.pem"
    tls-service-pem: "{{.Dir}}/cert.pem"
    incoming-num-tcp: 300
    local-zone: "tls.example" redirect
    local-data: "tls.example 60 A 192.0.2.1"
{{- end}}
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

const kresdConf = `
net.listen('127.0.0.1', {{.Port}}, { kind = 'dns' })
cache.open(10 * MB, 'lmdb://{{.Dir}}')
trust_anchors.remove('.')
modules.unload('ta_signal_query')
modules.unload('priming')
policy.add(policy.suffix(policy.PASS, policy.todnames({'nothing.example'}))) -- no special domains
{{- if .Key}}
trust_anchors.add('signed.example. 60 IN DNSKEY {{.Key}}')
trust_anchors.add('bogus.example. 60 IN DNSKEY {{.Key}}')
{{- end}}
{{- range $zone := .Zones}}
policy.add(policy.suffix(policy.FORWARD('127.0.0.1@{{$.Auth}}'), policy.todnames({'{{$zone}}'})))
{{- end}}
{{- if .Dnsd}}
policy.add(policy.suffix(policy.FORWARD('127.0.0.1@{{.Dnsd}}'), policy.todnames({'loop.example'})))
{{- end}}
`

// Zones lists Knot's zones, for the templates.
func (c realConfig) Zones() []string {
	if c.Auth == 0 {
		return nil
	}
	return []string{"plain.example", "bogus.example", "signed.example"}
}

// resolver is a kind of upstream to test with, and how it is started.
type resolver struct {
	name, path, conf string
	args             []string
	validates        bool
}

func (r *resolver) start(t *testing.T, c realConfig) *program {
	t.Helper()
	return startProgram(t, r.path, r.conf, c, nil, r.args...)
}

var resolvers = []resolver{
	{"unbound", "/usr/sbin/unbound", unboundConf, []string{"-d", "-p", "-c", "{{.Dir}}/conf"}, true},
	{"named", "/usr/sbin/named", namedConf, []string{"-g", "-n", "1", "-c", "{{.Dir}}/conf"}, true},
	{"kresd", "/usr/sbin/kresd", kresdConf, []string{"-n", "-c", "{{.Dir}}/conf", "{{.Dir}}"}, true},
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
zero 0 A 192.0.2.1
`

// startKnot starts the authoritative server, which makes itself a key, and returns what its
// resolvers need.
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

// TestRealResolvers: each resolver's answers are passed on, kept and let go as they should be;
// when the upstream is gone, what is known is served stale.
func TestRealResolvers(t *testing.T) {
	t.Parallel()
	knot, c := startKnot(t)
	forged := c
	_, other := startKnot(t)
	forged.Auth = other.Auth // the same zones, signed with a key that is not trusted
	f := newReal(t, Config{Upstreams: []Upstream{{Domain: ".", Addr: knot.addr}}})
	testNames(t, f, false)
	var zeros atomic.Int32 // resolvers that pass on a TTL of 0
	t.Run("resolvers", func(t *testing.T) {
		for _, r := range resolvers {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				p := r.start(t, c)
				p.ready(t, "www.plain.example.")
				f := newReal(t, Config{Upstreams: []Upstream{{Domain: ".", Addr: p.addr}}})
				testNames(t, f, r.validates)
				if testLifetimes(t, f) {
					zeros.Add(1)
				}
				if r.validates {
					p := r.start(t, forged)
					p.ready(t, "www.plain.example.")
					testBogus(t, f, p.addr)
				}
			})
		}
	})
	if zeros.Load() == 0 && !t.Failed() {
		t.Error("no resolver passes on a TTL of 0")
	}
	q := query("www.plain.example", dns.TypeA)
	f.cache.get(f.cache.keyOf(q), q.Name).fresh = time.Now() // as though its minute were over
	knot.stop()
	wantText(t, q, resolve(t.Context(), f, q), "NOERROR; www.plain.example. 30 IN A 192.0.2.1; EDE 3")
	wantA(t, f, "second.plain.example", "SERVFAIL; EDE 22")
	if !f.at(0).isDown() {
		t.Error("not down")
	}
}

// testNames asks one upstream for every kind of answer, each twice: from the
// upstream, and from the cache.
func testNames(t *testing.T, f *Forwarder, validates bool) {
	t.Helper()
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
		for _, r := range []*Reply{resolve(t.Context(), f, q), f.Immediate(q)} {
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
			if c.rcode == dns.RcodeNameError && !slices.ContainsFunc(m.Ns, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeSOA }) {
				t.Errorf("%s: no SOA", c.name)
			}
			if c.rcode == dns.RcodeServerFailure && len(r.EDE) == 0 {
				t.Errorf("%s: no EDE", c.name)
			}
		}
	}
	if f.at(0).isDown() || value(f.at(0).metrics.mismatched) != 0 {
		t.Errorf("down %v, mismatched %v", f.at(0).isDown(), value(f.at(0).metrics.mismatched))
	}
}

// testLifetimes: an answer with a TTL of 0 is passed on and not kept; a name that does not
// exist is asked for once, whatever the type. It returns whether there was a TTL of 0.
func testLifetimes(t *testing.T, f *Forwarder) (zero bool) {
	t.Helper()
	q := query("zero.plain.example", dns.TypeA)
	m := response(t, q, resolve(t.Context(), f, q), dns.MaxMsgSize)
	if len(m.Answer) != 1 {
		t.Fatalf("%v", m)
	}
	zero = m.Answer[0].Header().Ttl == 0 // Knot Resolver makes it longer
	if kept := f.cache.get(f.cache.keyOf(q), q.Name) != nil; zero == kept {
		t.Errorf("TTL %d, kept %v", m.Answer[0].Header().Ttl, kept)
	}
	requests := f.at(0).metrics.requests
	before := value(requests)
	for _, typ := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeMX, 65280} {
		q := query("nothing.plain.example", typ)
		wantText(t, q, resolve(t.Context(), f, q), "NXDOMAIN")
	}
	if n := value(requests) - before; n != 1 {
		t.Errorf("%v queries for a name that does not exist", n)
	}
	return zero
}

// testBogus: a record was valid, and then the upstream finds its zone signed by somebody else.
// Whatever it says of that, the old address is not given.
func testBogus(t *testing.T, f *Forwarder, forged netip.AddrPort) {
	t.Helper()
	q := query("www.signed.example", dns.TypeA)
	f.cache.get(f.cache.keyOf(q), q.Name).fresh = time.Now() // as though its minute were over
	if err := f.Update([]Upstream{{Domain: ".", Addr: forged}}); err != nil {
		t.Fatal(err)
	}
	r := resolve(t.Context(), f, q)
	if r.Rcode != dns.RcodeServerFailure || r.AD || len(r.records) > 0 || !isVerdict(r.EDE) {
		t.Errorf("%+v", r)
	}
}

// TestRealLoops: each resolver sends a domain back to dnsd. Alone, it is found out; beside
// another upstream, even as the first choice, it costs no name an answer.
func TestRealLoops(t *testing.T) {
	t.Parallel()
	for _, r := range resolvers {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			f := newReal(t, Config{})
			p := r.start(t, realConfig{Dnsd: serve(t, f).addr.Port()})
			p.answersAtAll(t)
			update(t, f, p.addr)
			for _, name := range []string{"loop.example", "www.loop.example"} {
				q := query(name, dns.TypeA)
				wantLoop(t, q, resolve(t.Context(), f, q))
			}
			healthy := (&scripted{onUDP: func(q *dns.Msg, send func(*dns.Msg)) {
				time.Sleep(loopDelay * 3 / 2)
				onUDP(q, send)
			}}).start(t, nil)
			update(t, f) // forgets what is known of the resolver
			update(t, f, p.addr, healthy.addr)
			before := value(f.metrics.loops)
			var clients sync.WaitGroup
			for i := range 6 {
				clients.Go(func() {
					for j := range 3 {
						name := fmt.Sprintf("n%d-%d.loop.example.", i, j)
						q := query(name, dns.TypeA)
						if got := text(t, q, resolve(t.Context(), f, q)); got != "NOERROR; "+name+" 60 IN A 192.0.2.1" {
							t.Errorf("%s: %s", name, got)
						}
					}
				})
			}
			clients.Wait()
			if value(f.metrics.loops) == before {
				t.Error("no loop was noticed")
			}
		})
	}
}

// TestRealRestartOverTLS: unbound is killed and started again; all is answered meanwhile.
func TestRealRestartOverTLS(t *testing.T) {
	t.Parallel()
	server, pool := certificate(t, "dns.example")
	key, err := x509.MarshalPKCS8PrivateKey(server.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"cert.pem": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificates[0].Certificate[0]})),
		"key.pem":  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
	}
	unbound := resolvers[0]
	c := realConfig{TLS: freePort(t)}
	start := func() *program {
		p := startProgram(t, unbound.path, unbound.conf, c, files, unbound.args...)
		p.ready(t, "tls.example.")
		return p
	}
	p := start()
	c.Port = p.addr.Port()
	other := (&scripted{onTCP: onTCP}).start(t, server)
	ups := []Upstream{
		{Domain: ".", Addr: netip.AddrPortFrom(p.addr.Addr(), c.TLS), TLS: true, Name: "dns.example"},
		{Domain: ".", Addr: other.addr, TLS: true, Name: "dns.example"},
	}
	f := newReal(t, Config{RootCAs: pool, Upstreams: ups[:1]})
	n := 0
	ask := func(upstream int) {
		t.Helper()
		answers := f.at(upstream).metrics.responses.WithLabelValues("NOERROR")
		for before := value(answers); value(answers) < before+10; n++ {
			q := query(fmt.Sprintf("n%d.tls.example", n), dns.TypeA)
			if r := resolve(t.Context(), f, q); r.Rcode != dns.RcodeSuccess || n == 10_000 {
				t.Fatalf("question %d: %v", n, r)
			}
		}
	}
	use := func(ups []Upstream) {
		if err := f.Update(ups); err != nil {
			t.Fatal(err)
		}
	}
	ask(0)
	use(ups)
	p.stop()
	ask(1)
	start()
	use(ups[:1])
	eventually(t, "up again", func() bool { return !f.at(0).isDown() })
	ask(0)
}
