package main

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"dnsd/registry/etcd/etcdtest"
	"dnsd/test/internal/rig"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// prefix is where the fleets lie in etcd.
const prefix = "/dnsd/v1/"

// cluster is an etcd of one real member, in a process of its own, whose CPU time
// is not measured.
type cluster struct {
	rig    *rig.Rig
	url    string // as --registry takes it
	client *clientv3.Client
}

// startCluster starts an etcd. The caller closes it.
func (b *bench) startCluster(ctx context.Context) (c *cluster, err error) {
	r := rig.New(ctx, b.dir)
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	defer r.Rescue(&err)
	etcd := etcdtest.Start(r, etcdtest.Options{})
	return &cluster{rig: r, url: etcd.URL(prefix), client: etcd.Client()}, nil
}

func (c *cluster) close() { c.rig.Close() }

// fill writes a whole fleet.
func (c *cluster) fill(ctx context.Context, f *fleet) error {
	const (
		atOnce  = 128 // operations a transaction: etcd's own bound
		writers = 4   // enough that etcd and not the network is waited for
	)
	work := make(chan []clientv3.Op)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for ops := range work {
				if _, err := c.client.Txn(ctx).Then(ops...).Commit(); err != nil {
					cancel(fmt.Errorf("writing to etcd: %w", err))
				}
			}
		})
	}
	var ops []clientv3.Op
	send := func() {
		select {
		case work <- ops:
		case <-ctx.Done():
		}
		ops = nil
	}
	for _, a := range f.apps {
		for _, m := range a.machines {
			key, value := a.keyValue(m)
			if ops = append(ops, clientv3.OpPut(prefix+key, value)); len(ops) == atOnce {
				send()
			}
		}
	}
	if len(ops) > 0 {
		send()
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}

// put writes one machine.
func (c *cluster) put(ctx context.Context, a *app, m instance) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	key, value := a.keyValue(m)
	_, err := c.client.Put(ctx, prefix+key, value)
	return err
}

// churn changes machines of apps in turns, rate times a second, each by a put
// of its own: every change moves a machine to another address of its /112, so
// that answers change while their numbers of records do not. The caller ends it
// with the function returned, which gives the rate that etcd really took.
func (c *cluster) churn(ctx context.Context, apps []*app, rate int) (end func() (float64, error)) {
	const writers = 16 // a put waits for etcd's answer
	ctx, cancel := context.WithCancel(ctx)
	began := time.Now()
	var done, next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for ctx.Err() == nil {
				// The n-th change is due at a moment of its own; what could not
				// be done in time is done late, not dropped.
				n := next.Add(1) - 1
				due := began.Add(time.Duration(n) * time.Second / time.Duration(rate))
				select {
				case <-time.After(time.Until(due)):
				case <-ctx.Done():
					return
				}
				a, m := change(apps, int(n))
				if err := c.put(ctx, a, m); err != nil && ctx.Err() == nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
				done.Add(1)
			}
		})
	}
	return func() (float64, error) {
		cancel()
		wg.Wait()
		if err := failed.Load(); err != nil {
			return 0, fmt.Errorf("changing machines in etcd: %w", *err)
		}
		return float64(done.Load()) / time.Since(began).Seconds(), nil
	}
}

// change returns the n-th change: app by app, and in each the next machine,
// with the last byte of its address counted on.
func change(apps []*app, n int) (*app, instance) {
	a := apps[n%len(apps)]
	turn := n / len(apps)
	m := a.machines[turn%len(a.machines)]
	b := m.addr.As16()
	b[15] = byte(3 + turn/len(a.machines)%250)
	m.addr = netip.AddrFrom16(b)
	return a, m
}
