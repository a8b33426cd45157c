package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"dnsd/test/internal/steady"
	"dnsd/test/internal/unit"

	"github.com/miekg/dns"
)

// restartRow counts what clients notice of each way in which one dnsd takes another
// one's place.
func restartRow(ctx context.Context, b *bench) error {
	sizes := pick(b, []int{25, 100_000}, []int{25})
	if b.million {
		sizes = append(sizes, 1_000_000)
	}
	var rows [][]string
	for _, n := range sizes {
		b := &bench{options: b.options, dir: filepath.Join(b.dir, strconv.Itoa(n)), out: b.out, progress: b.progress} // an etcd of its own
		if err := os.Mkdir(b.dir, 0o755); err != nil {
			return err
		}
		size := min(n/5, 20) // machines an app
		f := newFleet(n/size, size, 10)
		file := filepath.Join(b.dir, "registry.json")
		if err := f.writeRegistry(file); err != nil {
			return err
		}
		lines, err := b.restarts(ctx, f, "file", "file:"+file)
		if err != nil {
			return err
		}
		rows = append(rows, lines...)
		c, err := b.startCluster(ctx)
		if err != nil {
			return err
		}
		if err = c.fill(ctx, f); err == nil {
			lines, err = b.restarts(ctx, f, "etcd", c.url)
		}
		c.close()
		if err != nil {
			return err
		}
		rows = append(rows, lines...)
	}
	b.heading("Restarts", "What clients notice while one process takes another one's place, %d times each: of questions over UDP (two thirds, asked once), TCP in one connection, and TCP in a connection "+
		"each. A question that gets no answer within 5 s is lost; a connection that breaks instead of ending is a reset. Systemd's part is played by the bench: it keeps the sockets. In place: from the order until "+
		"the new process serves, or the old one says why not.", b.replacements())
	b.table([]string{"machines", "from", "what", "questions/s", "asked", "lost", "SERVFAIL", "wrong", "resets", "longest wait, ms", "in place, median ms"}, rows)
	return nil
}

func (b *bench) replacements() int { return pick(b, 20, 2) }

// replacement is one way for a dnsd to be replaced.
type replacement struct {
	name  string
	rate  int
	flood bool // beside it
	do    func(ctx context.Context, b *bench, u *unit.Unit) error
}

var replacements = []replacement{
	{"hand-over", 600, false, handOver},
	{"hand-over", 6000, false, handOver},
	{"hand-over to a program that fails", 600, false, handOverToNothing},
	{"restart", 600, false, restart},
	{"restart", 6000, false, restart},
	{"kill -9, started again at once", 600, false, crash},
	{"nothing, in a flood", 600, true, nothing},
	{"hand-over, in a flood", 600, true, handOver},
}

// restarts returns the lines of one fleet and one source.
func (b *bench) restarts(ctx context.Context, f *fleet, source, url string) (rows [][]string, err error) {
	u, err := b.unit(url)
	if err != nil {
		return nil, err
	}
	defer u.Close()
	if err := u.Start(); err != nil {
		return nil, err
	}
	if err := u.Await("READY=1", patience); err != nil {
		return nil, err
	}
	if err := pause(ctx, 5*time.Second); err != nil { // until the state is on disk
		return nil, err
	}
	for _, r := range replacements {
		var took []float64
		endFlood := func() {}
		if r.flood {
			if endFlood, err = b.flood(ctx); err != nil {
				return nil, err
			}
		}
		result, err := b.askMeanwhile(ctx, f, r.rate, func() error {
			for range b.replacements() {
				began := time.Now()
				if err := r.do(ctx, b, u); err != nil {
					return err
				}
				took = append(took, float64(time.Since(began).Microseconds())/1000)
				if err := pause(ctx, 300*time.Millisecond); err != nil {
					return err
				}
			}
			return nil
		})
		endFlood()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
		b.say("  %d machines, %s, %s: %s", f.machines(), source, r.name, result)
		rows = append(rows, []string{strconv.Itoa(f.machines()), source, r.name, strconv.Itoa(r.rate), strconv.Itoa(result.Asked), strconv.Itoa(result.Lost),
			strconv.Itoa(result.ServFail), strconv.Itoa(result.Wrong), strconv.Itoa(result.Resets), milli(result.Longest), fmt.Sprintf("%.0f", median(took))})
	}
	return rows, nil
}

