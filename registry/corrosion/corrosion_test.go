package corrosion

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/corrosion/corrosiontest"
	"dnsd/registry/follow/followtest"
)

func TestParseURL(t *testing.T) {
	for _, test := range []struct{ name, url, addr, err string }{
		{"IPv4", "corrosion://127.0.0.1:8080", "127.0.0.1:8080", ""},
		{"IPv6", "corrosion://[::1]:8080/", "[::1]:8080", ""},
		{"host name", "corrosion://agent.local:80", "agent.local:80", ""},
		{"no port", "corrosion://127.0.0.1", "", "port is missing"},
		{"port 0", "corrosion://127.0.0.1:0", "", "port"},
		{"port too large", "corrosion://127.0.0.1:65536", "", "port"},
		{"no host", "corrosion://:8080", "", "host is missing"},
		{"path", "corrosion://127.0.0.1:8080/v1", "", "nothing may follow"},
		{"query", "corrosion://127.0.0.1:8080?token=hunter2", "", "nothing may follow"},
		{"fragment", "corrosion://127.0.0.1:8080/#hunter2", "", "nothing may follow"},
		{"no slashes", "corrosion:user:hunter2@127.0.0.1:8080", "", "host is missing"},
		{"secret for a scheme", "hunter2:user@127.0.0.1:8080", "", "scheme is not"},
		{"secret", "corrosion://user:hunter2@127.0.0.1:8080", "", "secrets come from"},
		{"scheme", "http://127.0.0.1:8080", "", "scheme is not"},
		{"junk", "corrosion://[::1", "", "want corrosion://"},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr, err := ParseURL(test.url)
			if addr != test.addr || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %q, %v", addr, err)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error repeats a secret: %v", err)
			}
		})
	}
}

