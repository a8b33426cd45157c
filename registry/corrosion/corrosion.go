package corrosion

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"dnsd/registry/follow"
)

// Config says which agent to follow and what to read from it.
type Config struct {
	Addr      string  // host:port of the agent's API; see ParseURL
	Token     string  // bearer token; empty: none is sent
	TokenFile string  // a file that holds it instead, read again for each request; empty: none
	Queries   Queries // the zero value means DefaultQueries
	StateDir  string  // where the knowledge of the agent is kept over a restart; empty: nowhere
}

// Queries holds a SELECT for each kind of object. A kind whose query is empty
// is not subscribed, and none of its objects are known.
type Queries struct{ Machines, Apps, Peers, Addresses string }

// DefaultQueries returns the queries for the default tables. The agent makes
// another subscription for each text, so they are changed only if they must be.
// Those for apps and addresses need updated_at, the only column outside the key:
// see the rule of announcements in the package comment.
func DefaultQueries() Queries {
	return Queries{
		Machines:  "SELECT id, network, app, region, process_group, state, private_ip, metadata FROM machines",
		Apps:      "SELECT network, name, updated_at FROM apps",
		Peers:     "SELECT network, name, private_ip, region, updated_at FROM peers",
		Addresses: "SELECT network, app, address, updated_at FROM app_addresses",
	}
}

const (
	// proveEvery is how often the agent is asked for a sign of life: several times
	// within the shortest --stale-after, and next to no work for the agent.
	proveEvery = 10 * time.Second

	// proveTimeout bounds the answer to it, and those to the other small requests.
	proveTimeout = 5 * time.Second

	// maxStuck is the number of resumptions without a change or a sign of life
	// after which everything is listed again: the agent may have kept the id of a
	// subscription that no longer works.
	maxStuck = 2

	// Silence is how long an agent that is well may give no sign of life.
	Silence = proveEvery + proveTimeout

	// proveFailures in a row end the stream: a new connection may work.
	proveFailures = 3
)

// Source follows one agent. It implements follow.Source.
type Source struct {
	cfg   Config
	log   *slog.Logger
	token *token
	subs  []*subscription

	// Set once; shorter in tests.
	proveEvery, proveTimeout time.Duration

	// Owned by the goroutine that is in Follow.
	listed bool // all subscriptions are listed: they can be resumed
	stuck  int  // resumptions in a row without a change or a sign of life
	http1  bool // the last connection used HTTP/1.1
	whole  wholeness

	warned map[string]bool // mistakes in queries that were logged

	comparison comparison   // owned by compare, of which there is one at a time
	deaf       atomic.Int64 // queries that break the rule of announcements
}

