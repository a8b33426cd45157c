package tenants

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
)

// floodEnv makes the test binary a flooder: the name that it asks for, %d in it
// being a number that goes up.
const floodEnv = "DNSD_TEST_FLOOD"

// floodIfAsked is the flooder: it asks as fast as it can, until it is killed. It is
// a process of its own so that the kernel, and not Go's scheduler, shares the processors between it and
// the client that must not notice.
func floodIfAsked() {
	name := os.Getenv(floodEnv)
	if name == "" {
		return
	}
	conn, err := net.Dial("udp", server.String())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ready := make([][]byte, 10_000)
	for i := range ready {
		ready[i] = pack(strings.Replace(name, "%d", strconv.Itoa(i), 1), dns.TypeAAAA)
	}
	for i := 0; ; i++ {
		msg := ready[i%len(ready)]
		binary.BigEndian.PutUint16(msg, uint16(i))
		_, _ = conn.Write(msg)
	}
}

// torrent floods from a tenant as fast as that goes, until ctx ends.
func torrent(ctx context.Context, t testing.TB, m *lab.Tenant, name string) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), floodEnv+"="+name)
	cmd.Stderr = os.Stderr
	if err := m.Start(cmd); err != nil {
		t.Error(err)
		return
	}
	<-ctx.Done()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// TestFlood has a ask more than dnsd can answer: b notices nothing. That takes a
// processor for dnsd, which other tests may have just then, so that nothing is sure.
func TestFlood(t *testing.T) {
	for _, name := range []string{"no-such-%d.internal", "home.internal"} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, nil)
			lab.Tries(t, func() []string {
				sure, doubtful := h.attacked(t, lab.Full(1500*time.Millisecond, 3*time.Second),
					func(ctx context.Context) { torrent(ctx, t, h.a, name) }).harm()
				return append(sure, doubtful...)
			})
			if n := h.Metric(t, `dnsd_requests_dropped_total{reason="flood"}`); n == 0 {
				t.Error("no question of the flood was passed over: it was none")
			}
		})
	}
}

// TestOldQuestions freezes dnsd in the middle of a flood: by then
// no client waits for what is in its queue, and it is not answered.
func TestOldQuestions(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	lab.Tries(t, func() (wrong []string) {
		flooding, stop := context.WithCancel(t.Context())
		var flood sync.WaitGroup
		flood.Go(func() { torrent(flooding, t, h.a, "no-such-%d.internal") })
		time.Sleep(time.Second)
		h.dnsd.Signal(syscall.SIGSTOP)
		time.Sleep(3 * time.Second)
		h.dnsd.Signal(syscall.SIGCONT)
		stop()
		flood.Wait()
		time.Sleep(restful)
		if after := h.asks(t, calm); after.lost() > 0 {
			wrong = append(wrong, fmt.Sprintf("after the flood b lost %d of %d answers", after.lost(), after.sent))
		}
		if n := h.Metric(t, `dnsd_requests_dropped_total{reason="old"}`); n == 0 {
			wrong = append(wrong, "all questions were answered, however old")
		}
		return wrong
	})
}
