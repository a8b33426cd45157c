package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"dnsd/cmd/dnsd/orders"
	"dnsd/registry"
	"dnsd/registry/follow"
	"dnsd/resolver"
	"dnsd/resolver/fastpath"
	"dnsd/resolver/forward"
	"dnsd/zones"

	"github.com/prometheus/client_golang/prometheus"
)

// daemon is all of dnsd at work: newDaemon makes it, listen binds its addresses,
// run serves.
type daemon struct {
	log       *slog.Logger
	reg       *registry.Registry
	source    follow.Source
	follower  *follow.Follower
	forwarder *forward.Forwarder // nil: --upstream none
	hosts     *nameservers       // whose upstreams the forwarder has; nil: flags name them
	share     descriptors
	resolver  *resolver.Resolver
	kernel    *fastpath.Path // nil: it answers nothing
	metrics   *prometheus.Registry
	admin     *admin // set by listen; nil: --metrics-listen none

	inherited inheritance
	drain     time.Duration // for what is in hand when another process has taken over
	next      *successor    // that has taken over; set by handOvers

	allProcessors func() // ends what halfTheProcessors began, where another process hands over to this one

	alone   chan struct{} // closed when no process hands over to this one any more
	unheard atomic.Bool   // the last message to systemd has failed
	// handingOver is what the hand-over under way does, or why the last one has failed;
	// nil: there was none.
	handingOver atomic.Pointer[string]
	ending      chan struct{} // closed when no new questions are taken, by nobody
}

// serve answers until ctx ends, and drains.
func serve(ctx context.Context, c *config, getenv func(string) string, stderr io.Writer) error {
	signal.Ignore(syscall.SIGPIPE) // a log that nobody can read is no reason to end
	lines := newLogWriter(stderr)
	go lines.run()
	defer lines.end()
	log := newLogger(c, lines)
	for _, s := range c.warnings {
		log.Warn(s)
	}
	d, err := newDaemon(c, getenv, log)
	if err != nil {
		return err
	}
	d.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "dnsd_log_dropped_total",
		Help: "Log lines dropped because whoever reads the log has stopped."}, func() float64 { return float64(lines.dropped.Load()) }))
	if err := d.listen(c); err != nil {
		return err
	}
	if d.inherited.old != nil {
		d.allProcessors = halfTheProcessors()
	}
	// The kernel keeps what arrives meanwhile, so that a restart answers no question
	// with SERVFAIL whose answer is on disk.
	d.follower.Load(ctx)
	return d.run(ctx)
}

func newLogger(c *config, stderr io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		options.ReplaceAttr = readable
		return slog.New(slog.NewJSONHandler(stderr, options))
	}
	return slog.New(slog.NewTextHandler(stderr, options))
}

// readable makes a value say in JSON what it says in text: encoding/json knows
// neither String nor units, and writes {} for a source and 1500000000 for 1.5s.
func readable(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case time.Time, slog.Level: // in JSON they read well
	case fmt.Stringer:
		a.Value = slog.StringValue(v.String())
	}
	return a
}

// newDaemon makes the parts. Nothing is bound and nothing runs yet.
func newDaemon(c *config, getenv func(string) string, log *slog.Logger) (_ *daemon, err error) {
	d := &daemon{log: log, reg: registry.New(), metrics: newMetrics(), inherited: inherited(),
		drain: min(c.UpstreamTimeout+time.Second, longestDrain),
		alone: make(chan struct{}), ending: make(chan struct{})}
	d.share = c.descriptors(openFiles())
	if d.source, err = c.Registry.source.open(c, getenv, log); err != nil {
		return nil, err
	}
	if d.forwarder, d.hosts, err = c.forwarder(d.share.forwarding, log); err != nil {
		return nil, err
	}
	d.follower = follow.New(d.reg, d.source, follow.Config{
		StaleAfter: c.StaleAfter, StateDir: c.StateDir, Log: log, OwnHost: c.Registry.kind.ownHost,
	})
	if c.Metrics.IsValid() {
		d.inherited.takeAdmin(c.Metrics)
	}
	d.kernel = openKernel(c, log)
	if d.resolver, err = newResolver(c, d, log); err != nil {
		return nil, err
	}
	if d.kernel != nil {
		d.reg.SetFence(d.kernel)
		d.metrics.MustRegister(carefully(d.kernel, log))
	}
	d.metrics.MustRegister(carefully(follow.NewCollector(d.follower), log), carefully(d.resolver, log))
	if own, ok := d.source.(prometheus.Collector); ok {
		d.metrics.MustRegister(carefully(own, log))
	}
	if d.forwarder != nil {
		d.metrics.MustRegister(carefully(d.forwarder, log))
	}
	return d, nil
}

