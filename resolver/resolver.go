// Package resolver is dnsd's DNS side: it reads requests from UDP and TCP,
// routes each question to one of dnsd's own zones or to the forwarder, and
// writes the response. It knows the rules of DNS and nothing of what the zones
// hold.
//
// The rules are in one place, worker.respond, which does no I/O and never waits. An
// answer is computed from the question, the client's view and one consistent
// state of a zone; what differs from one response to the next (id, case of the
// question, turn of the addresses, size, OPT) is settled when the answer is
// written. Sockets are owned by one goroutine each, with its buffers and its
// counters, so that answering shares nothing that is written.
package resolver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"dnsd/resolver/forward"
	"dnsd/resolver/internal/turns"
	"dnsd/resolver/internal/wire"
)

// Proto is the transport of a request.
type Proto uint8

// The transports.
const (
	UDP Proto = iota
	TCP
)

// Limits of UDP responses, in bytes.
const (
	// minUDPSize is what every client takes (RFC 1035, section 4.2.1); a
	// smaller size in an OPT counts as this (RFC 6891, section 6.2.3).
	minUDPSize = 512
	// DefaultMaxUDPSize fits an IPv6 path of the smallest MTU, 1280, without
	// fragments: less 40 for the IP header and 8 for UDP (DNS flag day 2020).
	DefaultMaxUDPSize = 1232
	// maxUDPPayload is the longest UDP payload over IPv4.
	maxUDPPayload = 65507
)

const (
	// mostSockets is how many sockets an address gets where nobody asks for
	// more, and half the processors where that is less. Each answers some
	// 100,000 queries a second and keeps answers of its own. Fewer sockets
	// find more packets at each look: on two processors one socket took 20 a
	// batch and a tenth less CPU a query than two did, which took 13 and
	// waited three times as often.
	mostSockets = 8
	// defaultMaxTCPConns bounds descriptors and some 10 KiB a connection.
	// TCP carries only what does not fit into UDP.
	defaultMaxTCPConns = 1024
	// defaultMaxLanes is more than the networks of a host, which has some hundred
	// machines.
	defaultMaxLanes = 256
	// defaultTCPIdle is "a few seconds" (RFC 7766, section 6.2.3).
	defaultTCPIdle = 10 * time.Second
	// defaultDrain leaves a waiting upstream question some time and still ends
	// well within the 10 s that container platforms give before SIGKILL.
	defaultDrain = 3 * time.Second
)

// Config is what a Resolver is made of. Zero values mean the defaults.
type Config struct {
	Listen []netip.AddrPort // UDP and TCP; port 0: any free port, the same for both
	Given  []*os.File       // sockets of such addresses that are bound already; Listen closes the files
	Zones  []Zone           // the longest matching origin answers
	Viewer Viewer           // needed where there are zones

	// Epoch returns a number that goes up whenever channels of the zones' or the
	// viewer's have closed, before anybody can see why. While it is the same,
	// they need not be looked at. Nil: they always are. Safe for concurrent use.
	Epoch func() uint64

	// Forward answers the names outside the zones. Nil (and not a nil pointer of
	// some type): they are REFUSED.
	Forward Forwarder

	// Kernel answers what it can before a socket is reached. Nil (and not a nil pointer
	// of some type): nothing. Every client whose address lies in the network of its view
	// must share that network with all other addresses of it.
	Kernel Kernel

	// Panics counts panics that were survived elsewhere and belong to
	// dnsd_panics_total as well. Safe for concurrent use. Nil: none.
	Panics func() uint64

	// Allow lists clients that are served beside fdaa::/16 and loopback.
	Allow []netip.Prefix

	MaxUDPSize  int           // bytes; the most a UDP response has; default 1232
	Sockets     int           // UDP sockets per address of Listen; default half of GOMAXPROCS, 1 to 8
	MaxTCPConns int           // default 1024
	MaxLanes    int           // sockets that send for networks whose responses wait in the kernel; default 256
	TCPIdle     time.Duration // how long a TCP connection may say nothing; default 10 s
	Drain       time.Duration // how long Run waits for what is in hand; default 3 s

	Identity Identity
	Log      *slog.Logger // default: discards
}

// Forwarder answers names that are in none of the zones: *forward.Forwarder.
// All methods must be safe for concurrent use.
type Forwarder interface {
	// Immediate returns what can be said without waiting. Nil: the question has
	// to be resolved, and has taken a place for that.
	Immediate(q *forward.Query) *forward.Reply
	// Resolve asks upstream. It blocks, never returns nil, and ends soon
	// after ctx does.
	Resolve(ctx context.Context, q *forward.Query) *forward.Reply
	// Release gives back the place that Immediate took for the question or what
	// it is a copy of, once its response is out.
	Release(q *forward.Query)
}

