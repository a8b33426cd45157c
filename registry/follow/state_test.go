package follow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"dnsd/registry"
	"dnsd/registry/registrytest"
	"dnsd/registry/state"
)

// run follows src in a bubble with a state directory for d and returns what the
// registry held and its status at the end.
func run(t *testing.T, src Source, dir string, d time.Duration, log *bytes.Buffer) (map[registry.Key]string, *registry.Status) {
	var held map[registry.Key]string
	var status *registry.Status
	cfg := Config{StateDir: dir, Log: slog.New(slog.NewTextHandler(log, nil))}
	follow(t, src, cfg, func(t *testing.T, r *registry.Registry, _ *Follower) {
		pass(d)
		held, status = registrytest.Objects(r), r.Status()
	})
	return held, status
}

// saved returns how many objects the state in a directory has.
func saved(dir string) (int, error) {
	c, err := state.Read(filepath.Join(dir, state.Name))
	if err != nil {
		return 0, err
	}
	return c.Objects(), nil
}

func dead() *script {
	return &script{steps: []func(context.Context, Feed, bool) error{
		func(context.Context, Feed, bool) error { return errors.New("connection refused") },
	}}
}

func TestLastKnownStateIsServedWhenTheSourceIsDead(t *testing.T) {
	dir, log := t.TempDir(), &bytes.Buffer{}
	all := fleetOf(t, 30)
	peer, _ := registry.NewPeer(registry.PeerSpec{Name: "p", PrivateIP: "fdaa:0:18::2"})
	all = append(all, registry.Put(peer), registry.Put(&registry.App{Name: "empty", Network: 24}))
	before, _ := run(t, &script{steps: []func(context.Context, Feed, bool) error{list(func() []registry.Item { return all })}}, dir, time.Second, log)
	after, status := run(t, dead(), dir, time.Hour, log)
	if !reflect.DeepEqual(before, after) || len(after) != 32 {
		t.Errorf("loaded %d objects, saved %d", len(after), len(before))
	}
	if status.State != registry.Cached || !status.Stale() || status.SyncedAt.IsZero() || !strings.Contains(status.Problem, "refused") {
		t.Errorf("status %+v, want cached, stale, with its time", status)
	}
	// And a live source takes over from it, removals included.
	now, status := run(t, &script{steps: []func(context.Context, Feed, bool) error{list(func() []registry.Item { return all[:20] })}}, dir, time.Second, log)
	if len(now) != 20 || status.State != registry.Live {
		t.Errorf("after the source is back: %d objects, %s; want 20, live", len(now), status.State)
	}
}

// Load makes the state visible before it returns; Run then does not load it again.
func TestLoadIsDoneOnce(t *testing.T) {
	dir, log := t.TempDir(), &bytes.Buffer{}
	run(t, named{newPuppet(fleetOf(t, 3)), ""}, dir, time.Second, log)
	loads := 0
	follow(t, named{dead(), ""}, Config{StateDir: dir}, func(t *testing.T, r *registry.Registry, f *Follower) {
		if loads != 1 || r.Count(registry.KindMachine) != 3 {
			t.Errorf("loaded %d times, %d machines", loads, r.Count(registry.KindMachine))
		}
	}, func(f *Follower) {
		load := f.saver.load
		f.saver.load = func(dir *state.Dir) *state.Contents { loads++; return load(dir) }
		f.Load(context.Background())
		if n := f.reg.Count(registry.KindMachine); n != 3 || f.reg.Status().State != registry.Cached {
			t.Errorf("after Load: %d machines, %s", n, f.reg.Status().State)
		}
	})
}

