package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

const (
	// refreshWorkers is how many answers are renewed at once. Being late costs
	// a client one wait, so that few will do.
	refreshWorkers = 16
	// refreshQueue is how many answers may wait for renewal; beyond it they
	// expire and the next client's question renews them.
	refreshQueue = 256
)

// Forwarder resolves names through upstreams. Its methods are safe for
// concurrent use. It is also a prometheus.Collector of its metrics.
type Forwarder struct {
	cfg       Config // set once, as are those down to refreshes
	log       *slog.Logger
	metrics   *metrics
	upstreams []*upstream
	pools     []*streams
	routes    map[string][]*upstream // by domain in wire form
	cache     *cache
	limits    *limiter
	refreshes chan *entry

	readers sync.WaitGroup // of the connections to upstreams

	life  context.Context // of the flights that outlive their callers; set once, as is end
	end   context.CancelFunc
	apart sync.WaitGroup // counts them; added to under mu and not once ended

	mu       sync.Mutex
	flights  map[flightKey]*flight // guarded by mu
	watches  map[question]*watch   // guarded by mu
	probes   map[string]*probes    // guarded by mu; by name in wire form
	loopSeen bool                  // guarded by mu
	ended    bool                  // guarded by mu; no flight may outlive its caller any more
}

// New returns a forwarder after cfg. It starts nothing and opens nothing.
func New(cfg Config) (*Forwarder, error) {
	if cfg.Timeout < 0 || cfg.TryTimeout < 0 || cfg.MaxInflight < 0 {
		return nil, errors.New("forwarding: time-outs and bounds must not be negative")
	}
	cfg.Timeout = orDefault(cfg.Timeout, DefaultTimeout)
	cfg.TryTimeout = min(orDefault(cfg.TryTimeout, DefaultTryTimeout), cfg.Timeout)
	cfg.MaxInflight = orDefault(cfg.MaxInflight, DefaultMaxInflight)
	cfg.CacheBytes = orDefault(cfg.CacheBytes, DefaultCacheBytes)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c, err := newCache(cfg.CacheBytes, cfg.PerNetwork)
	if err != nil {
		return nil, err
	}
	f := &Forwarder{
		cfg: cfg, log: cfg.Logger, metrics: newMetrics(), cache: c, limits: newLimiter(cfg.MaxInflight),
		routes: make(map[string][]*upstream), refreshes: make(chan *entry, refreshQueue),
		flights: make(map[flightKey]*flight), watches: make(map[question]*watch), probes: make(map[string]*probes),
	}
	f.life, f.end = context.WithCancel(context.Background())
	f.metrics.gauges(
		func() float64 { return float64(c.entries.EstimatedSize()) },
		func() float64 { return float64(c.entries.WeightedSize()) },
		func() float64 { return float64(f.limits.inflight()) })
	if err := f.connect(); err != nil {
		return nil, err
	}
	return f, nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// connect makes the routes. Upstreams that differ only in their domain are one
// place with one health.
func (f *Forwarder) connect() error {
	known := make(map[string]*upstream)
	for _, up := range f.cfg.Upstreams {
		if !up.Addr.IsValid() {
			return fmt.Errorf("upstream %q has no address", up)
		}
		domain, err := packName(dns.CanonicalName(up.Domain))
		if err != nil {
			return fmt.Errorf("upstream %s: domain: %w", up, err)
		}
		label := up.endpoint()
		u, ok := known[label]
		if !ok {
			m := f.metrics.of(label)
			pool := &streams{
				dial: dialer(up, &f.cfg), timeout: f.cfg.TryTimeout, metrics: m,
				group: &f.readers, live: make(map[*stream]struct{}),
			}
			u = &upstream{
				label: label, net: newSocket(up.Addr, m, pool, !up.TLS),
				metrics: m, log: f.log, kick: make(chan struct{}, 1),
			}
			known[label] = u
			f.upstreams = append(f.upstreams, u)
			f.pools = append(f.pools, pool)
		}
		f.routes[string(domain)] = append(f.routes[string(domain)], u)
	}
	return nil
}

// Run probes upstreams and renews answers until ctx ends, and returns nil when
// everything that the forwarder started has ended. Resolve may be called only
// before that.
func (f *Forwarder) Run(ctx context.Context) error {
	var g sync.WaitGroup
	for _, u := range f.upstreams {
		g.Go(func() { u.probe(ctx) })
	}
	for range refreshWorkers {
		g.Go(func() { f.renew(ctx) })
	}
	<-ctx.Done()
	g.Wait()
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	f.end()
	f.apart.Wait()
	for _, p := range f.pools {
		p.close()
	}
	f.readers.Wait()
	return nil
}

// Replies that need nothing of the question.
var (
	replyNoRecursion = failure(dns.RcodeRefused, dns.ExtendedErrorCodeOther, "not in the cache, and the query asks for no recursion (RD=0)")
	replyBusy        = failure(dns.RcodeServerFailure, dns.ExtendedErrorCodeNetworkError, "too many questions of this network are waiting for upstreams")
)

// Immediate says what can be said of a question without waiting: a kept
// answer, a name that is never forwarded, a refusal. Nil: ask Resolve. It
// neither blocks nor, when the answer is kept, allocates.
//
// It must see every question that dnsd would forward, since this is where one
// that comes back in a loop is noticed.
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
	if !f.limits.room(q.Network) {
		f.metrics.refused.Inc()
		return replyBusy
	}
	return nil
}

