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

// exchanger carries one message to one upstream and brings its answer.
type exchanger interface {
	// exchange returns the first answer that matches, or an error once ctx
	// ends or the network says that there will be none. It does not retry.
	// Safe for concurrent use.
	exchange(ctx context.Context, m *message) (*dns.Msg, error)
}

// Health and latency of an upstream.
const (
	// suspectAfter is how many queries in a row must end without an answer
	// before the upstream is probed. What clients ask can cause that (names whose
	// own servers are dead), so that it is a suspicion, and the probe decides.
	suspectAfter = 3
	// unwellAfter is how many answers in a row must be SERVFAIL, REFUSED or the
	// like before other upstreams are preferred. It is no more than an order of
	// preference, since clients can cause that too.
	unwellAfter = 10

	probeTimeout  = time.Second
	probeFirst    = 200 * time.Millisecond // after an upstream went down: a restart is soon over
	probeSlowest  = 10 * time.Second       // one small query; recovery is noticed this late at worst
	raceDelayMin  = 20 * time.Millisecond  // less, and a garbage collection starts a race
	raceDelayMax  = 400 * time.Millisecond // more, and the race comes too late to help
	raceDelayOpen = 200 * time.Millisecond // while nothing is measured
)

// upstream is one place to ask, shared by all domains that it serves.
type upstream struct {
	label   string // as configured, for people
	net     exchanger
	metrics *upstreamMetrics
	log     *slog.Logger
	kick    chan struct{} // asks the prober for a probe; one slot

	mu     sync.Mutex
	srtt   time.Duration // guarded by mu; smoothed latency (RFC 6298); zero: not measured
	rttvar time.Duration // guarded by mu; its mean deviation
	silent int           // guarded by mu; queries in a row without an answer
	unwell int           // guarded by mu; answers in a row that were failures
	down   bool          // guarded by mu; asked by the prober only
}

// answered records an answer that took d.
func (u *upstream) answered(d time.Duration, rcode int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.silent = 0
	switch rcode {
	case dns.RcodeSuccess, dns.RcodeNameError, dns.RcodeYXDomain:
		u.unwell = 0
	default:
		u.unwell++
	}
	u.measure(d)
}

// unanswered records a query that had no answer for d, because of err. One
// that was called off because another upstream was faster counts as well: else a
// silent upstream that is always overtaken would stay the first choice.
func (u *upstream) unanswered(d time.Duration, err error) {
	if isLocal(err) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if d > u.srtt {
		u.measure(d)
	}
	u.silent++
	if u.down {
		return
	}
	if isRefusal(err) { // nobody's question can cause that
		u.setDown(err)
		u.suspect()
	} else if u.silent >= suspectAfter {
		u.suspect()
	}
}

// measure takes one sample of the latency. The caller holds mu.
func (u *upstream) measure(d time.Duration) {
	if u.srtt == 0 {
		u.srtt, u.rttvar = d, d/2
		return
	}
	u.rttvar += ((u.srtt - d).Abs() - u.rttvar) / 4
	u.srtt += (d - u.srtt) / 8
}

// suspect wakes the prober.
func (u *upstream) suspect() {
	select {
	case u.kick <- struct{}{}:
	default:
	}
}

// setDown takes the upstream out of service. The caller holds mu.
func (u *upstream) setDown(err error) {
	u.down = true
	u.metrics.up.Set(0)
	u.log.Warn("upstream is down", "upstream", u.label, "err", err)
}

// setUp puts the upstream back into service.
func (u *upstream) setUp() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.silent = 0
	if u.down {
		u.down = false
		u.metrics.up.Set(1)
		u.log.Info("upstream is up again", "upstream", u.label)
	}
}

func (u *upstream) isDown() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.down
}

// patience returns how long the upstream is waited for before another is asked
// as well: about as long as all but its slowest answers take.
func (u *upstream) patience() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.srtt == 0 {
		return raceDelayOpen
	}
	return min(max(u.srtt+4*u.rttvar, raceDelayMin), raceDelayMax)
}

// probe keeps watch over the upstream until ctx ends: it asks when told to, and
// while the upstream is down, ever more slowly, until there is an answer.
func (u *upstream) probe(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.kick:
		}
		if !u.isDown() {
			u.probeOnce(ctx)
		}
		for wait := probeFirst; u.isDown(); wait = min(2*wait, probeSlowest) {
			select {
			case <-ctx.Done():
				return
			// Jitter, lest every dnsd of a platform asks in step.
			case <-time.After(wait/2 + rand.N(wait/2)):
			}
			u.probeOnce(ctx)
		}
	}
}

// probeOnce asks for the root's nameservers without recursion: a resolver
// answers that at once from what it has, or refuses, and either shows that it lives.
func (u *upstream) probeOnce(ctx context.Context) {
	ask, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := u.net.exchange(ask, newMessage(&Query{Name: []byte{0}, Type: dns.TypeNS, Class: dns.ClassINET}, false))
	if err == nil || errors.Is(err, errMalformed) || errors.Is(err, errNeedsTCP) {
		u.setUp()
		return
	}
	if ctx.Err() != nil || isLocal(err) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.down {
		u.setDown(err)
	}
}

// preferred returns the upstreams in the order in which they are to be asked:
// those that answer properly, by latency; those that are down not at all.
func preferred(route []*upstream) []*upstream {
	type candidate struct {
		u      *upstream
		unwell bool
		srtt   time.Duration
	}
	list := make([]candidate, 0, len(route))
	for _, u := range route {
		u.mu.Lock()
		if !u.down {
			list = append(list, candidate{u, u.unwell >= unwellAfter, u.srtt})
		}
		u.mu.Unlock()
	}
	slices.SortStableFunc(list, func(a, b candidate) int {
		if a.unwell != b.unwell {
			if a.unwell {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.srtt, b.srtt)
	})
	ups := make([]*upstream, len(list))
	for i, c := range list {
		ups[i] = c.u
		if i > 0 {
			c.u.fade()
		}
	}
	return ups
}

// fade lets the latency of an upstream that is not the first choice look better
// by and by, so that it is tried again and what it can do now is known.
func (u *upstream) fade() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.srtt -= u.srtt / 64
}

// isLocal says whether an error is this machine's own, such as a lack of file
// descriptors, and so says nothing about the upstream.
func isLocal(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EACCES, syscall.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// isRefusal says whether the network reported that nobody is there.
func isRefusal(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH)
}
