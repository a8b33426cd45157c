package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"dnsd/test/internal/steady"
	"dnsd/test/internal/unit"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// restartRow counts what clients notice of each way in which one dnsd takes another
// one's place.
func restartRow(ctx context.Context, b *bench) error {
	sizes := b.machines
	if len(sizes) == 0 {
		sizes = pick(b, []int{25, 100_000}, []int{25})
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
	b.heading("Restarts", "What clients notice while one process takes another one's place, %d times each (with a million machines %d): of questions over UDP (two thirds, asked once), TCP in one connection, and TCP in a connection "+
		"each. They come from 16 machines of one network. A question that gets no answer within 5 s is lost; a connection that breaks instead of ending is a reset. Systemd's part is played by the bench: it keeps the sockets. In place: from the order until "+
		"the new process serves, or the old one says why not.", b.replacements(0), b.replacements(1_000_000))
	b.table([]string{"machines", "from", "what", "questions/s", "asked", "lost", "SERVFAIL", "wrong", "resets", "longest wait, ms", "in place, median ms"}, rows)
	return nil
}

// replacements returns how often each is done. With a million machines one takes a
// quarter of a minute.
func (b *bench) replacements(machines int) int {
	if machines >= 1_000_000 {
		return pick(b, 5, 1)
	}
	return pick(b, 20, 2)
}

// replacement is one way for a dnsd to be replaced.
type replacement struct {
	name   string
	rate   int
	do     func(ctx context.Context, b *bench, u *unit.Unit) error
	beside func(ctx context.Context, b *bench, u *unit.Unit) (stop func(), err error) // nil: nothing
}

var replacements = []replacement{
	{"hand-over", 600, handOver, nil},
	{"hand-over", 6000, handOver, nil},
	{"hand-over to a program that fails", 600, handOverToNothing, nil},
	{"hand-over, in a listing of the file", 600, handOver, listings},
	{"hand-over, the state's disk full", 600, handOver, fullDisk},
	{"restart", 600, restart, nil},
	{"restart", 6000, restart, nil},
	{"restart, the state's disk full", 600, restart, fullDisk},
	{"kill -9, started again at once", 600, crash, nil},
	{"nothing, in a flood", 600, nothing, flood},
	{"hand-over, in a flood", 600, handOver, flood},
	{"restart, in a flood", 600, restart, flood},
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
	if err := stateKept(ctx); err != nil {
		return nil, err
	}
	for _, r := range replacements {
		if source != "file" && strings.HasSuffix(r.name, "of the file") {
			continue // others are listed by each new process alone
		}
		var took []float64
		end := func() {}
		if r.beside != nil {
			if end, err = r.beside(ctx, b, u); err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
		}
		result, err := b.askMeanwhile(ctx, f, r.rate, func() error {
			for range b.replacements(f.machines()) {
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
		end()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
		b.say("  %d machines, %s, %s: %s", f.machines(), source, r.name, result)
		rows = append(rows, []string{strconv.Itoa(f.machines()), source, r.name, strconv.Itoa(r.rate), strconv.Itoa(result.Asked), strconv.Itoa(result.Lost),
			strconv.Itoa(result.ServFail), strconv.Itoa(result.Wrong), strconv.Itoa(result.Resets), milli(result.Longest), fmt.Sprintf("%.0f", median(took))})
	}
	return rows, nil
}

// stateKept waits until a last known state is on disk.
func stateKept(ctx context.Context) error {
	client := http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if resp, err := client.Get("http://" + at("127.0.0.1", portAdmin) + "/metrics"); err == nil {
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil && strings.Contains(string(text), "\ndnsd_registry_state_saved_timestamp_seconds 1") {
				return nil
			}
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("no state is saved within %s", patience)
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
	// A disk of its own, which fullDisk can fill.
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, diskSize); err != nil {
		return nil, fmt.Errorf("mounting a tmpfs: %w", err)
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
	// Machines of one network: a single one may have few connections at a time.
	const clients = 16
	var dialed atomic.Uint32
	client := &steady.Client{
		Dial: func(network string) (net.Conn, error) {
			from := clientAddr(home).As16()
			from[13] = byte(dialed.Add(1) % clients) // of another /112
			d := net.Dialer{LocalAddr: &net.UDPAddr{IP: from[:]}}
			if network == "tcp" {
				d.LocalAddr = &net.TCPAddr{IP: from[:]}
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

// diskSize is many times what a million machines take.
const diskSize = "size=2g"

// fullDisk leaves no room on the state's disk.
func fullDisk(_ context.Context, _ *bench, u *unit.Unit) (stop func(), err error) {
	i := slices.Index(u.Args, "--state-dir")
	dir := u.Args[i+1]
	for range 10 { // a save may come between
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			return nil, err
		}
		size := fmt.Sprint("size=", (fs.Blocks-fs.Bfree)*uint64(fs.Bsize))
		if err = unix.Mount("", dir, "", unix.MS_REMOUNT, size); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("filling the disk: %w", err)
	}
	return func() { _ = unix.Mount("", dir, "", unix.MS_REMOUNT, diskSize) }, nil
}

// listings has the process list its registry file again and again.
func listings(ctx context.Context, _ *bench, u *unit.Unit) (stop func(), err error) {
	ctx, end := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for pause(ctx, 50*time.Millisecond) == nil {
			u.Signal(syscall.SIGHUP)
		}
	}()
	return func() { end(); <-done }, nil
}

// flood has another network ask as much as it can, and returns when that is known.
func flood(ctx context.Context, _ *bench, _ *unit.Unit) (stop func(), err error) {
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
