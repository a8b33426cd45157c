package chaos

import (
	"bufio"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"dnsd/test/internal/lab"
	"dnsd/test/internal/truth"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// host is a host with its dnsd, which runs as the packaged unit runs it, and a
// machine of each of two networks.
type host struct {
	*sight
	s       *scene
	number  int
	lab     *lab.Lab
	addr    netip.Addr // on the switch
	machine []*guest
	dir     string // of the state, a file system of its own
	clock   string // the file that moves its wall clock
	bin     string

	server atomic.Pointer[lab.Server]
	light  load // of the first process at rest

	answered, stale, forwarded atomic.Int64 // answers; of them those marked; those of outside names
	again, excused             atomic.Int64 // questions asked again; late answers while the test was late itself
}

// guest is a machine on a host.
type guest struct {
	*lab.Tenant
	net *network
}

// dnsdAddr is where machines ask, upstreamAddr who answers outside names: a
// resolver on the host, as usual.
var (
	dnsdAddr     = netip.MustParseAddrPort("[fdaa::3]:53")
	upstreamAddr = netip.MustParseAddrPort("127.0.0.1:5300")
)

func newHost(s *scene, i int, bin string) *host {
	h := &host{s: s, number: i, lab: lab.Open(s.t, "fdaa::3"), addr: netip.AddrFrom4([4]byte{10, 8, 0, byte(11 + i)}), bin: bin}
	var histories []*truth.History
	for _, n := range s.nets {
		histories = append(histories, n.history)
	}
	h.sight = newSight(histories)
	s.sw.Join(s.t, h.lab, h.addr)
	for k := range 2 {
		n := s.nets[(i+k)%len(s.nets)]
		h.machine = append(h.machine, &guest{h.lab.Tenant(s.t, n.mark, n.client(i)), n})
	}
	serveUpstream(s.t, h.lab)
	base := s.t.TempDir()
	lab.Reachable(s.t, base) // dnsd is nobody
	h.dir, h.clock = filepath.Join(base, "state"), filepath.Join(base, "clock")
	err := os.Mkdir(h.dir, 0o755)
	if err == nil {
		// Room for two states and one on its way.
		h.lab.Do(func() {
			err = unix.Mount("tmpfs", h.dir, "tmpfs", 0, "size=2m,nr_inodes=64,mode=0755,uid=65534,gid=65534")
		})
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { h.lab.Do(func() { _ = unix.Unmount(h.dir, unix.MNT_DETACH) }) })
	h.setClock(0)
	return h
}

func (h *host) String() string { return fmt.Sprintf("dnsd %d", h.number) }

// launch starts dnsd, which must not run.
func (h *host) launch() {
	cmd := lab.Command(h.bin, []string{clockEnv + "=" + h.clock},
		"--listen", dnsdAddr.String(), "--metrics-listen", lab.Admin, "--region", "fra", "--upstream", upstreamAddr.String(),
		"--registry", h.s.url(), "--state-dir", h.dir, "--stale-after", staleAfter.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: 65534, Gid: 65534},
		AmbientCaps: []uintptr{unix.CAP_NET_BIND_SERVICE},
	}
	server, err := h.lab.Begin(h.s.t, cmd)
	if err != nil {
		h.s.errorf("%v does not start: %v", h, err)
		return
	}
	h.server.Store(server)
	h.start()
}

// end ends dnsd by a signal. saves says that its disk takes what it has to save.
func (h *host) end(sig syscall.Signal, saves bool) {
	h.stop(sig == syscall.SIGTERM && saves)
	server := h.server.Load()
	server.Signal(sig)
	select {
	case <-server.Done():
	case <-time.After(3 * lab.Patience):
		server.Signal(syscall.SIGQUIT)
		h.s.errorf("%v does not end within %v of %v", h, 3*lab.Patience, sig)
		return
	}
	if code := server.Code(); sig == syscall.SIGTERM && code != 0 {
		h.s.errorf("%v ended with code %d after SIGTERM, want 0", h, code)
	}
}

