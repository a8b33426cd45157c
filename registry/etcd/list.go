package etcd

import (
	"context"
	"time"

	"dnsd/registry"
	"dnsd/registry/follow"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// pages says how many objects a page may hold: the first one, and at most each
// later one, which is sized by the bytes of the objects before.
type pages struct{ first, most int64 }

// Large pages matter: for every page the server counts all keys from there to
// the end, so that listing in pages of 1000 is quadratic (measured, 1,000,000
// machines of 300 bytes on two busy cores: 143 s in pages of 1000, 22 s in pages
// of 10,000, 16 s in pages of 20,000). pageBytes bounds a page of large objects.
var defaultPages = pages{first: 1000, most: 20_000}

const pageBytes = 8 << 20

// next returns how many objects the page after page, which is not empty, may hold.
func (p pages) next(page *pb.RangeResponse) int64 {
	var size int
	for _, kv := range page.Kvs {
		size += len(kv.Key) + len(kv.Value)
	}
	return min(p.most, max(p.first, int64(len(page.Kvs))*pageBytes/int64(size)))
}

// list feeds the whole prefix as it is at one revision, the newest when the first
// page is read. It holds one page at a time. (Fetching the next one meanwhile was
// measured: no gain with the server on the same host.)
func (s *Source) list(ctx context.Context, c *client, feed follow.Feed) error {
	r := &pb.RangeRequest{Key: []byte(s.cfg.Prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(s.cfg.Prefix)), Limit: s.pages.first}
	var at position
	for more := true; more; {
		page, err := s.page(ctx, c, r)
		if err != nil {
			return err
		}
		if err := backwards(page.Header.Revision, r.Revision); err != nil {
			return err
		}
		if r.Revision == 0 {
			r.Revision, at.rev = page.Header.Revision, page.Header.Revision
			s.term = page.Header.RaftTerm
		}
		items := make([]registry.Item, 0, len(page.Kvs))
		for _, kv := range page.Kvs {
			items = append(items, s.put(kv.Key, kv.Value))
			at.seen.listed(kv)
		}
		if err := feed.List(ctx, items); err != nil {
			return err
		}
		if more = page.More; more {
			r.Key = append(page.Kvs[len(page.Kvs)-1].Key, 0) // the next possible key
			r.Limit = s.pages.next(page)
		}
	}
	s.at = position{} // unknown while the listing is being applied
	if err := feed.Listed(ctx, ""); err != nil {
		return err
	}
	s.at = at
	return nil
}

// page reads one page. After the first one it retries while the cluster is
// unavailable (an election, a member that restarts), for as long as one request
// may take, so that a million objects need not be listed again.
func (s *Source) page(ctx context.Context, c *client, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	const pause = 250 * time.Millisecond // a member restarts in a second or two
	for end := time.Now().Add(c.timeout); ; {
		page, err := c.get(ctx, r)
		if err == nil {
			return page, nil
		}
		if r.Revision == 0 || time.Now().After(end) || status.Code(err) != codes.Unavailable {
			return nil, historyError(c.plain(err))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
