package forward

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// exchanger carries messages to one upstream. Safe for concurrent use.
type exchanger interface {
	// exchange returns the first answer that matches, or an error when ctx ends or
	// there can be none. It does not retry. On an error that could be forged it calls
	// doubt and goes on waiting; where doubt is nil the error ends the exchange.
	exchange(ctx context.Context, m *message, doubt func()) ([]byte, error)
}

// Health and latency of an upstream.
const (
	// suspectAfter is how many queries in a row must end without an answer before the
	// upstream is probed. Clients can cause that by names whose own servers are dead.
	suspectAfter = 3
	// unwellAfter is how many answers in a row must be SERVFAIL, REFUSED or the like
	// before other upstreams are preferred. It has no other effect, since clients can
	// cause that, too.
	unwellAfter = 10

	probeTimeout  = time.Second
	probeFirst    = 200 * time.Millisecond // after an upstream went down: restarts are short
	probeSlowest  = 10 * time.Second       // the longest until a recovery is noticed
	probeSpacing  = 20 * time.Millisecond  // between probes of one that is up, however often it is doubted
	raceDelayMin  = 20 * time.Millisecond  // less, and a garbage collection starts a race
	raceDelayMax  = 400 * time.Millisecond // more, and the race comes too late to help
	raceDelayOpen = 200 * time.Millisecond // while nothing is measured

	// sampleEvery is how often an upstream that is not the first choice gets a question
	// to measure it, and how long the answer is waited for.
	sampleEvery = time.Second

	// plainFor is how long an upstream that knows no EDNS is asked without. Finding out
	// whether that has changed costs one query.
	plainFor = 15 * time.Minute

	// loopsFor is how long an upstream comes last for names that it sent back, and
	// maxLoops for how many domains that is remembered: it is only a preference.
	loopsFor = time.Minute
	maxLoops = 1024
)

// Weights of one measurement of the latency, as divisors.
const (
	usualWeight  = 8 // RFC 6298, section 2
	sampleWeight = 2 // there is one a second
)

// upstream is an address to ask, shared by all domains that it serves.
type upstream struct {
	label   string // as configured
	net     exchanger
	pool    *streams
	metrics *upstreamMetrics
	log     *slog.Logger
	guard   *guard
	kick    chan struct{} // asks the prober for a probe; one slot

	life context.Context // of the prober and of samples
	end  context.CancelFunc

	mu      sync.Mutex
	srtt    time.Duration // guarded by mu; smoothed latency (RFC 6298); zero: not measured
	rttvar  time.Duration // guarded by mu; its mean deviation
	silent  int           // guarded by mu; queries in a row without an answer
	unwell  int           // guarded by mu; answers in a row that were failures
	sampled time.Time     // guarded by mu; when the last sample was sent
	plain   time.Time     // guarded by mu; until when it is asked without EDNS

	loops map[string]time.Time // guarded by mu; domains that it sends back, and until when that is remembered

	service context.Context         // guarded by mu; ended while the upstream is down
	setDown context.CancelCauseFunc // guarded by mu
}

func (f *Forwarder) newUpstream(up Upstream) *upstream {
	label := up.endpoint()
	m := f.metrics.of(label)
	pool := &streams{
		dial: dialer(up, &f.cfg), timeout: f.cfg.TryTimeout, metrics: m,
		group: &f.connections, guard: f.guard, live: make(map[*stream]struct{}),
	}
	u := &upstream{
		label: label, net: &asker{addr: up.Addr, metrics: m, streams: pool, useUDP: !up.TLS}, pool: pool,
		metrics: m, log: f.log, guard: f.guard, kick: make(chan struct{}, 1),
		loops: make(map[string]time.Time),
	}
	u.life, u.end = context.WithCancel(f.life)
	u.service, u.setDown = context.WithCancelCause(context.Background())
	return u
}