func TestNewNamesEveryMistake(t *testing.T) {
	_, err := New(Config{Addr: "nowhere", Token: "secret\n", Queries: Queries{Machines: "SELECT *", Apps: "DELETE FROM apps", Peers: "select"}}, nil)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"host:port", "token", "name the columns", `begins with "DELETE"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the error repeats the token: %v", err)
	}
}

// put puts one object of each kind.
func put(f *fixture) {
	f.agent.Put("machines", row("m1", "started"))
	f.agent.Put("apps", corrosiontest.Row{"network": "fdaa:0:18::", "name": "my-app"})
	f.agent.Put("peers", corrosiontest.Row{"network": "fdaa:0:18::/48", "name": "my-peer", "private_ip": "fdaa:0:18:a7b:d6b:0:a:102", "region": "ord"})
	f.agent.Put("app_addresses", corrosiontest.Row{"network": "fdaa:0:18::/48", "app": "my-app", "address": "fdaa:0:18:0:1::7"})
}

// Rows are read as the objects that they stand for, over either protocol, and no
// connection is left.
func TestLists(t *testing.T) {
	t.Parallel()
	for _, http1 := range []bool{false, true} {
		t.Run(map[bool]string{false: "HTTP2", true: "HTTP1"}[http1], func(t *testing.T) {
			t.Parallel()
			f := start(t, corrosiontest.Options{NoHTTP2: http1}, Config{}, put)
			f.waitListed(1)
			want := map[registry.Key]registry.Object{}
			for _, o := range []registry.Object{
				&registry.Machine{
					ID: "m1", App: "my-app", Network: net18, State: "started", Region: "iad", Addr: netip.MustParseAddr("fdaa:0:18:a7b:7d::1"),
					Metadata: []registry.Pair{{Key: "fly_process_group", Value: "web"}, {Key: "role", Value: "primary"}},
				},
				&registry.App{Name: "my-app", Network: net18},
				&registry.Peer{Name: "my-peer", Network: net18, Addr: netip.MustParseAddr("fdaa:0:18:a7b:d6b:0:a:102"), Region: "ord"},
				&registry.Address{App: "my-app", Network: net18, Addr: netip.MustParseAddr("fdaa:0:18:0:1::7")},
			} {
				want[o.Key()] = o
			}
			if got := f.world.Seen().Objects; !reflect.DeepEqual(got, want) {
				t.Errorf("listed %v, want %v", got, want)
			}
			if n := f.agent.Counts(); (n.HTTP2 == 0) != http1 || n.Streams != 4 || n.Subscribed != 4 {
				t.Errorf("the agent saw %+v", n)
			}
			f.relist()
			f.waitListed(2)
			f.logged("does not speak HTTP/2", map[bool]int{true: 1}[http1])
			f.stop()
			f.wait("no connection left", func() bool { return f.agent.Counts().Conns == 0 })
		})
	}
}

// Touching a row without changing what is read of it costs the registry nothing.
func TestTouchedRowsAreNoChange(t *testing.T) {
	t.Parallel()
	f := start(t, corrosiontest.Options{}, Config{}, put)
	f.waitListed(1)
	for i := range 50 {
		f.agent.Put("apps", corrosiontest.Row{"network": "fdaa:0:18::", "name": "my-app", "updated_at": 10 + i})
	}
	f.agent.Put("apps", corrosiontest.Row{"network": "fdaa:0:18::", "name": "other-app"})
	f.wait("the other app", func() bool {
		return f.world.Known(registry.Key{Kind: registry.KindApp, Network: net18, Name: "other-app"}) != nil
	})
	if n := f.world.Get(changes); n != 1 {
		t.Errorf("%d changes reached the registry, want 1", n)
	}
}

// Each fault strikes a healthy source. Whatever it is, nothing that exists is
// lost, what changed meanwhile is seen, and no more is listed than must be.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		fault    func(*corrosiontest.Agent)
		listings int    // in all
		err      string // what Follow returned, in part; empty: it never returned
	}{
		{"streams ended", (*corrosiontest.Agent).End, 1, ""},
		{"lagging", func(a *corrosiontest.Agent) {
			a.SkipNext(false)
			a.Put("machines", row("m1", "starting"))
			a.End()
		}, 1, ""},
		{"gap", func(a *corrosiontest.Agent) {
			a.SkipNext(false)
			a.Put("machines", row("m1", "starting"))
		}, 1, ""},
		{"gap that stays", func(a *corrosiontest.Agent) {
			a.SkipNext(true)
			a.Put("machines", row("m1", "starting"))
		}, 2, "changes are missing"},
		{"change twice", func(a *corrosiontest.Agent) {
			a.SendLine("machines", `{"change":["update",1,["m1","fdaa:0:18::/48","my-app","iad","web","failed","","{}"],1]}`)
		}, 1, ""},
		{"unreadable line", func(a *corrosiontest.Agent) { a.SendLine("machines", `{"change":["upd`) }, 1, ""},
		{"unreadable change", func(a *corrosiontest.Agent) { a.SendLine("machines", `{"change":["update",-1,[],3]}`) }, 1, ""},
		{"unknown event", func(a *corrosiontest.Agent) { a.SendLine("machines", `{"weather":"fine"}`) }, 1, ""},
		{"line too long", func(a *corrosiontest.Agent) { a.SendLine("machines", `{"`+strings.Repeat("x", maxLine)+`":1}`) }, 1, ""},
		{"long line that is no change", func(a *corrosiontest.Agent) {
			a.SendLine("machines", `{"row":[1,["m1","`+strings.Repeat("x", maxLine)+`"]]}`)
		}, 1, ""},
		{"error line", func(a *corrosiontest.Agent) { a.SendError("disk full") }, 2, "disk full"},
		{"forgotten", (*corrosiontest.Agent).Forget, 2, "status 404: could not find subscription"},
		{"too old", func(a *corrosiontest.Agent) {
			a.SkipNext(false)
			a.Put("machines", row("m1", "starting"))
			a.Compact()
			a.End()
		}, 2, "already deleted older changes"},
		{"another hash", func(a *corrosiontest.Agent) { a.Rehash(); a.End() }, 2, "its hash is"},
		{"restarted", func(a *corrosiontest.Agent) {
			a.Stop()
			a.Put("machines", row("m1", "starting"))
			a.Start()
		}, 1, "corrosion"},
		{"killed", func(a *corrosiontest.Agent) {
			a.Kill()
			a.Put("machines", row("m1", "starting"))
			a.Start()
		}, 2, "corrosion"},
		{"connection cut", (*corrosiontest.Agent).Reset, 1, "corrosion"},
		{"listed again cut short", func(a *corrosiontest.Agent) {
			a.CutListings(1, 1, "machines")
			a.Forget()
		}, 2, "status 404"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, corrosiontest.Options{}, Config{}, put, func(f *fixture) {
				f.agent.Put("machines", row("m2", "started"), row("m3", "started"))
			})
			f.waitListed(1)
			f.agent.Put("machines", row("m2", "stopped")) // so that there is a change to resume from
			f.waitState("m2", "stopped")
			test.fault(f.agent)
			f.agent.Put("machines", row("m1", "failed"))
			f.agent.Delete("machines", row("m3", ""))
			f.waitState("m1", "failed")
			f.waitState("m3", "")
			f.agent.Put("machines", row("m2", "started"))
			f.waitState("m2", "started")
			if got := len(f.world.Seen().Objects); got != 5 {
				t.Errorf("%d objects are known, want 5: %v", got, f.world.Seen().Objects)
			}
			if got := f.world.Listings(); got != test.listings {
				t.Errorf("listed %d times, want %d\nFollow returned: %s", got, test.listings, f.failed())
			}
			if got := f.failed(); !strings.Contains(got, test.err) || test.err == "" && got != "" {
				t.Errorf("Follow returned %q, want %q", got, test.err)
			}
			// A killed agent that is back before it has been tried maxStuck times has lost
			// its subscriptions.
			const lost = "cannot be resumed; listing again"
			if n := f.log.count(lost); test.name != "killed" && n != 0 || n > 1 {
				t.Errorf("%q was logged %d times", lost, n)
			}
			f.wait("four open streams", func() bool { return f.agent.Counts().Streams == 4 })
		})
	}
}

