package etcd

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// maxBeside is how many places Beside names, each found by a request of its own.
const maxBeside = 5

// Beside returns the first places that hold keys beside the prefix, comma-separated,
// for one who follows an empty prefix and may have meant another: "/dnsd/v2/". It
// looks in the directory of the prefix, and where that holds nothing in the one
// above. It returns what it has found so far when a request fails, as where the role
// may see the prefix only. Safe for concurrent use, and beside Follow.
func (s *Source) Beside(ctx context.Context) string {
	own, err := New(s.cfg, slog.New(slog.DiscardHandler)) // what s knows is Follow's
	if err != nil {
		return ""
	}
	c, err := own.connect(ctx)
	if err != nil {
		return ""
	}
	defer c.lib.Close()
	for dir := s.cfg.Prefix; dir != ""; {
		dir = strings.TrimSuffix(dir, "/")
		dir = dir[:strings.LastIndexByte(dir, '/')+1]
		if found := own.places(ctx, c, dir); len(found) > 0 {
			return strings.Join(found, ", ")
		}
	}
	return ""
}

// places returns the first path elements below a directory that hold keys; the empty
// directory is that of all keys.
func (s *Source) places(ctx context.Context, c *client, dir string) (found []string) {
	next, end := dir, clientv3.GetPrefixRangeEnd(dir)
	if dir == "" {
		next, end = "\x00", "\x00" // etcd's way to say all keys
	}
	for len(found) < maxBeside {
		r, err := c.get(ctx, &pb.RangeRequest{Key: []byte(next), RangeEnd: []byte(end), Limit: 1, KeysOnly: true})
		if err != nil || len(r.Kvs) == 0 {
			break
		}
		key := string(r.Kvs[0].Key)
		i := strings.IndexByte(key[len(dir):], '/')
		if i < 0 { // a key, and no directory
			found, next = append(found, key), key+"\x00"
			continue
		}
		key = key[:len(dir)+i+1]
		next = clientv3.GetPrefixRangeEnd(key)
		if key != s.cfg.Prefix {
			found = append(found, key)
		}
	}
	return slices.Clip(found)
}
