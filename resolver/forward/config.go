// Package forward resolves the names that dnsd has no authority for: it asks upstream
// resolvers, keeps their answers, and shares its capacity fairly among networks.
//
// [Forwarder.Immediate] gives the reply that needs no waiting (a kept answer, a special
// name, a refusal), or takes a place for the question. Then [Forwarder.Resolve] waits for
// an upstream, and [Forwarder.Release] gives the place back when the response is sent. A
// question passes the limiter (fair.go), the flights that let identical questions share one
// upstream query (flight.go), the policy that picks, races and retries upstreams (ask.go),
// and the exchanges (udp.go, stream.go). Answers are read in one pass (answer.go) and kept
// (cache.go).
package forward

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

// Defaults of a Config's zero fields.
const (
	// DefaultTimeout is how long stub resolvers wait before they ask again
	// (glibc and musl: 5 s); a later answer reaches nobody.
	DefaultTimeout = 5 * time.Second
	// DefaultTryTimeout leaves room for two and a half tries.
	DefaultTryTimeout = 2 * time.Second
	// DefaultMaxInflight is what four threads of Debian's unbound work on by default
	// (num-queries-per-thread: 1024) before they drop questions.
	DefaultMaxInflight = 4096
	// DefaultCacheBytes holds some 100,000 answers of the usual size.
	DefaultCacheBytes = 64 << 20
)

// Config says how to forward. Zero fields take the defaults above.
type Config struct {
	// Upstreams are asked for the names at and below their domains. None: every
	// question that is not special is answered SERVFAIL with an EDE.
	Upstreams []Upstream

	Timeout     time.Duration // for a question as a whole
	TryTimeout  time.Duration // for one query to one upstream
	MaxInflight int           // questions that are admitted at once, each until its response is sent
	Descriptors int           // file descriptors that forwarding may hold, which may lower MaxInflight; zero: any number
	CacheBytes  uint64        // bound on the memory of kept answers

	// PerNetwork keeps a cache for each Query.Network, so that no network can tell from an
	// answer's speed or TTL what another has asked.
	PerNetwork bool

	RootCAs *x509.CertPool // for the certificates of tls:// upstreams; nil: the system's
	Logger  *slog.Logger   // nil: nothing is logged
}

// Upstream is a resolver that names are forwarded to.
type Upstream struct {
	Domain string         // the domain it is asked for, lower case, absolute; ".": every name
	Addr   netip.AddrPort // where it listens
	TLS    bool           // DNS over TLS (RFC 7858) instead of UDP and TCP
	Name   string         // with TLS, the name its certificate must hold
}

// String returns the upstream as ParseUpstream reads it.
func (u Upstream) String() string {
	if u.Domain == "." {
		return u.endpoint()
	}
	return strings.TrimSuffix(u.Domain, ".") + "=" + u.endpoint()
}

// endpoint returns the upstream without its domain.
func (u Upstream) endpoint() string {
	if u.TLS {
		return "tls://" + u.Addr.String() + "#" + u.Name
	}
	return u.Addr.String()
}

// ParseUpstream reads ADDR, ADDR:PORT, [ADDR]:PORT or tls://ADDR#NAME, each optionally
// after DOMAIN=, which makes it the upstream of that domain only. The default port is 53,
// or 853 with tls. Errors say what to write instead.
func ParseUpstream(s string) (Upstream, error) {
	u := Upstream{Domain: "."}
	rest := s
	if domain, after, ok := strings.Cut(s, "="); ok {
		d, err := parseDomain(domain)
		if err != nil {
			return Upstream{}, fmt.Errorf("upstream %q: %w", s, err)
		}
		u.Domain, rest = d, after
	}
	port := uint16(53)
	if after, ok := strings.CutPrefix(rest, "tls://"); ok {
		addr, name, _ := strings.Cut(after, "#")
		if name == "" {
			return Upstream{}, fmt.Errorf("upstream %q: which name does its certificate hold? Write it after a #: tls://9.9.9.9#dns.quad9.net", s)
		}
		u.TLS, u.Name, rest, port = true, name, addr, 853
	}
	addr, err := parseAddr(rest, port)
	if err != nil {
		return Upstream{}, fmt.Errorf("upstream %q: %w", s, err)
	}
	u.Addr = addr
	return u, nil
}

// parseDomain reads a domain to forward and returns it lower case and absolute.
func parseDomain(s string) (string, error) {
	d := dns.CanonicalName(s)
	packed, err := wire.PackName(d)
	if err != nil || s == "" {
		return "", fmt.Errorf("%q is no domain: want one such as corp.example=10.0.0.1", s)
	}
	if special(packed) != nil {
		return "", fmt.Errorf("names under %s are answered by dnsd itself and never forwarded", d)
	}
	return d, nil
}

// parseAddr reads an address with or without a port.
func parseAddr(s string, port uint16) (netip.AddrPort, error) {
	bare := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		bare = s[1 : len(s)-1]
	}
	if addr, err := netip.ParseAddr(bare); err == nil {
		return netip.AddrPortFrom(addr.Unmap(), port), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is no address: want 10.0.0.1, 10.0.0.1:5353, [fd00::1]:53 or tls://9.9.9.9#dns.quad9.net", s)
	}
	if ap.Port() == 0 {
		return netip.AddrPort{}, errors.New("nothing listens on port 0: leave the port out for the usual one")
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

// ParseResolvConf returns the nameservers in the text of a resolv.conf(5), each once and
// without those for which self is true: dnsd must not be its own upstream. Like stub
// resolvers it ignores lines that it cannot read.
func ParseResolvConf(text string, self func(netip.AddrPort) bool) (ups []Upstream) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(fields[1])
		if err != nil {
			continue
		}
		u := Upstream{Domain: ".", Addr: netip.AddrPortFrom(addr.Unmap(), 53)}
		if !slices.Contains(ups, u) && (self == nil || !self(u.Addr)) {
			ups = append(ups, u)
		}
	}
	return ups
}