// Changes that one subscription sends before another has listed wait for the
// complete listing.
func TestChangesWaitForTheListing(t *testing.T) {
	t.Parallel()
	var release func()
	f := start(t, corrosiontest.Options{}, Config{}, put, func(f *fixture) { release = f.agent.HoldEOQ() })
	f.wait("all subscribed", func() bool { return f.agent.Counts().Streams == 4 })
	f.agent.Put("machines", row("m1", "stopped"), row("m2", "started"))
	f.wait("signs of life", func() bool { return f.agent.Counts().Queries > 3 })
	if n := f.world.Get(changes) + f.world.Listings() + f.world.Proofs(); n != 0 {
		t.Errorf("the feed was told something during the listing")
	}
	release()
	f.waitState("m2", "started")
	f.waitState("m1", "stopped")
	if got := fmt.Sprint(f.world.Seen().Calls[:3]); got != "[list listed change]" {
		t.Errorf("the feed was called: %s", got)
	}
}

func TestCutListing(t *testing.T) {
	t.Parallel()
	f := start(t, corrosiontest.Options{}, Config{}, put, func(f *fixture) {
		f.agent.Put("machines", row("m2", "started"), row("m3", "started"))
		f.agent.CutListings(1, 2, "machines")
	})
	f.waitListed(1)
	f.waitState("m3", "started")
	f.logged("cut short; trying once more", 1)
	if n := f.agent.Counts().Subscribed; n != 5 {
		t.Errorf("subscribed %d times, want 4 and once again", n)
	}
	if s := f.failed(); s != "" {
		t.Errorf("Follow returned %s", s)
	}
	// Twice cut: nothing of it is applied, and the pause is the follower's.
	f.stop()
	f.agent.CutListings(2, 0, "machines")
	f.agent.Delete("peers", corrosiontest.Row{"network": "fdaa:0:18::/48", "name": "my-peer"})
	err := f.world.Follow(t.Context(), f.src, false)
	if !errors.Is(err, errCut) || f.world.Listings() != 1 {
		t.Errorf("Follow returned %v after %d listings", err, f.world.Listings())
	}
	if len(f.world.Seen().Objects) != 6 {
		t.Errorf("%d objects are known, want 6", len(f.world.Seen().Objects))
	}
}

