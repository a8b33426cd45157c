package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// patience bounds every wait of a test: far more than anything takes.
const patience = 20 * time.Second

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// reset forgets what was logged so far.
func (b *logBuffer) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Reset()
}

// running is a dnsd in this process.
type running struct {
	t       *testing.T
	log     *logBuffer
	dns     string // host:port
	metrics string // host:port, or none
	stop    context.CancelFunc
	ended   chan struct{}
	err     error // of run; after ended
}

var listens = regexp.MustCompile(`msg="dnsd listens" .*listen="?\[(\S+?)\]"? metrics=(\S+)`)

// start runs dnsd without upstreams.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	return startWith(t, append(args, "--upstream", "none")...)
}

// startWith runs dnsd on ports of its own choosing, with args. It is stopped at
// the test's end, where it must have ended well.
func startWith(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	d := &running{t: t, log: &logBuffer{}, stop: stop, ended: make(chan struct{})}
	args = append([]string{"--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"}, args...)
	go func() {
		defer close(d.ended)
		d.err = run(ctx, args, environment(), nil, d.log)
	}()
	t.Cleanup(func() {
		stop()
		<-d.ended
		if d.err != nil {
			t.Errorf("run: %v", d.err)
		}
		if t.Failed() {
			t.Log(d.log)
		}
	})
	eventually(t, "listening", func() bool {
		m := listens.FindStringSubmatch(d.log.String())
		if m != nil {
			d.dns, d.metrics = m[1], m[2]
		}
		select {
		case <-d.ended:
			t.Fatalf("run: %v\n%s", d.err, d.log)
		default:
		}
		return m != nil
	})
	return d
}

// ask returns the response to one question over network, udp or tcp.
func (d *running) ask(network, name string, qtype uint16) *dns.Msg {
	d.t.Helper()
	q := new(dns.Msg).SetQuestion(name, qtype)
	q.SetEdns0(1232, false)
	c := &dns.Client{Net: network, Timeout: patience}
	m, _, err := c.Exchange(q, d.dns)
	if err != nil {
		d.t.Fatalf("%s %s: %v\n%s", network, name, err, d.log)
	}
	return m
}

func (d *running) readyz() (int, string) { return get(d.t, "http://"+d.metrics+"/readyz") }

// ready waits until dnsd is.
func (d *running) ready() {
	d.t.Helper()
	eventually(d.t, "ready", func() bool { code, _ := d.readyz(); return code == 200 })
}

// serveDNS answers over conn until the test ends.
func serveDNS(t *testing.T, conn net.PacketConn, answer dns.HandlerFunc) {
	t.Helper()
	started, done := make(chan struct{}), make(chan error)
	server := &dns.Server{PacketConn: conn, Handler: answer, NotifyStartedFunc: func() { close(started) }}
	go func() { done <- server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { server.Shutdown(); <-done })
}

// localUDP is a socket of this host, with a port of its own.
func localUDP(t *testing.T) net.PacketConn {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// fleet writes a registry file with one app of so many started machines.
func fleet(t *testing.T, path string, machines int) {
	t.Helper()
	var list []string
	for i := range machines {
		list = append(list, fmt.Sprintf(`{"id": "m%d", "state": "started", "region": "fra", "private_ip": "fdaa:0:18:a7b::%x:2"}`, i, i+1))
	}
	text := `{"apps": [{"name": "my-app", "network": "fdaa:0:18::/48", "machines": [` + strings.Join(list, ",\n") + "]}]}\n"
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestServe(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.json")
	fleet(t, path, 2)
	d := start(t, "--registry", "file:"+path, "--network", "fdaa:0:18::/48", "--state-dir", t.TempDir())
	d.ready()
	for _, network := range []string{"udp", "tcp"} {
		m := d.ask(network, "my-app.internal.", dns.TypeAAAA)
		if m.Rcode != dns.RcodeSuccess || len(m.Answer) != 2 || !m.Authoritative || m.Answer[0].Header().Ttl != 5 {
			t.Errorf("%s: %v", network, m)
		}
	}
	if m := d.ask("udp", "example.com.", dns.TypeA); m.Rcode != dns.RcodeRefused {
		t.Errorf("outside name: %v", m)
	}
	fleet(t, path, 3)
	eventually(t, "the changed file in the answers", func() bool {
		return len(d.ask("udp", "my-app.internal.", dns.TypeAAAA).Answer) == 3
	})
	code, metrics := get(t, "http://"+d.metrics+"/metrics")
	for _, want := range []string{`dnsd_registry_objects{kind="machine"} 3`, "dnsd_build_info{goversion=\"" + runtime.Version() + "\",modified=\"", ",version=\"" + version() + "\"} 1", "dnsd_panics_total 0"} {
		if code != 200 || !strings.Contains(metrics, want) {
			t.Errorf("metrics: %d without %q", code, want)
		}
	}
	var out strings.Builder
	if err := run(t.Context(), []string{"healthcheck", "--metrics-listen", d.metrics}, environment(), &out, nil); err != nil ||
		!strings.HasPrefix(out.String(), "live: file:"+path) {
		t.Errorf("healthcheck: %q %v", out.String(), err)
	}
	if err := run(t.Context(), []string{"healthcheck", "--metrics-listen=none", "--listen", d.dns}, environment(), &out, nil); err != nil {
		t.Errorf("healthcheck by DNS: %v", err)
	}
}

// A registry file that is missing is waited for; meanwhile dnsd says so and says
// nothing false.
func TestServeWithoutRegistryFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.json")
	d := start(t, "--registry", "file:"+path, "--network", "fdaa:0:18::/48")
	eventually(t, "the reason at /readyz", func() bool {
		code, reason := d.readyz()
		return code == 503 && strings.Contains(reason, "the file does not exist")
	})
	if log := d.log.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "the file does not exist") {
		t.Errorf("the log does not say it: %s", log)
	}
	if m := d.ask("udp", "my-app.internal.", dns.TypeAAAA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("before the registry is there: %v", m)
	}
	fleet(t, path, 1)
	d.ready()
	if m := d.ask("udp", "my-app.internal.", dns.TypeAAAA); len(m.Answer) != 1 {
		t.Errorf("after: %v", m)
	}
}

