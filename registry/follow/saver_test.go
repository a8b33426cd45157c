package follow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"dnsd/registry"
	"dnsd/registry/registrytest"
	"dnsd/registry/state"
)

// disk is a state directory that does as it is told.
type disk struct {
	full   atomic.Bool // of large files
	broken atomic.Bool // of all
	tries  atomic.Int32
	saved  atomic.Int32
}

func (d *disk) use(f *Follower) {
	fails := func(dir string, is *atomic.Bool, why syscall.Errno) error {
		if !is.Load() {
			return nil
		}
		return &fs.PathError{Op: "open", Path: dir + "/" + time.Now().String(), Err: why} // a name that is new each time
	}
	f.saver.probe = func(dir string) error {
		d.tries.Add(1)
		return fails(dir, &d.broken, syscall.EROFS)
	}
	f.saver.write = func(*registry.Snapshot, time.Time) error {
		d.tries.Add(1)
		if err := errors.Join(fails("/state", &d.broken, syscall.EROFS), fails("/state", &d.full, syscall.ENOSPC)); err != nil {
			return err
		}
		d.saved.Add(1)
		return nil
	}
}

// slowLog is a log to which the end of a listing takes long to write.
type slowLog struct{ slog.Handler }

func (slowLog) Enabled(context.Context, slog.Level) bool { return true }

func (slowLog) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "is listed") {
		time.Sleep(5 * time.Second)
	}
	return nil
}

// What is being applied when the shutdown begins is saved as well.
func TestTheLastStateIsThatOfTheLastChange(t *testing.T) {
	dir := t.TempDir()
	src := named{newPuppet(fleetOf(t, 3)), ""}
	follow(t, src, Config{StateDir: dir, Log: slog.New(slowLog{slog.DiscardHandler})}, func(_ *testing.T, r *registry.Registry, _ *Follower) {
		if r.Status().Synced() {
			t.Error("the listing is not under way any more")
		}
	})
	if n, err := saved(dir); err != nil || n != 3 {
		t.Errorf("%d objects are saved, %v; want 3", n, err)
	}
}

// What changes while a slow disk has both what it writes and what comes next is
// saved after that.
func TestASlowDiskGetsTheLastChange(t *testing.T) {
	var saved atomic.Int32
	slow := func(f *Follower) {
		f.saver.probe = func(string) error { return nil }
		f.saver.write = func(v *registry.Snapshot, _ time.Time) error {
			if saved.Load() == 0 {
				time.Sleep(150 * time.Second)
			}
			fleet, _ := v.Fleet(24, "web")
			saved.Store(int32(len(fleet.Machines())))
			return nil
		}
	}
	src := newPuppet(fleetOf(t, 3))
	follow(t, src, Config{StateDir: "/state"}, func(t *testing.T, r *registry.Registry, f *Follower) {
		pass(30 * time.Second)
		src.change(t, registry.Put(registrytest.Machine(t, "next")))
		pass(time.Minute)
		src.change(t, registry.Put(registrytest.Machine(t, "last")))
		pass(4 * time.Minute)
		if n := saved.Load(); n != 5 {
			t.Errorf("%d machines are saved, want all 5", n)
		}
	}, slow)
}

// What changes nothing is not saved.
func TestNothingNewIsNotSaved(t *testing.T) {
	d := &disk{}
	src := newPuppet(fleetOf(t, 3))
	follow(t, src, Config{StateDir: "/state"}, func(t *testing.T, r *registry.Registry, f *Follower) {
		pass(2 * time.Minute)
		for _, c := range []struct {
			item registry.Item
			want int32
		}{{fleetOf(t, 3)[0], 1}, {registry.Delete(fleetOf(t, 3)[0].About()), 2}} {
			src.change(t, c.item)
			pass(2 * time.Minute)
			if n := d.saved.Load(); n != c.want {
				t.Errorf("%s: saved %d times, want %d", c.item.About(), n, c.want)
			}
		}
	}, d.use)
}

// A disk that fails is said once, counted, shown and tried again; the serving goes on.
func TestADyingDiskCostsTheSaving(t *testing.T) {
	for name, c := range map[string]struct {
		fail func(d *disk) *atomic.Bool
		says string
	}{
		"from the start":      {func(d *disk) *atomic.Bool { return &d.broken }, "read-only file system"},
		"of the state's size": {func(d *disk) *atomic.Bool { return &d.full }, "no space left on device"},
	} {
		t.Run(name, func(t *testing.T) {
			d, log := &disk{}, &bytes.Buffer{}
			fails := c.fail(d)
			fails.Store(true)
			src := newPuppet(fleetOf(t, 3))
			follow(t, src, Config{StateDir: "/state", Log: registrytest.TextLog(log)}, func(t *testing.T, r *registry.Registry, f *Follower) {
				g := &guarded{src, t, r, f}
				for range 5 {
					src.change(t, registry.Put(registrytest.Machine(t, time.Now().String()[11:19])))
					pass(time.Minute)
				}
				s := r.Status()
				if s.State != registry.Live || r.Count(registry.KindMachine) != 8 || !strings.Contains(s.Unsaved, c.says) {
					t.Errorf("%s, %d machines, unsaved because %q, want %q", s.State, r.Count(registry.KindMachine), s.Unsaved, c.says)
				}
				if n := d.tries.Load(); n < 5 || n > 14 {
					t.Errorf("%d attempts within five minutes", n)
				}
				if n := g.metric("dnsd_registry_state_failing", ""); n != 1 {
					t.Errorf("the metric says %v", n)
				}
				if n := f.stats.saveErrors.Load(); n < 5 {
					t.Errorf("%d failures are counted", n)
				}
				fails.Store(false)
				pass(2 * time.Minute)
				if s := r.Status(); s.Unsaved != "" || d.saved.Load() == 0 || g.metric("dnsd_registry_state_failing", "") != 0 {
					t.Errorf("mended: unsaved because %q, saved %d times", s.Unsaved, d.saved.Load())
				}
			}, d.use)
			if n := strings.Count(log.String(), "level=ERROR"); n != 1 || strings.Count(log.String(), "can be written again") != 1 {
				t.Errorf("%d errors are logged:\n%s", n, log)
			}
		})
	}
}