// Resolver answers DNS questions. Make one with New, bind its addresses with
// Listen, serve with Run. It is a prometheus.Collector of its own metrics.
type Resolver struct {
	// Set once by New.
	cfg   Config
	zones []zone // longest origin first
	chaos map[string]*Answer
	nsid  string // empty: no NSID
	log   *slog.Logger
	conns *connTable
	turns *turns.Queue // of requests over TCP, and of answers that take long

	// Shortened by tests.
	messageTime  time.Duration // defaultMessageTime
	strangerTime time.Duration // defaultStrangerTime
	coldAnswers  int           // coldAnswers

	given     []*given  // not taken by an address yet; Listen's
	sockets   []*socket // set by Listen, under mu
	lanes     []*lanes  // set by Listen, one for each address, as are asides
	asides    []*aside
	acceptors []*acceptor // set by Listen

	panicLog limitedLog

	mu    sync.Mutex
	bound []netip.AddrPort // guarded by mu
	stats []*stats         // guarded by mu; each is written by its owner
}

// zone is a Zone with its origin in wire form.
type zone struct {
	Zone
	origin []byte // lower case, root label included
	labels int
}

// New checks cfg and returns a Resolver that does nothing yet. The error names
// every mistake.
func New(cfg Config) (*Resolver, error) {
	cfg = withDefaults(cfg)
	r := &Resolver{
		cfg:   cfg,
		log:   cfg.Log,
		conns: newConnTable(cfg.MaxTCPConns),
		turns: turns.New(turns.Half()),

		messageTime:  defaultMessageTime,
		strangerTime: defaultStrangerTime,
		coldAnswers:  coldAnswers,
	}
	var errs []error
	if cfg.MaxUDPSize < minUDPSize || cfg.MaxUDPSize > maxUDPPayload {
		errs = append(errs, fmt.Errorf("largest UDP response is %d bytes: want %d to %d", cfg.MaxUDPSize, minUDPSize, maxUDPPayload))
	}
	for i, a := range cfg.Listen {
		if !a.IsValid() {
			errs = append(errs, fmt.Errorf("listen address %d is not set", i+1))
		} else if slices.Contains(cfg.Listen[:i], a) && a.Port() != 0 {
			errs = append(errs, fmt.Errorf("listen address %s is given twice", a))
		}
	}
	if len(cfg.Zones) > 0 && cfg.Viewer == nil {
		errs = append(errs, errors.New("zones without a viewer"))
	}
	for _, z := range cfg.Zones {
		if err := r.addZone(z); err != nil {
			errs = append(errs, err)
		}
	}
	slices.SortStableFunc(r.zones, func(a, b zone) int { return len(b.origin) - len(a.origin) })
	if err := r.identify(cfg.Identity); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return r, nil
}

func withDefaults(cfg Config) Config {
	setDefault(&cfg.MaxUDPSize, DefaultMaxUDPSize)
	setDefault(&cfg.Sockets, min(max(runtime.GOMAXPROCS(0)/2, 1), mostSockets))
	setDefault(&cfg.MaxTCPConns, defaultMaxTCPConns)
	setDefault(&cfg.MaxLanes, defaultMaxLanes)
	setDefault(&cfg.TCPIdle, defaultTCPIdle)
	setDefault(&cfg.Drain, defaultDrain)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return cfg
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

func (r *Resolver) addZone(z Zone) error {
	origin := z.Origin()
	packed, err := wire.PackName(origin)
	if err != nil || origin != strings.ToLower(dns.Fqdn(origin)) {
		return fmt.Errorf("zone %q: want an absolute name in lower case", origin)
	}
	r.zones = append(r.zones, zone{Zone: z, origin: packed, labels: dns.CountLabel(origin)})
	return nil
}

// route returns the zone that the question's name is in, nil for a name outside.
func (r *Resolver) route(q *wire.Request) *zone {
	name := q.Name()
	for i := range r.zones {
		z := &r.zones[i]
		left := q.Labels() - z.labels
		if left >= 0 && q.LabelStart(left) == len(name)-len(z.origin) && bytes.HasSuffix(name, z.origin) {
			return z
		}
	}
	return nil
}

// ula is where all private networks lie (docs/names.md).
var ula = netip.MustParsePrefix("fdaa::/16")

// allowed reports whether the client, unmapped and without zone, is served:
// dnsd is never an open resolver.
func (r *Resolver) allowed(client netip.Addr) bool {
	if ula.Contains(client) || client.IsLoopback() {
		return true
	}
	for _, p := range r.cfg.Allow {
		if p.Contains(client) {
			return true
		}
	}
	return false
}
