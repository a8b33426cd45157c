package corrosion

import (
	"flag"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"dnsd/registry"
	"dnsd/registry/corrosion/corrosiontest"
	"dnsd/registry/follow/followtest"
)

func TestMain(m *testing.M) {
	// Nearly all tests wait for a source: more of them run at once than there are
	// processors.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// patience is longer than a test waits for anything: what takes so long never comes.
const patience = time.Hour

func known(s *followtest.Seen) int   { return len(s.Objects) }
func held(s *followtest.Seen) int    { return s.Held }
func rejects(s *followtest.Seen) int { return len(s.Rejects) }

// changes counts items.
func changes(s *followtest.Seen) (n int) {
	for _, items := range s.Changes {
		n += len(items)
	}
	return n
}

// fixture is an agent, a source that follows it, and what came of it.
type fixture struct {
	t      *testing.T
	agent  *corrosiontest.Agent
	src    *Source
	world  *followtest.Recorder
	run    *followtest.Run
	before string // what Follow returned before run

	patient bool // differences may last for long
}

func start(t *testing.T, opts corrosiontest.Options, cfg Config, prepare ...func(*fixture)) *fixture {
	t.Helper()
	f := stopped(t, opts, cfg)
	for _, p := range prepare {
		p(f)
	}
	f.follow()
	return f
}

// stopped returns an agent and a source that does not follow it yet.
func stopped(t *testing.T, opts corrosiontest.Options, cfg Config) *fixture {
	t.Helper()
	agent, err := corrosiontest.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(agent.Close)
	f := &fixture{t: t, agent: agent, world: &followtest.Recorder{}}
	cfg.Addr = agent.Addr()
	if f.src, err = New(cfg, testLog(t)); err != nil {
		t.Fatal(err)
	}
	f.src.proveEvery = 20 * time.Millisecond
	f.src.whole.pace.standstillAnew = 20 * time.Millisecond
	f.src.whole.pace.standstillEmpty = 20 * time.Millisecond
	f.src.whole.pace.wait = 5 * time.Millisecond
	return f
}

// follow follows again and again, as the follower does, with short pauses.
func (f *fixture) follow() {
	f.before = f.failed()
	f.run = followtest.Insist(f.t, f.src, f.world, 5*time.Millisecond)
}

func (f *fixture) stop() { f.run.Stop() }

// start makes an agent that was stopped serve again.
func (f *fixture) start() {
	f.t.Helper()
	if err := f.agent.Start(); err != nil {
		f.t.Fatal(err)
	}
}

// relist ends Follow and begins anew, without resuming.
func (f *fixture) relist() { f.stop(); f.follow() }

// failed returns what Follow has returned so far.
func (f *fixture) failed() string {
	if f.run == nil {
		return ""
	}
	return strings.Trim(f.before+"\n"+f.run.Failed(), "\n")
}

// wait waits until ok.
func (f *fixture) wait(what string, ok func() bool) {
	f.t.Helper()
	followtest.Eventually(f.t, what, ok, func() string { return "Follow returned: " + f.failed() })
}

func (f *fixture) waitListed(n int) {
	f.t.Helper()
	f.wait("a listing", func() bool { return f.world.Listings() >= n })
}

// waitState waits until machine id of my-app is in a state; empty: unknown.
func (f *fixture) waitState(id, state string) {
	f.t.Helper()
	f.wait(id+" being "+state, func() bool { return f.state(id) == state })
}

func (f *fixture) state(id string) string {
	if m, ok := f.world.Known(machineKey(id)).(*registry.Machine); ok {
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
