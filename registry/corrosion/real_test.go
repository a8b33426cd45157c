package corrosion

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tables as an operator makes them: those of DefaultQueries.
const realSchema = `
CREATE TABLE machines (id TEXT NOT NULL PRIMARY KEY, network TEXT NOT NULL DEFAULT '', app TEXT NOT NULL DEFAULT '',
  region TEXT NOT NULL DEFAULT '', process_group TEXT NOT NULL DEFAULT '', state TEXT NOT NULL DEFAULT '',
  private_ip TEXT NOT NULL DEFAULT '', metadata TEXT NOT NULL DEFAULT '{}',
  updated_at INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE apps (network TEXT NOT NULL, name TEXT NOT NULL, updated_at INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (network, name)) WITHOUT ROWID;
CREATE TABLE peers (network TEXT NOT NULL, name TEXT NOT NULL, private_ip TEXT NOT NULL DEFAULT '', region TEXT NOT NULL DEFAULT '',
  updated_at INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (network, name)) WITHOUT ROWID;
CREATE TABLE app_addresses (network TEXT NOT NULL, app TEXT NOT NULL, address TEXT NOT NULL,
  updated_at INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (network, app, address)) WITHOUT ROWID;
`

// realAgent is the agent that DNSD_CORROSION_BIN names, alone in its cluster.
type realAgent struct {
	t         *testing.T
	bin, conf string
	addr      string
	token     string
	cmd       *exec.Cmd
	exited    chan struct{}
}

func startReal(t *testing.T) *realAgent {
	bin := os.Getenv("DNSD_CORROSION_BIN")
	if bin == "" {
		t.Skip("DNSD_CORROSION_BIN does not name a Corrosion agent to test against")
	}
	dir := t.TempDir()
	a := &realAgent{t: t, bin: bin, conf: filepath.Join(dir, "config.toml"), addr: freePort(t, "tcp"), token: "open-sesame"}
	schema := filepath.Join(dir, "schema.sql")
	config := fmt.Sprintf("[db]\npath = %q\nschema_paths = [%q]\n[gossip]\naddr = %q\nplaintext = true\n[api]\naddr = %q\nauthz.bearer-token = %q\n[admin]\npath = %q\n",
		filepath.Join(dir, "state.db"), schema, freePort(t, "udp"), a.addr, a.token, filepath.Join(dir, "admin.sock"))
	for path, text := range map[string]string{schema: realSchema, a.conf: config} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a.start()
	t.Cleanup(func() { a.end(syscall.SIGKILL) })
	return a
}