// A load that nobody waits for any more uses its own directory, and lets go of it:
// another process can write there.
func TestALateLoadLetsGo(t *testing.T) {
	path := t.TempDir()
	f := New(registry.New(), named{dead(), ""}, Config{StateDir: path})
	load, begin, ended := f.saver.load, make(chan struct{}), make(chan struct{})
	f.saver.load = func(dir *state.Dir) *state.Contents {
		defer close(ended)
		<-begin
		return load(dir)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.Load(ctx)
	close(begin)
	<-ended
	other := state.New(path, "cluster")
	defer other.Close()
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := other.Save(f.reg.Snapshot(), time.Now())
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

// That a directory has no locks is in the log.
func TestAStateDirectoryWithoutLocks(t *testing.T) {
	log := &bytes.Buffer{}
	f := New(registry.New(), dead(), Config{StateDir: "/state", Log: slog.New(slog.NewTextHandler(log, nil))})
	f.saver.dir.Unlocked(os.NewSyscallError("flock", syscall.ENOLCK))
	if got := log.String(); !strings.Contains(got, "cannot be locked") || !strings.Contains(got, "dir=/state") || !strings.Contains(got, "flock: no locks available") {
		t.Error(got)
	}
}

func TestDamagedStateIsPassedOver(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(data []byte) []byte
		says   string
	}{
		"cut short":       {func(d []byte) []byte { return d[:len(d)/2] }, "cut short"},
		"empty":           {func([]byte) []byte { return nil }, "cut short"},
		"a bit turned":    {func(d []byte) []byte { d[len(d)*2/3] ^= 1; return d }, "damaged"},
		"of a newer dnsd": {func(d []byte) []byte { return bytes.Replace(d, []byte("#dnsd-state 2"), []byte("#dnsd-state 3"), 1) }, "a newer dnsd wrote it"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, log := t.TempDir(), &bytes.Buffer{}
			for i, n := range []int{3, 4} {
				r := registry.New()
				r.Apply(fleetOf(t, n))
				d := state.New(dir, "script://")
				if err := d.Save(r.Snapshot(), time.Now()); err != nil {
					t.Fatal(i, err)
				}
				d.Close()
			}
			path := filepath.Join(dir, state.Name)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			damaged := c.damage(data)
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			got, status := run(t, dead(), dir, time.Second, log)
			if len(got) != 3 || status.State != registry.Cached {
				t.Errorf("loaded %d objects in state %s, want the 3 of the previous file", len(got), status.State)
			}
			if !strings.Contains(log.String(), c.says) {
				t.Errorf("the log does not say %q:\n%s", c.says, log)
			}
			if left, _ := os.ReadFile(path); !bytes.Equal(left, damaged) {
				t.Error("the file that cannot be used is not what it was")
			}
		})
	}
}

