package test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

// TestMistakes gives dnsd what it cannot use, and reads what it says.
func TestMistakes(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	good := writeFile(t, filepath.Join(dir, "good.json"), pair("started"))
	for _, c := range []struct {
		name string
		env  []string
		args []string
		code int
		says []string // all of them, in standard error
	}{
		{"UnknownFlag", nil, []string{"--lisen", "[::]:53"}, 2, []string{"--lisen"}},
		{"UnknownCommand", nil, []string{"serv"}, 2, []string{"serv", "check"}},
		{"BadListen", nil, []string{"--listen", "fdaa::3:53"}, 2, []string{"--listen", "[fdaa::3]:53"}},
		{"BadListenPort", nil, []string{"--listen", "[::]:99999"}, 2, []string{"--listen", "99999"}},
		{"BadNetwork", nil, []string{"--network", "fdaa:0:18::/40"}, 2, []string{"--network", "/48"}},
		{"NetworkOutside", nil, []string{"--network", "fd00:0:18::/48"}, 2, []string{"--network", "fdaa::/16"}},
		{"BadAllow", nil, []string{"--allow", "10.0.0.0/33"}, 2, []string{"--allow", "10.0.0.0/33"}},
		{"AllowHostBits", nil, []string{"--allow", "ten"}, 2, []string{"--allow", "ten"}},
		{"BadScheme", nil, []string{"--registry", "postgres://db/"}, 2, []string{"--registry", "file:", "etcd://", "corrosion://"}},
		{"BadTTL", nil, []string{"--ttl", "five"}, 2, []string{"--ttl", "five"}},
		{"NegativeTTL", nil, []string{"--ttl", "-5s"}, 2, []string{"--ttl"}},
		{"SmallMessage", nil, []string{"--max-udp-size", "100"}, 2, []string{"--max-udp-size", "512"}},
		{"BadAdvertise", nil, []string{"--advertise", "nowhere"}, 2, []string{"--advertise", "nowhere"}},
		{"BadAPIAddress", nil, []string{"--api-address", "127.0.0.1"}, 2, []string{"--api-address"}},
		{"BadUpstream", nil, []string{"--upstream", "resolver.example"}, 2, []string{"--upstream", "resolver.example"}},
		{"BadLogLevel", nil, []string{"--log-level", "loud"}, 2, []string{"--log-level", "debug"}},
		{"BadLogFormat", nil, []string{"--log-format", "xml"}, 2, []string{"--log-format", "json"}},
		{"RegionsMissing", nil, []string{"--regions", filepath.Join(dir, "none.csv")}, -1, []string{"none.csv"}},
		{"BadEnvironment", []string{"DNSD_TTL=five"}, nil, 2, []string{"DNSD_TTL", "five"}},
		{"BadEnvironmentList", []string{"DNSD_ALLOW=10.0.0.0/8,ten"}, nil, 2, []string{"DNSD_ALLOW", "ten"}},
		{"AllAtOnce", []string{"DNSD_REGISTRY=gopher:x"},
			[]string{"--network", "fdaa::/16", "--allow", "ten", "--ttl", "five", "--listen", "here", "--log-level", "loud"}, 2,
			[]string{"--network", "--allow", "--ttl", "--listen", "--log-level", "DNSD_REGISTRY"}},
		{"NoSuchAddress", nil, []string{"--listen", "[fdaa::4]:53", "--registry", "file:" + good, "--upstream", "none"}, 1,
			[]string{"[fdaa::4]:53", "ip -6 addr add fdaa::4/128 dev lo"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := l.Run(t, c.env, c.args...)
			if c.code >= 0 && code != c.code || code == 0 {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if stdout != "" {
				t.Errorf("on standard output: %s", stdout)
			}
			for _, s := range c.says {
				if !strings.Contains(stderr, s) {
					t.Errorf("the message does not say %q:\n%s", s, stderr)
				}
			}
			for _, s := range []string{"panic", "goroutine", "strconv.", "netip.Parse", "ParseAddr(", "ParsePrefix("} {
				if strings.Contains(stderr, s) {
					t.Errorf("the message speaks of %q:\n%s", s, stderr)
				}
			}
			if strings.Count(stderr, "\n") > len(c.says)+3 {
				t.Errorf("the message is long:\n%s", stderr)
			}
		})
	}
}

// TestDefaultAddress starts dnsd without --listen where fdaa::3 does not exist.
func TestDefaultAddress(t *testing.T) {
	l := lab.Open(t) // with loopback alone
	path := writeFile(t, filepath.Join(t.TempDir(), "registry.json"), pair("started"))
	code, _, stderr := l.Run(t, []string{"DNSD_REGISTRY=file:" + path, "DNSD_UPSTREAM=none"})
	if code != 1 || !strings.Contains(stderr, "ip -6 addr add fdaa::3/128 dev lo") {
		t.Errorf("exit code %d, want 1 and the command that adds the address:\n%s", code, stderr)
	}
}

// TestAddressInUse starts a second dnsd on the address of the first, for each
// transport, and on its admin address.
func TestAddressInUse(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := writeFile(t, filepath.Join(t.TempDir(), "registry.json"), pair("started"))
	l.Serve(t, "--listen", "[fdaa::3]:53", "--registry", "file:"+path, "--upstream", "none")
	base := []string{"--registry", "file:" + path, "--upstream", "none"}
	for name, args := range map[string][]string{
		"SameDNS":   {"--listen", "[fdaa::3]:53", "--metrics-listen", "127.0.0.1:9154"},
		"SameAdmin": {"--listen", "[fdaa::3]:54", "--metrics-listen", lab.Admin},
	} {
		t.Run(name, func(t *testing.T) { inUse(t, l, append(base, args...)) })
	}
	udp, err := l.ListenUDP("[fdaa::3]:55")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	tcp, err := l.ListenTCP("[fdaa::3]:56")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	t.Run("OnlyUDP", func(t *testing.T) { inUse(t, l, append(base, "--listen", "[fdaa::3]:55", "--metrics-listen", "none")) })
	t.Run("OnlyTCP", func(t *testing.T) { inUse(t, l, append(base, "--listen", "[fdaa::3]:56", "--metrics-listen", "none")) })
}

func inUse(t *testing.T, l *lab.Lab, args []string) {
	code, _, stderr := l.Run(t, nil, args...)
	if code != 1 || !strings.Contains(stderr, "in use") {
		t.Errorf("exit code %d, want 1 and that the address is in use:\n%s", code, stderr)
	}
}

// TestNoPrivilege starts dnsd on port 53 as nobody.
func TestNoPrivilege(t *testing.T) {
	if _, err := exec.LookPath("setpriv"); err != nil {
		lab.Skip(t, "setpriv (util-linux) is missing")
	}
	l := newLab(t)
	path := writeFile(t, filepath.Join(t.TempDir(), "registry.json"), pair("started"))
	nobody := []string{"--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set", "-all", "--inh-caps", "-all"}
	if out, err := l.Output(exec.Command("setpriv", append(nobody, "true")...)); err != nil {
		lab.Skip(t, "cannot become nobody: "+out)
	}
	cmd := lab.Command("setpriv", nil, append(nobody, lab.Binary(t), "--listen", "[fdaa::3]:53", "--registry", "file:"+path,
		"--upstream", "none", "--metrics-listen", "none")...)
	out, err := l.Output(cmd)
	if err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(out, "cap_net_bind_service") || !strings.Contains(out, "setcap") {
		t.Errorf("%v, want exit code 1 and the command that gives the privilege:\n%s", err, out)
	}
}

// TestVersionAndHelp reads what people read first.
func TestVersionAndHelp(t *testing.T) {
	l := newLab(t)
	code, out, _ := l.Run(t, nil, "--version")
	if code != 0 || strings.TrimSpace(out) == "" || strings.Count(out, "\n") != 1 {
		t.Errorf("--version: exit code %d, %q, want one line", code, out)
	}
	code, out, _ = l.Run(t, nil, "--help")
	if code != 0 {
		t.Errorf("--help: exit code %d", code)
	}
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	if len(lines) > 40 {
		t.Errorf("--help has %d lines: too many for a screen", len(lines))
	}
	for _, line := range lines {
		if len(line) > 80 {
			t.Errorf("--help has a line of %d characters: %q", len(line), line)
		}
	}
	for _, flag := range []string{"--listen", "--registry", "--network", "--allow", "--region", "--regions", "--upstream",
		"--api-address", "--advertise", "--ttl", "--max-udp-size", "--stale-after", "--metrics-listen", "--log-level",
		"--log-format", "--no-identity", "--version", "--help"} {
		if !strings.Contains(out, flag) {
			t.Errorf("--help does not name %s", flag)
		}
	}
}

// TestCheck gives dnsd check good and bad files.
func TestCheck(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	code, out, stderr := l.Run(t, nil, "check", fixture(t))
	if code != 0 {
		t.Fatalf("exit code %d for the fixture:\n%s%s", code, out, stderr)
	}
	for _, what := range []string{"app", "machine", "peer", "address", "network"} {
		if !strings.Contains(out, what) {
			t.Errorf("the summary does not speak of %q:\n%s", what, out)
		}
	}
	for _, c := range []struct{ name, text, says string }{
		{"Broken", "{\"apps\": [\n  {\"name\": \"my-app\",\n   \"network\": }\n]}", `3\b.*\b15`},
		{"CutShort", "{\"apps\": [\n  {\"name\": \"my-app\"", `2\b.*\b\d+`},
		{"NotJSON", "apps:\n- name: my-app\n", `1\b.*\b1`},
		{"Empty", "", `1\b.*\b1`},
		{"WrongShape", "{\n \"apps\": 7}", `2\b.*\b10`},
		{"OutsideItsNetwork", strings.Replace(pair("started"), "fdaa:0:18:a7b:1:1:2:2", "fdaa:0:99:a7b:1:1:2:2", 1),
			`3\b.*fdaa:0:99:a7b:1:1:2:2.*fdaa:0:18::/48`},
		{"OutsideAll", strings.Replace(pair("started"), "fdaa:0:18:a7b:1:1:2:2", "2001:db8::1", 1), `3\b.*2001:db8::1`},
		{"BadID", strings.Replace(pair("started"), `"m2"`, `"m 2"`, 1), `3\b.*m 2`},
		{"LongName", strings.Replace(pair("started"), `"my-app"`, `"`+longLabel("")+`x"`, 1), `1\b.*63`},
		{"NoState", strings.Replace(pair("started"), `"state": "started", "region": "iad", "private_ip": "fdaa:0:18:a7b:1:1:2:2"`, `"region": "iad"`, 1), `3\b.*state`},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := writeFile(t, filepath.Join(dir, c.name+".json"), c.text)
			code, out, stderr := l.Run(t, nil, "check", path)
			all := out + stderr
			if code != 1 {
				t.Errorf("exit code %d, want 1:\n%s", code, all)
			}
			if !regexp.MustCompile(`(?s)` + c.says).MatchString(all) {
				t.Errorf("want line and column as in %s:\n%s", c.says, all)
			}
		})
	}
	if code, out, stderr := l.Run(t, nil, "check", filepath.Join(dir, "none.json")); code != 1 || !strings.Contains(out+stderr, "none.json") {
		t.Errorf("exit code %d for a file that is not there:\n%s%s", code, out, stderr)
	}
}

