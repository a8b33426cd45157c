package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"dnsd/test/internal/lab"
	"dnsd/test/internal/truth"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// platform writes the networks into etcd, through whatever member answers.
type platform struct {
	s    *scene
	lab  *lab.Lab
	ends []*clientv3.Client // one for each member
	all  *clientv3.Client   // of all of them

	// Writers hold it to read while they write. Who holds it to write knows what
	// is in etcd, and that nothing is under way.
	idle sync.RWMutex

	changes, unknown atomic.Int64 // transactions; those whose outcome was unknown at first
}

func newPlatform(s *scene) *platform {
	p := &platform{s: s, lab: lab.Open(s.t)}
	from := netip.AddrFrom4([4]byte{10, 8, 0, 100})
	s.sw.Join(s.t, p.lab, from)
	client := func(ends ...string) *clientv3.Client {
		cli, err := clientv3.New(clientv3.Config{Endpoints: ends, Logger: zap.NewNop(), DialTimeout: time.Second, DialOptions: p.dialing(from)})
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { _ = cli.Close() })
		return cli
	}
	p.all = client(s.etcd.Endpoints()...)
	for _, end := range s.etcd.Endpoints() {
		p.ends = append(p.ends, client(end))
	}
	return p
}

// dialing makes connections from the platform's lab. One that cannot be made must
// not hold up the others for long, nor be tried too seldom.
func (p *platform) dialing(from netip.Addr) []grpc.DialOption {
	d := net.Dialer{Timeout: time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	return []grpc.DialOption{
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.5, MaxDelay: 2 * time.Second}}),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (conn net.Conn, err error) {
			p.lab.Do(func() { conn, err = d.DialContext(ctx, "tcp", addr) })
			return conn, err
		}),
	}
}

// serialKey holds the number of a writer's last transaction. Whoever does not know
// whether a transaction was made finds out by it.
func serialKey(n *network) string { return "/serial/" + n.mark }

// fill writes everything in one transaction, as it is in the newest versions.
func (p *platform) fill() {
	var ops []clientv3.Op
	for _, n := range p.s.nets {
		_, world := n.history.Newest()
		for _, o := range world {
			ops = append(ops, clientv3.OpPut(prefix+o.Key(), o.Value()))
		}
		ops = append(ops, clientv3.OpPut(serialKey(n), strconv.Itoa(n.serial)))
	}
	var err error
	if !lab.Until(recovery, func() bool {
		ctx, cancel := context.WithTimeout(p.s.t.Context(), 5*time.Second)
		defer cancel()
		_, err = p.all.Txn(ctx).Then(ops...).Commit()
		return err == nil
	}) {
		p.s.t.Fatal("filling etcd: ", err)
	}
}

// write changes a network until the run ends: every change is one transaction and
// one version of its history.
func (p *platform) write(n *network, r *rand.Rand, stop <-chan struct{}) {
	g := n.generator(r)
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(50+r.IntN(900)) * time.Millisecond):
		}
		p.idle.RLock()
		_, now := n.history.Newest()
		next := now
		for range 1 + r.IntN(3) {
			next = next.After(g.Change(next))
		}
		err := p.commit(n, r, now, next)
		p.idle.RUnlock()
		if err != nil {
			if p.s.ctx.Err() == nil {
				p.s.errorf("the writer of %s: %v", n.name, err)
			}
			return
		}
	}
}

// commit makes next what etcd has of a network, by a transaction that it repeats
// until the outcome is known. Meanwhile both versions may be seen.
func (p *platform) commit(n *network, r *rand.Rand, now, next truth.World) error {
	before, after := strconv.Itoa(n.serial), strconv.Itoa(n.serial+1)
	ops := []clientv3.Op{clientv3.OpPut(serialKey(n), after)}
	for key, o := range next {
		if now[key] != o {
			ops = append(ops, clientv3.OpPut(prefix+key, o.Value()))
		}
	}
	for key := range now {
		if next[key] == nil {
			ops = append(ops, clientv3.OpDelete(prefix+key))
		}
	}
	v := n.history.Begin(next)
	for first := true; ; first = false {
		ctx, cancel := context.WithTimeout(p.s.ctx, 2*time.Second)
		resp, err := p.ends[r.IntN(len(p.ends))].Txn(ctx).
			If(clientv3.Compare(clientv3.Value(serialKey(n)), "=", before)).Then(ops...).
			Else(clientv3.OpGet(serialKey(n))).Commit()
		cancel()
		switch {
		case err != nil:
			if p.s.ctx.Err() != nil {
				return err
			}
			if first {
				p.unknown.Add(1)
			}
			time.Sleep(100 * time.Millisecond)
			continue
		case !resp.Succeeded: // a try before this one has worked after all
			kvs := resp.Responses[0].GetResponseRange().Kvs
			if len(kvs) != 1 || string(kvs[0].Value) != after {
				return fmt.Errorf("%s holds %v, want %s or %s", serialKey(n), kvs, before, after)
			}
		}
		n.history.Settle(v)
		n.serial++
		p.changes.Add(1)
		return nil
	}
}

// few is how many changes there must be between two faults of the cluster. It takes
// seconds to find a leader, and a platform that cannot be written to shows little.
const few = 10

// progress waits until that many changes have been made from now on, or until a
// time.
func (p *platform) progress(until time.Time) {
	for enough := p.changes.Load() + few; p.changes.Load() < enough && time.Now().Before(until); {
		if !p.s.sleep(100 * time.Millisecond) {
			return
		}
	}
}

// compact forgets all history of etcd.
func (p *platform) compact() {
	ctx, cancel := context.WithTimeout(p.s.ctx, 5*time.Second)
	defer cancel()
	r, err := p.all.Get(ctx, serialKey(p.s.nets[0]))
	if err == nil {
		_, err = p.all.Compact(ctx, r.Header.Revision)
	}
	if err != nil {
		p.s.log("compacting: %v", err)
	}
}
