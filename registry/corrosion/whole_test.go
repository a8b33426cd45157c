package corrosion

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/corrosion/corrosiontest"
	"dnsd/registry/follow"
)

// quick is the default pace, a thousand times faster or so.
var quick = pace{
	look: 10 * time.Millisecond, wait: 5 * time.Millisecond, standstill: 200 * time.Millisecond, standstillAnew: 50 * time.Millisecond, standstillEmpty: 50 * time.Millisecond, settle: 30 * time.Millisecond,
	waitMost: patience, giveUp: 300 * time.Millisecond, remember: time.Millisecond,
}

// cluster starts an agent among others, with an app of 20 machines, and dnsd's
// source on it.
func cluster(t *testing.T, opts corrosiontest.Options, cfg Config, p pace, prepare ...func(*fixture)) *fixture {
	t.Helper()
	if opts.Members == 0 {
		opts.Members = 2
	}
	f := start(t, opts, cfg, append([]func(*fixture){func(f *fixture) {
		f.src.whole.pace = p
		for i := range 20 {
			f.agent.Put("machines", row(fmt.Sprintf("m%x", 0x10+i), "started"))
		}
	}}, prepare...)...)
	f.waitListed(1)
	return f
}

func (f *fixture) lastDoubt() string {
	if len(f.world.Seen().Doubts) == 0 {
		return "no listing"
	}
	return f.world.Seen().Doubts[len(f.world.Seen().Doubts)-1]
}

func (f *fixture) trouble() string {
	if err := f.src.Trouble(); err != nil {
		return err.Error()
	}
	return ""
}

func (f *fixture) waitTrouble(text string) {
	f.t.Helper()
	f.wait("trouble: "+text, func() bool { return strings.Contains(f.trouble(), text) && (text == "") == (f.trouble() == "") })
}

// A wiped agent is waited for: nothing that it has in the meantime, rows put
// together by half included, reaches the registry.
func TestWipedAgentIsWaitedFor(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"wiped", "restored"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			p := quick
			p.standstill = patience
			f := cluster(t, corrosiontest.Options{}, Config{}, p)
			f.agent.Put("machines", row("m10", "stopped")) // one row of two versions
			f.waitState("m10", "stopped")
			backup := f.agent.Versions() - 5
			f.agent.Put("machines", row("mfe", "started"))
			f.waitState("mfe", "started")
			if how == "wiped" {
				backup = 0
			}
			f.agent.Restore(backup)
			f.agent.Delete("machines", row("m11", "")) // while the agent is away
			f.agent.Put("machines", row("mff", "started"))
			f.start()
			f.waitTrouble("lacks")
			f.logged("the corrosion agent's data may be incomplete; waiting for it", 1)
			for f.agent.Refill(3) > 0 {
				time.Sleep(3 * p.wait)
				if n := f.world.Get(known); n != 21 {
					t.Fatalf("%d objects are known while the agent is filled, want 21", n)
				}
			}
			f.waitState("m11", "")
			f.waitState("mff", "started")
			if n := f.world.Get(known); n != 21 || f.state("m10") != "stopped" || f.state("mfe") != "started" {
				t.Errorf("%d objects are known, m10 is %s, mfe %s", n, f.state("m10"), f.state("mfe"))
			}
			f.waitListed(3)
			before := f.world.Proofs() // an agent with a new database has yet to see the others
			f.wait("a sign of life", func() bool { return f.world.Proofs() > before+1 })
			if got := f.world.Seen().Doubts; !slices.Equal(got, []string{"", doubtNew, ""}) || len(f.world.Seen().Rejects) > 0 {
				t.Errorf("listings with doubts %q, %d rejects", got, len(f.world.Seen().Rejects))
			}
			f.waitTrouble("")
		})
	}
}

