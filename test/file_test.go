package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

func mustRead(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// pair is a registry of one app with two machines, the second in a state.
func pair(state string) string {
	return fmt.Sprintf(`{"apps": [{"name": "my-app", "network": %q, "machines": [
  {"id": "m1", "state": "started", "region": "iad", "private_ip": "fdaa:0:18:a7b:1:1:1:2"},
  {"id": "m2", "state": %q, "region": "iad", "private_ip": "fdaa:0:18:a7b:1:1:2:2"}]}]}`, netA, state)
}

// shown returns how many machines my-app has in DNS; -1 for an error.
func (w *world) shown(t testing.TB) int {
	t.Helper()
	resp := w.ask(t, "a", "udp", question("my-app.internal", dns.TypeAAAA, true))
	if resp.Rcode != dns.RcodeSuccess {
		return -1
	}
	return len(resp.Answer)
}

// soon is how long after a write the answers must follow.
const soon = time.Second

// wantSoon changes the file with write, again and again between the two
// contents, and checks that the answers follow within a second. On a busy
// machine it may take longer now and then; it must not take longer every time.
func (w *world) wantSoon(t *testing.T, write func(content string)) {
	t.Helper()
	var took []time.Duration
	for range 5 {
		slowest := time.Duration(0)
		for state, n := range map[string]int{"stopped": 1, "started": 2} {
			if w.shown(t) == n {
				continue
			}
			start := time.Now()
			write(pair(state))
			if !lab.Until(lab.Patience, func() bool { return w.shown(t) == n }) {
				t.Fatalf("the answers do not follow the file within %v", lab.Patience)
			}
			slowest = max(slowest, time.Since(start))
		}
		took = append(took, slowest.Round(time.Millisecond))
		if slowest > 0 && slowest < soon && len(took) > 1 {
			t.Logf("a change is in the answers after %v", took)
			return
		}
	}
	t.Errorf("a change is in the answers after %v, want %v", took, soon)
}

// pairWorld starts dnsd on a file that holds a pair.
func pairWorld(t *testing.T, path string, args ...string) *world {
	t.Helper()
	l := newLab(t)
	w := &world{ttl: 5, maxUDP: 1232, path: path}
	w.Server = l.Serve(t, append([]string{"--listen", "[::]:53", "--registry", "file:" + path, "--upstream", "none"}, args...)...)
	if n := w.shown(t); n != 2 {
		t.Fatalf("%d machines to begin with", n)
	}
	return w
}

// TestFileChanges writes the registry file in every way that people and tools do.
func TestFileChanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := writeFile(t, filepath.Join(dir, "registry.json"), pair("started"))
	w := pairWorld(t, path)

	t.Run("Rename", func(t *testing.T) {
		w.wantSoon(t, func(s string) { writeFile(t, path+".tmp", s); rename(t, path+".tmp", path) })
	})
	t.Run("InPlace", func(t *testing.T) {
		w.wantSoon(t, func(s string) { writeFile(t, path, s) })
	})
	t.Run("InPlaceSlowly", func(t *testing.T) {
		// Nothing changes while the file is incomplete.
		want := w.shown(t)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		s := pair("stopped")
		for len(s) > 0 {
			n := min(40, len(s))
			if _, err := f.WriteString(s[:n]); err != nil {
				t.Fatal(err)
			}
			if s = s[n:]; len(s) > 0 {
				if got := w.shown(t); got != want {
					t.Fatalf("%d machines while the file is being written, want %d", got, want)
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
		if !lab.Until(lab.Patience, func() bool { return w.shown(t) == 1 }) {
			t.Error("the finished file is not read")
		}
	})
	t.Run("DeleteAndCreate", func(t *testing.T) {
		w.wantSoon(t, func(s string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			writeFile(t, path, s)
		})
	})
	t.Run("OneAddressTwice", func(t *testing.T) {
		// Seen for a moment while a key is renamed. An RRset holds a record once
		// (RFC 2181, section 5).
		writeFile(t, path, pair("started"))
		if !lab.Until(lab.Patience, func() bool { return w.shown(t) == 2 }) {
			t.Fatal("the file is not read")
		}
		writeFile(t, path, strings.Replace(pair("started"), "1:1:2:2", "1:1:1:2", 1))
		if !lab.Until(lab.Patience, func() bool { return w.shown(t) == 1 }) {
			t.Errorf("%d records for two machines with one address, want one", w.shown(t))
		}
		w.check(t, []row{
			{"a", "m1.vm.my-app.internal", "AAAA", "fdaa:0:18:a7b:1:1:1:2", ""},
			{"a", "m2.vm.my-app.internal", "AAAA", "fdaa:0:18:a7b:1:1:1:2", ""},
			{"a", "top9.nearest.of.my-app.internal", "AAAA", "fdaa:0:18:a7b:1:1:1:2", ""},
		})
		resp := w.ask(t, "a", "udp", question(nibbles("fdaa:0:18:a7b:1:1:1:2", 32), dns.TypePTR, true))
		if len(resp.Answer) == 0 {
			t.Errorf("no PTR for an address that two machines have: %v", resp)
		}
		writeFile(t, path, pair("started"))
		if !lab.Until(lab.Patience, func() bool { return w.shown(t) == 2 }) {
			t.Error("two addresses again are not shown")
		}
	})

	// What changes nothing takes a while to see.
	for name, test := range map[string]func(w *world, t *testing.T){
		"Broken":     func(w *world, t *testing.T) { w.unchanged(t, `{"apps": [ {"name": `) },
		"Empty":      func(w *world, t *testing.T) { w.unchanged(t, "") },
		"WrongShape": func(w *world, t *testing.T) { w.unchanged(t, `["apps"]`) },
		"Gone":       (*world).gone,
		"Reload":     (*world).reload,
		"BadObject":  (*world).badObject,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(pairWorld(t, writeFile(t, filepath.Join(t.TempDir(), "registry.json"), pair("started"))), t)
		})
	}
}

// stays checks that my-app keeps n machines for longer than a change needs.
func (w *world) stays(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(soon + soon/2); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got := w.shown(t); got != n {
			t.Fatalf("%d machines, want %d as before", got, n)
		}
	}
}