// exchange asks the upstream. A server that knows no EDNS may say FORMERR or
// NOTIMP to it, and is asked again without (RFC 6891, section 7).
func (u *upstream) exchange(ctx context.Context, m *message, doubt func()) ([]byte, error) {
	u.mu.Lock()
	plain := time.Now().Before(u.plain)
	u.mu.Unlock()
	if plain {
		return u.net.exchange(ctx, m.plain(), doubt)
	}
	b, err := u.net.exchange(ctx, m, doubt)
	if err != nil || !rejectsEDNS(b) {
		return b, err
	}
	b, err = u.net.exchange(ctx, m.plain(), doubt)
	if err == nil && !rejectsEDNS(b) {
		u.mu.Lock()
		u.plain = time.Now().Add(plainFor)
		u.mu.Unlock()
	}
	return b, err
}

// answered records an answer that took d.
func (u *upstream) answered(d time.Duration, good bool, weight time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.silent = 0
	if u.unwell++; good {
		u.unwell = 0
	}
	u.measure(d, weight)
}

// unanswered records a query that had no answer for d, because of err. One that ended because
// another upstream was faster counts, too: otherwise a silent upstream that is always
// overtaken would stay the first choice.
func (u *upstream) unanswered(d time.Duration, err error) {
	if isLocal(err) || errors.Is(err, errNeedsTCP) { // with which it has answered
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if d > u.srtt {
		u.measure(d, usualWeight)
	}
	if u.silent++; u.silent >= suspectAfter || isRefusal(err) {
		u.suspect()
	}
}

// measure takes one sample of the latency. The caller holds mu.
func (u *upstream) measure(d, weight time.Duration) {
	if u.srtt == 0 {
		u.srtt, u.rttvar = d, d/2
		return
	}
	u.rttvar += ((u.srtt - d).Abs() - u.rttvar) / max(weight/2, 2)
	u.srtt += (d - u.srtt) / weight
}

// suspect wakes the prober.
func (u *upstream) suspect() {
	select {
	case u.kick <- struct{}{}:
	default:
	}
}

// down takes the upstream out of service.
func (u *upstream) down(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.service.Err() == nil {
		u.setDown(err)
		u.metrics.up.Set(0)
		u.log.Warn("upstream is down", "upstream", u.label, "err", err)
	}
}

// up puts the upstream back into service.
func (u *upstream) up() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.silent = 0
	if u.service.Err() != nil {
		u.service, u.setDown = context.WithCancelCause(context.Background())
		u.metrics.up.Set(1)
		u.log.Info("upstream is up again", "upstream", u.label)
	}
}

// inService returns a context that ends when the upstream goes down.
func (u *upstream) inService() context.Context {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.service
}

func (u *upstream) isDown() bool { return u.inService().Err() != nil }

// raceDelay returns how long the upstream is waited for before another is asked as well:
// about as long as all but its slowest answers take.
func (u *upstream) raceDelay() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.srtt == 0 {
		return raceDelayOpen
	}
	return min(max(u.srtt+4*u.rttvar, raceDelayMin), raceDelayMax)
}

// keepProbing probes the upstream until its life ends: when told to and, ever more rarely,
// while it is down.
func (u *upstream) keepProbing() {
	for {
		select {
		case <-u.life.Done():
			return
		case <-u.kick:
		}
		u.prove()
		pause := probeSpacing
		for wait := probeFirst; u.isDown(); wait = min(2*wait, probeSlowest) {
			// Random, so that the dnsd of a platform do not all ask at once.
			if pause = 0; !sleep(u.life, wait/2+rand.N(wait/2)) {
				return
			}
			u.prove()
		}
		if !sleep(u.life, pause) {
			return
		}
	}
}

// sleep pauses and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// prove finds out whether the upstream is up; nothing else decides that. A refusal by the
// network is believed when two probes get one: to forge it, one would have to guess the
// ports of both during the moment for which they are open.
func (u *upstream) prove() {
	u.guard.run("probing an upstream", func() {
		err := u.probe()
		if isRefusal(err) {
			err = u.probe()
		}
		switch {
		case err == nil:
			u.up()
		case u.life.Err() == nil && !isLocal(err):
			u.down(err)
		}
	})
}

