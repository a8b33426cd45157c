package forward

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/turns"
)

// Forwarder resolves names through upstreams. It is safe for concurrent use, and a
// prometheus.Collector of its metrics.
type Forwarder struct {
	cfg     Config // set once, as are those down to turns
	log     *slog.Logger
	guard   *guard
	metrics *metrics
	cache   *cache
	limits  *limiter
	turns   *turns.Queue // for reading large answers

	routes atomic.Pointer[routes]

	life        context.Context // of background work; set once, as is end
	end         context.CancelFunc
	apart       sync.WaitGroup // background work; added to with mu held, and not after ended
	connections sync.WaitGroup // to upstreams

	mu       sync.Mutex
	flights  map[flightKey]*flight // guarded by mu
	watches  map[question]*watch   // guarded by mu
	probes   loopProbes            // guarded by mu
	loopSeen bool                  // guarded by mu
	running  bool                  // guarded by mu; Run has begun
	ended    bool                  // guarded by mu; nothing more may be started
}

// New returns a forwarder. It starts nothing and opens nothing.
func New(cfg Config) (*Forwarder, error) {
	if cfg.Timeout < 0 || cfg.TryTimeout < 0 || cfg.MaxInflight < 0 || cfg.Descriptors < 0 {
		return nil, errors.New("forwarding: time-outs and bounds must not be negative")
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, DefaultTimeout)
	cfg.TryTimeout = min(cmp.Or(cfg.TryTimeout, DefaultTryTimeout), cfg.Timeout)
	cfg.MaxInflight = cmp.Or(cfg.MaxInflight, DefaultMaxInflight)
	cfg.CacheBytes = cmp.Or(cfg.CacheBytes, DefaultCacheBytes)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Forwarder{
		cfg: cfg, log: cfg.Logger, guard: &guard{log: cfg.Logger}, metrics: newMetrics(),
		cache: newCache(cfg.CacheBytes, cfg.PerNetwork), limits: newLimiter(cfg.MaxInflight), turns: turns.New(turns.Half()),
		flights: make(map[flightKey]*flight), watches: make(map[question]*watch),
	}
	f.life, f.end = context.WithCancel(context.Background())
	f.metrics.gauge("cache_entries", "Answers kept, expired ones included.",
		func() float64 { n, _ := f.cache.stats(); return float64(n) })
	f.metrics.gauge("cache_bytes", "What the kept answers take, with overhead.",
		func() float64 { _, size := f.cache.stats(); return float64(size) })
	f.metrics.gauge("inflight", "Questions admitted whose response is not out yet, renewals included.",
		func() float64 { return float64(f.limits.inflight()) })
	f.metrics.gauge("places", "How many questions may be admitted at once.",
		func() float64 { return float64(f.limits.size()) })
	f.routes.Store(&routes{})
	if err := f.Update(cfg.Upstreams); err != nil {
		return nil, err
	}
	return f, nil
}

// Run probes upstreams and renews answers until ctx ends. It returns nil when everything that
// the forwarder started has ended. Resolve must not be called after that.
func (f *Forwarder) Run(ctx context.Context) error {
	f.mu.Lock()
	f.running = true
	for _, u := range f.routes.Load().all {
		f.start("probing an upstream", u.keepProbing)
	}
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	f.ended = true
	upstreams := f.routes.Load().all
	f.mu.Unlock()
	f.end()
	f.apart.Wait()
	for _, u := range upstreams {
		u.pool.close()
	}
	f.connections.Wait()
	return nil
}

// spawn runs fn in a goroutine that Run waits for. False: Run has ended.
func (f *Forwarder) spawn(doing string, fn func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.start(doing, fn)
}

// start is spawn for a caller that holds mu.
func (f *Forwarder) start(doing string, fn func()) bool {
	if f.ended {
		return false
	}
	f.apart.Go(func() { f.guard.run(doing, fn) })
	return true
}

// Panics returns how many panics were recovered. Callers recover those of Immediate and
// Resolve.
func (f *Forwarder) Panics() uint64 { return f.guard.panics.Load() }

// Places returns how many questions may be admitted at once: Config.MaxInflight, or fewer
// where Config.Descriptors requires it.
func (f *Forwarder) Places() int { return f.limits.size() }

// Immediate returns the reply that needs no waiting: a kept answer, that to a special name,
// or a refusal. Nil: the question has taken a place; Resolve may answer it, and Release must
// follow. Immediate neither blocks nor, for a kept answer, allocates.
//
// Every question that dnsd would forward must come here first, since loops are noticed here.
func (f *Forwarder) Immediate(q *Query) *Reply {
	if r := f.kept(q); r != nil {
		return r
	}
	if r := specialReply(q); r != nil {
		return r
	}
	if r := f.returned(q); r != nil {
		return r
	}
	if !q.RD {
		return replyNoRecursion
	}
	if len(f.route(q.Name)) == 0 {
		return failureOf(errNoUpstream)
	}
	if q.place = f.limits.take(q.Network); q.place == nil {
		f.metrics.refused.Inc()
		return replyBusy
	}
	return nil
}

// Release gives back the place that Immediate took for q, which may be a copy. It is called
// when the response is sent or given up.
func (f *Forwarder) Release(q *Query) { q.place.leave() }

// kept returns a fresh answer from the cache, or nil. It renews one that is about to expire.
func (f *Forwarder) kept(q *Query) *Reply {
	e := f.cache.get(f.cache.keyOf(q), q.Name)
	if e == nil {
		return nil
	}
	now := time.Now()
	if !now.Before(e.fresh) {
		return nil
	}
	if !e.used.Load() {
		e.used.Store(true)
	}
	if e.fixed {
		f.metrics.stale.Inc()
	} else if q.Hits != nil {
		q.Hits.Add(1)
	}
	if !e.refresh.IsZero() && now.After(e.refresh) && e.refreshing.CompareAndSwap(false, true) {
		f.renew(e, q)
	}
	return &e.Reply
}

// renew asks again for an answer, if the network that uses it has a place for that.
func (f *Forwarder) renew(e *entry, q *Query) {
	p := f.limits.takeOf(q.Network, renewalShare)
	if p == nil {
		return
	}
	again := *q
	again.Name, again.RD, again.place = e.name, true, p
	f.spawn("renewing an answer", func() {
		defer p.leave()
		r := f.fly(f.life, &again, true)
		if r.Rcode != dns.RcodeServerFailure && !r.fixed && !r.partial {
			f.metrics.refreshed.Inc()
		}
	})
}

// Resolve answers a question for which Immediate has taken a place. It takes at most
// Config.Timeout and never returns nil: failures are SERVFAIL with an EDE that says why.
// After a stale answer the query goes on, in the question's place, for the rest of that time.
func (f *Forwarder) Resolve(ctx context.Context, q *Query) *Reply {
	f.metrics.misses.Inc()
	r := f.fly(ctx, q, false)
	if r.fixed {
		f.metrics.stale.Inc()
	}
	return r
}

// route returns the upstreams of the longest configured domain that a name lies in.
func (f *Forwarder) route(name []byte) []*upstream {
	routes := f.routes.Load().domains
	for domain := range domains(name) {
		if ups, ok := routes[string(domain)]; ok {
			return ups
		}
	}
	return nil
}