// unchanged writes a file that is not a registry, checks that nothing changes and that the
// log says so, and mends it.
func (w *world) unchanged(t *testing.T, broken string) {
	before := len(w.Stderr.String())
	writeFile(t, w.path, broken)
	w.stays(t, 2)
	if log := w.Stderr.String()[before:]; !strings.Contains(log, w.path) {
		t.Errorf("the log does not name the file:\n%s", log)
	}
	writeFile(t, w.path, pair("stopped"))
	if !lab.Until(lab.Patience, func() bool { return w.shown(t) == 1 }) {
		t.Error("the mended file is not read")
	}
}

// gone takes the file away and puts another in its place.
func (w *world) gone(t *testing.T) {
	if err := os.Remove(w.path); err != nil {
		t.Fatal(err)
	}
	w.stays(t, 2)
	writeFile(t, w.path, pair("stopped"))
	if !lab.Until(lab.Patience, func() bool { return w.shown(t) == 1 }) {
		t.Error("the file that came back is not read")
	}
}

// reload sends SIGHUP where nothing has changed, and where the file has.
func (w *world) reload(t *testing.T) {
	log := len(w.Stderr.String())
	w.Signal(syscall.SIGHUP)
	w.stays(t, 2)
	if !w.Running() {
		t.Fatal("SIGHUP ends dnsd")
	}
	writeFile(t, w.path, pair("stopped"))
	w.Signal(syscall.SIGHUP)
	if !lab.Until(lab.Patience, func() bool { return w.shown(t) == 1 }) {
		t.Errorf("not read after SIGHUP:\n%s", w.Stderr.String()[log:])
	}
}

// badObject checks that one bad object affects no other, and that its last good
// version stays.
func (w *world) badObject(t *testing.T) {
	before := len(w.Stderr.String())
	// m2 moves into another tenant's network, and m3 is new.
	s := strings.Replace(pair("started"), "fdaa:0:18:a7b:1:1:2:2", "fdaa:0:99:a7b:1:1:2:2", 1)
	s = strings.Replace(s, `"machines": [`, `"machines": [
  {"id": "m3", "state": "started", "region": "ams", "private_ip": "fdaa:0:18:a7b:1:1:3:2"},`, 1)
	writeFile(t, w.path, s)
	if !lab.Until(lab.Patience, func() bool { return w.shown(t) == 3 }) {
		t.Errorf("%d machines, want the new one beside the two known before", w.shown(t))
	}
	if resp := w.ask(t, "b", "udp", question("my-app.internal", dns.TypeAAAA, true)); resp.Rcode != dns.RcodeNameError {
		t.Errorf("a machine got into another network: %v", resp)
	}
	w.Signal(syscall.SIGHUP)
	writeFile(t, w.path, s+"\n")
	w.stays(t, 3)
	log := w.Stderr.String()[before:]
	if n := strings.Count(log, "fdaa:0:99:a7b:1:1:2:2"); n != 1 {
		t.Errorf("the bad machine is in the log %d times, want once:\n%s", n, log)
	}
	if !strings.Contains(log, "line 4") {
		t.Errorf("the log does not say where the bad machine stands:\n%s", log)
	}
}

