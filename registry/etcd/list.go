package etcd

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dnsd/registry"
)

// pageLimit is how many objects a page holds.
const pageLimit = 1000

// list hands the whole prefix over, as it is at one revision: the newest when
// the first page is read. It holds two pages at a time: one that the feed takes
// while the next is being fetched.
func (s *Source) list(ctx context.Context, c *client, feed registry.Feed) error {
	ctx, cancel := context.WithCancelCause(ctx)
	pages := make(chan *pb.RangeResponse)
	var fetching sync.WaitGroup
	defer fetching.Wait()
	defer cancel(nil)
	fetching.Go(func() {
		defer close(pages)
		if err := s.fetch(ctx, c, pages); err != nil {
			cancel(err)
		}
	})

	var at position
	var items []registry.Item
	for page := range pages {
		items = items[:0]
		for _, kv := range page.Kvs {
			items = append(items, s.put(kv.Key, kv.Value))
			if kv.ModRevision > at.mod {
				at.key, at.mod = string(kv.Key), kv.ModRevision
			}
		}
		if at.rev == 0 {
			at.rev = page.Header.Revision
		}
		if err := feed.List(ctx, items); err != nil {
			return stopped(ctx, err)
		}
		clear(items) // lets go of the objects
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if at.key == "" {
		at.key = s.cfg.Prefix // an empty prefix: no such key
	}
	s.at = position{} // unknown while the listing is being applied
	if err := feed.Listed(ctx); err != nil {
		return err
	}
	s.at = at
	return nil
}

// fetch reads page after page at the first one's revision.
func (s *Source) fetch(ctx context.Context, c *client, pages chan<- *pb.RangeResponse) error {
	r := request{key: s.cfg.Prefix, end: clientv3.GetPrefixRangeEnd(s.cfg.Prefix), limit: pageLimit}
	for {
		page, err := s.page(ctx, c, r)
		if err != nil {
			return err
		}
		if r.rev == 0 {
			r.rev = page.Header.Revision
		}
		if err := backwards(page.Header.Revision, r.rev); err != nil {
			return err
		}
		select {
		case pages <- page:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !page.More || len(page.Kvs) == 0 {
			return nil
		}
		r.key = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00" // the next key possible
	}
}

// page reads one page. Once a listing is under way, trouble that passes (an
// election, a member restarting) is waited out for as long as one request may
// take, rather than to begin a million objects again.
func (s *Source) page(ctx context.Context, c *client, r request) (*pb.RangeResponse, error) {
	const pause = 250 * time.Millisecond // a member restarts in a second or two
	for patience := c.timeout; ; patience -= pause {
		page, err := c.get(ctx, r)
		if err == nil {
			return page, nil
		}
		if r.rev == 0 || patience <= 0 || status.Code(err) != codes.Unavailable {
			return nil, historyError(c.plain(err))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
