// Package etcd reads the registry from an etcd cluster (v3): all keys under a
// prefix at one revision, then every change after it.
//
// An object has exactly one key, so that the deletion of a key is the deletion of
// an object:
//
//	<prefix>machines/<network>/<app>/<id>
//	<prefix>apps/<network>/<name>
//	<prefix>peers/<network>/<name>
//	<prefix>addresses/<network>/<app>/<address>
//
// with <network> and <address> in their canonical form (fdaa:0:18::) and names
// in lower case. The value repeats the object as JSON and must agree.
//
// The package calls etcd's API directly, on the connection that the client
// library keeps (end points, balancing, TLS, keepalive). The library's own
// watch reconnects silently, even to other data, and buffers without bound;
// here a broken stream is an error at once, and a registry that is behind slows
// the server down.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"dnsd/registry/follow"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Config says which cluster to read and as whom. The files are read again for
// every connection, so that new certificates and passwords take effect.
type Config struct {
	Endpoints []string // host:port each, at least one, as ParseURL returns them
	Prefix    string   // of all keys; begins and ends with "/"

	CAFile   string // PEM; the authorities that sign the servers' certificates; set: TLS
	CertFile string // PEM; the client's certificate; needs KeyFile
	KeyFile  string // PEM

	Username     string // empty: no user authentication
	Password     string // of Username
	PasswordFile string // holds the password instead; white space around it is cut off

	Timeout time.Duration // of each request but a log-in; 0 means 10 s
}

// defaultTimeout bounds each request but a log-in. A page is made to take a second; an
// election, the longest wait in a healthy cluster, takes 1 to 2 s at etcd's defaults.
const defaultTimeout = 10 * time.Second

// Source is a follow.Source. It keeps its position in the cluster's history
// and the user's token between calls of Follow.
type Source struct {
	cfg     Config
	log     *slog.Logger
	pace    pace
	pages   pages
	proving proving
	stats   stats

	// Owned by Follow; calls never overlap.
	at     position      // the zero value: nothing is known
	listed bool          // what the feed has is whole up to the position
	term   atomic.Uint64 // of the cluster, in the last linearizable response; a proof reads and sets it as well
	token  string        // of the user; empty: log in
	bound  time.Duration // of the next log-in
	due    time.Time     // when the next proof is
	part   int           // of what
	quirks quirks
}

// New returns a source. It does not connect, but reads the files that cfg names,
// so that a mistake shows at start; the error names every mistake.
func New(cfg Config, log *slog.Logger) (*Source, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	_, errTLS := tlsConfig(cfg)
	_, errPassword := password(cfg)
	if err := errors.Join(errTLS, errPassword); err != nil {
		return nil, err
	}
	return &Source{cfg: cfg, log: log, pace: defaultPace, pages: defaultPages, proving: defaultProving, bound: loginAtFirst}, nil
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

// end returns the end of the prefix.
func (s *Source) end() string { return clientv3.GetPrefixRangeEnd(s.cfg.Prefix) }

// String returns the source's URL, which holds no secrets.
func (s *Source) String() string {
	return "etcd://" + strings.Join(s.cfg.Endpoints, ",") + s.cfg.Prefix
}

// Identity names what is followed. The last known state on disk belongs to a
// prefix, whichever end points it was read from.
func (s *Source) Identity() string { return "etcd:" + s.cfg.Prefix }

// Follow implements follow.Source. It makes a connection and closes it.
func (s *Source) Follow(ctx context.Context, feed follow.Feed, resume bool) error {
	c, err := s.connect(ctx)
	if err != nil {
		return stopped(ctx, fmt.Errorf("connecting: %w", err))
	}
	defer c.lib.Close()
	head, err := s.begin(ctx, c)
	if err != nil {
		return stopped(ctx, fmt.Errorf("connecting: %w", err))
	}
	if err := s.checkVersion(ctx, c); err != nil {
		return stopped(ctx, err)
	}
	at := s.at
	s.at = position{} // of nothing, should the session panic
	f := &session{s: s, c: c, feed: feed, at: at, reached: at.rev, head: head, since: time.Now()}
	err = f.run(ctx, !resume || !s.listed || at.rev == 0)
	if c.refuses(err) {
		s.token = ""
	}
	return stopped(ctx, err)
}

// begin finds out whether the position is part of the cluster's history, and drops it
// otherwise. It returns the cluster's revision, and renews a token that is no longer
// accepted.
func (s *Source) begin(ctx context.Context, c *client) (head int64, err error) {
	head, err = s.locate(ctx, c)
	if !c.refuses(err) || c.fresh {
		return head, err
	}
	if err := s.authenticate(ctx, c); err != nil {
		return 0, err
	}
	return s.locate(ctx, c)
}

func (s *Source) locate(ctx context.Context, c *client) (head int64, err error) {
	if s.at.rev != 0 {
		head, err = s.verify(ctx, c, &s.at, nil)
		if !errors.Is(err, errHistory) {
			return head, err
		}
		s.log.Warn("cannot resume, listing everything", "source", s, "reason", err)
		s.at, s.listed = position{}, false
	}
	head, term, err := c.revision(ctx, s.cfg.Prefix)
	s.term.Store(term)
	return head, err
}

// stopped returns ctx's reason where ctx has ended, and err otherwise.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// errHistory marks errors after which the position is useless and everything has
// to be listed: the changes after it were compacted, or the cluster was wiped or
// restored from a backup.
var errHistory = errors.New("the history that was followed is gone")

// errCompacted is an errHistory: the changes after the position were compacted.
var errCompacted = fmt.Errorf("%w: its revisions are compacted", errHistory)

// historyError wraps err in errHistory where it means that.
func historyError(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return errCompacted
	case errors.Is(err, rpctypes.ErrFutureRev):
		return fmt.Errorf("%w: the cluster's revision is lower than the last one seen", errHistory)
	}
	return err
}

// backwards returns an errHistory if a response's revision is lower than the last
// one seen: the cluster was restored or wiped. (Its id can stay the same, and a
// watch would miss every change until the old revision is reached.)
func backwards(got, last int64) error {
	if got < last {
		return fmt.Errorf("%w: the cluster is at revision %d, it was at %d", errHistory, got, last)
	}
	return nil
}
