package handover

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"dnsd/test/internal/lab"
	"dnsd/test/internal/unit"

	"github.com/miekg/dns"
)

// sweep has the registry lose nearly all machines, and waits until dnsd holds that back.
func (s *scene) sweep() {
	s.t.Helper()
	s.write(3)
	s.holds(97)
}

// holds waits until dnsd holds back the loss of n machines.
func (s *scene) holds(n int) {
	s.t.Helper()
	if !lab.Until(s.patience, func() bool {
		_, metrics := s.lab.Get("http://" + lab.Admin + "/metrics")
		return strings.Contains(metrics, fmt.Sprintf("\ndnsd_registry_held{kind=\"started_machine\"} %d\n", n))
	}) {
		_, body := s.lab.Get("http://" + lab.Admin + "/readyz")
		s.t.Fatalf("not %d losses are held back: %s", n, body)
	}
}

// TestHandOverOfWhatIsHeld: what the sweep guard holds back, the next process holds
// back again, after a hand-over and after a restart: it finds in the last known state
// what its listing takes away.
func TestHandOverOfWhatIsHeld(t *testing.T) {
	s := newScene(t, 100)
	s.begin()
	s.saved()
	conn, err := s.lab.Dial("udp", netip.MustParseAddr(client), netip.MustParseAddrPort("["+server+"]:53"))
	s.must(err)
	defer conn.Close()
	s.unnoticed(func() {
		s.sweep()
		for range 2 {
			s.handOver()
			s.holds(97)
			ask(t, conn, "m77.vm.big.internal.", dns.RcodeSuccess)
		}
		s.must(s.Restart(s.patience))
		s.holds(97)
		ask(t, conn, "m77.vm.big.internal.", dns.RcodeSuccess)
	})
}

// TestHeldWithoutAState: where a new process could not hold back what this one does,
// there is no hand-over, until an operator has decided.
func TestHeldWithoutAState(t *testing.T) {
	t.Parallel()
	s := newScene(t, 100)
	s.must(os.Remove(filepath.Join(s.Dir, "state")))
	s.begin()
	s.sweep()
	pid := s.Main()
	s.Signal(syscall.SIGUSR2)
	s.must(s.Await("STATUS=a hand-over is refused: the last listing takes away 97 of ", s.patience))
	if s.Main() != pid || len(unit.Children(pid)) > 0 {
		t.Error("a new process is started")
	}
	s.Signal(syscall.SIGUSR1)
	s.holds(0)
	s.handOver()
	if n := strings.Count(s.Log(), "a hand-over begins"); n != 1 {
		t.Errorf("%d hand-overs have begun, want 1", n)
	}
}