// awaitSaved waits until dnsd is live and its state is on disk.
func (h *host) awaitSaved() {
	if !lab.Until(recovery, func() bool {
		_, saved := h.stamp()
		return saved && strings.HasPrefix(h.get("/readyz"), "live: ")
	}) {
		h.s.errorf("%v is not live, or its state not on disk: %s", h, h.get("/readyz"))
	}
}

// stamp tells one state on disk from another; false: there is none.
func (h *host) stamp() (stamp string, ok bool) {
	var st unix.Stat_t
	var err error
	h.lab.Do(func() { err = unix.Stat(filepath.Join(h.dir, "registry.state"), &st) })
	return fmt.Sprint(st.Ino, st.Mtim), err == nil
}

// get asks the admin listener; empty: no answer.
func (h *host) get(path string) string {
	status, body := h.lab.Get("http://" + lab.Admin + path)
	if status != http.StatusOK {
		return ""
	}
	return body
}

// metrics returns every sample of /metrics, nil where it does not answer.
func (h *host) metrics() map[string]float64 {
	text := h.get("/metrics")
	if text == "" {
		return nil
	}
	samples := map[string]float64{}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		if i := strings.LastIndexByte(lines.Text(), ' '); i > 0 {
			if f, err := strconv.ParseFloat(lines.Text()[i+1:], 64); err == nil {
				samples[lines.Text()[:i]] = f
			}
		}
	}
	return samples
}

// held returns how much the sweep guard holds back.
func held(samples map[string]float64) (n float64) {
	for name, value := range samples {
		if name == "dnsd_registry_held" || strings.HasPrefix(name, "dnsd_registry_held{") {
			n += value
		}
	}
	return n
}

// monitor notes when states are written, until the run ends.
func (h *host) monitor() {
	last, _ := h.stamp()
	for h.s.sleep(time.Second) {
		stamp, _ := h.stamp()
		h.mark(stamp != last)
		last = stamp
	}
}

// load is what a process holds that a leak would add to.
type load struct{ goroutines, files, heap float64 }

// weigh returns what dnsd holds, after a collection of garbage.
func (h *host) weigh() load {
	h.get("/debug/pprof/heap?gc=1")
	m := h.metrics()
	return load{m["go_goroutines"], m["process_open_fds"], m["go_memstats_heap_alloc_bytes"]}
}

// serveUpstream answers outside names in a lab until the test ends.
func serveUpstream(t interface {
	Fatal(...any)
	Cleanup(func())
}, l *lab.Lab) {
	udp, err := l.ListenUDP(upstreamAddr.String())
	if err != nil {
		t.Fatal(err)
	}
	up, down := make(chan struct{}), make(chan struct{})
	s := &dns.Server{PacketConn: udp, Handler: dns.HandlerFunc(outside), NotifyStartedFunc: func() { close(up) }}
	go func() { defer close(down); _ = s.ActivateAndServe() }()
	<-up
	t.Cleanup(func() { _ = s.Shutdown(); <-down })
}

// outsideName is an outside name, outsideSays its address.
func outsideName(i int) string { return fmt.Sprintf("host-%d.example.com.", i) }
func outsideSays(i int) string { return fmt.Sprintf("2001:db8::%x", i+1) }

// outside is the upstream: it knows the names of outsideName.
func outside(w dns.ResponseWriter, req *dns.Msg) {
	resp := new(dns.Msg).SetReply(req)
	var i int
	if _, err := fmt.Sscanf(req.Question[0].Name, "host-%d.example.com.", &i); err != nil {
		resp.Rcode = dns.RcodeNameError
	} else if req.Question[0].Qtype == dns.TypeAAAA {
		rr, err := dns.NewRR(fmt.Sprintf("%s 10 IN AAAA %s", outsideName(i), outsideSays(i)))
		if err != nil {
			resp.Rcode = dns.RcodeServerFailure
		} else {
			resp.Answer = []dns.RR{rr}
		}
	}
	_ = w.WriteMsg(resp)
}