// What came after dnsd last asked what the agent knows is not known to be
// missing in a new database. It stays until the agent has had time to catch up.
func TestNewDatabaseCatchesUp(t *testing.T) {
	t.Parallel()
	for _, quiet := range []bool{false, true} {
		t.Run(map[bool]string{false: "that learns", true: "with nothing to learn"}[quiet], func(t *testing.T) {
			t.Parallel()
			p := quick
			p.look, p.standstill = patience, patience
			if quiet {
				p.standstill = 300 * time.Millisecond
			}
			f := cluster(t, corrosiontest.Options{}, Config{}, p)
			f.stop() // so that what is remembered is what there is now
			f.follow()
			f.waitListed(2)
			backup := f.agent.Versions()
			f.agent.Put("machines", row("mfe", "started"))
			f.waitState("mfe", "started")
			f.agent.Restore(backup)
			f.start()
			f.waitListed(3)
			if f.lastDoubt() != doubtNew || f.state("mfe") != "started" || f.world.Get(held) != 1 {
				t.Errorf("doubt %q, mfe is %q, %d held", f.lastDoubt(), f.state("mfe"), f.world.Get(held))
			}
			if quiet {
				f.agent.Bury(1)
				f.waitListed(4)
				if f.lastDoubt() != "" || f.state("mfe") != "" {
					t.Errorf("doubt %q, mfe is %q", f.lastDoubt(), f.state("mfe"))
				}
				return
			}
			f.agent.Put("machines", row("mff", "started")) // the version before it is a gap now
			f.waitState("mff", "started")
			time.Sleep(3 * p.settle)
			if n := f.world.Listings(); n != 3 {
				t.Errorf("%d listings while there is a gap", n)
			}
			f.agent.Refill(1)
			f.waitListed(4)
			if f.lastDoubt() != "" || f.state("mfe") != "started" || f.state("mff") != "started" {
				t.Errorf("doubt %q, mfe is %q, mff %q", f.lastDoubt(), f.state("mfe"), f.state("mff"))
			}
		})
	}
}

// When it stands still, it is listed in doubt: what it has counts, what it lacks
// stays. When it has all that it had, it is listed again at once.
func TestDoubtedListing(t *testing.T) {
	t.Parallel()
	p := quick
	p.standstill, p.giveUp = 10*time.Millisecond, patience
	f := cluster(t, corrosiontest.Options{}, Config{}, p)
	f.agent.Put("machines", row("m18", "stopped"))
	f.waitState("m18", "stopped")
	f.wait("a look", func() bool { v := f.src.whole.view.Load(); return v.known.Sites["AAAA"].Head == 21 })
	f.agent.Wipe()
	f.agent.Refill(1) // a row that has nothing but its state
	f.agent.Delete("machines", row("m11", ""))
	f.start()
	f.waitListed(2)
	before := f.failed() // as the agent went away
	if f.lastDoubt() != doubt || f.world.Get(held) != 19 || f.world.Get(known) != 20 || f.world.Get(rejects) != 1 {
		t.Errorf("doubt %q, %d held, %d known", f.lastDoubt(), f.world.Get(held), f.world.Get(known))
	}
	f.agent.Put("machines", row("mff", "started"))
	f.waitState("mff", "started")
	f.agent.Refill(15)
	f.wait("a look", func() bool { v := f.src.whole.view.Load(); return v.lacking > 0 && v.lacking < 10 })
	if n := f.world.Get(known); n != 21 || f.world.Listings() != 2 {
		t.Errorf("%d known and %d listings before the agent is whole", n, f.world.Listings())
	}
	f.agent.Refill(100)
	f.waitListed(3)
	if f.lastDoubt() != "" || f.state("m11") != "" || f.world.Get(known) != 20 {
		t.Errorf("doubt %q, m11 is %q, %d known", f.lastDoubt(), f.state("m11"), f.world.Get(known))
	}
	f.waitTrouble("")
	// That the row which was of no use is mended is no reason to list again.
	if s := strings.TrimPrefix(f.failed(), before); s != "" {
		t.Errorf("Follow returned %q", s)
	}
}