// TestEnvironment sets flags in the environment; flags win.
func TestEnvironment(t *testing.T) {
	l := newLab(t)
	path := writeFile(t, filepath.Join(t.TempDir(), "registry.json"), pair("started"))
	w := &world{ttl: 7, maxUDP: 1232}
	w.Server = l.Launch(t, lab.Command(lab.Binary(t), []string{"DNSD_LISTEN=[fdaa::3]:53,[fdaa:0:18::3]:53", "DNSD_REGISTRY=file:" + path,
		"DNSD_UPSTREAM=none", "DNSD_METRICS_LISTEN=" + lab.Admin, "DNSD_TTL=99s", "DNSD_ALLOW=2001:db8:a::/48,203.0.113.0/24",
		"DNSD_NETWORK=" + netA, "DNSD_LOG_FORMAT=json"}, "--ttl", "7s"))
	w.Ready(t)
	const both = "fdaa:0:18:a7b:1:1:1:2 fdaa:0:18:a7b:1:1:2:2"
	w.check(t, []row{{"a", "my-app.internal", "AAAA", both, ""}, {"a-own", "my-app.internal", "AAAA", both, ""},
		{"friend", "my-app.internal", "AAAA", both, ""}})
	for _, line := range strings.Split(strings.TrimSpace(w.Stderr.String()), "\n") {
		if !strings.HasPrefix(line, "{") {
			t.Errorf("a line of the log is not JSON: %s", line)
		}
	}
}