// With the source gone, the last known state is served from the state directory,
// already to the first question.
func TestServeLastKnownState(t *testing.T) {
	t.Parallel()
	dir, state := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "registry.json")
	fleet(t, path, 20_000) // which take some time to load
	args := []string{"--registry", "file:" + path, "--network", "fdaa:0:18::/48", "--state-dir", state}
	first := start(t, args...)
	first.ready()
	first.stop()
	<-first.ended
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second := start(t, args...)
	m := second.ask("udp", "m1.vm.my-app.internal.", dns.TypeAAAA)
	if len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
	stale := false
	for _, option := range m.IsEdns0().Option {
		ede, ok := option.(*dns.EDNS0_EDE)
		stale = stale || ok && ede.InfoCode == dns.ExtendedErrorCodeStaleAnswer
	}
	if _, reason := second.readyz(); !stale || !strings.HasPrefix(reason, "cached") {
		t.Errorf("served as fresh: %v %s", m, reason)
	}
}

func TestSignals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.json")
	fleet(t, path, 1)
	d := start(t, "--registry", "file:"+path)
	d.ready()
	before := strings.Count(d.log.String(), "the registry is listed")
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another listing after SIGHUP", func() bool {
		return strings.Count(d.log.String(), "the registry is listed") > before
	})
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	d.stop()
	<-d.ended
	if !strings.Contains(d.log.String(), "dnsd has ended") {
		t.Error(d.log)
	}
}