// That another process keeps its state there is no trouble while that one may be about
// to end; afterwards it is.
func TestAnotherProcessKeepsItsStateThere(t *testing.T) {
	var busy atomic.Bool
	busy.Store(true)
	d, log := &disk{}, &bytes.Buffer{}
	follow(t, newPuppet(fleetOf(t, 3)), Config{StateDir: "/state", Log: registrytest.TextLog(log)}, func(t *testing.T, r *registry.Registry, f *Follower) {
		for range 2 {
			pass(50 * time.Second)
			if s := r.Status(); s.Unsaved != "" || d.saved.Load() != 0 {
				t.Errorf("after 50 s: unsaved because %q, saved %d times", s.Unsaved, d.saved.Load())
			}
			pass(20 * time.Second)
			if s := r.Status(); !strings.Contains(s.Unsaved, "another dnsd keeps its state there") {
				t.Errorf("after 70 s: unsaved because %q", s.Unsaved)
			}
			busy.Store(false)
			pass(2 * time.Minute)
			if s := r.Status(); s.Unsaved != "" || d.saved.Load() != 1 {
				t.Errorf("afterwards: unsaved because %q, saved %d times", s.Unsaved, d.saved.Load())
			}
			busy.Store(true)
			d.saved.Store(0)
			f.saver.failed.Store(true) // so that there is something to save
		}
	}, d.use, func(f *Follower) {
		write := f.saver.write
		f.saver.write = func(v *registry.Snapshot, now time.Time) error {
			if busy.Load() {
				return fmt.Errorf("writing state: %w", state.ErrBusy)
			}
			return write(v, now)
		}
	})
	if n := strings.Count(log.String(), "level=ERROR"); n != 2 {
		t.Errorf("%d errors are logged:\n%s", n, log)
	}
}

// A disk that fails is known and tried again also where there is nothing to save.
func TestADyingDiskIsKnownAtTheStart(t *testing.T) {
	d := &disk{}
	d.broken.Store(true)
	follow(t, dead(), Config{StateDir: "/state"}, func(t *testing.T, r *registry.Registry, f *Follower) {
		pass(2 * time.Second)
		if s := r.Status(); !strings.Contains(s.Unsaved, "read-only") {
			t.Errorf("unsaved because %q", s.Unsaved)
		}
		d.broken.Store(false)
		pass(2 * time.Minute)
		if s := r.Status(); s.Unsaved != "" {
			t.Errorf("mended, and unsaved because %q", s.Unsaved)
		}
		if n := d.tries.Load(); n != 2 {
			t.Errorf("%d attempts, want one more after the one that failed", n)
		}
	}, d.use)
}

// A disk that does not answer holds up neither the start nor the serving nor the
// end for long.
func TestADiskThatHangs(t *testing.T) {
	for _, what := range []string{"load", "probe", "write"} {
		t.Run(what, func(t *testing.T) {
			log := &bytes.Buffer{}
			synctest.Test(t, func(t *testing.T) {
				r := registry.New()
				f := New(r, newPuppet(fleetOf(t, 3)), Config{StateDir: "/state", Log: registrytest.TextLog(log)})
				d := &disk{}
				d.use(f)
				hang := make(chan struct{})
				switch what {
				case "load":
					f.saver.load = func(*state.Dir) *state.Contents { <-hang; return nil }
				case "probe":
					f.saver.probe = func(string) error { <-hang; return nil }
				default:
					f.saver.write = func(*registry.Snapshot, time.Time) error { <-hang; return nil }
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- f.Run(ctx) }()
				pass(loadPatience + time.Second)
				if s := r.Status(); s.State != registry.Live || r.Count(registry.KindMachine) != 3 {
					t.Errorf("%s with %d machines after the start", s.State, r.Count(registry.KindMachine))
				}
				pass(10 * time.Minute)
				if s := r.Status(); s.State != registry.Live || strings.Contains(s.Unsaved, "does not answer") != (what != "load") {
					t.Errorf("%s, unsaved because %q", s.State, s.Unsaved)
				}
				began := time.Now()
				cancel()
				<-done
				if took := time.Since(began); took > lastPatience {
					t.Errorf("the end took %v", took)
				}
				close(hang)
				synctest.Wait()
			})
			end := map[bool]int{true: 0, false: 1}[what == "load"]
			if n := strings.Count(log.String(), "does not answer"); n != 1 || strings.Count(log.String(), "takes too long") != end {
				t.Errorf("said %d times, want once, and at the end %d times:\n%s", n, end, log)
			}
		})
	}
	// Nor does one that hangs at the start hold up a shutdown.
	synctest.Test(t, func(t *testing.T) {
		f := New(registry.New(), dead(), Config{StateDir: "/state"})
		(&disk{}).use(f)
		hang := make(chan struct{})
		f.saver.load = func(*state.Dir) *state.Contents { <-hang; return nil }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Run(ctx) }()
		synctest.Wait()
		began := time.Now()
		cancel()
		<-done
		if took := time.Since(began); took != 0 {
			t.Errorf("the end took %v", took)
		}
		close(hang)
		synctest.Wait()
	})
}
