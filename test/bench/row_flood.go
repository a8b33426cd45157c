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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// The flood experiment: one client asks as fast as it can for names that do not
// exist, or for one that does, and takes no answers; another asks at an everyday
// rate. To dnsd they are of two networks, which the others do not know of.
const (
	everydayRate = 100
	floodEnv     = "DNSD_BENCH_FLOOD" // the server's address, in the process that floods
	floodName    = "DNSD_BENCH_FLOOD_NAME"
	floodSource  = "DNSD_BENCH_FLOOD_FROM" // its own address; empty: any
)

// floodRow measures what a client notices of another one's flood.
func floodRow(ctx context.Context, b *bench) error {
	f := newFleet(1000, 5, 1000)
	file, zone := filepath.Join(b.dir, "registry.json"), filepath.Join(b.dir, "internal.zone")
	if err := errors.Join(f.writeRegistry(file), f.writeZone(zone)); err != nil {
		return err
	}
	servers, err := b.mixServers(ctx, file, zone, f.apps[0].name+".internal.")
	defer func() {
		for _, s := range servers {
			s.stop()
		}
	}()
	if err != nil {
		return err
	}
	asked, err := pack(f.mix(newRand()))
	if err != nil {
		return err
	}
	var rows [][]string
	for _, kind := range []struct{ what, name string }{{"names that do not exist", "no-such-%d.internal."}, {"one name", f.apps[0].name + ".internal."}} {
		for _, s := range servers {
			client, attacker := paced{addr: s.v6, rate: everydayRate, questions: cycle(asked)}, ""
			if s.name == "dnsd" || s.name == "dnsd, -against" {
				client.addr, client.network = at("fdaa::3", portOf(s)), home
				attacker = clientAddr(floodNetwork).String()
			}
			for _, flooded := range []bool{false, true} {
				row, err := b.flooded(ctx, s, client, attacker, kind.name, flooded)
				if err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
				rows = append(rows, append([]string{s.name, map[bool]string{false: "–", true: kind.what}[flooded]}, row...))
			}
		}
	}
	b.heading("Flood", "One client asks %d kept names a second, another as fast as one process can send, all over IPv6. Client, flooder and server share the cores.", everydayRate)
	b.table([]string{"server", "flood of", "asked", "lost", "p50, ms", "p99, ms", "worst, ms"}, rows)
	return nil
}

func portOf(s *server) int {
	n, _ := strconv.Atoi(port(s.v6))
	return n
}

// flooded asks for b.runs rounds, and returns the cells of a row.
func (b *bench) flooded(ctx context.Context, s *server, client paced, attacker, name string, flooded bool) ([]string, error) {
	if flooded {
		flooder := exec.Command("/proc/self/exe")
		flooder.Env = append(os.Environ(), floodEnv+"="+client.addr, floodName+"="+name, floodSource+"="+attacker)
		flooder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		flooder.Stderr = b.progress
		if err := flooder.Start(); err != nil {
			return nil, err
		}
		defer func() { _ = flooder.Process.Kill(); _ = flooder.Wait() }()
		time.Sleep(500 * time.Millisecond)
	}
	sent := 0
	var latency []time.Duration
	for range b.runs {
		ctx, cancel := context.WithTimeout(ctx, b.duration())
		o, err := client.run(ctx)
		cancel()
		if err != nil {
			return nil, err
		}
		sent += o.sent
		latency = append(latency, o.latency...)
	}
	if len(latency) == 0 {
		return []string{fmt.Sprint(sent), fmt.Sprint(sent), "–", "–", "–"}, nil
	}
	slices.Sort(latency)
	return []string{fmt.Sprint(sent), fmt.Sprint(sent - len(latency)), milli(quantile(latency, 0.5)), milli(quantile(latency, 0.99)), milli(latency[len(latency)-1])}, nil
}

// floodIfAsked floods, in a process that was started to, until it is killed.
func floodIfAsked() {
	addr := os.Getenv(floodEnv)
	if addr == "" {
		return
	}
	to, err := net.ResolveUDPAddr("udp", addr)
	var from *net.UDPAddr
	if source := os.Getenv(floodSource); err == nil && source != "" {
		from, err = net.ResolveUDPAddr("udp", at(source, 0))
	}
	var c *net.UDPConn
	if err == nil {
		c, err = net.DialUDP("udp", from, to)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "flooding:", err)
		os.Exit(1)
	}
	var questions [][]byte
	for i := range 10_000 {
		name := strings.Replace(os.Getenv(floodName), "%d", strconv.Itoa(i), 1)
		wire, err := new(dns.Msg).SetQuestion(name, dns.TypeAAAA).Pack()
		if err != nil {
			panic(err) // the names are ours
		}
		questions = append(questions, wire)
	}
	for i := 0; ; i++ {
		q := questions[i%len(questions)]
		binary.BigEndian.PutUint16(q, uint16(i))
		_, _ = c.Write(q)
	}
}
