package corrosion

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"dnsd/registry"
	"dnsd/registry/corrosion/corrosiontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come. The machine may be busy.
const patience = 20 * time.Second

// world is a feed that applies what it gets to a map, as strictly as the
// follower does: an object of a listing that equals the known one is only
// marked, and what a listing lacks is removed.
type world struct {
	mu       sync.Mutex
	objects  map[registry.Key]registry.Object
	rejects  []registry.Item
	listings int
	proofs   int      // calls of Change without items
	changes  int      // items of Change
	doubts   []string // of the listings
	held     int      // what the last listing lacked and was not sure about
	calls    []string
	inUse    bool

	listing  bool
	seen     map[registry.Key]bool
	puts     []registry.Object
	rejected map[registry.Key]bool
}

func newWorld() *world { return &world{objects: map[registry.Key]registry.Object{}} }

// enter checks the rule that one goroutine at a time calls.
func (w *world) enter(call string) func() {
	w.mu.Lock()
	if w.inUse {
		panic("feed used by two goroutines at a time")
	}
	w.inUse = true
	if len(w.calls) == 0 || w.calls[len(w.calls)-1] != call {
		w.calls = append(w.calls, call)
	}
	return func() { w.inUse = false; w.mu.Unlock() }
}

func (w *world) List(ctx context.Context, items []registry.Item) error {
	defer w.enter("list")()
	if !w.listing {
		w.listing, w.seen, w.puts, w.rejected = true, map[registry.Key]bool{}, nil, map[registry.Key]bool{}
	}
	for _, item := range items {
		if item.Err != nil {
			w.rejects = append(w.rejects, item)
			w.rejected[item.Key] = true
			continue
		}
		key := item.Object.Key()
		w.seen[key] = true
		if !reflect.DeepEqual(w.objects[key], item.Object) {
			w.puts = append(w.puts, item.Object)
		}
	}
	return ctx.Err()
}

func (w *world) Listed(ctx context.Context, doubt string) error {
	if err := w.List(ctx, nil); err != nil {
		return err
	}
	defer w.enter("listed")()
	w.doubts = append(w.doubts, doubt)
	w.held = 0
	for key := range w.objects {
		switch {
		case w.seen[key] || w.keeps(key):
		case doubt != "":
			w.held++
		default:
			delete(w.objects, key)
		}
	}
	for _, o := range w.puts {
		w.objects[o.Key()] = o
	}
	w.listing = false
	w.listings++
	return nil
}

// keeps reports whether the listing named an object without being readable. A
// machine is told by its id.
func (w *world) keeps(key registry.Key) bool {
	for bad := range w.rejected {
		same := bad.Name == key.Name && bad.ID == key.ID
		if bad.Kind == registry.KindMachine {
			same = bad.ID == key.ID
		}
		if bad.Kind == key.Kind && same && (bad.AnyNetwork || bad.Network == key.Network) {
			return true
		}
	}
	return false
}

func (w *world) Change(ctx context.Context, items []registry.Item) error {
	defer w.enter("change")()
	if len(items) == 0 {
		w.proofs++
	}
	for _, item := range items {
		w.changes++
		switch {
		case item.Err != nil:
			w.rejects = append(w.rejects, item)
		case item.Object != nil:
			w.objects[item.Object.Key()] = item.Object
		case item.Key.AnyNetwork || item.Key.Name == "":
			panic("deletion of a key that names nothing: " + item.Key.String())
		default:
			delete(w.objects, item.Key)
		}
	}
	return ctx.Err()
}

// has reports what is known, as "machine my-app/m1 in … started", in a set.
func (w *world) has(key registry.Key) registry.Object {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.objects[key]
}

func (w *world) get(f func(*world) int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return f(w)
}

func listings(w *world) int { return w.listings }
func proofs(w *world) int   { return w.proofs }

// fixture is an agent, a source that follows it, and what came of it.
type fixture struct {
	t      *testing.T
	agent  *corrosiontest.Agent
	src    *Source
	world  *world
	cancel context.CancelFunc
	done   chan struct{}

	patient bool // differences may last for long

	mu   sync.Mutex
	errs []error // what Follow returned
}

func start(t *testing.T, opts corrosiontest.Options, cfg Config, prepare ...func(*fixture)) *fixture {
	t.Helper()
	agent, err := corrosiontest.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(agent.Close)
	f := &fixture{t: t, agent: agent, world: newWorld(), done: make(chan struct{})}
	cfg.Addr = agent.Addr()
	if f.src, err = New(cfg, testLog(t)); err != nil {
		t.Fatal(err)
	}
	f.src.proveEvery = 20 * time.Millisecond
	f.src.whole.pace.standstillAnew = 20 * time.Millisecond
	f.src.whole.pace.standstillEmpty = 20 * time.Millisecond
	f.src.whole.pace.wait = 5 * time.Millisecond
	for _, p := range prepare {
		p(f)
	}
	f.follow()
	return f
}

// follow follows again and again, as the follower does, with short pauses.
func (f *fixture) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel, f.done = cancel, make(chan struct{})
	done := f.done
	go func() {
		defer close(done)
		for resume := false; ctx.Err() == nil; resume = true {
			w := f.world
			w.mu.Lock()
			w.listing = false
			w.mu.Unlock()
			err := f.src.Follow(ctx, w, resume)
			if err == nil {
				err = errors.New("Follow returned nil")
			}
			f.mu.Lock()
			f.errs = append(f.errs, err)
			f.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	f.t.Cleanup(f.stop)
}

func (f *fixture) stop() { f.cancel(); <-f.done }

// relist ends Follow and begins anew, without resuming.
func (f *fixture) relist() { f.stop(); f.follow() }

// failed returns what Follow has returned so far.
func (f *fixture) failed() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var s []string
	for _, err := range f.errs {
		s = append(s, err.Error())
	}
	return strings.Join(s, "\n")
}

// wait waits until ok.
func (f *fixture) wait(what string, ok func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("waited %s for: %s\nFollow returned: %s", patience, what, f.failed())
		}
	}
}

func (f *fixture) waitListed(n int) {
	f.t.Helper()
	f.wait("a listing", func() bool { return f.world.get(listings) >= n })
}

// waitState waits until machine id of my-app is in a state; empty: unknown.
func (f *fixture) waitState(id, state string) {
	f.t.Helper()
	f.wait(id+" being "+state, func() bool { return f.state(id) == state })
}

func (f *fixture) state(id string) string {
	if m, ok := f.world.has(machineKey(id)).(*registry.Machine); ok {
		return m.State
	}
	return ""
}

const net18 registry.Network = 0x18

func machineKey(id string) registry.Key {
	return registry.Key{Kind: registry.KindMachine, Network: net18, Name: "my-app", ID: id}
}

// row returns a row of machine id in my-app.
func row(id, state string) corrosiontest.Row {
	return corrosiontest.Row{
		"id": id, "network": "fdaa:0:18::/48", "app": "my-app", "region": "iad", "process_group": "web",
		"state": state, "private_ip": "fdaa:0:18:a7b:7d::" + id[1:], "metadata": `{"role":"primary"}`, "updated_at": 7,
	}
}

func with(r corrosiontest.Row, column string, value any) corrosiontest.Row {
	r[column] = value
	return r
}

func testLog(t *testing.T) *slog.Logger {
	if os.Getenv("DNSD_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(io.Writer(t.Output()), &slog.HandlerOptions{Level: slog.LevelDebug}))
}
