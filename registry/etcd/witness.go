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
	rev   int64
	event int64 // every event up to this revision has been sent: no more than rev, which progress moves on
	seen  witnesses
	keys  tally // how many there are; nil: not known
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

// with returns the witnesses followed by those of older that are of other keys. older
// are of a revision before all of ws, so that where ws is full they are not needed.
func (ws witnesses) with(older witnesses) witnesses {
	n := 0
	for n < len(ws) && ws[n].key != "" {
		n++
	}
	for _, w := range older {
		if n < len(ws) && !slices.ContainsFunc(ws[:n], func(newer witness) bool { return newer.key == w.key }) {
			ws[n] = w
			n++
		}
	}
	return ws
}

// verify asks the cluster, not only one member, whether a position is still
// part of its history, and how many keys a part of the prefix had then; nil: of none.
// It returns the cluster's revision. It does not notice another history of at least that
// revision and term in which every witness was last changed alike; other
// differences then last until a proof or a listing shows them.
func (s *Source) verify(ctx context.Context, c *client, at *position, of *part) (head int64, err error) {
	var seen []witness
	in, end := &pb.TxnRequest{}, ""
	for _, w := range at.seen {
		if w.key != "" {
			seen = append(seen, w)
		}
	}
	if seen == nil { // nothing was there
		seen, end = []witness{{key: s.cfg.Prefix}}, clientv3.GetPrefixRangeEnd(s.cfg.Prefix)
	}
	ask := func(r *pb.RangeRequest) {
		r.Revision = at.rev
		in.Success = append(in.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}})
	}
	for _, w := range seen {
		ask(&pb.RangeRequest{Key: []byte(w.key), RangeEnd: []byte(end), Limit: 1})
	}
	if of != nil {
		ask(&pb.RangeRequest{Key: []byte(of.from), RangeEnd: []byte(of.end), CountOnly: true})
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r, err := c.kv.Txn(c.outgoing(ctx), in, anySize)
	if err != nil {
		return 0, historyError(c.plain(err))
	}
	if err := backwards(r.Header.Revision, at.rev); err != nil {
		return 0, err
	}
	// A term only rises. The witnesses alone are not enough: the program that
	// filled the old cluster writes the same keys at the same revisions to a wiped
	// one.
	if got := r.Header.RaftTerm; got < s.term.Load() {
		return 0, fmt.Errorf("%w: the cluster is in term %d, it was in %d", errHistory, got, s.term.Load())
	}
	for i, w := range seen {
		got := witness{key: w.key}
		if kvs := r.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
			got = present(kvs[0])
		}
		if got != w {
			return 0, fmt.Errorf("%w: at revision %d it has other data", errHistory, at.rev)
		}
	}
	s.term.Store(r.Header.RaftTerm)
	if of != nil {
		if n := r.Responses[len(seen)].GetResponseRange().Count; n != of.keys {
			return r.Header.Revision, &lostError{rev: at.rev, part: *of, count: n}
		}
	}
	return r.Header.Revision, nil
}