// TestFileSymlink swaps a symlink, as Kubernetes does with a mounted ConfigMap:
// registry.json -> ..data/registry.json, ..data -> a directory with a date.
func TestFileSymlink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := 0
	swap := func(content string) {
		n++
		version := fmt.Sprintf("..2026_11_21_%d", n)
		if err := os.Mkdir(filepath.Join(dir, version), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, version, "registry.json"), content)
		if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		rename(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
		if n > 1 {
			if err := os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..2026_11_21_%d", n-1))); err != nil {
				t.Fatal(err)
			}
		}
	}
	swap(pair("started"))
	path := filepath.Join(dir, "registry.json")
	if err := os.Symlink("..data/registry.json", path); err != nil {
		t.Fatal(err)
	}
	pairWorld(t, path).wantSoon(t, swap)
}

// TestFileStale takes the file away: the source is silent, and after
// --stale-after the usual answers say so.
func TestFileStale(t *testing.T) {
	t.Parallel()
	path := writeFile(t, filepath.Join(t.TempDir(), "registry.json"), pair("started"))
	w := pairWorld(t, path, "--stale-after", "2s")
	stale := func() bool {
		resp := w.ask(t, "a", "udp", question("my-app.internal", dns.TypeAAAA, true))
		if resp.Rcode != dns.RcodeSuccess || len(resp.Answer) != 2 {
			t.Fatalf("a silent source changes the answers: %v", resp)
		}
		return hasEDE(resp, dns.ExtendedErrorCodeStaleAnswer)
	}
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if stale() {
			t.Fatal("a file that is there and unchanged is not stale")
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if !lab.Until(2*lab.Patience, stale) {
		t.Fatal("answers do not say that they are stale (EDE 3)")
	}
	t.Logf("stale %v after the file was gone", time.Since(start).Round(100*time.Millisecond))
	if status, body := w.Lab.Get("http://" + lab.Admin + "/readyz"); status != 200 {
		t.Errorf("/readyz is %d %q while stale: an old answer is worth more than none", status, body)
	}
	w.check(t, []row{
		{"a", "iad.my-app.internal", "AAAA", "fdaa:0:18:a7b:1:1:1:2 fdaa:0:18:a7b:1:1:2:2", "#3"},
		{"a", "vms.my-app.internal", "TXT", "m1 iad,m2 iad", "#3"},
		{"a", "no-app.internal", "AAAA", "NXDOMAIN", "#3"},
		{"a", "my-app.internal", "A", "NODATA", "#3"},
	})
	writeFile(t, path, pair("started"))
	if !lab.Until(lab.Patience, func() bool { return !stale() }) {
		t.Error("still stale with the file back")
	}
}

// TestFileLarge loads 100,000 machines.
func TestFileLarge(t *testing.T) {
	const machines, perApp = 100_000, 20
	var f fleet
	for i := 0; i < machines; i += perApp {
		a := &app{Name: fmt.Sprintf("app-%d", i/perApp), Network: fmt.Sprintf("fdaa:0:%x::/48", 0x100+i/1000)}
		for j := i; j < i+perApp; j++ {
			a.Machines = append(a.Machines, &machine{
				ID: fmt.Sprintf("%014x", j), State: "started", Region: "iad",
				PrivateIP: fmt.Sprintf("fdaa:0:%x:a7b:1:%x:%x:2", 0x100+i/1000, j>>16, j&0xffff),
				Config:    &config{Metadata: map[string]string{"fly_process_group": "web", "role": "replica"}},
			})
		}
		f.Apps = append(f.Apps, a)
	}
	path := writeFile(t, filepath.Join(t.TempDir(), "registry.json"), &f)
	bin := lab.PlainBinary(t) // built before anything is timed
	const most = 5 * time.Second
	lab.Tries(t, func() []string {
		l := newLab(t)
		start := time.Now()
		s := l.Launch(t, lab.Command(bin, nil, "--listen", "[::]:53", "--registry", "file:"+path,
			"--upstream", "none", "--metrics-listen", lab.Admin))
		s.Ready(t)
		took := time.Since(start).Round(10 * time.Millisecond)
		t.Logf("%d machines, %d MB: ready after %v", machines, len(mustRead(t, path))>>20, took)
		s.Signal(syscall.SIGTERM)
		if code := s.Wait(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if took > most {
			return []string{fmt.Sprintf("ready after %v, want %v", took, most)}
		}
		return nil
	})
}
