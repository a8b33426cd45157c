package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// adminConnections is how many connections may be open at once: a few
	// scrapers, health checks and people. The descriptors are there for DNS.
	adminConnections = 64

	// A scrape of everything takes milliseconds. A client that takes longer to send
	// its few header lines, or to receive an answer, is broken or hostile.
	adminHeaderTimeout = 5 * time.Second
	adminReadTimeout   = 10 * time.Second
	adminWriteTimeout  = 10 * time.Second // net/http/pprof adds what a profile lasts

	// adminIdleTimeout keeps the connection of a scraper that comes each minute.
	adminIdleTimeout = 2 * time.Minute

	// adminHeaderBytes is many times what scrapers and health checks send.
	adminHeaderBytes = 16 << 10

	// Profiles last as long as their client says. So few at once leave most
	// connections to scrapes.
	adminProfiles = 4
	adminLongest  = 300 // seconds

	// adminLeave is how long a connection that was accepted before a hand-over may take
	// to send its request: a server that shuts down answers none any more.
	adminLeave = 100 * time.Millisecond

	// adminDrain is how long requests under way may take to end at shutdown.
	adminDrain = time.Second
)

// newMetrics returns a metrics registry with the metrics of any Go process and of
// the build.
func newMetrics() *prometheus.Registry {
	metrics := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "dnsd_build_info",
		Help:        "Always 1; its labels say which dnsd this is.",
		ConstLabels: thisBuild().labels(),
	})
	build.Set(1)
	metrics.MustRegister(build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return metrics
}

// admin is the listener for operators: metrics, health, profiles.
type admin struct {
	listener net.Listener
	server   *http.Server
	leaves   atomic.Bool // set by handOver: run waits for its context
}

// readiness says whether dnsd can answer internal names, and why or why not.
type readiness func() (reason string, ok bool)

// listenAdmin binds addr, unless given is a listener of it. Run serves it; without
// Run the caller closes it.
func listenAdmin(addr netip.AddrPort, given net.Listener, metrics *prometheus.Registry, ready readiness, log *slog.Logger) (*admin, error) {
	listener, err := given, error(nil)
	if listener == nil {
		listener, err = net.Listen("tcp", addr.String())
	}
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("--metrics-listen %s is in use, perhaps by another dnsd: "+
				"write another address, or none (who it is: ss -ltnp 'sport = :%d')", addr, addr.Port())
		}
		return nil, fmt.Errorf("binding --metrics-listen: %w", err)
	}
	conns := newAdminConns(adminConnections)
	return &admin{
		listener: listener,
		server: &http.Server{
			Handler:           conns.serving(adminMux(metrics, ready)),
			ConnState:         conns.state,
			ConnContext:       conns.context,
			ReadHeaderTimeout: adminHeaderTimeout,
			ReadTimeout:       adminReadTimeout,
			WriteTimeout:      adminWriteTimeout,
			IdleTimeout:       adminIdleTimeout,
			MaxHeaderBytes:    adminHeaderBytes,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		},
	}, nil
}

// run serves until ctx ends.
func (a *admin) run(ctx context.Context) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		drain, cancel := context.WithTimeout(context.Background(), adminDrain)
		defer cancel()
		if a.server.Shutdown(drain) != nil {
			a.server.Close()
		}
	})
	err := a.server.Serve(a.listener)
	if a.leaves.Load() {
		<-ctx.Done()
		err = http.ErrServerClosed
	}
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving --metrics-listen: %w", err)
}

// handOver leaves new connections to another process that has the listener, too, and
// calls stop, which is to end run, when those that there are have been answered.
func (a *admin) handOver(stop func()) {
	a.leaves.Store(true)
	a.listener.Close()
	time.AfterFunc(adminLeave, stop)
}

func adminMux(metrics *prometheus.Registry, ready readiness) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{Registry: metrics}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		reason, ok := ready()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		io.WriteString(w, reason+"\n")
	})
	profiles := make(chan struct{}, adminProfiles)
	mux.HandleFunc("GET /debug/pprof/", profiling(profiles, pprof.Index))
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", profiling(profiles, pprof.Profile))
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", profiling(profiles, pprof.Trace))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "dnsd "+version()+": /metrics /healthz /readyz /debug/pprof/\n")
	})
	return mux
}

// profiling bounds how many profiles are made at once, and how long each takes.
func profiling(places chan struct{}, profile http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s, _ := strconv.ParseFloat(r.FormValue("seconds"), 64); s > adminLongest {
			http.Error(w, fmt.Sprintf("a profile takes at most %d seconds", adminLongest), http.StatusBadRequest)
			return
		}
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		default:
			http.Error(w, fmt.Sprintf("%d profiles are being made: ask again", cap(places)), http.StatusServiceUnavailable)
			return
		}
		profile(w, r)
	}
}
