package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"dnsd/registry"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// pace says when a watch asks for progress and when it stops waiting.
type pace struct {
	first   time.Duration // between requests until the first answer, and while revisions are known that are not reached
	steady  time.Duration // between requests otherwise
	silence time.Duration // without any answer: the stream is given up
}

// etcd notifies of progress by itself every 10 min, too seldom to tell a quiet
// cluster from a dead one. A request that arrives before the watch has
// caught up gets no answer, hence the short interval at first. A member that
// answers none for three rounds is cut off from the others or behind them.
//
// An etcd grpc-proxy answers no requests. It passes the notes that etcd makes by
// itself, and where etcd is told to make them every few seconds
// (--watch-progress-notify-interval=5s), those are as good.
var defaultPace = pace{first: 500 * time.Millisecond, steady: 10 * time.Second, silence: 30 * time.Second}

// Silence is how long nothing may be heard of a healthy cluster: the time between
// two progress requests, and some for the answer.
const Silence = 15 * time.Second

// create is the request for a watch of everything after a revision.
func (s *Source) create(rev int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key:      []byte(s.cfg.Prefix),
		RangeEnd: []byte(s.end()),
		// The last known revision, not the next one: etcd 3.7 answers no progress
		// request on a watch that starts in the future, so that an idle cluster
		// would seem dead. changes drops what is known.
		StartRevision:  rev,
		ProgressNotify: true,
	}}}
}

// receive passes the responses of a watch on until it breaks, and returns the reason.
func (c *client) receive(ctx context.Context, stream pb.Watch_WatchClient, p *pulse, out chan<- *pb.WatchResponse) error {
	for {
		p.listen()
		r, err := stream.Recv()
		if err != nil {
			return stopped(ctx, c.plain(err))
		}
		p.heard(r)
		select {
		case out <- r:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// update is what a response says.
type update struct {
	items   []registry.Item
	born    []born
	at      position // after it
	reached int64    // the revision up to which it says that all is sent
}

// changes turns a response into what it says after a position.
func (s *Source) changes(r *pb.WatchResponse, at position) (u update, err error) {
	u.at = at
	switch {
	case r.CompactRevision != 0:
		return u, fmt.Errorf("%w: it is compacted up to revision %d", errHistory, r.CompactRevision)
	case r.Canceled:
		return u, canceled(r.CancelReason)
	case r.Created:
		return u, nil // its revision is the member's own, which may be older
	}
	progress := len(r.Events) == 0 // all changes up to the revision have been sent
	if progress && s.quirks.overtakes {
		u.reached = r.Header.GetRevision() // which can also be older than changes that came before
		return u, nil
	}
	if err := backwards(r.Header.GetRevision(), at.rev); err != nil {
		return u, err
	}
	if progress {
		u.at.rev, u.reached = r.Header.GetRevision(), r.Header.GetRevision()
		return u, nil
	}
	for _, e := range r.Events {
		key, mod := e.Kv.Key, e.Kv.ModRevision
		if mod <= at.event {
			continue
		}
		if mod <= at.rev {
			s.overtaken(mod, at.rev)
		}
		// The header's revision can be ahead: more events are to come.
		u.reached, u.at.event = mod, mod
		if e.Type != mvccpb.Event_DELETE {
			u.at.seen.changed(present(e.Kv))
			u.items = append(u.items, s.put(key, e.Kv.Value))
			if e.Kv.CreateRevision == mod {
				u.born = append(u.born, born{string(key), mod, 1})
			}
			continue
		}
		u.at.seen.changed(witness{key: string(key)})
		u.born = append(u.born, born{string(key), mod, -1})
		if item, ok := s.remove(key); ok {
			u.items = append(u.items, item)
		}
	}
	u.at.rev = max(u.at.rev, u.at.event)
	return u, nil
}

// canceled returns why the server has ended a watch.
func canceled(reason string) error {
	for _, known := range []error{rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision, rpctypes.ErrUserEmpty} {
		if strings.Contains(reason, known.Error()) {
			return fmt.Errorf("the server ended the watch: %w", known)
		}
	}
	return fmt.Errorf("the server ended the watch: %s", reason)
}

// errSilent ends a watch whose connection stands but is silent.
var errSilent = errors.New("the server answers no progress requests and tells of no progress by itself " +
	"(behind an etcd grpc-proxy: start etcd with --watch-progress-notify-interval=5s)")

// ask sends progress requests while the watch listens, and returns when ctx ends
// or the silence has lasted too long. It is the only sender on the stream.
func (s *Source) ask(ctx context.Context, stream pb.Watch_WatchClient, p *pulse) error {
	request := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
	for {
		wait := s.pace.first
		if p.answered.Load() && !p.behind.Load() {
			wait = s.pace.steady
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.soon:
			continue
		case <-time.After(wait):
		}
		if p.silence() > s.pace.silence {
			return errSilent
		}
		_ = stream.Send(request)
	}
}

// pulse tells ask what the receiver of a watch hears, and whether progress matters.
type pulse struct {
	since    atomic.Pointer[time.Time] // when the receiver began to wait; nil: it is busy
	answered atomic.Bool               // something besides the watch's creation has come
	behind   atomic.Bool
	soon     chan struct{} // behind is true now
}

func newPulse() *pulse { return &pulse{soon: make(chan struct{}, 1)} }

// hurry has progress asked for more often while behind.
func (p *pulse) hurry(behind bool) {
	if p.behind.Swap(behind) || !behind {
		return
	}
	select {
	case p.soon <- struct{}{}:
	default:
	}
}

func (p *pulse) listen() {
	now := time.Now()
	p.since.Store(&now)
}

func (p *pulse) heard(r *pb.WatchResponse) {
	p.since.Store(nil)
	if !r.Created {
		p.answered.Store(true)
	}
}

// silence returns how long the receiver has been waiting: 0 while it is busy,
// because then the registry is behind and not the server.
func (p *pulse) silence() (d time.Duration) {
	if since := p.since.Load(); since != nil {
		d = time.Since(*since)
	}
	return d
}
