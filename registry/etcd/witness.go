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
// is in the registry. Its witnesses tell this history from another that has come
// as far, as after a restored snapshot.
type position struct {
	rev  int64
	seen witnesses
}

// witness is what a key was at a revision: last changed at revision mod, to the
// value of which sum is a hash; or absent (mod 0).
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

// witnesses are of the keys changed last, none twice, the newest first; the
// empty key ends them. Sixteen are one small request, and whoever fills a wiped
// cluster anew would have to repeat that many writes in their order.
type witnesses [16]witness

// changed takes w, of the newest change.
func (ws *witnesses) changed(w witness) {
	i := slices.IndexFunc(ws[:], func(old witness) bool { return old.key == w.key })
	if i < 0 {
		i = len(ws) - 1
	}
	copy(ws[1:i+1], ws[:i])
	ws[0] = w
}

// listed takes a key of a listing where it is among those changed last. No key
// comes twice.
func (ws *witnesses) listed(kv *mvccpb.KeyValue) {
	if kv.ModRevision <= ws[len(ws)-1].mod {
		return // as nearly all are
	}
	i := slices.IndexFunc(ws[:], func(old witness) bool { return old.mod < kv.ModRevision })
	copy(ws[i+1:], ws[i:])
	ws[i] = present(kv)
}

// verify asks the cluster, and not just one member of it, whether the position
// is still part of its history. It cannot tell another history that has come as
// far, in no lower a term, with the same last change to every witness: what
// differs there besides stays unseen until everything is listed again.
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
	// A term only rises. The witnesses alone could lie: whoever fills a wiped
	// cluster with the program that filled the old one writes the same keys at
	// the same revisions.
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
