package handover

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// TestPauses: what comes while the process gets no processor, again and again, waits
// in the kernel, is answered in full, and is not taken for a flood.
func TestPauses(t *testing.T) {
	s := newScene(t, 25)
	s.begin()
	conn, err := s.lab.Dial("udp", netip.MustParseAddr(client), netip.MustParseAddrPort("["+server+"]:53"))
	s.must(err)
	defer conn.Close()
	raw, err := conn.(*net.UDPConn).SyscallConn()
	s.must(err)
	var refused error
	s.must(raw.Control(func(fd uintptr) {
		refused = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20) // for all answers
	}))
	if refused != nil {
		lab.Skip(t, "no privilege for long queues")
	}
	query, err := new(dns.Msg).SetQuestion("m2.vm.my-app.internal.", dns.TypeAAAA).Pack()
	s.must(err)

	const asked = 9000 // which take a processor some 90 ms
	s.Signal(syscall.SIGSTOP)
	for id := range asked {
		binary.BigEndian.PutUint16(query, uint16(id))
		_, err := conn.Write(query)
		s.must(err)
	}
	for range 3 {
		s.Signal(syscall.SIGCONT)
		time.Sleep(10 * time.Millisecond)
		s.Signal(syscall.SIGSTOP)
		time.Sleep(150 * time.Millisecond)
	}
	s.Signal(syscall.SIGCONT)
	answered := map[uint16]bool{}
	conn.SetReadDeadline(time.Now().Add(s.patience))
	for buf := make([]byte, 4096); len(answered) < asked; {
		n, err := conn.Read(buf)
		if err != nil {
			break
		}
		if n > 3 && buf[3]&0xf == dns.RcodeSuccess {
			answered[binary.BigEndian.Uint16(buf)] = true
		}
	}
	if len(answered) != asked {
		t.Errorf("%d of %d questions are answered", len(answered), asked)
	}
	_, metrics := s.lab.Get("http://" + lab.Admin + "/metrics")
	for _, want := range []string{`dnsd_requests_dropped_total{reason="flood"} 0`, "dnsd_networks_aside 0"} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

// TestLongRestart: questions that have waited for the next process are answered, however
// old they are: dnsd drops those of more than 2 s only while it is asked too much.
func TestLongRestart(t *testing.T) {
	t.Parallel()
	s := newScene(t, 25)
	s.begin()
	s.saved()
	s.unnoticed(func() {
		s.Signal(syscall.SIGTERM)
		if _, err := s.Wait(s.patience); err != nil {
			t.Error(err)
		}
		time.Sleep(2200 * time.Millisecond)
		s.begin()
	})
}
