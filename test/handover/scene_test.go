// Package handover replaces the real dnsd while clients ask, in each way that an
// operator, a crash or a bad program can, and counts what they notice.
package handover

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dnsd/test/internal/lab"
	"dnsd/test/internal/steady"
	"dnsd/test/internal/unit"

	"github.com/miekg/dns"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

const (
	server   = "fdaa::3"
	client   = "fdaa:0:18:a7b::1:2" // m1
	other    = "fdaa:0:99::1"       // a client of another network, without names
	upstream = "127.0.0.1:5300"
)

// scene is dnsd as a unit, in a network of its own, with clients.
type scene struct {
	*unit.Unit
	lab      *lab.Lab
	t        *testing.T
	registry string // the file
	patience time.Duration
	lossy    bool // answers will be lost: clients do not wait for long
}

// newScene makes a unit for dnsd with so many machines, and does not start it.
func newScene(t *testing.T, machines int) *scene {
	t.Helper()
	dir := t.TempDir()
	s := &scene{lab: lab.Open(t, server, client, other), t: t, registry: filepath.Join(dir, "registry.json"), patience: 3 * lab.Patience}
	s.write(machines)
	s.forward()
	// A copy, which tests put other programs in the place of.
	path := filepath.Join(dir, "dnsd")
	s.install(lab.Binary(t), path)
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Unit = &unit.Unit{
		Path: path, Dir: dir, Spawn: s.lab.Start,
		Env:  []string{"PATH=" + os.Getenv("PATH"), "GORACE=exitcode=66"},
		Args: []string{"--listen", "[" + server + "]:53", "--registry", "file:" + s.registry, "--state-dir", state, "--upstream", upstream},
	}
	t.Cleanup(func() {
		s.Close()
		log := s.Log()
		for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
			if strings.Contains(log, bad) {
				t.Errorf("the log holds %q", bad)
			}
		}
		if t.Failed() {
			t.Logf("the log:\n%s", log)
		}
	})
	return s
}

// install puts a copy of a program in path's place, as install(1) does.
func (s *scene) install(program, path string) {
	s.t.Helper()
	text, err := os.ReadFile(program)
	s.must(err)
	s.program(path, string(text))
}

// program puts a program in path's place.
func (s *scene) program(path, text string) {
	s.t.Helper()
	// A process that another test starts meanwhile would have the file open for writing,
	// for a moment in which nobody can run it.
	syscall.ForkLock.RLock()
	err := os.WriteFile(path+".new", []byte(text), 0o755)
	syscall.ForkLock.RUnlock()
	s.must(err)
	s.must(os.Rename(path+".new", path))
}

// script puts a shell script in the program's place.
func (s *scene) script(text string) {
	s.t.Helper()
	s.program(s.Path, "#!/bin/sh\n"+text+"\n")
}

// write writes a registry: my-app has three machines, big the others.
func (s *scene) write(machines int) {
	s.t.Helper()
	machine := func(n int) string {
		return fmt.Sprintf(`{"id": "m%d", "state": "started", "region": "fra", "private_ip": "fdaa:0:18:a7b:0:%x:%x:2"}`, n, n>>16, n&0xffff)
	}
	var mine, big []string
	for n := 1; n <= machines; n++ {
		if n <= 3 {
			mine = append(mine, machine(n))
		} else {
			big = append(big, machine(n))
		}
	}
	text := `{"apps": [{"name": "my-app", "network": "fdaa:0:18::/48", "machines": [` + strings.Join(mine, ",\n") + `]},
{"name": "big", "network": "fdaa:0:18::/48", "machines": [` + strings.Join(big, ",\n") + "]}]}\n"
	if err := os.WriteFile(s.registry+".new", []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(s.registry+".new", s.registry); err != nil {
		s.t.Fatal(err)
	}
}

// forward serves an upstream that takes its time.
func (s *scene) forward() {
	conn, err := s.lab.ListenUDP(upstream)
	if err != nil {
		s.t.Fatal(err)
	}
	var asked sync.Map // of time.Time, by name: when first
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		if name := q.Question[0].Name; strings.HasPrefix(name, "slow") {
			// Longer than dnsd drains on SIGTERM, so that its third try is answered.
			if first, _ := asked.LoadOrStore(name, time.Now()); time.Since(first.(time.Time)) < 3500*time.Millisecond {
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 0}, A: net.IPv4(192, 0, 2, 9)}}
		}
		w.WriteMsg(m)
	})}
	var serving sync.WaitGroup
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	serving.Go(func() { server.ActivateAndServe() })
	<-started
	s.t.Cleanup(func() { server.Shutdown(); serving.Wait() })
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// begin starts the unit and waits until it is ready.
func (s *scene) begin() {
	s.t.Helper()
	s.must(s.Start())
	s.must(s.Await("READY=1", s.patience))
}