// kept returns a fresh answer from the cache, or nil, and has it renewed when
// it is about to expire.
func (f *Forwarder) kept(q *Query) *Reply {
	e := f.cache.get(f.cache.keyOf(q), q.Name)
	if e == nil {
		return nil
	}
	now := time.Now()
	if !now.Before(e.fresh) {
		return nil
	}
	if e.fixed {
		f.metrics.stale.Inc()
	} else {
		f.metrics.hits.inc(q.Worker)
	}
	if !e.refresh.IsZero() && now.After(e.refresh) && e.refreshing.CompareAndSwap(false, true) {
		select {
		case f.refreshes <- e:
		default:
		}
	}
	return &e.Reply
}

// Resolve answers a question through the upstreams; what Immediate answers, it
// answers the same. It takes at most Config.Timeout and never returns nil:
// failures are SERVFAIL with an EDE that says why. After a stale answer the
// question stays upstream, and in the place it took, for the rest of that time.
func (f *Forwarder) Resolve(ctx context.Context, q *Query) *Reply {
	if r := f.Immediate(q); r != nil {
		return r
	}
	if !f.limits.take(q.Network) {
		f.metrics.refused.Inc()
		return replyBusy
	}
	f.metrics.misses.Inc()
	network := q.Network
	r := f.fly(ctx, q, false, func() { f.limits.give(network) })
	if r.fixed {
		f.metrics.stale.Inc()
	}
	return r
}

// renew asks again for answers in use that are about to expire.
func (f *Forwarder) renew(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-f.refreshes:
			if !f.limits.takeRefresh() {
				continue
			}
			r := f.fly(ctx, &Query{
				Name: e.name, Type: e.key.qtype, Class: e.key.class, DO: e.key.do, CD: e.key.cd,
				RD: true, Network: e.key.network,
			}, true, f.limits.giveRefresh)
			if r.Rcode != dns.RcodeServerFailure && !r.fixed && !r.partial {
				f.metrics.refreshed.Inc()
			}
		}
	}
}

// route returns the upstreams of the longest configured domain that a name lies in.
func (f *Forwarder) route(name []byte) []*upstream {
	for off := 0; off < len(name); off += 1 + int(name[off]) {
		if ups, ok := f.routes[string(name[off:])]; ok {
			return ups
		}
	}
	return nil
}

// failureOf returns the reply that says why nothing could be resolved.
func failureOf(err error) *Reply {
	var loop *loopError
	if errors.As(err, &loop) {
		return failure(dns.RcodeServerFailure, dns.ExtendedErrorCodeOther, err.Error())
	}
	return failure(dns.RcodeServerFailure, dns.ExtendedErrorCodeNoReachableAuthority, err.Error())
}

// failureReply turns the outcome of a question without an answer into a reply:
// the upstream's own failure, with its reasons, if it named any.
func failureReply(o *outcome) *Reply {
	if o.m == nil {
		return failureOf(o.err)
	}
	r := failure(dns.RcodeServerFailure, dns.ExtendedErrorCodeNoReachableAuthority,
		fmt.Sprintf("upstream %s answered %s", o.from.label, rcodeName(o.m.Rcode)))
	if edes := edesOf(o.m); len(edes) > 0 {
		r.EDE = edes
	}
	return r
}

// isVerdict says whether a failure is what the upstream thinks of the data, and
// not an outage that a stale answer may bridge: DNSSEC validation failed (codes
// 5 to 12, 25 and 27 of the registry of RFC 8914) or the name is blocked (15 to 18).
func isVerdict(edes []wire.EDE) bool {
	for _, e := range edes {
		if c := e.Code; c >= 5 && c <= 12 || c >= 15 && c <= 18 || c == 25 || c == 27 {
			return true
		}
	}
	return false
}