// A registry in which all machines are suddenly stopped empties no answer, says so,
// and waits for an operator's word.
func TestSweepIsHeld(t *testing.T) {
	const machines = 30
	path := filepath.Join(t.TempDir(), "registry.json")
	fleet(t, path, machines)
	d := start(t, "--registry", "file:"+path, "--network", "fdaa:0:18::/48")
	d.ready()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(strings.ReplaceAll(string(text), "started", "stopped")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the sweep at /readyz", func() bool {
		code, reason := d.readyz()
		return code == 200 && strings.HasPrefix(reason, "held: ") && strings.Contains(reason, "30 of 30 started machines") && strings.Contains(reason, "SIGUSR1")
	})
	answers := func() int { return len(d.ask("tcp", "my-app.internal.", dns.TypeAAAA).Answer) }
	if n := answers(); n != machines {
		t.Errorf("%d machines are answered, want all %d", n, machines)
	}
	_, metrics := get(t, "http://"+d.metrics+"/metrics")
	for _, want := range []string{`dnsd_registry_held{kind="started_machine"} 30`, `dnsd_registry_held{kind="app"} 0`, "dnsd_registry_started_machines 30"} {
		if !strings.Contains(metrics, "\n"+want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the sweep after SIGUSR1", func() bool { return answers() == 0 })
	eventually(t, "nothing is held", func() bool {
		_, reason := d.readyz()
		return strings.HasPrefix(reason, "live: ")
	})
}

// What cannot come right by itself ends dnsd with what would mend it.
func TestServeFailsToStart(t *testing.T) {
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.LocalAddr().(*net.UDPAddr).Port
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	dir := t.TempDir()
	regions := filepath.Join(dir, "regions.csv")
	if err := os.WriteFile(regions, []byte("code,latitude,longitude\nfra,far,8.6\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, args, want string
		status           int
	}{
		{"dns_address_in_use", "--listen " + taken.LocalAddr().String(), fmt.Sprintf("sport = :%d", port), 1},
		{"dns_address_not_there", "--listen [fdaa:0:7::3]:0", "ip -6 addr", 1},
		{"metrics_address_in_use", "--listen 127.0.0.1:0 --metrics-listen " + admin.Addr().String(), "in use, perhaps by another dnsd", 1},
		{"regions_missing", "--regions " + dir + "/none.csv", "no such file", 2},
		{"regions_broken", "--regions " + regions, "line 2", 2},
		{"etcd_without_prefix", "--registry etcd://127.0.0.1:2379", "prefix", 2},
		{"etcd_ca_missing", "--registry etcd://127.0.0.1:2379/dnsd/v1/ --etcd-ca " + dir + "/ca.pem", "no such file", 2},
		{"corrosion_without_port", "--registry corrosion://localhost", "corrosion://127.0.0.1:8080", 2},
		{"corrosion_token_missing", "--registry corrosion://127.0.0.1:1 --corrosion-token-file " + dir + "/token", "no such file", 2},
		{"upstream_is_self", "--listen 127.0.0.1:5300 --upstream 127.0.0.1:5300", "an address that dnsd itself listens on", 2},
		{"upstream_is_self_by_wildcard", "--listen [::]:5300 --upstream 127.0.0.1:5300", "an address that dnsd itself listens on", 2},
		{"upstream_junk", "--upstream dns.example", `"dns.example" is no address`, 2},
		{"upstream_tls_without_name", "--upstream tls://192.0.2.1", "which name does its certificate hold?", 2},
		{"upstream_internal", "--upstream internal=192.0.2.1", "answered by dnsd itself", 2},
		{"upstream_twice", "--upstream 192.0.2.1 --upstream 192.0.2.1:53", "given twice", 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{"--metrics-listen=none"}, strings.Fields(tt.args)...)
			if strings.Contains(tt.args, "--metrics-listen") {
				args = args[1:]
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err := run(ctx, args, environment(), nil, &logBuffer{})
			var out strings.Builder
			if status := report(&out, err); status != tt.status || !strings.Contains(out.String(), tt.want) {
				t.Errorf("%d %q, want %d with %q", status, out.String(), tt.status, tt.want)
			}
		})
	}
}

func TestIsSelf(t *testing.T) {
	tests := []struct {
		listen, addr string
		want         bool
	}{
		{"[fdaa::3]:53", "[fdaa::3]:53", true},
		{"[fdaa::3]:53", "[fdaa::3]:54", false},
		{"[fdaa::3]:53", "127.0.0.1:53", false},
		{"[::]:53", "[::1]:53", true},
		{"[::]:53", "127.0.0.53:53", true},
		{"0.0.0.0:53", "[::1]:53", false},
		{"0.0.0.0:53", "192.0.2.1:53", false},
		{"0.0.0.0:53", "0.0.0.0:53", true},
		{"[::]:53", "0.0.0.0:53", true},
		{"[::ffff:127.0.0.1]:53", "127.0.0.1:53", true},
	}
	for _, tt := range tests {
		c := &config{Listen: []netip.AddrPort{netip.MustParseAddrPort(tt.listen)}}
		if got := c.isSelf(netip.MustParseAddrPort(tt.addr)); got != tt.want {
			t.Errorf("%s with %s: %v", tt.addr, tt.listen, got)
		}
	}
	local, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	all := &config{Listen: []netip.AddrPort{netip.MustParseAddrPort("[::]:53")}}
	for _, l := range local {
		if addr := netip.MustParsePrefix(l.String()).Addr(); !all.isSelf(netip.AddrPortFrom(addr, 53)) {
			t.Errorf("%s is not known for one of this host's", addr)
		}
	}
}

// A question that waits for an upstream when dnsd is told to end is still
// answered, and everything behind the sockets stays up until then.
func TestDrain(t *testing.T) {
	t.Parallel()
	conn := localUDP(t)
	asked, answer := make(chan struct{}, 16), make(chan struct{})
	serveDNS(t, conn, func(w dns.ResponseWriter, q *dns.Msg) {
		asked <- struct{}{}
		<-answer
		w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeNameError))
	})
	release := sync.OnceFunc(func() { close(answer) })
	defer release()

	path := filepath.Join(t.TempDir(), "registry.json")
	fleet(t, path, 1)
	d := startWith(t, "--upstream", conn.LocalAddr().String(), "--registry", "file:"+path)
	d.ready()
	response := make(chan *dns.Msg, 1)
	go func() {
		m, _, err := (&dns.Client{Timeout: patience}).Exchange(new(dns.Msg).SetQuestion("example.com.", dns.TypeA), d.dns)
		if err != nil {
			t.Error(err)
		}
		response <- m
	}()
	<-asked
	d.stop()
	eventually(t, "shutting down at /readyz", func() bool {
		code, reason := d.readyz()
		return code == 503 && reason == "shutting down\n"
	})
	for range 20 { // and it stays so while a question is in hand
		if code, reason := d.readyz(); code != 503 {
			t.Fatalf("/readyz while draining: %d %s", code, reason)
		}
		time.Sleep(5 * time.Millisecond)
	}
	release()
	if m := <-response; m == nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("answered %v", m)
	}
	<-d.ended
}