// unit returns dnsd as a unit that has not been started.
func (b *bench) unit(url string) (*unit.Unit, error) {
	dir, err := os.MkdirTemp(b.dir, "unit-")
	if err != nil {
		return nil, err
	}
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "dnsd") // a copy, which another program takes the place of
	if err := install(b.dnsd, path); err != nil {
		return nil, err
	}
	return &unit.Unit{
		Path: path, Dir: dir, Env: []string{"PATH=" + os.Getenv("PATH")},
		Args: []string{"--listen", at("fdaa::3", portDNSD), "--metrics-listen", at("127.0.0.1", portAdmin), "--registry", url,
			"--state-dir", state, "--upstream", "none", "--sockets", strconv.Itoa(b.workers)},
		Spawn: func(cmd *exec.Cmd) error {
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			return cmd.Start()
		},
	}, nil
}

// install puts a copy of a program in path's place.
func install(program, path string) error {
	in, err := os.Open(program)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := writeFile(path+".new", func(w io.Writer) error { _, err := io.Copy(w, in); return err }); err != nil {
		return err
	}
	if err := os.Chmod(path+".new", 0o755); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// askMeanwhile asks for the first apps' names while do runs.
func (b *bench) askMeanwhile(ctx context.Context, f *fleet, rate int, do func() error) (*steady.Result, error) {
	var questions []steady.Question
	for _, a := range f.apps[:min(len(f.apps), 10)] { // which are one network's
		for _, q := range []question{a.all(), a.vm(a.machines[0]), a.list()} {
			questions = append(questions, steady.Question{Name: q.name, Type: q.typ, Data: q.data})
		}
	}
	questions = append(questions, steady.Question{Name: "none.internal.", Type: dns.TypeAAAA, Rcode: dns.RcodeNameError})
	from := clientAddr(home)
	client := &steady.Client{
		Dial: func(network string) (net.Conn, error) {
			d := net.Dialer{LocalAddr: &net.UDPAddr{IP: from.AsSlice()}}
			if network == "tcp" {
				d.LocalAddr = &net.TCPAddr{IP: from.AsSlice()}
			}
			return d.Dial(network, at("fdaa::3", portDNSD))
		},
		Questions: questions, UDP: rate * 4 / 6, TCP: rate*2/6 - rate/24, Fresh: rate / 24,
	}
	asking, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan *steady.Result, 1)
	go func() { done <- client.Run(asking) }()
	err := pause(ctx, 300*time.Millisecond)
	if err == nil {
		err = do()
	}
	stop()
	return <-done, err
}

func handOver(_ context.Context, _ *bench, u *unit.Unit) error {
	pid := u.Main()
	u.Signal(syscall.SIGUSR2)
	return u.Replaced(pid, patience)
}

// flood has another network ask as much as it can, and returns when that is known.
func (b *bench) flood(ctx context.Context) (stop func(), err error) {
	conn, err := net.DialUDP("udp", &net.UDPAddr{IP: clientAddr(home + 99).AsSlice()}, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at("fdaa::3", portDNSD))))
	if err != nil {
		return nil, err
	}
	query, err := new(dns.Msg).SetQuestion("nothing.internal.", dns.TypeAAAA).Pack()
	if err != nil {
		return nil, err
	}
	flooding, end := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer conn.Close()
		for flooding.Err() == nil {
			_, _ = conn.Write(query) // what does not fit is no loss
		}
	}()
	return func() { end(); <-done }, pause(ctx, time.Second)
}

// nothing is what the others are compared with.
func nothing(ctx context.Context, _ *bench, _ *unit.Unit) error {
	return pause(ctx, 200*time.Millisecond)
}

// handOverToNothing orders a hand-over to a program that ends with an error.
func handOverToNothing(_ context.Context, b *bench, u *unit.Unit) error {
	const failed = "STATUS=the hand-over has failed"
	before := u.Count(failed)
	if err := writeFile(u.Path+".new", func(w io.Writer) error { _, err := fmt.Fprintln(w, "#!/bin/sh\nexit 3"); return err }); err != nil {
		return err
	}
	if err := os.Chmod(u.Path+".new", 0o755); err != nil {
		return err
	}
	if err := os.Rename(u.Path+".new", u.Path); err != nil {
		return err
	}
	u.Signal(syscall.SIGUSR2)
	for end := time.Now().Add(patience); u.Count(failed) == before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("the hand-over does not fail within %s", patience)
		}
	}
	return install(b.dnsd, u.Path)
}

func restart(_ context.Context, _ *bench, u *unit.Unit) error { return u.Restart(patience) }

func crash(_ context.Context, _ *bench, u *unit.Unit) error {
	u.Signal(syscall.SIGKILL)
	if _, err := u.Wait(patience); err != nil {
		return err
	}
	if err := u.Start(); err != nil {
		return err
	}
	return u.Await("READY=1", patience)
}