// listen binds the addresses, all or none, and says which they are.
func (d *daemon) listen(c *config) (err error) {
	metrics := "none"
	if c.Metrics.IsValid() {
		if d.admin, err = listenAdmin(c.Metrics, d.inherited.admin, d.metrics, d.ready, d.log); err != nil {
			return err
		}
		metrics = d.admin.listener.Addr().String()
	}
	if err := d.resolver.Listen(); err != nil {
		if d.admin != nil {
			d.admin.listener.Close()
		}
		return err
	}
	network := "none"
	if c.Network.IsValid() {
		network = c.Network.String()
	}
	d.log.Info("dnsd listens", "version", version(), "listen", d.resolver.Addresses(),
		"metrics", metrics, "registry", d.source.String(),
		"upstreams", d.upstreams(c), "network", network, "region", cmp.Or(c.Region, "none"))
	if d.forwarder != nil {
		logBounds(d.log, d.share, d.forwarder.Places(), c.MaxInflight)
	}
	return nil
}

// upstreams says who is asked for names outside dnsd's zones.
func (d *daemon) upstreams(c *config) []string {
	switch {
	case d.forwarder == nil:
		return []string{"none"}
	case d.hosts != nil:
		return labels(d.hosts.upstreams())
	}
	return labels(c.Upstreams.list)
}

func newResolver(c *config, d *daemon, log *slog.Logger) (*resolver.Resolver, error) {
	internal := zones.New(d.reg, zones.Config{
		TTL: uint32(c.TTL / time.Second), Advertise: c.Advertise, API: c.API,
		Network: c.Network, Region: c.Region, Regions: c.regions, Version: version(), Anonymous: c.NoIdentity,
	})
	hostname, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("reading the host's name: %w", err)
	}
	var outside resolver.Forwarder // stays nil without a forwarder: an interface of nil is not
	var panics func() uint64
	if d.forwarder != nil {
		outside, panics = d.forwarder, d.forwarder.Panics
	}
	var kernel resolver.Kernel
	if d.kernel != nil {
		kernel = d.kernel
	}
	return resolver.New(resolver.Config{
		Kernel: kernel,
		Epoch:  d.reg.Epoch, Listen: c.Listen, Allow: c.Allow, MaxUDPSize: c.MaxUDPSize, Sockets: c.Sockets,
		Zones: internal.Zones(), Viewer: internal.Viewer(), Forward: outside, Panics: panics, MaxTCPConns: d.share.tcp, MaxLanes: d.share.lanes,
		Given:    d.inherited.sockets,
		Identity: resolver.Identity{Version: "dnsd " + version(), Hostname: hostname, Off: c.NoIdentity},
		Log:      log,
	})
}

