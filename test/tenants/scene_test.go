// Package tenants tests what the machines of many tenants on one host, each in a
// namespace of its own behind a device of its own, can do to each other through
// the one dnsd of that host. It is about losses, counts and order, not about
// milliseconds: where a delay is the point, it is compared with that of the same
// run without the attack.
package tenants

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	floodIfAsked()
	os.Exit(lab.MainOf(m, 9)) // all that wait, at once
}

// The two networks of most scenes: a attacks, b must not notice.
var (
	machineA = netip.MustParseAddr("fdaa:0:a:a7b:7d:1:1:2")
	machineB = netip.MustParseAddr("fdaa:0:b:a7b:7d:2:1:2")
	server   = netip.MustParseAddrPort("[fdaa::3]:53")
)

// host is a host with its dnsd and the machines that run on it.
type host struct {
	*lab.Lab
	dnsd *lab.Server
	a, b *lab.Tenant
	path string // of the registry file
	calm *fate  // what became of b's questions when it was last calm; nil: it was not asked yet
}

// object is an object of a registry file.
type object = map[string]any

// machine returns a started machine.
func machine(id string, addr netip.Addr, more object) object {
	m := object{"id": id, "state": "started", "region": "fra", "private_ip": addr.String()}
	for k, v := range more {
		m[k] = v
	}
	return m
}

// app returns an app of the network that addr lies in.
func app(name string, addr netip.Addr, machines ...object) object {
	return object{"name": name, "network": network(addr).String(), "machines": machines}
}

func network(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, 48).Masked() }

// home is the app of both networks: three machines, the first of which asks.
func home(addr netip.Addr) object {
	var machines []object
	for i := range 3 {
		a := addr.As16()
		a[13] += byte(i)
		machines = append(machines, machine(fmt.Sprintf("m%d", i), netip.AddrFrom16(a), nil))
	}
	return app("home", addr, machines...)
}

// write writes a registry file.
func write(t testing.TB, path string, apps ...object) {
	t.Helper()
	data, err := json.Marshal(object{"apps": apps})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// newHost starts dnsd as the packaged unit does, without any privilege but the
// one for port 53, on a host with a machine of each network.
func newHost(t testing.TB, apps []object, args ...string) *host {
	t.Helper()
	return newHostWith(t, apps, []uintptr{unix.CAP_NET_BIND_SERVICE}, append([]string{"--listen", "[fdaa::3]:53"}, args...)...)
}

func newHostWith(t testing.TB, apps []object, privileges []uintptr, args ...string) *host {
	t.Helper()
	h := &host{Lab: lab.Open(t, "fdaa::3"), path: filepath.Join(t.TempDir(), "registry.json")}
	h.a, h.b = h.Tenant(t, "a", machineA), h.Tenant(t, "b", machineB)
	write(t, h.path, append([]object{home(machineA), home(machineB)}, apps...)...)
	lab.Reachable(t, filepath.Dir(h.path)) // dnsd is nobody
	args = append([]string{"--metrics-listen", lab.Admin, "--registry", "file:" + h.path, "--upstream", "none"}, args...)
	// Without the race detector, which makes a flood of every question.
	cmd := lab.Command(lab.PlainBinary(t), nil, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: 65534, Gid: 65534},
		AmbientCaps: privileges,
	}
	h.dnsd = h.Launch(t, cmd)
	h.dnsd.Ready(t)
	return h
}

// The phases of a scene.
const (
	restful = 200 * time.Millisecond // after the attack's end, b must be served as before
	rateB   = 100                    // b's questions a second
)

// calm is how long b asks before and after an attack.
var calm = lab.Full(300*time.Millisecond, 500*time.Millisecond)

// phases are what became of b's questions before, during and after an attack.
type phases struct{ before, during, after fate }

// asks asks b's questions for so long.
func (h *host) asks(t *testing.T, d time.Duration) fate {
	t.Helper()
	return ask(t, h.b, server, rateB, d, only("home.internal", dns.TypeAAAA), 3)
}

// attacked asks b's questions while attack runs, for so long. The calm after an attack
// is the one before the next.
func (h *host) attacked(t *testing.T, during time.Duration, attack func(ctx context.Context)) phases {
	t.Helper()
	if h.calm == nil {
		h.asks(t, calm/2) // neighbours and kept answers
		before := h.asks(t, calm)
		h.calm = &before
	}
	p := phases{before: *h.calm}
	ctx, stop := context.WithCancel(context.Background())
	var attackers sync.WaitGroup
	attackers.Go(func() { attack(ctx) })
	time.Sleep(100 * time.Millisecond)
	p.during = h.asks(t, during)
	stop()
	attackers.Wait()
	time.Sleep(restful)
	p.after = h.asks(t, calm)
	h.calm = &p.after
	t.Logf("b before: %v", p.before)
	t.Logf("b during: %v", p.during)
	t.Logf("b after:  %v", p.after)
	return p
}

// busy is a pause of the client that shows a machine so busy that the kernel may
// drop what its buffers have no room for before dnsd gets a processor.
const busy = 10 * time.Millisecond

// harm says what b noticed, empty for nothing. Sure is what dnsd did: answers were
// lost or wrong. In doubt is what a busy machine may have done: what was lost on one,
// or came late, which is after 100 ms, twice what was needed before the attack, or
// four times what the machine kept the client waiting. One in a hundred may be late.
func (p phases) harm() (sure, doubtful []string) {
	for _, phase := range []struct {
		name string
		fate
	}{{"before", p.before}, {"during", p.during}, {"after", p.after}} {
		if n := phase.lost(); n > 0 {
			what := fmt.Sprintf("%s the attack b lost %d of %d answers", phase.name, n, phase.sent)
			if phase.paused < busy {
				sure = append(sure, what)
			} else {
				doubtful = append(doubtful, what)
			}
		}
		if phase.wrong > 0 {
			sure = append(sure, fmt.Sprintf("%s the attack %d of b's answers were wrong", phase.name, phase.wrong))
		}
		limit := max(100*time.Millisecond, 2*p.before.quantile(1), 4*phase.paused)
		if n := phase.later(limit); n > phase.sent/100 {
			doubtful = append(doubtful, fmt.Sprintf("%s the attack %d of %d answers took b longer than %v, the worst %v", phase.name, n, phase.sent, limit, phase.quantile(1)))
		}
	}
	return sure, doubtful
}

// unharmed requires that b notices nothing of an attack.
func (h *host) unharmed(t *testing.T, during time.Duration, attack func(ctx context.Context)) {
	t.Helper()
	lab.Tries(t, func() []string {
		sure, doubtful := h.attacked(t, during, attack).harm()
		for _, what := range sure {
			t.Error(what)
		}
		return doubtful
	})
}
