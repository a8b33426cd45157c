package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

// soak is a dnsd under full load while its registry changes all the time.
type soak struct {
	*world
	h    *history
	seed uint64

	small *fleet                        // of tenants, which change one by one; the churn owns it
	crowd *crowd                        // the churn owns it
	work  []func(context.Context) error // what runs at once while there is load

	born   atomic.Pointer[birth]
	delays []time.Duration // follow owns it

	answered, checked, failed, lost, conns, changes atomic.Int64
}

// TestSoak keeps full load on a dnsd whose registry changes several times a
// second, and looks at what has piled up in it by the end: goroutines,
// descriptors, memory. Samples of the answers are checked against what was true
// when they were given. How long is up to who asks for it:
//
//	DNSD_SOAK=10m go test -count=1 -race -v -run TestSoak -timeout 20m ./test
//
// Without -race it asks some ten times as much in the same time. Without -count=1
// Go may show the last result, since it does not see that dnsd has changed.
func TestSoak(t *testing.T) {
	asked := os.Getenv("DNSD_SOAK")
	if asked == "" {
		t.Skip("takes as long as it is told: DNSD_SOAK=10m go test -count=1 -race -v -run TestSoak -timeout 20m ./test")
	}
	length, err := time.ParseDuration(asked)
	if err != nil {
		t.Fatalf("DNSD_SOAK: %v", err)
	}
	s := newSoak(t)
	// Caches fill while it warms up, and stay as full as that.
	warm := min(length/5, time.Minute)
	s.run(t, warm)
	if t.Failed() {
		return
	}
	before := s.settled(t)
	t.Logf("after %v:\n%v", warm, before)
	s.run(t, length-warm)
	after := s.settled(t)
	t.Logf("after %v:\n%v", length, after)
	t.Logf("%d questions answered, %d over TCP connections; %d answers checked; %d changes of the file; %d lost, %d failed upstream",
		s.answered.Load(), s.conns.Load(), s.checked.Load(), s.changes.Load(), s.lost.Load(), s.failed.Load())
	slices.Sort(s.delays)
	if n := len(s.delays); n > 0 {
		t.Logf("%d changes were in the answers after %v in the middle, %v at most",
			n, s.delays[n/2].Round(time.Millisecond), s.delays[n-1].Round(time.Millisecond))
	}
	s.atRest(t, s.small)
	s.crowdAtRest(t)
	s.verdict(t, before, after)
}

func newSoak(t *testing.T) *soak {
	s := &soak{seed: uint64(time.Now().UnixNano())}
	t.Logf("seed %d", s.seed)
	r := rand.New(rand.NewPCG(s.seed, 0))
	s.small = &fleet{Apps: []*app{{Name: "my-app", Network: netA}, {Name: "my-app", Network: netB}}}
	for range 60 {
		s.small = change(r, s.small)
	}
	s.crowd = newCrowd(r)
	path := filepath.Join(t.TempDir(), "registry.json")
	all := s.all()
	writeFile(t, path, all)
	// At full load, and more so with the race detector, a change gets only its
	// share of the processor. How late changes come is measured besides.
	s.h = newHistory(lab.Patience, all)

	l := newLab(t)
	serveUpstream(t, l, dns.HandlerFunc(script))
	s.world = &world{ttl: 5, maxUDP: 1232, upstream: true, path: path}
	s.Server = l.Serve(t, "--listen", "[::]:53", "--registry", "file:"+path, "--state-dir", t.TempDir(),
		"--region", sharedRegions[0], "--upstream", upstreamAt,
		"--cache-size", "4MiB") // full, and throwing out, from the first seconds on
	s.engage(t)
	return s
}

// all is the whole registry as it is now.
func (s *soak) all() *fleet {
	return &fleet{Apps: slices.Concat(s.small.Apps, s.crowd.apps, s.crowd.jobs)}
}