// freePort returns an address that was free a moment ago.
func freePort(t *testing.T, network string) string {
	if network == "udp" {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.LocalAddr().String()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (a *realAgent) start() {
	a.t.Helper()
	a.cmd = exec.Command(a.bin, "-c", a.conf, "agent")
	a.cmd.Stdout, a.cmd.Stderr = io.Discard, io.Discard
	if os.Getenv("DNSD_TEST_LOG") != "" {
		a.cmd.Stdout, a.cmd.Stderr = os.Stderr, os.Stderr
	}
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	cmd, exited := a.cmd, make(chan struct{})
	a.exited = exited
	go func() { cmd.Wait(); close(exited) }()
	for deadline := time.Now().Add(patience); a.try("INSERT OR REPLACE INTO apps (network, name) VALUES ('fdaa:0:18::/48', 'my-app')") != nil; {
		if time.Now().After(deadline) {
			a.t.Fatal("the agent does not become ready")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (a *realAgent) end(signal os.Signal) {
	a.cmd.Process.Signal(signal)
	<-a.exited
}

// try runs statements in one transaction.
func (a *realAgent) try(statements ...string) error {
	body, err := json.Marshal(statements)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+a.addr+"/v1/transactions", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || bytes.Contains(text, []byte(`"error"`))) {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, text)
	}
	return err
}

func (a *realAgent) exec(statements ...string) {
	a.t.Helper()
	if err := a.try(statements...); err != nil {
		a.t.Fatal(err)
	}
}

func upsert(id, state string) string {
	return fmt.Sprintf("INSERT INTO machines (id, network, app, state, metadata) VALUES ('%s', 'fdaa:0:18::/48', 'my-app', '%s', '{\"role\":\"primary\"}') ON CONFLICT (id) DO UPDATE SET state = excluded.state", id, state)
}

// fill adds so many machines, a multiple of 1000.
func (a *realAgent) fill(machines int) {
	a.t.Helper()
	for base := 0; base < machines; base += 1000 {
		var batch []string
		for i := range 1000 {
			batch = append(batch, upsert(fmt.Sprintf("x%d", base+i), "started"))
		}
		a.exec(batch...)
	}
}

// The first subscriber of a large table gets its rows while the agent runs the
// query, and is dropped when it reads too slowly.
func TestRealAgentFirstSubscriber(t *testing.T) {
	a := startReal(t)
	a.fill(30000)
	f := &fixture{t: t, world: newWorld()}
	var err error
	if f.src, err = New(Config{Addr: a.addr, Token: a.token}, testLog(t)); err != nil {
		t.Fatal(err)
	}
	f.follow()
	f.waitListed(1)
	if n := f.world.get(func(w *world) int { return len(w.objects) }); n != 30001 {
		t.Errorf("%d objects are known, want 30001", n)
	}
	t.Logf("Follow returned before: %q", f.failed())
}

func TestRealAgent(t *testing.T) {
	a := startReal(t)
	a.exec(upsert("m1", "started"), upsert("m2", "started"))
	f := &fixture{t: t, world: newWorld()}
	var err error
	if f.src, err = New(Config{Addr: a.addr, Token: a.token}, testLog(t)); err != nil {
		t.Fatal(err)
	}
	f.src.proveEvery = 200 * time.Millisecond
	f.follow()
	f.waitListed(1)
	f.waitState("m2", "started")
	if f.src.http1 {
		t.Error("HTTP/2 was not understood")
	}
	f.wait("a sign of life", func() bool { return f.world.get(proofs) > 0 })

	a.exec(upsert("m1", "stopped"), upsert("m3", "created"))
	f.waitState("m1", "stopped")
	f.waitState("m3", "created")
	a.exec("DELETE FROM machines WHERE id = 'm2'")
	f.waitState("m2", "")
	a.exec("UPDATE machines SET updated_at = 9 WHERE id = 'm3'", upsert("m3", "started"))
	f.waitState("m3", "started")

	t.Run("terminated", func(t *testing.T) { // the subscriptions survive
		a.end(syscall.SIGTERM)
		f.wait("the source noticing", func() bool { return strings.Contains(f.failed(), "connection refused") })
		a.start()
		a.exec(upsert("m1", "started"))
		f.waitState("m1", "started")
		if n := f.world.get(listings); n != 1 {
			t.Errorf("listed %d times, want 1", n)
		}
	})
	t.Run("killed", func(t *testing.T) {
		a.end(syscall.SIGKILL)
		a.start()
		a.exec(upsert("m1", "suspended"), "DELETE FROM machines WHERE id = 'm3'")
		f.waitState("m1", "suspended")
		f.waitState("m3", "")
	})
	t.Run("stopped", func(t *testing.T) {
		a.cmd.Process.Signal(syscall.SIGSTOP)
		before := f.world.get(proofs)
		time.Sleep(time.Second) // nothing may come, so there is nothing to wait for
		if n := f.world.get(proofs); n > before+1 {
			t.Errorf("a stopped agent was taken for alive %d times", n-before)
		}
		a.cmd.Process.Signal(syscall.SIGCONT)
		a.exec(upsert("m1", "started"))
		f.waitState("m1", "started")
	})
	t.Run("many rows and a crowd of changes", func(t *testing.T) {
		a.fill(20000)
		a.exec(upsert("x19999", "stopped"))
		f.waitState("x19999", "stopped")
		f.wait("all", func() bool { return f.world.get(func(w *world) int { return len(w.objects) }) == 20002 })
		f.relist()
		f.waitListed(f.world.get(listings) + 1)
		if n := f.world.get(func(w *world) int { return len(w.objects) }); n != 20002 {
			t.Errorf("%d objects are known, want 20002", n)
		}
	})
}
