package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"dnsd/registry/etcd/etcdtest"
	"dnsd/test/internal/lab"
	"dnsd/test/internal/truth"
)

const (
	members = 3
	hosts   = 4

	prefix = "/dnsd/v1/"
)

// network is one of the private networks. It has its own writer and its own
// history: nobody in it sees anything of the others.
type network struct {
	number  int
	name    string // fdaa:0:a::/48
	mark    string // begins the ids of its machines, and nothing else is like it
	history *truth.History
	lasting []truth.Object // what is there all the time
	serial  int            // of the writer's last transaction
}

// networks is what the marks and the networks' names are made from.
var networks = []struct{ mark, name string }{
	{"xqa", "fdaa:0:a11::/48"}, {"xqb", "fdaa:0:b22::/48"}, {"xqc", "fdaa:0:c33::/48"},
}

func newNetwork(i int) *network {
	n := &network{number: i, mark: networks[i].mark, name: networks[i].name}
	// Far more than ever changes, in every kind: what the writers do between two
	// listings is never a sweep, and the loss of everything always is one.
	for k := range 60 {
		n.lasting = append(n.lasting, &truth.Machine{ID: fmt.Sprintf("%ss%03d", n.mark, k), App: "still", Network: n.name, State: "started",
			Region: "fra", Addr: truth.AddrIn(n.name, 8000+k), Meta: map[string]string{"fly_process_group": "app"}})
	}
	for k := range 30 {
		n.lasting = append(n.lasting,
			&truth.Machine{ID: fmt.Sprintf("%st%03d", n.mark, k), App: "spare", Network: n.name, State: "stopped",
				Region: "iad", Addr: truth.AddrIn(n.name, 8500+k), Meta: map[string]string{}},
			&truth.Peer{Name: fmt.Sprintf("peer%02d", k), Network: n.name, Addr: truth.AddrIn(n.name, 7000+k), Region: "ams"},
			&truth.Address{App: "still", Network: n.name, Addr: truth.AddrIn(n.name, 7500+k)})
	}
	for k := range hosts {
		n.lasting = append(n.lasting, &truth.Machine{ID: fmt.Sprintf("%shome%d", n.mark, k), App: "homes", Network: n.name, State: "started",
			Region: "fra", Addr: n.client(k).String(), Meta: map[string]string{}})
	}
	world := truth.Of(n.lasting...)
	g := n.generator(rand.New(rand.NewPCG(uint64(i), 0)))
	world.Put(g.Registered()...)
	for range 100 {
		world = world.After(g.Change(world))
	}
	n.history = truth.NewHistory(world)
	return n
}

// client is the address of the network's machine on a host.
func (n *network) client(host int) netip.Addr {
	return netip.MustParseAddr(truth.AddrIn(n.name, 9000+host))
}

func (n *network) generator(r *rand.Rand) *truth.Generator {
	return &truth.Generator{R: r, Network: n.name, Mark: n.mark, Skips: true}
}

// scene is a run.
type scene struct {
	t     testing.TB
	seed  uint64
	began time.Time

	ctx  context.Context // ends with the run, or at the first thing that is wrong
	fail context.CancelCauseFunc

	nets     []*network
	sw       *lab.Switch
	members  []netip.Addr
	etcd     *etcdtest.Cluster
	platform *platform
	hosts    []*host

	watching sync.WaitGroup // those who look from outside
	pulse    *pulse         // from when clients ask

	mu      sync.Mutex
	lines   []string      // the timeline
	wrong   int           // how many things were
	slowest time.Duration // from a last fault until all were well
}

// errWrong ends a run early.
var errWrong = errors.New("something is wrong")

// newScene starts everything and waits until it is well.
func newScene(t testing.TB, seed uint64) *scene {
	s := &scene{t: t, seed: seed, began: time.Now()}
	s.ctx, s.fail = context.WithCancelCause(t.Context())
	t.Cleanup(func() { s.fail(nil) })
	s.sw = lab.NewSwitch(t, s.rand("switch"))
	for i := range networks {
		s.nets = append(s.nets, newNetwork(i))
	}
	var labs []*lab.Lab
	var names []string
	for i := range members {
		l, addr := lab.Open(t), netip.AddrFrom4([4]byte{10, 8, 0, byte(1 + i)})
		s.sw.Join(t, l, addr)
		labs, names, s.members = append(labs, l), append(names, addr.String()), append(s.members, addr)
	}
	s.etcd = etcdtest.Start(t, etcdtest.Options{Members: members, Hosts: names,
		Start: func(i int, cmd *exec.Cmd) error { return labs[i].Start(cmd) }})
	s.platform = newPlatform(s)
	s.platform.fill()
	bin := clockedBinary(t)
	var starting sync.WaitGroup
	for i := range hosts {
		s.hosts = append(s.hosts, newHost(s, i, bin))
		s.hosts[i].launch()
	}
	for _, h := range s.hosts {
		starting.Go(func() { h.awaitSaved() })
	}
	starting.Wait()
	return s
}

// rand returns a source of chance for one purpose.
func (s *scene) rand(purpose string) *rand.Rand {
	var sum uint64
	for _, c := range purpose {
		sum = sum*31 + uint64(c)
	}
	return rand.New(rand.NewPCG(s.seed, sum))
}

// log adds a line to the timeline.
func (s *scene) log(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := fmt.Sprintf("%8.3f  ", time.Since(s.began).Seconds()) + fmt.Sprintf(format, args...)
	s.lines = append(s.lines, line)
}

// errorf notes that something is wrong and ends the run. What comes soon after it
// is told as well, as far as it helps.
func (s *scene) errorf(format string, args ...any) {
	const most = 5
	s.mu.Lock()
	s.wrong++
	n := s.wrong
	s.mu.Unlock()
	if n <= most {
		text := fmt.Sprintf(format, args...)
		s.log("WRONG: %s", text)
		s.t.Errorf("%.3f s: %s", time.Since(s.began).Seconds(), text)
	}
	s.fail(errWrong)
}

// recovered notes how long a dnsd took.
func (s *scene) recovered(took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slowest = max(s.slowest, took)
}

// sleep waits, and reports whether the run goes on.
func (s *scene) sleep(d time.Duration) bool {
	select {
	case <-s.ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// timeline returns what has happened.
func (s *scene) timeline() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

func (s *scene) url() string {
	var ends []string
	for _, m := range s.members {
		ends = append(ends, m.String()+":2379")
	}
	return "etcd://" + strings.Join(ends, ",") + prefix
}