// engage prepares all that run does. The clients ask the same before and after
// the warm-up, so that dnsd has no reason to keep more.
func (s *soak) engage(t *testing.T) {
	start := func(work func(r *rand.Rand) func(context.Context) error) {
		s.work = append(s.work, work(rand.New(rand.NewPCG(s.seed, uint64(len(s.work)+1)))))
	}
	start(func(r *rand.Rand) func(context.Context) error {
		return func(ctx context.Context) error { return s.churn(ctx, r) }
	})
	start(func(*rand.Rand) func(context.Context) error {
		return func(ctx context.Context) error { return s.follow(ctx, t) }
	})
	for i, n := range slices.Concat(tenants, crowds) {
		// Some 500 questions outstanding, as many as the benchmarks have.
		for _, own := range []bool{true, true, true, false} {
			start(func(r *rand.Rand) func(context.Context) error { return s.asker(t, n, r, own).udp })
		}
		start(func(r *rand.Rand) func(context.Context) error { return s.asker(t, n, r, true).tcp })
		if i >= len(tenants) {
			continue
		}
		for _, proto := range []string{"udp", "tcp"} {
			start(func(r *rand.Rand) func(context.Context) error {
				p := &prober{w: s.world, h: s.h, r: r, tenant: n, other: tenants[1-i], proto: proto}
				return func(ctx context.Context) error { return s.probe(ctx, t, p) }
			})
		}
	}
}

// run keeps load and changes up for a while. It ends early when something fails.
func (s *soak) run(t *testing.T, length time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), length)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, work := range s.work {
		wg.Go(func() {
			if err := work(ctx); err != nil {
				t.Error(err)
				cancel()
			}
		})
	}
	for pause(ctx, time.Minute) {
		t.Logf("at full load:\n%v", s.figures(t))
	}
}

// probe asks all that the model knows, one question after the other.
func (s *soak) probe(ctx context.Context, t *testing.T, p *prober) error {
	for pause(ctx, 10*time.Millisecond) { // so that TCP ports come back in time: 28,000 a minute
		if err := p.probe(t); err != nil {
			return err
		}
		s.answered.Add(1)
		s.checked.Add(1)
	}
	return nil
}

// pause reports whether there is anything to do after it.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// churn renames a new registry into place some four times a second: a few of the
// tenants' machines are changed each time, and many of the crowd's.
func (s *soak) churn(ctx context.Context, r *rand.Rand) error {
	for pause(ctx, time.Duration(r.IntN(500))*time.Millisecond) {
		for range 1 + r.IntN(3) {
			s.small = change(r, s.small)
		}
		s.crowd.change(r, 50)
		all := s.all()
		if err := s.h.publish(all, func() error { return replace(s.path, all) }); err != nil {
			return err
		}
		settled := time.Now()
		s.h.forget(settled.Add(-s.h.patience - lab.Patience)) // an exchange may take that long
		s.changes.Add(1)
		s.born.Store(&birth{s.crowd.born, settled})
	}
	return nil
}

// birth is when a job was there to be seen.
type birth struct {
	job int
	at  time.Time
}

// follow measures how soon the youngest job is in the answers, over TCP, which
// keeps none of them.
func (s *soak) follow(ctx context.Context, t *testing.T) error {
	for last := s.born.Load(); pause(ctx, 20*time.Millisecond); {
		b := s.born.Load()
		if b == last {
			continue
		}
		req := question(fmt.Sprintf("job-%d.internal", b.job), dns.TypeAAAA, true)
		for s.ask(t, crowds[0].client, "tcp", req).Rcode != dns.RcodeSuccess {
			if time.Since(b.at) > s.h.patience {
				return fmt.Errorf("%s is not there %v after the file was", req.Question[0].Name, s.h.patience)
			}
			if !pause(ctx, 10*time.Millisecond) {
				return nil
			}
		}
		last, s.delays = b, append(s.delays, time.Since(b.at))
	}
	return nil
}

// forget drops what cannot be the truth for anything asked since.
func (h *history) forget(since time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for n+1 < len(h.versions) && h.versions[n+1].settled.Before(since) {
		n++
	}
	h.versions = slices.Delete(h.versions, 0, n)
	h.forgotten += n
}

// figures are what must not grow. They are taken while dnsd has nothing to do.
type figures struct {
	goroutines, files int
	resident, heap    int64    // bytes, after a collection
	stacks            string   // of the goroutines
	open              []string // what the descriptors are
}

func (f figures) String() string {
	return fmt.Sprintf("  %d goroutines, %d descriptors, %.1f MiB resident, %.1f MiB of them on the heap",
		f.goroutines, f.files, float64(f.resident)/(1<<20), float64(f.heap)/(1<<20))
}