// Where the last write was cut off, what was saved before it is loaded, and the log
// says so.
func TestATornWriteCostsItself(t *testing.T) {
	dir, log := t.TempDir(), &bytes.Buffer{}
	run(t, named{newPuppet(fleetOf(t, 3)), ""}, dir, time.Second, log)
	file, err := os.OpenFile(filepath.Join(dir, state.Name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write([]byte{100, 0, 0, 0, 1}); err != nil || file.Close() != nil {
		t.Fatal(err)
	}
	got, status := run(t, named{dead(), ""}, dir, time.Second, log)
	if len(got) != 3 || status.State != registry.Cached || !strings.Contains(log.String(), "bytes=5 why=\"it is cut short\"") {
		t.Errorf("%d objects, %s:\n%s", len(got), status.State, log)
	}
}

func TestNoStateAndNoDirectory(t *testing.T) {
	log := &bytes.Buffer{}
	if got, status := run(t, dead(), t.TempDir(), time.Second, log); len(got) != 0 || status.Synced() {
		t.Errorf("without a state: %d objects, %s", len(got), status.State)
	}
	all := &script{steps: []func(context.Context, Feed, bool) error{list(func() []registry.Item { return fleetOf(t, 2) })}}
	if got, status := run(t, all, filepath.Join(t.TempDir(), "absent"), time.Minute, log); len(got) != 2 || status.State != registry.Live {
		t.Errorf("with a directory that is not there: %d objects, %s; want 2, live", len(got), status.State)
	}
	if !strings.Contains(log.String(), `cannot be written: dnsd serves without keeping it, and tries again every minute" dir=`) || !strings.Contains(log.String(), "there is no such directory: create it") {
		t.Errorf("the log does not say that the state cannot be written, and what to do: %s", log)
	}
}

// The state is written every two seconds while changing, at shutdown, and never
// while removals are held: the next start would believe what the guard doubts.
func TestWhenTheStateIsWritten(t *testing.T) {
	dir := t.TempDir()
	change := func(ctx context.Context, feed Feed, _ bool) error {
		_ = errors.Join(feed.List(ctx, fleetOf(t, 1)), feed.Listed(ctx, ""))
		for i := 0; ctx.Err() == nil; i++ {
			_ = feed.Change(ctx, []registry.Item{registry.Put(registrytest.Machine(t, fmt.Sprint("x", i)))})
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
		return ctx.Err()
	}
	written := map[time.Time]bool{}
	synctest.Test(t, func(t *testing.T) {
		r := registry.New()
		f := New(r, &script{steps: []func(context.Context, Feed, bool) error{change}}, Config{StateDir: dir})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Run(ctx) }()
		for range 290 {
			pass(time.Second)
			written[time.Unix(0, f.stats.saved.Load())] = true
		}
		cancel()
		<-done
		n, err := saved(dir)
		if err != nil || n != r.Count(registry.KindMachine) {
			t.Errorf("at shutdown %d objects were saved of %d (%v)", n, r.Count(registry.KindMachine), err)
		}
	})
	if len(written) < 140 || len(written) > 150 {
		t.Errorf("written %d times in some five minutes, want once every two seconds", len(written))
	}
	log := &bytes.Buffer{}
	held := t.TempDir()
	run(t, &script{steps: []func(context.Context, Feed, bool) error{list(func() []registry.Item { return fleetOf(t, 100) })}}, held, time.Second, log)
	run(t, &script{steps: []func(context.Context, Feed, bool) error{list(func() []registry.Item { return nil })}}, held, 20*time.Second, log)
	if n, err := saved(held); err != nil || n != 100 {
		t.Errorf("while held the state was replaced: %d objects (%v)", n, err)
	}
}

func TestCachedTellsItsAge(t *testing.T) {
	dir, log := t.TempDir(), &bytes.Buffer{}
	run(t, &script{steps: []func(context.Context, Feed, bool) error{list(func() []registry.Item { return fleetOf(t, 3) })}}, dir, time.Second, log)
	follow(t, dead(), Config{StateDir: dir}, func(t *testing.T, r *registry.Registry, _ *Follower) {
		if r.LastAlive().IsZero() || !r.LastAlive().Equal(r.Status().SyncedAt) {
			t.Errorf("last alive %v, saved %v", r.LastAlive(), r.Status().SyncedAt)
		}
	})
}

// A shutdown saves what was offered and not yet taken, and what failed before.
func TestStateIsSavedAtShutdown(t *testing.T) {
	step := list(func() []registry.Item { return fleetOf(t, 3) })
	for range 20 {
		dir := t.TempDir()
		run(t, &script{steps: []func(context.Context, Feed, bool) error{step}}, dir, 0, &bytes.Buffer{})
		if _, err := saved(dir); err != nil {
			t.Fatalf("right after a listing: %v", err)
		}
	}
	dir := filepath.Join(t.TempDir(), "later")
	follow(t, &script{steps: []func(context.Context, Feed, bool) error{step}}, Config{StateDir: dir}, func(t *testing.T, _ *registry.Registry, f *Follower) {
		pass(time.Second)
		if f.stats.saveErrors.Load() == 0 {
			t.Error("the state was saved in a directory that is not there")
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := saved(dir); err != nil {
		t.Errorf("after a save that failed: %v", err)
	}
}

func TestLeftoversAreRemoved(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{state.Name + ".123.tmp", state.Previous + ".tmp", "mine.tmp"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := &bytes.Buffer{}
	run(t, dead(), dir, time.Second, log)
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 || strings.Contains(log.String(), "cannot be removed") {
		t.Errorf("left are %v, want only what is not dnsd's; log:\n%s", left, log)
	}
}

// A clock that was wrong when the state was saved does not make it come from
// the future; other end points of the same cluster do not make it another's.
func TestStateOfAnotherClockAndOtherEndPoints(t *testing.T) {
	dir, log := t.TempDir(), &bytes.Buffer{}
	src := func() Source { return named{dead(), "etcd://" + t.Name()} }
	all := registry.New()
	all.Apply(fleetOf(t, 3))
	if err := state.New(dir, "cluster").Save(all.Snapshot(), time.Now().AddDate(99, 0, 0)); err != nil {
		t.Fatal(err)
	}
	follow(t, src(), Config{StateDir: dir, Log: slog.New(slog.NewTextHandler(log, nil))}, func(t *testing.T, r *registry.Registry, _ *Follower) {
		if r.Count(registry.KindMachine) != 3 || time.Since(r.LastAlive()) < 0 {
			t.Errorf("%d machines, last heard %v; log:\n%s", r.Count(registry.KindMachine), r.LastAlive(), log)
		}
	})
}

// The age of a state that was loaded does not follow a clock that is set
// afterwards: it has a monotonic reading, as that of a source that was heard.
func TestLoadedStateAgesByTheMonotonicClock(t *testing.T) {
	for _, age := range []time.Duration{time.Hour, 0, -time.Hour} {
		r := registry.New()
		f := New(r, dead(), Config{Log: slog.New(slog.DiscardHandler)})
		f.startFrom(&state.Contents{Saved: time.Now().Add(-age).Round(0)}) // as it is read
		heard := r.LastAlive()
		if r.Status().State != registry.Cached || !strings.Contains(heard.String(), " m=") {
			t.Errorf("%v, last heard at %v, want a monotonic reading", r.Status().State, heard)
		}
		if got := time.Since(heard); got < max(age, 0) || got > max(age, 0)+time.Minute {
			t.Errorf("a state that was saved %v ago has an age of %v", age, got)
		}
	}
}

// named is a source whose identity is not its name.
type named struct {
	Source
	name string
}

func (n named) String() string   { return n.name }
func (n named) Identity() string { return "cluster" }

// A state on disk that is no file, or has no end, is passed over at the start, and
// replaced by one that is good, but for a directory.
func TestStateThatIsNoFile(t *testing.T) {
	for name, says := range registrytest.OddFiles(t, t.TempDir()) {
		for _, which := range []string{state.Name, state.Previous} {
			dir, log := t.TempDir(), &strings.Builder{}
			if registrytest.OddFiles(t, dir); name == "directory" {
				says = "remove it"
			}
			if err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, which)); err != nil && name != "none" {
				t.Fatal(err)
			}
			src := newPuppet(fleetOf(t, 3))
			if err := registrytest.Soon(t, name, func() error {
				follow(t, src, Config{StateDir: dir, Log: registrytest.TextLog(log)}, func(t *testing.T, r *registry.Registry, _ *Follower) {
					pass(time.Second)
					if r.Count(registry.KindMachine) != 3 || r.Status().State != registry.Live {
						t.Errorf("%s: %d machines, %s", name, r.Count(registry.KindMachine), r.Status().State)
					}
				})
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if name != "none" && !strings.Contains(log.String(), says) {
				t.Errorf("%s as %s: the log does not say %q:\n%s", name, which, says, log)
			}
			n, err := saved(dir)
			if (err != nil || n != 3) && name != "directory" {
				t.Errorf("%s as %s: afterwards %d objects are saved, %v", name, which, n, err)
			}
		}
	}
}
