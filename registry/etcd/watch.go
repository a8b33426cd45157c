package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"dnsd/registry"
	"dnsd/registry/contain"
	"dnsd/registry/follow"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// pace says when a watch asks for progress and when it stops waiting.
type pace struct {
	first   time.Duration // between requests until the first answer
	steady  time.Duration // between requests after it
	silence time.Duration // without any answer: the stream is given up
}

// etcd notifies of progress by itself every 10 min, too seldom to tell a quiet
// cluster from a dead one. A request that arrives before the watch has
// caught up gets no answer, hence the short interval at first. A member that
// answers none for three rounds is cut off from the others or behind them.
var defaultPace = pace{first: 500 * time.Millisecond, steady: 10 * time.Second, silence: 30 * time.Second}

// Silence is how long nothing may be heard of a healthy cluster: the time between
// two progress requests, and some for the answer.
const Silence = 15 * time.Second

// watch feeds every change after the position, one response at a time, until the
// stream breaks. It returns the reason, never nil.
func (s *Source) watch(ctx context.Context, c *client, feed follow.Feed) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel(nil)

	stream, err := c.watch.Watch(c.outgoing(ctx), anySize)
	if err != nil {
		return c.plain(err)
	}
	// An error of Send says only that the stream is over; Recv knows why.
	_ = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key:      []byte(s.cfg.Prefix),
		RangeEnd: []byte(clientv3.GetPrefixRangeEnd(s.cfg.Prefix)),
		// The last known revision, not the next one: etcd 3.7 answers no progress
		// request on a watch that starts in the future, so that an idle cluster
		// would seem dead. changes drops what is known.
		StartRevision: s.at.rev,
	}}})
	var p pulse
	p.listen()
	asking.Go(func() { cancel(contain.Run(func() error { return s.ask(ctx, stream, &p) })) })

	for {
		r, err := stream.Recv()
		if err != nil {
			return stopped(ctx, c.plain(err))
		}
		p.heard(r)
		items, at, err := s.changes(r, s.at)
		if err != nil {
			return err
		}
		if !r.Created {
			if err := feed.Change(ctx, items); err != nil {
				s.at = position{} // they may be applied or not
				return stopped(ctx, err)
			}
			s.at = at
		}
		p.listen()
	}
}

// changes turns a response into items and the position after it.
func (s *Source) changes(r *pb.WatchResponse, at position) (items []registry.Item, _ position, _ error) {
	switch {
	case r.CompactRevision != 0:
		return nil, at, fmt.Errorf("%w: it is compacted up to revision %d", errHistory, r.CompactRevision)
	case r.Canceled:
		return nil, at, fmt.Errorf("the server ended the watch: %s", r.CancelReason)
	case r.Created:
		return nil, at, nil // its revision is the member's own, which may be older
	}
	if err := backwards(r.Header.GetRevision(), at.rev); err != nil {
		return nil, at, err
	}
	if len(r.Events) == 0 {
		at.rev = r.Header.GetRevision() // progress: all changes up to here have been sent
		return items, at, nil
	}
	known := at.rev
	for _, e := range r.Events {
		if e.Kv.ModRevision <= known {
			continue
		}
		// The header's revision can be ahead: more events are to come.
		at.rev = e.Kv.ModRevision
		if e.Type != mvccpb.Event_DELETE {
			at.seen.changed(present(e.Kv))
			items = append(items, s.put(e.Kv.Key, e.Kv.Value))
			continue
		}
		at.seen.changed(witness{key: string(e.Kv.Key)})
		if item, ok := s.remove(e.Kv.Key); ok {
			items = append(items, item)
		}
	}
	return items, at, nil
}

// errSilent ends a watch whose connection stands but is silent.
var errSilent = errors.New("the server no longer answers progress requests")

// ask sends progress requests while the watch listens, and returns when ctx ends
// or the silence has lasted too long. It is the only sender on the stream.
func (s *Source) ask(ctx context.Context, stream pb.Watch_WatchClient, p *pulse) error {
	request := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
	for {
		wait := s.pace.first
		if p.answered.Load() {
			wait = s.pace.steady
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		if p.silence() > s.pace.silence {
			return errSilent
		}
		_ = stream.Send(request)
	}
}

// pulse tells ask what the receiver of a watch hears.
type pulse struct {
	since    atomic.Pointer[time.Time] // when the receiver began to wait; nil: it is busy
	answered atomic.Bool               // something besides the watch's creation has come
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