// run serves until ctx ends, another process has taken over or a part fails.
// Questions in hand are finished before what answers them is stopped.
func (d *daemon) run(ctx context.Context) error {
	front, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	context.AfterFunc(front, func() { d.end(context.Cause(front)) })
	back, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	admin, stopAdmin := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAdmin()

	var parts sync.WaitGroup
	part := func(ctx context.Context, run func(context.Context) error) {
		parts.Go(func() {
			if err := run(ctx); err != nil {
				fail(err)
			}
		})
	}
	part(back, d.follower.Run)
	part(back, d.warnEmpty)
	part(back, d.signals)
	if d.forwarder != nil {
		part(back, d.forwarder.Run)
	}
	if d.hosts != nil {
		part(back, func(ctx context.Context) error { return d.hosts.follow(ctx, d.forwarder) })
	}
	parts.Go(func() { d.watchOld(back) })
	var err error
	if d.mayServe(front) {
		if d.admin != nil {
			part(admin, d.admin.run)
		}
		parts.Go(func() { d.supervise(front) })
		parts.Go(func() {
			d.handOvers(front, func() {
				if d.admin != nil {
					d.admin.handOver(stopAdmin)
				}
				d.resolver.DrainFor(d.drain)
				fail(errHandedOver)
			})
		})
		err = d.answerInKernel(front, d.resolver.Run)
	}
	stop()
	if !errors.Is(context.Cause(front), errHandedOver) {
		stopAdmin()
	}
	parts.Wait()
	if d.next != nil {
		// It is not waited for that this process is gone: a disk that hangs keeps
		// even a process that has ended.
		d.next.close()
	}
	if err == nil && ctx.Err() == nil {
		err = context.Cause(front)
	}
	if errors.Is(err, errHandedOver) {
		err = nil
	}
	if err == nil {
		d.log.Info("dnsd has ended")
	}
	return err
}

// end notes that no new questions are taken, unless another process takes them.
func (d *daemon) end(why error) {
	if errors.Is(why, errHandedOver) {
		return
	}
	close(d.ending)
	if d.isAlone() {
		d.notify("STOPPING=1")
	}
}

// watchOld closes d.alone when the process that hands over has ended, if there is one.
func (d *daemon) watchOld(ctx context.Context) {
	if d.inherited.old != nil {
		d.inherited.old.wait(ctx)
	}
	close(d.alone)
}

func (d *daemon) isAlone() bool {
	select {
	case <-d.alone:
		return true
	default:
		return false
	}
}

// mayServe waits until the registry is listed, if another process serves meanwhile,
// and tells that one. It returns false if ctx ends before.
func (d *daemon) mayServe(ctx context.Context) bool {
	old := d.inherited.old
	if old == nil {
		return true
	}
	listed := func() bool {
		s := d.reg.Status().State
		return s != registry.Listing && s != registry.Cached || d.isAlone()
	}
	if !await(ctx, listed) {
		return false
	}
	d.allProcessors()
	old.say(readyText)
	return true
}

// halfTheProcessors has this process use half of those that it may, until all is
// called: while it loads and lists, another process answers, and must not want for one.
func halfTheProcessors() (all func()) {
	n := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(max(n/2, 1))
	return func() {
		if os.Getenv("GOMAXPROCS") != "" {
			runtime.GOMAXPROCS(n)
		} else {
			runtime.SetDefaultGOMAXPROCS() // which follows a cgroup's limit from then on
		}
	}
}

// await polls until ok holds, and returns false if ctx ends before.
func await(ctx context.Context, ok func() bool) bool {
	const every = 10 * time.Millisecond
	for !ok() {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(every):
		}
	}
	return ctx.Err() == nil
}

// signals obeys SIGHUP and SIGUSR1 until ctx ends, first those that came while
// dnsd started.
func (d *daemon) signals(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-orders.Release:
			d.follower.Release()
		case <-orders.Reload:
			if source, ok := d.source.(reloader); ok {
				source.Reload()
				continue
			}
			d.log.Info("SIGHUP changes nothing: the registry comes as a stream", "registry", d.source.String())
		}
	}
}

// ready says whether internal names can be answered.
func (d *daemon) ready() (reason string, ok bool) {
	select {
	case <-d.ending:
		return "shutting down", false
	default:
	}
	status := d.reg.Status()
	reason = fmt.Sprintf("%s: %s", status.State, status.Source)
	if !status.SyncedAt.IsZero() {
		reason += ", listed at " + status.SyncedAt.UTC().Format(time.RFC3339)
	}
	if alive := d.reg.LastAlive(); !alive.IsZero() {
		reason += fmt.Sprintf(", last heard %s ago", time.Since(alive).Round(time.Second))
	}
	if status.Synced() && d.reg.Empty() {
		reason += ": " + emptyText
	}
	for _, why := range []string{status.Behind, status.Hold, status.Doubt, trouble(status.Problem, d.source), status.Unsaved} {
		if why != "" {
			reason += ": " + why
		}
	}
	return reason, status.Synced()
}
