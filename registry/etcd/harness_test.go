package etcd

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"dnsd/registry/etcd/etcdtest"
	"dnsd/registry/follow/followtest"
	"dnsd/registry/machinejson"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Most tests here wait for a member: more of them than there are processors.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

const prefix = "/dnsd/v1/"

// quick is a pace at which silence shows within a test.
var quick = pace{first: 20 * time.Millisecond, steady: 100 * time.Millisecond, silence: 2 * time.Second}

// soon has everything proven many times within a test.
var soon = proving{least: 100 * time.Millisecond, soon: 0.5}

// small are pages of which a few thousand objects make several.
var small = pages{first: 500, most: 1000, aim: time.Second}

// feed keeps what it is told.
type feed = followtest.Recorder

func machines(f *feed) []string {
	seen := f.Seen()
	return seen.Machines()
}

// cluster is an etcdtest.Cluster with a client and what these tests write.
type cluster struct {
	*etcdtest.Cluster
	t   *testing.T
	cli *clientv3.Client
}

func start(t *testing.T, o etcdtest.Options) *cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("starts etcd")
	}
	c := &cluster{Cluster: etcdtest.Start(t, o), t: t}
	c.cli = c.Client()
	return c
}

// source returns a source for the cluster at a quick pace.
func (c *cluster) source(change ...func(*Config)) *Source {
	c.t.Helper()
	conf := Config{Endpoints: c.Endpoints(), Prefix: prefix, Timeout: 30 * time.Second}
	for _, f := range change {
		f(&conf)
	}
	s, err := New(conf, slog.New(slog.DiscardHandler))
	if err != nil {
		c.t.Fatal(err)
	}
	s.pace, s.pages, s.proving = quick, small, soon
	return s
}

// log returns what a source logs from now on, to be read when it has stopped.
func (c *cluster) log(s *Source) *bytes.Buffer {
	var b bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&b, nil))
	return &b
}

const net18 = "fdaa:0:18::"

func machineKey(id string) string { return prefix + "machines/" + net18 + "/my-app/" + id }

func machineJSON(id, state string) string {
	return fmt.Sprintf(`{"id":%q,"app":"my-app","state":%q,"region":"iad"}`, id, state)
}

// write repeats one write until it succeeds: right after a restart there may be
// no leader yet.
func (c *cluster) write(op clientv3.Op) {
	c.t.Helper()
	ctx := c.Context()
	for {
		_, err := c.cli.Do(ctx, op)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *cluster) put(key, value string) { c.t.Helper(); c.write(clientv3.OpPut(key, value)) }
func (c *cluster) delete(key string)     { c.t.Helper(); c.write(clientv3.OpDelete(key)) }

func (c *cluster) machine(id, state string) {
	c.t.Helper()
	c.put(machineKey(id), machineJSON(id, state))
}

// fill writes n machines, m0000 and on, all started.
func (c *cluster) fill(n int) {
	c.t.Helper()
	if err := load(c.Context(), c.cli, n, func(i int) (string, string) {
		id := fmt.Sprintf("m%04d", i)
		return machineKey(id), machineJSON(id, "started")
	}); err != nil {
		c.t.Fatal(err)
	}
}

// load writes n keys in transactions of etcd's largest size.
func load(ctx context.Context, cli *clientv3.Client, n int, pair func(int) (key, value string)) error {
	var ops []clientv3.Op
	for i := range n {
		ops = append(ops, clientv3.OpPut(pair(i)))
		if len(ops) == 128 || i == n-1 {
			if _, err := cli.Txn(ctx).Then(ops...).Commit(); err != nil {
				return err
			}
			ops = ops[:0]
		}
	}
	return nil
}

// compact drops all revisions before the newest.
func (c *cluster) compact() {
	c.t.Helper()
	r, err := c.cli.Get(c.Context(), prefix)
	if err == nil {
		_, err = c.cli.Compact(c.Context(), r.Header.Revision, clientv3.WithCompactPhysical())
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// truth returns what machines must return at rest.
func (c *cluster) truth() []string {
	c.t.Helper()
	r, err := c.cli.Get(c.Context(), prefix+"machines/", clientv3.WithPrefix())
	if err != nil {
		c.t.Fatal(err)
	}
	out := map[string]bool{}
	for _, kv := range r.Kvs {
		m, err := machinejson.DecodeMachine(kv.Value, machinejson.Scope{Network: net18})
		if err != nil {
			c.t.Fatal(err)
		}
		out[m.ID+" "+m.State] = true
	}
	return slices.Sorted(maps.Keys(out))
}

// settles waits until the feed holds what the cluster holds.
func (c *cluster) settles(f *feed) {
	c.t.Helper()
	want := c.truth()
	followtest.Eventually(c.t, "the feed to hold what etcd holds", func() bool { return slices.Equal(machines(f), want) })
}