// TestHealthcheck asks a running dnsd, as a container's HEALTHCHECK does.
func TestHealthcheck(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := filepath.Join(t.TempDir(), "registry.json")
	if code, _, _ := l.Run(t, nil, "healthcheck", "--metrics-listen", lab.Admin); code != 1 {
		t.Errorf("exit code %d with no dnsd running, want 1", code)
	}
	s := l.Launch(t, lab.Command(lab.Binary(t), nil, "--listen", "[::]:53", "--registry", "file:"+path, "--upstream", "none",
		"--metrics-listen", lab.Admin))
	if !lab.Until(lab.Patience, func() bool { status, _ := l.Get("http://" + lab.Admin + "/healthz"); return status == 200 }) {
		t.Fatal("not alive")
	}
	if code, out, stderr := l.Run(t, nil, "healthcheck", "--metrics-listen", lab.Admin); code != 1 || out+stderr == "" {
		t.Errorf("exit code %d before it is synced, want 1 and the reason: %s%s", code, out, stderr)
	}
	// Over DNS, although this host is in no network.
	if code, out, stderr := l.Run(t, nil, "healthcheck", "--metrics-listen", "none", "--listen", "[::]:53"); code != 1 || !strings.Contains(out+stderr, "has not read its registry") {
		t.Errorf("exit code %d over DNS before it is synced, want 1 and the reason: %s%s", code, out, stderr)
	}
	writeFile(t, path, pair("started"))
	s.Ready(t)
	for _, args := range [][]string{{"--metrics-listen", lab.Admin}, {"--metrics-listen", "none", "--listen", "[::]:53"}} {
		if code, out, stderr := l.Run(t, nil, append([]string{"healthcheck"}, args...)...); code != 0 {
			t.Errorf("%q: exit code %d: %s%s", args, code, out, stderr)
		}
	}
}

