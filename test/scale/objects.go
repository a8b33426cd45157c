package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// The prefixes: of everything, and of the few that most sources follow.
const (
	allPrefix = "/dnsd/v1/"
	fewPrefix = "/dnsd/few/"
)

func prefixOf(whole bool) string {
	if whole {
		return allPrefix
	}
	return fewPrefix
}

// The metadata of a machine that say which change it is, and when that was made:
// Unix nanoseconds of this host's clock, which all sites share.
const (
	seqKey = "seq"
	atKey  = "at"
)

// machine returns the key below a prefix and the value of the i-th machine, some 300
// bytes, as the change seq made it. Apps have 20 machines and networks 50 apps.
func machine(i int, seq int64, at time.Time) (key, value string) {
	network, app := fmt.Sprintf("fdaa:0:%x::", 1+i/1000), fmt.Sprintf("app-%d", i/20)
	id := fmt.Sprintf("m%013d", i)
	stamp := int64(0)
	if !at.IsZero() {
		stamp = at.UnixNano()
	}
	return "machines/" + network + "/" + app + "/" + id, fmt.Sprintf(
		`{"id":%q,"app":%q,"state":"started","region":"fra","private_ip":"fdaa:0:%x:a7b:1:%x:%x:2",`+
			`"config":{"metadata":{"fly_process_group":"web",%q:%q,%q:%q}},"created_at":"2026-01-01T00:00:00Z"}`,
		id, app, 1+i/1000, 1+i%1000, 1+seq%0xfff0, seqKey, strconv.FormatInt(seq, 10), atKey, strconv.FormatInt(stamp, 10))
}

// fill writes the registry as it is at first.
func fill(ctx context.Context, cli *clientv3.Client, objects, few int) error {
	const atOnce = 500 // operations a transaction, of the 1024 that the etcd here takes
	var ops []clientv3.Op
	for i := range objects + few {
		prefix, j := allPrefix, i
		if i >= objects {
			prefix, j = fewPrefix, i-objects
		}
		key, value := machine(j, 0, time.Time{})
		if ops = append(ops, clientv3.OpPut(prefix+key, value)); len(ops) == atOnce || i == objects+few-1 {
			if _, err := cli.Txn(ctx).Then(ops...).Commit(); err != nil {
				return fmt.Errorf("writing to etcd: %w", err)
			}
			ops = ops[:0]
		}
	}
	return nil
}

// writer changes machines.
type writer struct {
	cli          *clientv3.Client
	objects, few int
	seq          atomic.Int64 // of the last change begun
	failed       atomic.Int64 // while etcd is broken
}

// change makes one change, in both prefixes at once, and returns its number.
func (w *writer) change(ctx context.Context) (int64, error) {
	seq := w.seq.Add(1)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	now := time.Now()
	key, value := machine(int(seq)%w.few, seq, now)
	allKey, allValue := machine(int(seq)%w.objects, seq, now)
	_, err := w.cli.Txn(ctx).Then(clientv3.OpPut(fewPrefix+key, value), clientv3.OpPut(allPrefix+allKey, allValue)).Commit()
	return seq, err
}

// churn makes changes at a rate until the function that it returns is called, which
// returns when none is under way. Those that fail, because etcd is down, are counted.
func (w *writer) churn(ctx context.Context, rate int) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	due := make(chan struct{})
	var wg sync.WaitGroup
	const writers = 16 // a change waits for etcd's answer
	for range writers {
		wg.Go(func() {
			for range due {
				if _, err := w.change(ctx); err != nil {
					w.failed.Add(1)
				}
			}
		})
	}
	wg.Go(func() {
		defer close(due)
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case <-ctx.Done():
				return
			case due <- struct{}{}:
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// mark makes one change that works, for whoever waits until all have seen it.
func (w *writer) mark(ctx context.Context) (int64, error) {
	for {
		seq, err := w.change(ctx)
		if err == nil || ctx.Err() != nil {
			return seq, err
		}
	}
}