// What changes between the two tries at a listing must not come out as the
// first try had it.
func TestCutListingThenChanged(t *testing.T) {
	for _, gone := range []int{1, maxGhosts, maxGhosts + 1} {
		t.Run(fmt.Sprintf("%d gone", gone), func(t *testing.T) {
			w := &followtest.Recorder{}
			src := &Source{subs: []*subscription{{shape: shapes[0]}}}
			sub := src.subs[0]
			take := func(id, state string, n uint64) {
				o, err := registry.NewMachine(registry.MachineSpec{ID: id, App: "my-app", Network: "fdaa:0:18::/48", State: state})
				if err != nil {
					t.Fatal(err)
				}
				items, err := sub.take(&message{what: rows, entries: []entry{{row: n, item: registry.Put(o), sum: maphash.String(seed, state)}}}, nil)
				if err != nil {
					t.Fatal(err)
				}
				w.List(t.Context(), items)
			}
			sub.table = newTable(true)
			take("m1", "started", 1)
			w.Listed(t.Context(), "") // known as started
			sub.table = newTable(true)
			take("m1", "stopped", 1)
			for i := range gone {
				take(fmt.Sprintf("g%d", i), "stopped", uint64(10+i))
			}
			sub.first, sub.table = sub.table, newTable(true)
			take("m1", "started", 1)
			gate := make(chan struct{})
			err := src.ready(t.Context(), w, &message{sub: sub, what: listed}, gate)
			if gone > maxGhosts {
				if !errors.Is(err, errCut) || w.Listings() != 1 {
					t.Errorf("%d listings and %v, want a cut listing", w.Listings(), err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			m, _ := w.Seen().Objects[machineKey("m1")].(*registry.Machine)
			if len(w.Seen().Objects) != 1 || m == nil || m.State != "started" {
				t.Errorf("known: %v", w.Seen().Objects)
			}
		})
	}
}

// Two rows may stand for one object. The last of them counts, whether or not
// it is what was known before the listing.
func TestTwoRowsForOneObject(t *testing.T) {
	t.Parallel()
	f := start(t, corrosiontest.Options{}, Config{}, func(f *fixture) {
		f.agent.CreateTable("machines", []string{"id", "region"}, "network", "app", "process_group", "state", "private_ip", "metadata")
		f.agent.Put("machines", with(row("m1", "started"), "region", "ord"))
	})
	f.waitListed(1)
	f.agent.Put("machines", with(row("m1", "stopped"), "region", "ams"))
	f.waitState("m1", "stopped")
	f.agent.Delete("machines", with(row("m1", ""), "region", "ams")) // the last written: only a listing knows the other
	f.waitState("m1", "started")
	f.stop()
	f.agent.Put("machines", with(row("m1", "stopped"), "region", "ams")) // listed before the one that is known
	f.agent.Forget()
	f.follow()
	f.wait("the change", func() bool { return f.world.Listings() >= 3 })
	f.waitState("m1", "started")
}

// What came before a break in one read is kept.
func TestChangesBeforeABreak(t *testing.T) {
	change := func(id int) string {
		return fmt.Sprintf(`{"change":["insert",%d,["fdaa:0:18::","app-%d"],%d]}`+"\n", id, id, id)
	}
	for name, text := range map[string]string{
		"gap":        change(1) + change(2) + change(4),
		"end":        change(1) + change(2),
		"unreadable": change(1) + change(2) + "{\n",
		"error":      change(1) + change(2) + `{"error":"gone"}`,
	} {
		t.Run(name, func(t *testing.T) {
			out := make(chan message, 3)
			s := &stream{sub: &subscription{shape: shapes[1]}, out: out, binding: binding{0, 1}}
			s.open(origin{}, io.NopCloser(strings.NewReader(text)))
			if err := s.changes(t.Context()); err == nil {
				t.Fatal("no error")
			}
			close(out)
			n, last := 0, uint64(0)
			for m := range out {
				n, last = n+len(m.entries), m.last
			}
			if n != 2 || last != 2 {
				t.Errorf("%d changes up to %d were handed over, want 2", n, last)
			}
		})
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	f := start(t, corrosiontest.Options{Token: "open-sesame"}, Config{Token: "open-sesame"}, put)
	f.waitListed(1)
	f.stop()
	f.src.token.text = "wrong"
	if err := f.world.Follow(t.Context(), f.src, true); err == nil || !strings.Contains(err.Error(), "refuses the bearer token") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with a wrong token: %v", err)
	}
}

// A token that is renewed, at the agent and in the file, costs neither a
// connection nor a listing.
func TestRenewedToken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("open-sesame\n")
	f := start(t, corrosiontest.Options{Token: "open-sesame"}, Config{TokenFile: path}, put)
	f.waitListed(1)
	for i, step := range []func(){
		func() { write("open-barley") },
		func() { write("") }, // half-written: the last good one is used on
		func() { os.Remove(path) },
		func() { write("open-rye") },
	} {
		step()
		if i == 0 || i == 3 {
			f.agent.SetToken(map[int]string{0: "open-barley", 3: "open-rye"}[i])
		}
		before := f.world.Proofs()
		f.wait("a sign of life", func() bool { return f.world.Proofs() > before+1 })
	}
	f.agent.Put("machines", row("m1", "stopped"))
	f.waitState("m1", "stopped")
	if n := f.agent.Counts(); n.Subscribed != 4 || n.Resumed != 0 || f.failed() != "" {
		t.Errorf("the agent saw %+v; Follow returned %q", n, f.failed())
	}
	if _, err := New(Config{Addr: "127.0.0.1:1", TokenFile: path + ".none"}, nil); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a token file that is not there: %v", err)
	}
}

// An agent that stops ends the connection in an orderly way. What is tried on it
// afterwards must not read as if dnsd were at fault.
func TestStoppedAgentIsNamed(t *testing.T) {
	t.Parallel()
	f := start(t, corrosiontest.Options{}, Config{}, put)
	f.waitListed(1)
	f.agent.Put("machines", row("m1", "stopped")) // so that there is a change to resume from
	f.waitState("m1", "stopped")
	f.agent.Stop()
	f.wait("the source noticing", func() bool { return f.failed() != "" })
	first, _, _ := strings.Cut(f.failed(), "\n")
	if !strings.Contains(first, "the agent has ended the connection: it stops or restarts") {
		t.Errorf("Follow returned %q", first)
	}
}

func TestQueries(t *testing.T) {
	t.Parallel()
	prepare := func(f *fixture) {
		f.agent.CreateTable("vms", []string{"name"}, "net", "app", "site", "grp", "ip", "vm_state", "hidden")
	}
	for _, test := range []struct{ name, sql, err string }{
		{"column missing", "SELECT name AS id, app, net AS network, site AS region, ip AS private_ip, vm_state FROM vms",
			"the query for machines lacks the output column process_group, state, metadata (it has id, app, network, region, private_ip, vm_state)"},
		{"no such column", "SELECT id FROM vms", "no such column: id"},
		{"no such table", "SELECT id FROM vm", "no such table: vm"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, corrosiontest.Options{}, Config{Queries: Queries{Machines: test.sql}}, prepare)
			f.wait("an error", func() bool { return f.failed() != "" })
			f.stop()
			if s := f.failed(); !strings.Contains(s, test.err) || f.world.Listings() != 0 {
				t.Errorf("Follow returned %s", s)
			}
		})
	}
}