// TestShutdown ends dnsd under load: it exits 0 and every answer until then is right.
func TestShutdown(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			idle := w.open(t, "a", "tcp") // must not hold it up
			var stop atomic.Bool
			var answers atomic.Int64
			var wg sync.WaitGroup
			for i := range 4 {
				proto := []string{"udp", "tcp"}[i%2]
				wg.Go(func() {
					for !stop.Load() {
						load(t, w, proto, &stop, &answers)
					}
				})
			}
			if !lab.Until(lab.Patience, func() bool { return answers.Load() > 500 }) {
				t.Errorf("only %d answers", answers.Load())
			}
			start := time.Now()
			w.Signal(sig)
			code := w.Wait(t)
			stop.Store(true)
			wg.Wait()
			idle.Close()
			if code != 0 {
				t.Errorf("exit code %d", code)
			}
			t.Logf("ended %v after %s and %d answers", time.Since(start).Round(time.Millisecond), name, answers.Load())
		})
	}
}

// load asks over one socket until it is told to stop or the server has gone.
func load(t *testing.T, w *world, proto string, stop *atomic.Bool, answers *atomic.Int64) {
	conn, err := w.client("a").Open(proto)
	if err != nil {
		return
	}
	defer conn.Close()
	co := &dns.Conn{Conn: conn, UDPSize: 1232}
	for !stop.Load() {
		if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return
		}
		req := question("my-app.internal", dns.TypeAAAA, true)
		if co.WriteMsg(req) != nil {
			return
		}
		resp, err := co.ReadMsg()
		if err != nil {
			return
		}
		if resp.Rcode != dns.RcodeSuccess || len(resp.Answer) != 3 {
			t.Errorf("while shutting down: %v", resp)
		}
		answers.Add(1)
	}
}

// TestMetrics reads /metrics: what is there, and what must not be.
func TestMetrics(t *testing.T) {
	w := newWorld(t)
	for _, proto := range []string{"udp", "tcp"} {
		w.ask(t, "a", proto, question("my-app.internal", dns.TypeAAAA, true))
		w.ask(t, "a", proto, question("secret-name.internal", dns.TypeTXT, true))
	}
	var text string
	ok := lab.Until(lab.Patience, func() bool {
		_, text = w.Lab.Get("http://" + lab.Admin + "/metrics")
		return regexp.MustCompile(`(?m)^dnsd_\w*requests_total\{[^}]*AAAA[^}]*\} [1-9]`).MatchString(text)
	})
	if !ok {
		t.Errorf("requests are not counted by type")
	}
	for what, pattern := range map[string]string{
		"requests by protocol": `(?im)^dnsd_\w*requests_total\{[^}]*"tcp"[^}]*\} [1-9]`,
		"responses by rcode":   `(?im)^dnsd_\w*responses_total\{[^}]*"NXDOMAIN"[^}]*\} [1-9]`,
		"durations from 10 us": `(?m)^dnsd_\w*duration_seconds_bucket\{[^}]*le="1e-05"`,
		"truncated responses":  `(?m)^dnsd_responses_truncated_total\{`,
		"objects by kind":      `(?m)^dnsd_registry_\w+\{[^}]*machine[^}]*\} [1-9]`,
		"the source's state":   `(?m)^dnsd_registry_\w*state`,
		"the registry's age":   `(?m)^dnsd_registry_\w*(age|alive|synced)\w*`,
		"rejected objects":     `(?m)^dnsd_registry_\w*rejected`,
		"panics":               `(?m)^dnsd_panics_total 0`,
		"the build":            `(?m)^dnsd_build_info\{[^}]*version=`,
		"Go's own":             `(?m)^go_goroutines `,
		"the process's own":    `(?m)^process_resident_memory_bytes `,
	} {
		if !regexp.MustCompile(pattern).MatchString(text) {
			t.Errorf("/metrics does not have %s (%s)", what, pattern)
		}
	}
	for _, never := range []string{"my-app", "secret-name", "fdaa:0:18", clients["a"].from} {
		if strings.Contains(text, never) {
			t.Errorf("/metrics holds %q", never)
		}
	}
}
