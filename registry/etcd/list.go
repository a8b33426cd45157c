package etcd

import (
	"context"
	"errors"
	"time"

	"dnsd/registry"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// pages says how large pages are, in objects: the first one, and at most each later
// one. In between their size is such that one takes about as long as aim.
type pages struct {
	first, most int64
	aim         time.Duration
}

// A page is as large as the link allows within a second: changes come on the same
// connection and wait behind it, and one that takes longer than a request may is
// for nothing. The first one is small enough for a link of 300 kbit/s.
//
// Large pages matter: for every page the server counts all keys from there to
// the end, so that listing in pages of 1000 is quadratic (measured, 1,000,000
// machines of 300 bytes on two busy cores: 143 s in pages of 1000, 22 s in pages
// of 10,000, 16 s in pages of 20,000). pageBytes bounds a page of large objects.
var defaultPages = pages{first: 100, most: 20_000, aim: time.Second}

const (
	pageBytes = 8 << 20

	// pageGrowth is how many times larger than the one before a page may be: what was
	// quick may have been in a buffer.
	pageGrowth = 10

	// pageCut is how many times smaller a page is asked for again that took too long.
	pageCut = 8

	// chunkItems is how much of a page is applied at a time: changes come in between.
	chunkItems = 1000
)

// next returns how many objects the page after one may hold that held n, of size
// bytes in all, and took a time.
func (p pages) next(n, size int64, took time.Duration) int64 {
	fits := float64(n) * float64(p.aim) / float64(max(took, time.Millisecond))
	next := min(int64(fits), n*pageGrowth, n*pageBytes/max(size, 1), p.most)
	return max(next, 1)
}

// chunk is a part of a page.
type chunk struct {
	items []registry.Item

	// Set with the last chunk of a page.
	page bool
	from string // the page's first key is this or a later one
	keys int
	rev  int64     // that it is of
	seen witnesses // of all pages so far
	last bool
}

// fetch reads the whole prefix as it is at a revision, in pages, and sends them in
// chunks. What is compacted meanwhile is read as it is by then. So the listing is of no
// one revision, but the stream has been watched since the first, and decides on
// all that has changed.
func (s *Source) fetch(ctx context.Context, c *client, rev int64, send func(*chunk) error) error {
	from, limit, seen := s.cfg.Prefix, s.pages.first, witnesses{}
	for {
		r := &pb.RangeRequest{Key: []byte(from), RangeEnd: []byte(s.end()), Limit: limit, Revision: rev}
		page, took, err := s.page(ctx, c, r)
		if errors.Is(err, errCompacted) {
			if rev, _, err = c.revision(ctx, s.cfg.Prefix); err == nil {
				continue
			}
		}
		if err == nil {
			err = backwards(page.Header.GetRevision(), rev)
		}
		if err != nil {
			return err
		}
		s.stats.pages.Add(1)
		next, size := from, int64(0)
		var items []registry.Item
		for i, kv := range page.Kvs {
			items = append(items, s.put(kv.Key, kv.Value))
			size += int64(len(kv.Key) + len(kv.Value))
			seen.listed(kv)
			next = string(kv.Key) + "\x00" // the next possible key
			if len(items) == chunkItems && i < len(page.Kvs)-1 {
				if err := send(&chunk{items: items}); err != nil {
					return err
				}
				items = nil
			}
		}
		if err := send(&chunk{items: items, page: true, from: from, keys: len(page.Kvs), rev: rev, seen: seen, last: !page.More}); err != nil || !page.More {
			return err
		}
		from, limit = next, s.pages.next(int64(len(page.Kvs)), size, took)
	}
}

// page reads one page, and asks for it again where it fails: smaller, if it took
// longer than a request may; as it is while the cluster is unavailable (an election, a
// member that restarts), for as long as one request may take. It gives up a page of
// one object that takes too long.
func (s *Source) page(ctx context.Context, c *client, r *pb.RangeRequest) (page *pb.RangeResponse, took time.Duration, err error) {
	const pause = 250 * time.Millisecond // a member restarts in a second or two
	for end := time.Now().Add(c.timeout); ; {
		began := time.Now()
		page, err := c.get(ctx, r)
		if err == nil {
			return page, time.Since(began), nil
		}
		switch code := status.Code(err); {
		case ctx.Err() != nil:
			return nil, 0, context.Cause(ctx)
		case code == codes.DeadlineExceeded && r.Limit > 1:
			s.stats.cut.Add(1)
			r.Limit = max(1, r.Limit/pageCut)
			end = time.Now().Add(c.timeout)
			continue
		case code != codes.Unavailable || time.Now().After(end):
			return nil, 0, historyError(c.plain(err))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		}
	}
}