// alwaysReady asks again and again whether dnsd is ready, which it must be, until the
// returned function is called.
func (s *scene) alwaysReady() (stop func()) {
	ended := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(5 * time.Millisecond):
			}
			began := time.Now()
			status, body := s.lab.Get("http://" + lab.Admin + "/readyz")
			// Who connects, and is kept by a busy machine from asking within 100 ms,
			// is not waited for.
			if late := status == 0 && time.Since(began) > 100*time.Millisecond; status != 200 && !late {
				s.t.Errorf("/readyz: %d %s", status, body)
			}
		}
	})
	return func() { close(ended); asking.Wait() }
}

// saved waits until the last known state is on disk.
func (s *scene) saved() {
	s.t.Helper()
	if !lab.Until(s.patience, func() bool {
		_, metrics := s.lab.Get("http://" + lab.Admin + "/metrics")
		return strings.Contains(metrics, "\ndnsd_registry_state_saved_timestamp_seconds 1.")
	}) {
		s.t.Fatal("the last known state is not saved")
	}
}

// handOver replaces the process as systemctl reload does.
func (s *scene) handOver() {
	s.t.Helper()
	pid := s.Main()
	s.Signal(syscall.SIGUSR2)
	s.must(s.Replaced(pid, s.patience))
}

var questions = []steady.Question{
	{Name: "my-app.internal.", Type: dns.TypeAAAA, Data: []string{"fdaa:0:18:a7b::1:2", "fdaa:0:18:a7b::2:2", "fdaa:0:18:a7b::3:2"}},
	{Name: "m2.vm.my-app.internal.", Type: dns.TypeAAAA, Data: []string{"fdaa:0:18:a7b::2:2"}},
	{Name: "none.internal.", Type: dns.TypeAAAA, Rcode: dns.RcodeNameError},
	{Name: "regions.my-app.internal.", Type: dns.TypeTXT, Data: []string{"fra"}},
	{Name: "my-app.internal.", Type: dns.TypeA},
	{Name: "www.example.com.", Type: dns.TypeA, Data: []string{"192.0.2.9"}},
}

// slower divides what clients ask of a dnsd with the race detector, which takes many
// times as long and would be too slow for what waited while it started.
func slower(n int) int {
	if lab.Race {
		return max(n/8, 1)
	}
	return n
}

// ask asks some 600 questions a second while meanwhile runs, and for a moment before
// and after.
func (s *scene) ask(meanwhile func()) *steady.Result {
	s.t.Helper()
	for _, q := range questions {
		slices.Sort(q.Data)
	}
	to, patience := netip.MustParseAddrPort("["+server+"]:53"), lab.Patience
	if s.lossy {
		patience /= 2
	}
	c := &steady.Client{
		Dial:      func(network string) (net.Conn, error) { return s.lab.Dial(network, netip.MustParseAddr(client), to) },
		Questions: questions, UDP: slower(400), TCP: slower(200), Fresh: slower(25), Patience: patience,
	}
	ctx, stop := context.WithCancel(s.t.Context())
	var asking sync.WaitGroup
	defer asking.Wait() // also where meanwhile ends the test
	defer stop()
	var r *steady.Result
	asking.Go(func() { r = c.Run(ctx) })
	time.Sleep(200 * time.Millisecond)
	meanwhile()
	time.Sleep(200 * time.Millisecond)
	stop()
	asking.Wait()
	return r
}

// unnoticed asks while meanwhile runs, and fails the test where a client notices.
func (s *scene) unnoticed(meanwhile func()) {
	s.t.Helper()
	if r := s.ask(meanwhile); !r.Good() {
		s.t.Errorf("clients notice: %s", r)
	} else {
		s.t.Log(r)
	}
}
