package etcd

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// position is a place in the cluster's history: every change up to revision rev
// is in the registry. Its witnesses distinguish this history from another one of
// at least that revision, as after a restored snapshot.
type position struct {
	rev  int64
	seen witnesses
}

// witness is the state of a key: last changed at revision mod, to a value with
// the hash sum; or absent (mod 0).
type witness struct {
	key string
	mod int64
	sum uint64
}

// present is the witness of a key that exists.
func present(kv *mvccpb.KeyValue) witness {
	sum := sha256.Sum256(kv.Value)
	return witness{key: string(kv.Key), mod: kv.ModRevision, sum: binary.LittleEndian.Uint64(sum[:])}
}

// witnesses are the keys changed last, the newest first, followed by empty ones.
// Sixteen fit a small request, and a wiped cluster that is filled again has the
// same ones only if that many writes were repeated in their order.
type witnesses [16]witness

// changed adds w, the newest change.
func (ws *witnesses) changed(w witness) {
	i := slices.IndexFunc(ws[:], func(old witness) bool { return old.key == w.key })
	if i < 0 {
		i = len(ws) - 1
	}
	copy(ws[1:i+1], ws[:i])
	ws[0] = w
}

// listed adds a key of a listing if it is among those changed last. No key comes
// twice.
func (ws *witnesses) listed(kv *mvccpb.KeyValue) {
	if kv.ModRevision <= ws[len(ws)-1].mod {
		return // as nearly all are
	}
	i := slices.IndexFunc(ws[:], func(old witness) bool { return old.mod < kv.ModRevision })
	copy(ws[i+1:], ws[i:])
	ws[i] = present(kv)
}

// verify asks the cluster, not only one member, whether the position is still
// part of its history. It does not notice another history of at least that
// revision and term in which every witness was last changed alike; other
// differences then last until the next listing.
func (s *Source) verify(ctx context.Context, c *client) error {
	var seen []witness
	end := ""
	for _, w := range s.at.seen {
		if w.key != "" {
			seen = append(seen, w)
		}
	}
	if seen == nil { // nothing was there
		seen, end = []witness{{key: s.cfg.Prefix}}, clientv3.GetPrefixRangeEnd(s.cfg.Prefix)
	}
	in := &pb.TxnRequest{}
	for _, w := range seen {
		in.Success = append(in.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{
			Key: []byte(w.key), RangeEnd: []byte(end), Revision: s.at.rev, Limit: 1,
		}}})
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r, err := c.kv.Txn(c.outgoing(ctx), in, anySize)
	if err != nil {
		return historyError(c.plain(err))
	}
	if err := backwards(r.Header.Revision, s.at.rev); err != nil {
		return err
	}
	// A term only rises. The witnesses alone are not enough: the program that
	// filled the old cluster writes the same keys at the same revisions to a wiped
	// one.
	if got := r.Header.RaftTerm; got < s.term {
		return fmt.Errorf("%w: the cluster is in term %d, it was in %d", errHistory, got, s.term)
	}
	for i, w := range seen {
		got := witness{key: w.key}
		if kvs := r.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
			got = present(kvs[0])
		}
		if got != w {
			return fmt.Errorf("%w: at revision %d it has other data", errHistory, s.at.rev)
		}
	}
	s.term = r.Header.RaftTerm
	return nil
}