// figures takes them once.
func (s *soak) figures(t *testing.T) (f figures) {
	t.Helper()
	number := func(text, pattern string) int64 {
		m := regexp.MustCompile(pattern).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("no %s in:\n%s", pattern, text[:min(len(text), 1000)])
		}
		n, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	get := func(path string) string {
		status, text := s.Lab.Get("http://" + lab.Admin + path)
		if status != 200 {
			t.Fatalf("%s: %d %s", path, status, text)
		}
		return text
	}
	// First, before there is a connection for the others.
	proc := fmt.Sprintf("/proc/%d/", s.Pid())
	files, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		target, err := os.Readlink(proc + "fd/" + file.Name())
		if err != nil {
			target = err.Error()
		}
		f.open = append(f.open, file.Name()+" "+target)
	}
	f.files = len(files)
	f.stacks = get("/debug/pprof/goroutine?debug=1")
	f.goroutines = int(number(f.stacks, `goroutine profile: total (\d+)`))
	get("/debug/pprof/heap?gc=1&debug=1") // pools are empty after the second collection
	f.heap = number(get("/debug/pprof/heap?gc=1&debug=1"), `# HeapAlloc = (\d+)`)

	f.resident = number(mustRead(t, proc+"status"), `VmRSS:\s+(\d+) kB`) << 10
	return f
}

// settled waits until nothing has ended for longer than connections may idle
// (10 s, of clients and of upstreams), and returns the figures of then; memory
// is what it came down to.
func (s *soak) settled(t *testing.T) figures {
	t.Helper()
	const quiet, most = 12 * time.Second, 2 * time.Minute
	f := s.figures(t)
	since := time.Now()
	for end := since.Add(most); time.Since(since) < quiet && time.Now().Before(end); time.Sleep(time.Second) {
		next := s.figures(t)
		next.resident, next.heap = min(next.resident, f.resident), min(next.heap, f.heap)
		if next.goroutines != f.goroutines || next.files != f.files {
			since = time.Now()
		}
		f = next
	}
	return f
}

// verdict fails the test where something piled up or went wrong unseen.
func (s *soak) verdict(t *testing.T, before, after figures) {
	// At rest dnsd has its own goroutines and sockets and none for any client,
	// question or change, so there is no reason for one more.
	if after.goroutines > before.goroutines {
		t.Errorf("goroutines grew from %d to %d:\n%s\nbefore:\n%s", before.goroutines, after.goroutines, after.stacks, before.stacks)
	}
	if after.files > before.files {
		t.Errorf("descriptors grew from %d to %d:\n%s\nbefore:\n%s", before.files, after.files,
			strings.Join(after.open, "\n"), strings.Join(before.open, "\n"))
	}
	// The heap holds a registry of about the same size, and answers to the same
	// questions.
	if most := before.heap + before.heap/4 + 4<<20; after.heap > most {
		t.Errorf("the heap grew from %d to %d bytes, want at most %d", before.heap, after.heap, most)
	}
	// Of what the heap has left the runtime gives back all but what it expects
	// to need until the next collection: as much again as is in use. The race
	// detector keeps notes of its own, ten times as much, which grow for as long
	// as a process runs; Go knows nothing of them.
	if most := 2*before.resident + 16<<20; after.resident > most && !lab.Race {
		t.Errorf("resident memory grew from %d to %d bytes, want at most %d", before.resident, after.resident, most)
	}
	_, metrics := s.Lab.Get("http://" + lab.Admin + "/metrics")
	if !regexp.MustCompile(`(?m)^dnsd_panics_total 0$`).MatchString(metrics) {
		t.Error("dnsd_panics_total is not 0")
	}
	drops := 0.0
	for _, m := range regexp.MustCompile(`(?m)^dnsd_receive_drops_total\S* (\S+)$`).FindAllStringSubmatch(metrics, -1) {
		n, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Error(err)
		}
		drops += n
	}
	if lost := s.lost.Load(); float64(lost) > drops {
		t.Errorf("%d questions were not answered, and the kernel dropped %v", lost, drops)
	}
	for what, n := range map[string]int64{"answers were checked": s.checked.Load(), "changes": s.changes.Load(), "TCP connections": s.conns.Load()} {
		if n == 0 {
			t.Errorf("no %s", what)
		}
	}
}
