package corrosion

import (
	"os"
	"path/filepath"
	"testing"

	"dnsd/registry/corrosion/corrosiontest"
)

// An agent whose internal tables cannot be read is judged by its health.
func TestMuteAgent(t *testing.T) {
	t.Parallel()
	f := cluster(t, corrosiontest.Options{Mute: true}, Config{}, quick)
	f.agent.Wipe()
	f.start()
	if f.agent.Refill(5) == 0 {
		t.Fatal("there are no gaps")
	}
	f.wait("a listing in doubt, or the guard's chance", func() bool { return f.world.Listings() > 1 })
	f.agent.Forget()
	f.wait("doubt", func() bool { return f.lastDoubt() == doubt })
	f.waitTrouble("lacks")
	f.relist()
	f.logged("does not tell which versions it has", 1)
	f.agent.Refill(100)
	f.wait("no doubt", func() bool { return f.lastDoubt() == "" && f.world.Get(known) == 20 })
}

// Such an agent is resumed as any other.
func TestMuteAgentIsResumed(t *testing.T) {
	t.Parallel()
	f := cluster(t, corrosiontest.Options{Mute: true}, Config{}, quick)
	f.agent.Put("machines", row("m10", "stopped")) // so that there is a change to resume from
	f.waitState("m10", "stopped")
	f.agent.Reset()
	f.wait("the end of the stream", func() bool { return f.failed() != "" })
	f.agent.Put("machines", row("m10", "starting"))
	f.waitState("m10", "starting")
	if n := f.world.Listings(); n != 1 {
		t.Errorf("%d listings, want one", n)
	}
}

// Knowledge that cannot be read is as good as none, and that is said.
func TestUnreadableKnowledge(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, memoryFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := cluster(t, corrosiontest.Options{}, Config{StateDir: dir}, quick)
	f.relist()
	f.waitListed(2)
	f.logged("the saved knowledge of the corrosion agent cannot be read; starting without it", 1)
	if f.lastDoubt() != "" {
		t.Errorf("listed with doubt %q", f.lastDoubt())
	}
}

// The agent logs an error for each question about its health that it cannot
// answer: it is asked when it has learned something.
func TestHealthIsAskedWhenThereIsSome(t *testing.T) {
	t.Parallel()
	f := cluster(t, corrosiontest.Options{}, Config{}, quick)
	asked := f.agent.Counts().Queries
	f.wait("looks", func() bool { return f.agent.Counts().Queries > asked+20 })
	if n := f.agent.Counts().Health; n > 0 {
		t.Errorf("asked %d times though nothing was learned", n)
	}
	f.agent.Put("machines", row("mff", "started"))
	f.wait("health", func() bool { v := f.src.whole.view.Load(); return v.health != nil && v.health.Lag > 0 })
}

func TestCutOff(t *testing.T) {
	for _, test := range []struct {
		members, down int
		met, want     bool
	}{
		{0, 0, false, false}, // alone
		{0, 0, true, true},   // for longer than the agent remembers them
		{0, 2, false, true},
		{1, 1, true, false},
	} {
		w := wholeness{met: test.met}
		if got := w.cutOff(&knowledge{Members: test.members, Down: test.down}); got != test.want {
			t.Errorf("%+v: cut off: %v", test, got)
		}
	}
}
