package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A log-in costs etcd a bcrypt hash: 70 ms of a processor at its default cost, a
// thousand times what any other request costs. It hashes for all who ask at once, so
// that 250 that come together wait for all 250 hashes, and it hashes on for those
// that have given up. So a token is kept for as long as it is accepted, and a log-in
// has a bound of its own, which doubles while log-ins time out: a herd that is larger
// than the first bound allows for gets through at the second or third, and not never.
// (A server that is frozen or gone does not use it up: the connection's keepalive
// ends the request after 15 s.)
const (
	loginAtFirst = 30 * time.Second
	loginAtMost  = 8 * time.Minute
)

// tokenKept is how often a token is used at least. Those that etcd makes by default
// (--auth-token simple) are forgotten when they have not been used for five minutes.
const tokenKept = 2 * time.Minute

// authenticate exchanges the password for a token, which is empty in a cluster without
// authentication.
func (s *Source) authenticate(ctx context.Context, c *client) error {
	bounded, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), s.bound)
	defer cancel()
	s.stats.logins.Add(1)
	r, err := c.auth.Authenticate(bounded, &pb.AuthenticateRequest{Name: s.cfg.Username, Password: c.password})
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if status.Code(err) == codes.DeadlineExceeded {
		took := s.bound
		s.bound = min(2*s.bound, loginAtMost)
		return fmt.Errorf("logging in as %q: no answer within %s: the next log-in may take %s%s", s.cfg.Username, took, s.bound, c.hint)
	}
	s.bound = loginAtFirst
	c.token, c.fresh = "", true
	if err = c.plain(err); errors.Is(err, rpctypes.ErrAuthNotEnabled) {
		return nil
	} else if err != nil {
		return fmt.Errorf("logging in as %q: %w", s.cfg.Username, err)
	}
	s.token, c.token = r.Token, r.Token
	return nil
}

// refuses reports whether a request failed because its token, or the lack of one, is
// not accepted: the member has restarted, the token was not used for long, or users
// have been changed.
func (c *client) refuses(err error) bool {
	return errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrAuthOldRevision) ||
		c.password != "" && errors.Is(err, rpctypes.ErrUserEmpty)
}