// New returns a source, or an error that names what is wrong with cfg. It
// connects to nothing: Follow does.
func New(cfg Config, log *slog.Logger) (*Source, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if cfg.Queries == (Queries{}) {
		cfg.Queries = DefaultQueries()
	}
	var errs []error
	if _, _, err := net.SplitHostPort(cfg.Addr); err != nil {
		errs = append(errs, fmt.Errorf("corrosion address %q: want host:port", cfg.Addr))
	}
	token, err := newToken(cfg.Token, cfg.TokenFile, log)
	if err != nil {
		errs = append(errs, err)
	}
	s := &Source{cfg: cfg, log: log, token: token, proveEvery: proveEvery, proveTimeout: proveTimeout,
		comparison: defaultComparison, warned: map[string]bool{}}
	s.whole = wholeness{pace: defaultPace, memory: newMemory(cfg.StateDir, s.String())}
	for _, shape := range shapes {
		sql := strings.TrimSpace(shape.query(cfg.Queries)) // another line end would be another subscription
		if sql == "" {
			continue
		}
		if err := checkQuery(sql); err != nil {
			errs = append(errs, fmt.Errorf("corrosion query for %s: %w", shape.table, err))
		}
		s.subs = append(s.subs, &subscription{shape: shape, query: sql, sql: sql})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

// checkQuery checks a query as far as that is possible without an agent.
func checkQuery(sql string) error {
	words := strings.Fields(sql)
	switch {
	case !strings.EqualFold(words[0], "SELECT"):
		return fmt.Errorf("it begins with %q: want one SELECT statement", words[0])
	case len(words) > 1 && strings.HasPrefix(words[1], "*"):
		return errors.New("SELECT * follows whatever the table becomes: name the columns")
	}
	return nil
}

// ParseURL reads "corrosion://127.0.0.1:8080" and returns the host:port in it.
func ParseURL(s string) (addr string, err error) {
	u, err := url.Parse(s)
	if err != nil {
		return "", errors.New("the registry URL does not parse: want corrosion://HOST:PORT, such as corrosion://127.0.0.1:8080")
	}
	switch {
	case u.Scheme != "corrosion":
		err = errors.New("the scheme is not corrosion")
	case u.User != nil:
		return "", errors.New("registry URL of corrosion holds a user or password: secrets come from a file or the environment")
	case u.Hostname() == "":
		err = errors.New("the host is missing")
	case !validPort(u.Port()):
		err = errors.New("the port is missing or no number from 1 to 65535")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		err = errors.New("nothing may follow the port")
	}
	if err != nil { // the URL is not repeated: it may hold a secret, and would be logged
		return "", fmt.Errorf("registry URL: %w: want corrosion://HOST:PORT, such as corrosion://127.0.0.1:8080", err)
	}
	return u.Host, nil
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// String implements follow.Source.
func (s *Source) String() string { return "corrosion://" + s.cfg.Addr }

// Follow implements follow.Source. All its connections are closed when it
// returns.
func (s *Source) Follow(ctx context.Context, feed follow.Feed, resume bool) error {
	a, err := s.connect(ctx)
	if err != nil {
		return fmt.Errorf("corrosion agent at %s: %w", s.cfg.Addr, err)
	}
	defer a.close()
	suspect, err := s.await(ctx, a)
	if err != nil {
		return fmt.Errorf("corrosion agent at %s: %w", s.cfg.Addr, err)
	}
	s.checkRule(ctx, a)
	err = errAgain
	if !suspect {
		err = s.resumeOrList(ctx, a, feed, resume)
	}
	for errors.Is(err, errAgain) {
		if err != errAgain {
			s.log.Info("listing the corrosion agent again", "why", err)
		}
		s.renew()
		err = s.run(ctx, a, feed, false)
	}
	return err
}

// resumeOrList resumes the subscriptions, or lists where they cannot be resumed.
func (s *Source) resumeOrList(ctx context.Context, a *agent, feed follow.Feed, resume bool) error {
	if resume && s.listed && s.stuck < maxStuck {
		s.stuck++
		err := s.run(ctx, a, feed, true)
		if !errors.Is(err, errLost) {
			return err
		}
		s.log.Warn("corrosion subscription cannot be resumed; listing again", "err", err)
	}
	return s.run(ctx, a, feed, false)
}

// renew gives the queries texts that they never had, for which the agent makes new
// subscriptions from its database as it is now. It drops the old ones when nobody
// has followed them for ten minutes.
func (s *Source) renew() {
	mark := time.Now().UTC().Format(" /* 2006-01-02T15:04:05.000000Z */")
	for _, sub := range s.subs {
		sub.sql = sub.query + mark
	}
}

// connect returns an agent that has answered.
func (s *Source) connect(ctx context.Context) (*agent, error) {
	a, err := s.reach(ctx, false)
	var status *statusError
	if err == nil || ctx.Err() != nil || isDial(err) || errors.As(err, &status) {
		s.http1 = s.http1 && err != nil
		return a, err
	}
	a, err1 := s.reach(ctx, true)
	if err1 != nil {
		return nil, fmt.Errorf("over HTTP/2: %w; over HTTP/1.1: %w", err, err1)
	}
	if !s.http1 {
		s.log.Info("corrosion agent does not speak HTTP/2; using HTTP/1.1", "err", err)
	}
	s.http1 = true
	return a, nil
}

// reach returns an agent that has answered over one of the protocols.
func (s *Source) reach(ctx context.Context, http1 bool) (*agent, error) {
	a, err := newAgent(ctx, s.cfg.Addr, s.token, http1, s.proveTimeout)
	if err != nil {
		return nil, err
	}
	if err := a.alive(ctx); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// isDial reports whether err is that of connecting.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