// A database may be exchanged below an agent that goes on answering.
func TestLossWhileFollowed(t *testing.T) {
	t.Parallel()
	p := quick
	p.standstill = patience
	f := cluster(t, corrosiontest.Options{}, Config{}, p)
	f.wait("a look", func() bool { v := f.src.whole.view.Load(); return v != nil })
	f.agent.LoseVersions(3)
	f.waitTrouble("lacks 3 versions")
	f.wait("the end of the stream", func() bool {
		return strings.Contains(f.failed(), "has lost 3 versions of its data while it was followed")
	})
	asked := f.agent.Counts().Queries
	f.wait("further looks", func() bool { return f.agent.Counts().Queries > asked+5 })
	f.agent.Refill(3)
	f.waitListed(2)
	f.waitTrouble("")
	if f.lastDoubt() != "" || f.world.Get(known) != 20 {
		t.Errorf("doubt %q, %d known", f.lastDoubt(), f.world.Get(known))
	}
}

// What an agent has is remembered before it has settled: it may be wiped again.
func TestWipedBeforeItHasSettled(t *testing.T) {
	t.Parallel()
	p := quick
	p.settle, p.standstill, p.standstillEmpty = patience, patience, patience
	f := start(t, corrosiontest.Options{Members: 2}, Config{}, func(f *fixture) { f.src.whole.pace = p })
	f.waitTrouble("database is empty")
	f.agent.Put("machines", row("m1", "started"))
	f.waitListed(1)
	f.agent.Put("machines", row("m2", "started"))
	f.waitState("m2", "started")
	f.wait("a look", func() bool { return f.src.whole.view.Load().known.Sites["AAAA"].Head == 2 })
	f.agent.Wipe()
	f.start()
	f.waitTrouble("lacks 2 versions")
	f.wait("a warning", func() bool { return f.log.count("data may be incomplete") == 2 })
	if f.lastDoubt() != doubtNew || f.world.Listings() != 1 {
		t.Errorf("doubt %q, %d listings", f.lastDoubt(), f.world.Listings())
	}
}

// One that gets nearer too slowly is listed in doubt as well: new names must not
// wait for it for ever.
func TestSlowRefill(t *testing.T) {
	t.Parallel()
	p := quick
	p.standstill, p.waitMost, p.giveUp = patience, 100*time.Millisecond, patience
	f := cluster(t, corrosiontest.Options{}, Config{}, p, func(f *fixture) {
		f.src.comparison = comparison{first: 10 * time.Millisecond, every: 10 * time.Millisecond, settle: patience}
	})
	f.wait("a look", func() bool { v := f.src.whole.view.Load(); return v != nil })
	f.wait("a comparison", func() bool { return f.agent.Counts().Selects > 0 })
	f.agent.Wipe()
	f.start()
	f.waitTrouble("lacks")
	compared := -1
	f.wait("the end of a comparison from before", func() bool {
		before := compared
		time.Sleep(100 * time.Millisecond)
		compared = f.agent.Counts().Selects
		return compared == before
	})
	for f.world.Listings() < 2 && f.agent.Refill(1) > 0 {
		time.Sleep(20 * time.Millisecond)
	}
	f.waitListed(2)
	if f.lastDoubt() != doubt || f.world.Get(known) != 20 {
		t.Errorf("doubt %q, %d known", f.lastDoubt(), f.world.Get(known))
	}
	time.Sleep(100 * time.Millisecond)
	if n := f.agent.Counts().Selects; n != compared { // it would find a difference all the time
		t.Errorf("%d tables were compared with one that is being filled", n-compared)
	}
}

// What nobody has any more is not waited for for ever. An agent that sees nobody
// to ask proves nothing, however long.
func TestDoubtEnds(t *testing.T) {
	t.Parallel()
	for _, alone := range []bool{false, true} {
		t.Run(map[bool]string{false: "among others", true: "cut off"}[alone], func(t *testing.T) {
			t.Parallel()
			p := quick
			p.standstill, p.giveUp = 10*time.Millisecond, 100*time.Millisecond
			f := cluster(t, corrosiontest.Options{}, Config{}, p)
			f.agent.Bury(3)
			f.agent.Wipe()
			if alone {
				f.agent.Isolate()
			}
			f.agent.Meet()
			f.start()
			f.agent.Refill(100)
			f.waitListed(2)
			if f.lastDoubt() != doubt || f.world.Get(held) != 3 {
				t.Errorf("doubt %q, %d held", f.lastDoubt(), f.world.Get(held))
			}
			if alone {
				f.waitTrouble("sees no other agent")
				time.Sleep(3 * p.giveUp)
				if n := f.world.Listings(); n != 2 || f.world.Get(known) != 20 {
					t.Errorf("%d listings, %d known", n, f.world.Get(known))
				}
				return
			}
			f.waitListed(3)
			if f.lastDoubt() != "" || f.world.Get(known) != 17 {
				t.Errorf("doubt %q, %d known", f.lastDoubt(), f.world.Get(known))
			}
			f.logged("data is taken as complete", 1)
			f.relist() // and it is no matter any more
			f.waitListed(4)
			if f.lastDoubt() != "" {
				t.Errorf("doubt %q after it was given up", f.lastDoubt())
			}
		})
	}
}