func TestFrozenAgent(t *testing.T) {
	t.Parallel()
	f := start(t, corrosiontest.Options{}, Config{}, put, func(f *fixture) { f.src.proveTimeout = 300 * time.Millisecond })
	f.waitListed(1)
	f.agent.Put("machines", row("m1", "started"), row("m2", "started"))
	f.waitState("m2", "started")
	f.wait("a sign of life", func() bool { return f.world.Proofs() > 0 })
	f.agent.Freeze()
	f.wait("the source noticing", func() bool { return strings.Contains(f.failed(), "no sign of life") })
	before := f.world.Proofs()
	f.agent.Put("machines", row("m2", "stopped"))
	f.wait("a further try", func() bool { return strings.Contains(f.failed(), "no answer within") })
	if n := f.world.Proofs(); n != before {
		t.Errorf("a frozen agent was taken for alive %d times", n-before)
	}
	f.agent.Thaw()
	f.waitState("m2", "stopped")
	f.wait("a sign of life", func() bool { return f.world.Proofs() > before })
	if n := f.world.Listings(); n != 1 {
		t.Errorf("listed %d times, want 1", n)
	}
}

// A subscription whose id the agent knows but which no longer works is not
// resumed for ever.
func TestStuckSubscription(t *testing.T) {
	t.Parallel()
	f := start(t, corrosiontest.Options{}, Config{}, put)
	f.waitListed(1)
	f.agent.Put("machines", row("m1", "stopped")) // so that there is a change to resume from
	f.waitState("m1", "stopped")
	f.stop()
	often := f.src.proveEvery
	f.src.proveEvery = patience
	// follow resumes until a call of Change for which ends holds.
	follow := func(ends func(items []registry.Item) bool) {
		ctx, cancel := context.WithCancel(t.Context())
		f.world.Before = func(_ context.Context, call followtest.Call, items []registry.Item) {
			if call == followtest.Change && ends(items) {
				cancel()
			}
		}
		f.world.Follow(ctx, f.src, true)
	}
	atOnce := func([]registry.Item) bool { return true }
	for n := 1; n <= maxStuck; n++ {
		if follow(atOnce); f.src.stuck != n || f.world.Listings() != 1 {
			t.Errorf("resumed %d times: stuck %d times, %d listings", n, f.src.stuck, f.world.Listings())
		}
	}
	f.src.proveEvery = often
	follow(atOnce)
	if f.src.stuck != 0 || f.world.Listings() != 2 {
		t.Errorf("after a listing: stuck %d times, %d listings", f.src.stuck, f.world.Listings())
	}
	// A sign of life after the resumption shows that it works, and so does a change.
	calls := 0
	follow(func([]registry.Item) bool { calls++; return calls == 2 })
	if f.src.stuck != 0 {
		t.Errorf("stuck %d times in spite of a sign of life", f.src.stuck)
	}
	f.agent.Put("machines", row("m1", "started"))
	follow(func(items []registry.Item) bool { return len(items) > 0 })
	if f.src.stuck != 0 || f.world.Listings() != 2 {
		t.Errorf("stuck %d times in spite of a change, %d listings", f.src.stuck, f.world.Listings())
	}
}
