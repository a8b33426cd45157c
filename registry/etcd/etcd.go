// Package etcd reads the registry from an etcd cluster (v3): all keys under a
// prefix at one revision, then every change after it.
//
// Keys are written in one way only, so that an object has exactly one key and
// the deletion of a key is the deletion of an object:
//
//	<prefix>machines/<network>/<app>/<id>
//	<prefix>apps/<network>/<name>
//	<prefix>peers/<network>/<name>
//	<prefix>addresses/<network>/<app>/<address>
//
// with <network> and <address> in their canonical form (fdaa:0:18::) and names
// in lower case. The value repeats the object as JSON and must agree.
//
// The package speaks etcd's API directly on the connection that the client
// library keeps (end points, balancing, TLS, keepalive). The library's own
// watch reconnects in silence, to whatever data are there by then, and buffers
// without bound; here a stream that breaks is an error at once, and a registry
// that is behind holds the server back.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"dnsd/registry/follow"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Config says which cluster to read and as whom. Secrets are read from files,
// afresh for every connection, so that rotated ones are picked up.
type Config struct {
	Endpoints []string // host:port each; at least one
	Prefix    string   // of all keys; ends in "/"

	CAFile   string // PEM; set: TLS, with servers that these authorities vouch for
	CertFile string // PEM; the client's certificate. Needs KeyFile
	KeyFile  string // PEM

	Username     string // empty: no user authentication
	Password     string // of Username; PasswordFile is the alternative
	PasswordFile string // holds the password; white space around it is cut off

	Timeout time.Duration // of each request; 0 means 10 s
}

// defaultTimeout bounds each request. A page takes milliseconds; an election,
// the longest wait in a healthy cluster, takes 1 to 2 s at etcd's defaults.
const defaultTimeout = 10 * time.Second

// Source is a follow.Source. It keeps its place in the cluster's history from
// one Follow to the next.
type Source struct {
	cfg   Config
	log   *slog.Logger
	pace  pace
	pages pages

	// Owned by Follow; calls never overlap.
	at   position
	term uint64 // of the cluster, when last it was asked as a whole
}

// New returns a source. It connects to nothing, but reads the files that cfg
// names, so that a mistake shows at start; the error names all of them.
func New(cfg Config, log *slog.Logger) (*Source, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	var errs []error
	if len(cfg.Endpoints) == 0 {
		errs = append(errs, errors.New("no etcd end point is given: want host:port"))
	}
	for _, e := range cfg.Endpoints {
		if _, _, err := net.SplitHostPort(e); err != nil || strings.ContainsAny(e, "/@") {
			errs = append(errs, fmt.Errorf("etcd end point %q: want host:port", e))
		}
	}
	if !strings.HasSuffix(cfg.Prefix, "/") {
		errs = append(errs, fmt.Errorf("etcd prefix %q does not end in /: want one such as /dnsd/v1/", cfg.Prefix))
	}
	_, errTLS := tlsConfig(cfg)
	_, errPassword := password(cfg)
	if err := errors.Join(append(errs, errTLS, errPassword)...); err != nil {
		return nil, err
	}
	return &Source{cfg: cfg, log: log, pace: defaultPace, pages: defaultPages}, nil
}

// ParseURL reads etcd://host:port,host:port/prefix/. The prefix is the URL's
// path with both its slashes; a port left out is 2379.
func ParseURL(raw string) (endpoints []string, prefix string, err error) {
	rest, ok := strings.CutPrefix(raw, "etcd://")
	if !ok {
		return nil, "", errors.New("want etcd://host:port,host:port/prefix/")
	}
	hosts, path, _ := strings.Cut(rest, "/")
	switch { // the errors don't repeat the URL: it may hold a password
	case strings.Contains(hosts, "@"):
		return nil, "", errors.New("an etcd URL holds no user or password: give the user by flag and the password in a file")
	case strings.ContainsAny(rest, "?#%"):
		return nil, "", errors.New("etcd URL: want no parameters, fragment or percent signs")
	case !strings.HasSuffix(rest, "/"):
		return nil, "", errors.New("the etcd URL does not end in /: its path is the prefix of all keys, such as /dnsd/v1/")
	}
	for host := range strings.SplitSeq(hosts, ",") {
		endpoint, err := withPort(host)
		if err != nil {
			return nil, "", fmt.Errorf("etcd URL: %w", err)
		}
		endpoints = append(endpoints, endpoint)
	}
	return endpoints, "/" + path, nil
}

// withPort returns host as host:port, with etcd's port where it has none.
func withPort(host string) (string, error) {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = strings.Trim(host, "[]"), "2379"
		if strings.Contains(name, ":") && !strings.HasPrefix(host, "[") {
			return "", fmt.Errorf("host %q: an IPv6 address stands in brackets", host)
		}
	}
	if name == "" || port == "" {
		return "", fmt.Errorf("host %q: want host:port", host)
	}
	return net.JoinHostPort(name, port), nil
}

// String returns the source as its URL. It holds no secrets.
func (s *Source) String() string {
	return "etcd://" + strings.Join(s.cfg.Endpoints, ",") + "/" + strings.TrimPrefix(s.cfg.Prefix, "/")
}

// Identity names what is followed, whichever members it is read from: the last
// known state on disk is that of a prefix, not of end points.
func (s *Source) Identity() string { return "etcd:" + s.cfg.Prefix }

// Follow implements follow.Source. It makes a connection and closes it.
func (s *Source) Follow(ctx context.Context, feed follow.Feed, resume bool) error {
	c, err := s.connect(ctx)
	if err != nil {
		return stopped(ctx, fmt.Errorf("connecting: %w", err))
	}
	defer c.close()

	if resume && s.at.rev > 0 {
		err := s.verify(ctx, c)
		if errors.Is(err, errHistory) {
			s.log.Warn("cannot resume, listing everything", "source", s, "reason", err)
			resume = false
		} else if err != nil {
			return stopped(ctx, fmt.Errorf("connecting: %w", err))
		}
	}
	for again := false; ; again = true {
		if !resume || s.at.rev == 0 {
			if err := s.list(ctx, c, feed); err != nil {
				return stopped(ctx, fmt.Errorf("listing: %w", err))
			}
		}
		err := s.watch(ctx, c, feed)
		lost := errors.Is(err, errHistory)
		if lost {
			s.at = position{}
		}
		// The cluster is well, so there is nothing to wait for; but only once, lest
		// one that always loses its history is listed without a pause.
		if !lost || again || ctx.Err() != nil {
			return stopped(ctx, fmt.Errorf("watching: %w", err))
		}
		s.log.Warn("cannot watch on, listing everything", "source", s, "reason", err)
	}
}

// stopped returns ctx's reason where ctx has ended, and err otherwise.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// errHistory marks errors after which the position is worthless, so that only a
// listing helps: the changes since then are compacted away, or the data behind
// the end points are no longer those that were read (wiped, restored).
var errHistory = errors.New("the history that was followed is gone")

// historyError describes err as an errHistory where it is one.
func historyError(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return fmt.Errorf("%w: its revisions are compacted", errHistory)
	case errors.Is(err, rpctypes.ErrFutureRev):
		return fmt.Errorf("%w: the cluster's revision is lower than the last one seen", errHistory)
	}
	return err
}

// backwards is an errHistory when a response carries a revision lower than the
// last one seen: the data were restored or wiped. (The cluster's id can stay
// the same, and a watch would miss every change until the revision is reached.)
func backwards(got, last int64) error {
	if got < last {
		return fmt.Errorf("%w: the cluster is at revision %d, it was at %d", errHistory, got, last)
	}
	return nil
}