// probe asks for the root's nameservers without recursion. A resolver answers that at once,
// or refuses; either shows that it lives.
func (u *upstream) probe() error {
	ctx, cancel := context.WithTimeoutCause(u.life, probeTimeout, timeoutError{probeTimeout})
	defer cancel()
	_, err := u.net.exchange(ctx, newMessage(&Query{Name: []byte{0}, Type: dns.TypeNS, Class: dns.ClassINET}, false), nil)
	if errors.Is(err, errNeedsTCP) {
		return nil
	}
	return err
}

// wantsSample says whether a question for a name is to be sent to the upstream as a sample,
// and counts it as sent. An upstream that is not measured yet is preferred anyway.
func (u *upstream) wantsSample(name []byte) bool {
	now := time.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.srtt == 0 || now.Sub(u.sampled) < sampleEvery || u.mayLoop(name) {
		return false
	}
	u.sampled = now
	return true
}

// sample measures the upstream with a question whose answer nobody waits for.
func (u *upstream) sample(m *message) {
	ctx, cancel := context.WithTimeoutCause(u.life, sampleEvery, timeoutError{sampleEvery})
	defer cancel()
	start := time.Now()
	u.metrics.requests.Inc()
	b, err := u.exchange(ctx, m, nil)
	switch {
	case err == nil:
		u.answered(time.Since(start), isGood(uint16(b[3]&0xf)), sampleWeight)
	case u.life.Err() == nil:
		u.unanswered(time.Since(start), err)
	}
}

// loopsAt records that the upstream sends back a name, and probably those around it.
func (u *upstream) loopsAt(name []byte) {
	if len(name) == 1 {
		return // the root says nothing about other names
	}
	if parent := name[1+int(name[0]):]; len(parent) > 1 && int(parent[0])+2 < len(parent) {
		name = parent // unless that is a top-level domain or the root
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.loops) >= maxLoops {
		clear(u.loops)
	}
	u.loops[string(name)] = time.Now().Add(loopsFor)
}

// mayLoop says whether the upstream probably sends a name back. The caller holds mu.
func (u *upstream) mayLoop(name []byte) bool {
	for domain := range domains(name) {
		if until, ok := u.loops[string(domain)]; ok {
			return time.Now().Before(until)
		}
	}
	return false
}

// preferred returns the upstreams that are not down in the order in which they are to be
// asked for a name: by latency, and last those that fail or send the name back.
func preferred(route []*upstream, name []byte) []*upstream {
	type candidate struct {
		u    *upstream
		rank int
		srtt time.Duration
	}
	list := make([]candidate, 0, len(route))
	for _, u := range route {
		u.mu.Lock()
		c := candidate{u: u, srtt: u.srtt}
		if u.unwell >= unwellAfter {
			c.rank = 1
		}
		if u.mayLoop(name) {
			c.rank = 2
		}
		if u.service.Err() == nil {
			list = append(list, c)
		}
		u.mu.Unlock()
	}
	slices.SortStableFunc(list, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.srtt, b.srtt))
	})
	ups := make([]*upstream, len(list))
	for i, c := range list {
		ups[i] = c.u
	}
	return ups
}

// isLocal says whether an error is a lack of file descriptors, ports or the like on this
// host, and so says nothing about the upstream.
func isLocal(err error) bool {
	return !errors.Is(err, errReported) && isAny(err, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EAGAIN, syscall.EACCES, syscall.EPERM)
}

// isRefusal says whether the network reported that nobody is there.
func isRefusal(err error) bool {
	return errors.Is(err, errReported) || isUnreachable(err) || errors.Is(err, syscall.ECONNREFUSED)
}

func isUnreachable(err error) bool { return isAny(err, syscall.ENETUNREACH, syscall.EHOSTUNREACH) }

func isAny(err error, codes ...syscall.Errno) bool {
	var code syscall.Errno
	return errors.As(err, &code) && slices.Contains(codes, code)
}