// Nobody could give an agent that always was alone what it has lost: its word is
// taken, and the sweep guard's is the last.
func TestLoneAgentIsTakenAtItsWord(t *testing.T) {
	t.Parallel()
	f := start(t, corrosiontest.Options{}, Config{}, put, func(f *fixture) { f.src.whole.pace = quick })
	f.waitListed(1)
	f.wait("a look", func() bool { return f.src.whole.view.Load() != nil })
	f.agent.Wipe()
	f.start()
	f.waitListed(2)
	if f.lastDoubt() != "" || f.world.Get(known) != 0 {
		t.Errorf("doubt %q, %d known", f.lastDoubt(), f.world.Get(known))
	}
	f.agent.Put("machines", row("m1", "started"))
	f.waitState("m1", "started")
	f.waitTrouble("")
}

// An agent whose health says nothing, because nothing has happened, is whole.
func TestQuietCluster(t *testing.T) {
	t.Parallel()
	f := cluster(t, corrosiontest.Options{}, Config{}, quick)
	f.agent.Stop()
	f.start()
	f.agent.Forget()
	f.waitListed(2)
	if f.lastDoubt() != "" || f.trouble() != "" {
		t.Errorf("doubt %q, trouble %q", f.lastDoubt(), f.trouble())
	}
}

// dnsd may be restarted while its agent is filled.
func TestKnowledgeSurvivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := quick
	p.standstill, p.giveUp = 10*time.Millisecond, patience
	f := cluster(t, corrosiontest.Options{}, Config{StateDir: dir}, p)
	path := filepath.Join(dir, memoryFile)
	f.wait("the file", func() bool { _, err := os.Stat(path); return err == nil })
	f.stop()
	f.agent.Wipe()
	f.start()
	f.agent.Refill(10) // from the newest on: there are gaps
	restart := func() {
		f.stop()
		src, err := New(f.src.cfg, slog.New(f.log))
		if err != nil {
			t.Fatal(err)
		}
		src.whole.pace, src.proveEvery = p, f.src.proveEvery
		f.src = src
		before := f.world.Listings()
		f.follow()
		f.waitListed(before + 1)
	}
	restart()
	if f.lastDoubt() != doubt || f.world.Get(known) != 20 {
		t.Errorf("doubt %q, %d known", f.lastDoubt(), f.world.Get(known))
	}
	f.stop()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	restart()
	if f.lastDoubt() != "" {
		t.Errorf("without a file: doubt %q", f.lastDoubt())
	}
	f.logged("cannot be read; starting without it", 0)
	f.stop()
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	restart()
	f.logged("cannot be read; starting without it", 1)
}

func TestKnowledgeThatCannotBeSaved(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	f := cluster(t, corrosiontest.Options{}, Config{StateDir: dir}, quick)
	for round := 1; round <= 2; round++ {
		f.wait("the first try", func() bool { return f.log.count("knowledge of the corrosion agent cannot be saved") == round })
		looked := f.agent.Counts().Queries
		f.wait("further ones", func() bool { return f.agent.Counts().Queries > looked+10 })
		f.logged("knowledge of the corrosion agent cannot be saved", round)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		f.wait("the file", func() bool { _, err := os.Stat(filepath.Join(dir, memoryFile)); return err == nil })
		if err := os.Rename(dir, fmt.Sprint(dir, round)); err != nil {
			t.Fatal(err)
		}
	}
}

