package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

const (
	fastVeth = "fast-veth" // the host's end
	// outstanding is how many questions the client asks before it reads the answers:
	// fewer than dnsd reads at once, which it takes for a sign that there are too many.
	outstanding = 48
)

// place is a thread with a network of its own: what it starts and opens is there.
type place struct {
	work chan func()
	tid  int
}

func newPlace() (*place, error) {
	p := &place{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		err := unix.Unshare(unix.CLONE_NEWNET)
		p.tid = unix.Gettid()
		ready <- err
		for f := range p.work {
			f()
		}
	}()
	return p, <-ready
}

// do runs f there.
func (p *place) do(f func() error) error {
	done := make(chan error)
	p.work <- func() { done <- f() }
	return <-done
}

// ip runs lines of ip -batch there.
func (p *place) ip(lines ...string) error {
	return p.do(func() error {
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ip -batch: %w\n%s", err, out)
		}
		return nil
	})
}

// fastpathRow compares the way through the kernel with the ways through sockets: CPU of server and client, and
// of the kernel between them.
func fastpathRow(ctx context.Context, b *bench) error {
	f := newFleet(1000, 5, 1000)
	plain := f.mix(newRand())
	registry, zone := filepath.Join(b.dir, "registry.json"), filepath.Join(b.dir, "internal.zone")
	if err := errors.Join(f.writeRegistry(registry), f.writeZone(zone)); err != nil {
		return err
	}
	host, err := newPlace()
	if err != nil {
		return err
	}
	defer close(host.work)
	machine, err := newPlace()
	if err != nil {
		return err
	}
	defer close(machine.work)
	client := clientAddr(home)
	err = host.ip("link set lo up", "addr add fdaa::3/128 dev lo nodad",
		fmt.Sprintf("link add %s type veth peer name eth0 netns /proc/%d/task/%d/ns/net", fastVeth, os.Getpid(), machine.tid),
		"link set "+fastVeth+" up", "addr add fe80::1/64 dev "+fastVeth+" nodad", fmt.Sprintf("route add %s/128 dev %s", client, fastVeth))
	if err == nil {
		err = machine.ip("link set eth0 up", fmt.Sprintf("addr add %s/128 dev eth0 nodad", client), "route add default via fe80::1 dev eth0")
	}
	if err == nil {
		err = host.do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0o644) })
	}
	if err != nil {
		return err
	}
	servers, err := b.fastServers(host, "file:"+registry, zone)
	defer func() {
		for _, s := range servers {
			s.stop()
		}
	}()
	if err != nil {
		return err
	}
	var questions [][]byte
	for i := range plain {
		m := plain[i].message()
		m.Id = uint16(i)
		wire, err := m.Pack()
		if err != nil {
			return err
		}
		questions = append(questions, wire)
	}
	b.heading("In the kernel", "The plain mix from a machine behind a device, %d questions at a time: CPU of server and client together, in which is the kernel's. "+
		"`--fast-path` answers at the same device.", outstanding)
	all, lines := make([]series, len(servers)), make([]*line, len(servers))
	for i, s := range servers {
		all[i].name = s.name
		l, err := dialFrom(machine, s)
		if err != nil {
			return err
		}
		defer l.close()
		lines[i] = l
		err = s.await(ctx, 20*time.Millisecond, func() bool { n, _, _ := l.ask(questions[:1]); return n == 1 })
		for end := time.Now().Add(time.Second); err == nil && time.Now().Before(end); { // everything is kept
			_, err = askAll(l, questions, 0)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for round := range b.runs + 1 {
		for i, l := range lines {
			t, used, err := measured(servers[i], func() (tally, error) { return askAll(l, questions, b.duration()) })
			if err != nil {
				return fmt.Errorf("%s: %w", all[i].name, err)
			}
			micros := float64(used.Nanoseconds()) / 1000 / float64(t.answered)
			b.say("  round %d: %-28s %6.2f µs/query, %7.0f queries/s, %d lost", round, all[i].name, micros, float64(t.answered)/t.elapsed.Seconds(), t.sent-t.answered)
			if round > 0 {
				all[i].micros = append(all[i].micros, micros)
				all[i].qps = append(all[i].qps, float64(t.answered)/t.elapsed.Seconds())
				all[i].bytes = t.bytes
			}
		}
	}
	b.comparison(all, "NSD")
	return nil
}

// fastServers starts dnsd with and without --fast-path, and NSD.
func (b *bench) fastServers(host *place, registry, zone string) (out []*server, err error) {
	start := func(f func() (*server, error)) {
		if err != nil {
			return
		}
		err = host.do(func() error {
			s, err := f()
			if err == nil {
				s.v6 = at("fdaa::3", map[string]int{"dnsd --fast-path": portDNSD, "dnsd": portAgainst, "NSD": portNSD}[s.name])
				out = append(out, s)
			}
			return err
		})
	}
	start(func() (*server, error) {
		s, _, err := b.startDNSD(daemon{name: "dnsd --fast-path", registry: registry, args: []string{"--fast-path", "fast-*"}})
		return s, err
	})
	start(func() (*server, error) {
		s, _, err := b.startDNSD(daemon{name: "dnsd", registry: registry, port: portAgainst, admin: portAdminAgainst})
		return s, err
	})
	start(func() (*server, error) {
		file := filepath.Join(b.dir, "NSD.conf")
		if err := os.WriteFile(file, []byte(b.nsdConf("NSD", portNSD, "internal", zone, "fdaa::3")), 0o644); err != nil {
			return nil, err
		}
		return b.launch("NSD", exec.Command("nsd", "-d", "-c", file))
	})
	return out, err
}

// askAll asks the questions in turns for a time, at least once.
func askAll(l *line, questions [][]byte, length time.Duration) (t tally, err error) {
	began, size := time.Now(), 0
	for at := 0; ; at = (at + outstanding) % len(questions) {
		batch := questions[at:min(at+outstanding, len(questions))]
		n, bytes, err := l.ask(batch)
		if err != nil {
			return t, err
		}
		t.sent += len(batch)
		t.answered += n
		size += bytes
		if t.elapsed = time.Since(began); t.elapsed >= length && at+outstanding >= len(questions) {
			break
		}
	}
	if t.answered < t.sent/2 {
		return t, fmt.Errorf("%d of %d questions are answered", t.answered, t.sent)
	}
	t.bytes = float64(size) / float64(t.answered)
	return t, nil
}

// measured runs f and returns the CPU time that this process, which is the client, and a
// server have used meanwhile. What the kernel does for a packet it does in the time of one of the two.
func measured(s *server, f func() (tally, error)) (t tally, used time.Duration, err error) {
	pids := append([]int{os.Getpid()}, s.pids...)
	before, err := cpuTime(pids)
	if err != nil {
		return t, 0, err
	}
	if t, err = f(); err != nil {
		return t, 0, err
	}
	after, err := cpuTime(pids)
	return t, after - before, err
}

// rightAnswer reports whether a message is an answer.
func rightAnswer(msg []byte) bool {
	return len(msg) > 12 && msg[2]&0x80 != 0 && msg[3]&15 == 0 && binary.BigEndian.Uint16(msg[6:]) > 0
}

// line is a UDP socket of a client that asks many questions at once.
type line struct {
	conn *net.UDPConn
	p    *ipv6.PacketConn
	out  []ipv6.Message
	in   []ipv6.Message
}

func dialFrom(p *place, s *server) (*line, error) {
	l := &line{}
	err := p.do(func() error {
		to, err := net.ResolveUDPAddr("udp", s.v6)
		if err == nil {
			l.conn, err = net.DialUDP("udp", nil, to)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	l.p = ipv6.NewPacketConn(l.conn)
	l.out, l.in = make([]ipv6.Message, outstanding), make([]ipv6.Message, outstanding)
	for i := range l.in {
		l.in[i].Buffers = [][]byte{make([]byte, dns.MinMsgSize)}
	}
	return l, nil
}

func (l *line) close() error { return l.conn.Close() }

// ask sends questions and returns how many were answered within a second, and by how many bytes.
func (l *line) ask(questions [][]byte) (answered, bytes int, err error) {
	for i, q := range questions {
		l.out[i].Buffers = [][]byte{q}
	}
	for sent := 0; sent < len(questions); {
		n, err := l.p.WriteBatch(l.out[sent:len(questions)], 0)
		if err != nil {
			return 0, 0, nil // the server is not there yet
		}
		sent += n
	}
	if err := l.conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return 0, 0, err
	}
	for answered < len(questions) {
		n, err := l.p.ReadBatch(l.in, 0)
		if err != nil {
			return answered, bytes, nil
		}
		for _, m := range l.in[:n] {
			if !rightAnswer(m.Buffers[0][:m.N]) {
				return 0, 0, fmt.Errorf("an answer that is none: %x", m.Buffers[0][:m.N])
			}
			bytes += m.N
		}
		answered += n
	}
	return answered, bytes, nil
}
