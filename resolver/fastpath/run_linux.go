//go:build linux && (amd64 || arm64)

package fastpath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// beat is how often the lease is renewed: six times for each.
	beat = lease / 6
	// settle is for how long devices that come and go are left to do so before they
	// are looked at, which takes a millisecond for some hundred.
	settle = 100 * time.Millisecond
	// rescan is how often devices are looked at without news, in case some was lost.
	rescan = 30 * time.Second
)

// Config configures a Path.
type Config struct {
	Devices []string     // patterns of names, as path.Match has them
	Limit   int          // of a response, in bytes
	Log     *slog.Logger // must not be nil
}

// Path is the kernel's part of answering: programs, devices and the Table.
type Path struct {
	*Table
	cfg    Config
	log    *slog.Logger
	kernel *kernelSide

	attached atomic.Int64 // devices

	// Owned by Run.
	listen  []netip.AddrPort
	devices map[int]*device // by index
	served  map[served]bool
	trouble string // the last error of scan
}

// Open loads the programs. Nothing is answered before Run. The error says what is
// missing: privileges, or a newer kernel.
func Open(cfg Config) (*Path, error) { return open(cfg, mostBlocks) }

func open(cfg Config, blocks int) (*Path, error) {
	k, err := load(blocks)
	if err != nil {
		return nil, err
	}
	return &Path{Table: newTable(k.memory, cfg.Limit, k.grace), cfg: cfg, log: cfg.Log, kernel: k,
		devices: make(map[int]*device), served: make(map[served]bool)}, nil
}

// Run has the kernel answer what comes to the given addresses, as far as they are
// this host's, until ctx ends; after that it answers nothing. While alive returns
// false, which is asked twice a second, the answers' lease is not renewed. It may be called once. What
// fails is logged, and left to the sockets.
func (p *Path) Run(ctx context.Context, listen []netip.AddrPort, alive func() bool) {
	p.listen = listen
	defer p.kernel.finish()
	ctx, stop := context.WithCancel(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop()
	part := func(run func() error) {
		parts.Go(func() {
			if err := p.carefully(run); err != nil {
				p.log.Error("the kernel answers no questions any more; the sockets do", "err", err)
				stop()
			}
		})
	}
	news := make(chan struct{}, 1)
	if file, err := openNews(); err != nil {
		p.log.Warn("devices that come and go are seen late only", "every", rescan, "err", err)
	} else {
		defer file.Close()
		part(func() error { return listenTo(ctx, file, news) })
	}
	part(func() error { return p.fill(ctx) })
	if why := notRouting(); why != "" {
		p.log.Warn(why)
	}
	if err := p.carefully(func() error { return p.watch(ctx, news, alive) }); err != nil {
		p.log.Error("the kernel answers no questions any more; the sockets do", "err", err)
	}
}

// watch follows the devices and renews the lease until ctx ends. Then no program runs
// any more.
func (p *Path) watch(ctx context.Context, news <-chan struct{}, alive func() bool) error {
	defer p.detach()
	defer p.end()
	beats, again := time.NewTicker(beat), time.NewTicker(rescan)
	defer beats.Stop()
	defer again.Stop()
	p.note(p.scan())
	p.log.Info("the kernel answers questions", "devices", p.attached.Load(), "patterns", p.cfg.Devices)
	for {
		if alive() {
			p.renew(monotonic())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-beats.C:
		case <-again.C:
			p.note(p.scan())
		case <-news:
			select {
			case <-ctx.Done():
			case <-time.After(settle):
			}
			select {
			case <-news:
			default:
			}
			p.note(p.scan())
		}
	}
}

// note logs what is wrong with devices, once until it is something else.
func (p *Path) note(err error) {
	text := ""
	if err != nil {
		text = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	if text != p.trouble && text != "" {
		p.log.Warn("the sockets answer what the kernel cannot", "err", text)
	}
	p.trouble = text
}

// carefully runs a part of Run, a panic of which must not cost the process.
func (p *Path) carefully(run func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("a panic: %v; please report this", v)
		}
	}()
	return run()
}

// listenTo reports news without telling what they are, until ctx ends.
func listenTo(ctx context.Context, file *os.File, news chan<- struct{}) error {
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 1<<16)
	for {
		_, err := file.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, syscall.ENOBUFS) { // some were lost, which is news
			return fmt.Errorf("reading news of devices: %w", err)
		}
		select {
		case news <- struct{}{}:
		default:
		}
	}
}

// notRouting says so if the kernel looks up no routes for programs.
func notRouting() string {
	const file = "/proc/sys/net/ipv6/conf/lo/forwarding"
	if value, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(value)) == "0" {
		return "net.ipv6.conf.all.forwarding is off, so that the kernel can answer nothing: it looks up no routes for programs"
	}
	return ""
}