// Of an agent that is new to dnsd it is not known what it should have. Gaps that
// close are waited for; those that stay are for ever.
func TestNewAgentWithGaps(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		closes bool
		known  int
		doubts []string
	}{
		{"that close", true, 4, []string{doubtNew, ""}},
		{"that stay", false, 1, []string{""}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := quick
			if test.closes {
				p.standstillAnew = patience
			}
			f := start(t, corrosiontest.Options{Members: 2}, Config{}, put, func(f *fixture) {
				f.src.whole.pace = p
				f.agent.Restore(0)
				f.start()
				f.agent.Refill(1)
			})
			f.waitTrouble("lacks 3 versions")
			if test.closes {
				if n := f.world.Listings(); n != 0 {
					t.Errorf("%d listings while there are gaps", n)
				}
				f.agent.Refill(100)
			}
			f.waitListed(len(test.doubts))
			if n := f.world.Get(known); n != test.known || !slices.Equal(f.world.Seen().Doubts, test.doubts) {
				t.Errorf("%d known, want %d; listed with doubts %q, want %q", n, test.known, f.world.Seen().Doubts, test.doubts)
			}
			f.waitTrouble("")
			f.agent.Forget()
			f.waitListed(len(test.doubts) + 1)
			if f.lastDoubt() != "" {
				t.Errorf("doubt %q", f.lastDoubt())
			}
		})
	}
}

// An agent that is new to dnsd and has nothing yet may be about to be filled.
func TestNewEmptyAgent(t *testing.T) {
	t.Parallel()
	p := quick
	p.standstillEmpty = patience
	f := start(t, corrosiontest.Options{Members: 2}, Config{}, func(f *fixture) { f.src.whole.pace = p })
	f.waitTrouble("database is empty")
	if n := f.world.Listings(); n != 0 {
		t.Errorf("%d listings of an empty database", n)
	}
	f.agent.Put("machines", row("m1", "started"))
	f.waitListed(2)
	f.waitState("m1", "started")
	if got := f.world.Seen().Doubts; !slices.Equal(got, []string{doubtNew, ""}) {
		t.Errorf("listed with doubts %q", got)
	}

	// Nobody else has anything to give to one that is alone.
	f = start(t, corrosiontest.Options{}, Config{}, func(f *fixture) { f.src.whole.pace = p })
	f.waitTrouble("database is empty")
	f.agent.Put("machines", row("m1", "started"))
	f.waitListed(1)
	if f.lastDoubt() != "" {
		t.Errorf("doubt %q", f.lastDoubt())
	}

	p.standstillEmpty = 20 * time.Millisecond
	f = start(t, corrosiontest.Options{}, Config{}, func(f *fixture) { f.src.whole.pace = p })
	f.waitListed(1) // nothing was ever written
	if f.lastDoubt() != "" {
		t.Errorf("doubt %q", f.lastDoubt())
	}
	f.agent.Put("machines", row("m1", "started"))
	f.waitState("m1", "started")
	f.waitTrouble("")
}

// What the registry makes of it: nothing is lost to a doubt, whatever its state;
// an operator's word lets go of it.
func TestDoubtHoldsUntilReleased(t *testing.T) {
	t.Parallel()
	p := quick
	p.standstill, p.giveUp = 10*time.Millisecond, patience
	f := cluster(t, corrosiontest.Options{}, Config{}, p)
	f.stop()
	reg := registry.New()
	follower := follow.New(reg, f.src, follow.Config{OwnHost: true, Log: testLog(t)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- follower.Run(ctx) }()
	defer func() { cancel(); <-done }()
	machines := func() int { return reg.Count(registry.KindMachine) }
	f.wait("a listing", func() bool { return reg.Status().State == registry.Live && machines() == 20 })
	f.agent.Bury(100)
	f.agent.Wipe()
	f.start()
	f.wait("doubt", func() bool { return reg.Status().Doubt == doubt })
	f.wait("what is held", func() bool { return reg.Status().Held == 20 })
	f.agent.Put("machines", row("mff", "started"))
	f.wait("what is new", func() bool { return machines() == 21 })
	follower.Release()
	f.wait("the release", func() bool { return machines() == 1 && reg.Status().Held == 0 })
}
