package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/etcd/etcdtest"
	"dnsd/registry/machinejson"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	etcdtest.RunIfMember()
	goleak.VerifyTestMain(m)
}

const prefix = "/dnsd/v1/"

// quick is a pace at which silence shows within a test.
var quick = pace{first: 20 * time.Millisecond, steady: 100 * time.Millisecond, silence: 2 * time.Second}

// small are pages of which a few thousand objects make several.
var small = pages{first: 500, most: 1000}

// feed is a follow.Feed that keeps what it is given as the registry would.
type feed struct {
	mu       sync.Mutex
	world    map[registry.Key]registry.Object // what a registry would hold
	pending  map[registry.Key]registry.Object // the listing under way
	listings int                              // completed
	pages    int                              // of the listing under way or last completed
	changes  [][]registry.Item                // calls of Change with items
	proofs   int                              // calls of Change, with or without items
	rejected []registry.Item

	onList   func(page int) // set once; called before a page is taken
	onListed func()         // set once; called before a listing is completed
	onChange func()         // set once
}

func (f *feed) List(ctx context.Context, items []registry.Item) error {
	f.mu.Lock()
	if f.pending == nil {
		f.pending, f.pages = map[registry.Key]registry.Object{}, 0
	}
	f.pages++
	page := f.pages
	f.mu.Unlock()
	if f.onList != nil {
		f.onList(page)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.take(f.pending, items)
	return ctx.Err()
}

func (f *feed) Listed(ctx context.Context, _ string) error {
	if f.onListed != nil {
		f.onListed()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.world, f.pending = f.pending, nil
	f.listings++
	return ctx.Err()
}

func (f *feed) Change(ctx context.Context, items []registry.Item) error {
	if f.onChange != nil {
		f.onChange()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.take(f.world, items)
	f.proofs++
	if len(items) > 0 {
		f.changes = append(f.changes, slices.Clone(items))
	}
	return ctx.Err()
}

func (f *feed) take(world map[registry.Key]registry.Object, items []registry.Item) {
	for _, i := range items {
		switch {
		case i.Object != nil:
			world[i.Object.Key()] = i.Object
		case i.Err != nil:
			f.rejected = append(f.rejected, i)
		default:
			delete(world, i.Key)
		}
	}
}

// get returns what see reads under the lock.
func get[T any](f *feed, see func() T) T {
	f.mu.Lock()
	defer f.mu.Unlock()
	return see()
}

func (f *feed) completed() int { return get(f, func() int { return f.listings }) }
func (f *feed) alive() int     { return get(f, func() int { return f.proofs }) }

// machines returns "id state" of every machine, sorted.
func (f *feed) machines() []string {
	return get(f, func() []string {
		var out []string
		for _, o := range f.world {
			if m, ok := o.(*registry.Machine); ok {
				out = append(out, m.ID+" "+m.State)
			}
		}
		slices.Sort(out)
		return out
	})
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
	s.pace, s.pages = quick, small
	return s
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

// truth returns what feed.machines must return at rest.
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
	eventually(c.t, "the feed to hold what etcd holds", func() bool { return slices.Equal(f.machines(), want) })
}

// following is a Follow under way.
type following struct {
	t      *testing.T
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // once ended is closed
}

func begin(t *testing.T, s *Source, f *feed, resume bool) *following {
	ctx, cancel := context.WithCancel(context.Background())
	run := &following{t: t, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(run.ended)
		f.mu.Lock()
		f.pending = nil // what the follower does with an unfinished listing
		f.mu.Unlock()
		run.err = s.Follow(ctx, f, resume)
	}()
	t.Cleanup(run.stop)
	return run
}

func (r *following) stop() { r.cancel(); <-r.ended }

// fails waits for Follow to return by itself, with an error that says want.
func (r *following) fails(want string) {
	r.t.Helper()
	select {
	case <-r.ended:
	case <-time.After(deadline):
		r.t.Fatalf("Follow did not return; want an error with %q", want)
	}
	if r.err == nil || !strings.Contains(r.err.Error(), want) {
		r.t.Fatalf("Follow: %v; want an error with %q", r.err, want)
	}
}

func (r *following) running() bool {
	select {
	case <-r.ended:
		return false
	default:
		return true
	}
}

// insist follows for ever, as the follower does, resuming after each error.
func insist(t *testing.T, s *Source, f *feed) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for resume := false; ctx.Err() == nil; resume = true {
			f.mu.Lock()
			f.pending = nil
			f.mu.Unlock()
			err := s.Follow(ctx, f, resume)
			if err == nil {
				t.Error("Follow returned nil")
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

const deadline = 45 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s for %s", deadline, what)
		}
	}
}
