package corrosiontest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// RealBin is the environment variable that names the agent's program, where
// tests are to be run against it.
const RealBin = "DNSD_CORROSION_BIN"

// Cluster is a cluster of real agents on loopback. Its methods are called by one
// goroutine.
type Cluster struct {
	Agents []*Real
	bin    string
	dir    string
	schema string
	fail   func(error) // a test's Fatal
}

// Real is one agent of a cluster, as a process of its own.
type Real struct {
	cluster *Cluster
	dir     string
	api     string
	gossip  string
	process *os.Process
	ended   chan struct{} // closed when the process has
	frozen  bool
}

// Token is the bearer token of all real agents.
const Token = "open-sesame"

// patience bounds every wait for an agent.
const patience = 2 * time.Minute

// NewCluster starts n agents with a schema, each of which knows the others from the
// start. Their files are in dir. Errors are passed to fail, which must not return.
func NewCluster(bin, dir, schema string, n int, fail func(error)) *Cluster {
	c := &Cluster{bin: bin, dir: dir, schema: filepath.Join(dir, "schema.sql"), fail: fail}
	c.must(os.WriteFile(c.schema, []byte(schema), 0o600))
	for i := range n {
		r := &Real{cluster: c, dir: filepath.Join(dir, fmt.Sprint("agent", i)), api: c.port("tcp"), gossip: c.port("udp")}
		c.must(os.Mkdir(r.dir, 0o700))
		c.Agents = append(c.Agents, r)
	}
	for _, r := range c.Agents {
		r.configure()
		c.must(r.Start())
	}
	return c
}

// Close ends all agents.
func (c *Cluster) Close() {
	for _, r := range c.Agents {
		r.Kill()
	}
}

func (c *Cluster) must(err error) {
	if err != nil {
		c.fail(err)
	}
}

// port returns an address of loopback that was free a moment ago.
func (c *Cluster) port(network string) string {
	if network == "udp" {
		l, err := net.ListenPacket("udp", "127.0.0.1:0")
		c.must(err)
		defer l.Close()
		return l.LocalAddr().String()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	c.must(err)
	defer l.Close()
	return l.Addr().String()
}

// configure writes the agent's configuration.
func (r *Real) configure() {
	var others []string
	for _, o := range r.cluster.Agents {
		if o != r {
			others = append(others, fmt.Sprintf("%q", o.gossip))
		}
	}
	r.cluster.must(os.WriteFile(filepath.Join(r.dir, "config.toml"), fmt.Appendf(nil, `[db]
path = %q
schema_paths = [%q]
[gossip]
addr = %q
bootstrap = [%s]
plaintext = true
[api]
addr = %q
authz.bearer-token = %q
[admin]
path = %q
`, filepath.Join(r.dir, "state.db"), r.cluster.schema, r.gossip, strings.Join(others, ", "), r.api, Token, filepath.Join(r.dir, "admin.sock")), 0o600))
}

// command returns a call of the agent's program.
func (r *Real) command(args ...string) *exec.Cmd {
	cmd := exec.Command(r.cluster.bin, append([]string{"-c", filepath.Join(r.dir, "config.toml")}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Addr returns the host:port of the agent's API.
func (r *Real) Addr() string { return r.api }

// Pid returns the process id.
func (r *Real) Pid() int { return r.process.Pid }

// Start starts the agent and waits until it answers.
func (r *Real) Start() error {
	log, err := os.OpenFile(filepath.Join(r.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		defer log.Close()
		runtime.LockOSThread() // the process ends with the thread that started it
		cmd := r.command("agent")
		cmd.Stdout, cmd.Stderr = log, log
		err := cmd.Start()
		r.process = cmd.Process
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	r.ended = ended
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		_, err := r.Query("SELECT 1")
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the agent does not become ready: %w", err)
		}
	}
}

// Stop ends the agent in an orderly way; Kill at once. Both wait for its end.
func (r *Real) Stop() { r.end(syscall.SIGTERM) }
func (r *Real) Kill() { r.end(syscall.SIGKILL) }

func (r *Real) end(signal syscall.Signal) {
	if r.ended == nil {
		return
	}
	r.Thaw()
	r.process.Signal(signal)
	<-r.ended
	r.ended = nil
}

// Freeze stops the process; Thaw lets it continue.
func (r *Real) Freeze() { r.frozen = true; r.process.Signal(syscall.SIGSTOP) }
func (r *Real) Thaw() {
	if r.frozen {
		r.frozen = false
		r.process.Signal(syscall.SIGCONT)
	}
}

// Isolate cuts the agent off by freezing all others; Rejoin ends that.
func (r *Real) Isolate() { r.others((*Real).Freeze) }
func (r *Real) Rejoin()  { r.others((*Real).Thaw) }

func (r *Real) others(do func(*Real)) {
	for _, o := range r.cluster.Agents {
		if o != r {
			do(o)
		}
	}
}

// Wipe kills the agent and takes its database and subscriptions away.
func (r *Real) Wipe() {
	r.Kill()
	for _, pattern := range []string{"state.db*", "subscriptions"} {
		names, _ := filepath.Glob(filepath.Join(r.dir, pattern))
		for _, name := range names {
			r.cluster.must(os.RemoveAll(name))
		}
	}
}

// Backup writes a backup of the agent's database and returns its file.
func (r *Real) Backup() string {
	path := filepath.Join(r.cluster.dir, fmt.Sprintf("backup-%d.db", time.Now().UnixNano()))
	if out, err := r.command("backup", path).CombinedOutput(); err != nil {
		r.cluster.fail(fmt.Errorf("backup: %w\n%s", err, out))
	}
	return path
}

// Reseed stops the agent and restores a backup of another one.
func (r *Real) Reseed(backup string) {
	r.Stop()
	if out, err := r.command("restore", backup).CombinedOutput(); err != nil {
		r.cluster.fail(fmt.Errorf("restore: %w\n%s", err, out))
	}
}

// post sends a request and returns the answer's body.
func (r *Real) post(path string, content any) ([]byte, error) {
	body, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, "http://"+r.api+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+Token)
	req.Close = true
	client := http.Client{Timeout: patience}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || bytes.Contains(text, []byte(`"error"`))) {
		err = fmt.Errorf("status %d: %.500s", resp.StatusCode, text)
	}
	return text, err
}

// exec runs statements in one transaction.
func (r *Real) exec(statements []string) {
	_, err := r.post("/v1/transactions", statements)
	r.cluster.must(err)
}

// Query returns the rows of a statement.
func (r *Real) Query(sql string) (rows [][]any, err error) {
	text, err := r.post("/v1/queries", sql)
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(text) {
		var event struct{ Row []json.RawMessage }
		if err := json.Unmarshal(line, &event); err != nil {
			return nil, err
		}
		if len(event.Row) == 2 {
			var cells []any
			if err := json.Unmarshal(event.Row[1], &cells); err != nil {
				return nil, err
			}
			rows = append(rows, cells)
		}
	}
	return rows, nil
}

// Put inserts or updates rows at this agent, in transactions of at most 500. Columns
// that a row does not name are left alone.
func (r *Real) Put(table string, rows ...Row) {
	for part := range slices.Chunk(rows, 500) {
		var statements []string
		for _, row := range part {
			var names, values, sets []string
			for name, v := range row {
				names, values = append(names, name), append(values, literal(v))
				sets = append(sets, name+" = excluded."+name)
			}
			statements = append(statements, fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s) ON CONFLICT DO UPDATE SET %s",
				table, strings.Join(names, ", "), strings.Join(values, ", "), strings.Join(sets, ", ")))
		}
		r.exec(statements)
	}
}

// Delete deletes the rows that have the same key as those given.
func (r *Real) Delete(table string, rows ...Row) {
	keys := map[string][]string{"apps": {"network", "name"}, "peers": {"network", "name"}, "app_addresses": {"network", "app", "address"}}[table]
	if keys == nil {
		keys = []string{"id"}
	}
	for part := range slices.Chunk(rows, 500) {
		var statements []string
		for _, row := range part {
			var where []string
			for _, name := range keys {
				where = append(where, name+" = "+literal(row[name]))
			}
			statements = append(statements, fmt.Sprintf("DELETE FROM %s WHERE %s", table, strings.Join(where, " AND ")))
		}
		r.exec(statements)
	}
}

// LoseRow takes machines out of the subscriptions' own records, behind the
// agent's back. It needs the program sqlite3.
func (r *Real) LoseRow(table string, rows ...Row) {
	names, _ := filepath.Glob(filepath.Join(r.dir, "subscriptions", "*", "sub.sqlite"))
	for _, row := range rows {
		for _, name := range names {
			// Only a record of this table has such a column.
			sql := fmt.Sprintf(".timeout 5000\nDELETE FROM query WHERE __corro_pk_%s_id = %s;", table, literal(row["id"]))
			cmd := exec.Command("sqlite3", name)
			cmd.Stdin = strings.NewReader(sql)
			if out, err := cmd.CombinedOutput(); err != nil && !bytes.Contains(out, []byte("no such column")) {
				r.cluster.fail(fmt.Errorf("sqlite3: %w\n%s", err, out))
			}
		}
	}
}

// Await waits until the agents have the same number of rows in every table.
func (c *Cluster) Await(tables ...string) {
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		var seen []string
		for _, r := range c.Agents {
			var counts []string
			for _, t := range tables {
				rows, err := r.Query("SELECT count(*) FROM " + t)
				counts = append(counts, fmt.Sprint(rows, err))
			}
			seen = append(seen, strings.Join(counts, ","))
		}
		if len(slices.Compact(seen)) == 1 {
			return
		}
		if time.Now().After(end) {
			c.fail(errors.New("the agents do not agree: " + strings.Join(seen, "; ")))
		}
	}
}

// literal is a value as SQL has it.
func literal(v any) string {
	switch v := v.(type) {
	case nil:
		return "NULL"
	case bool:
		return map[bool]string{true: "1", false: "0"}[v]
	case string:
		return "'" + strings.ReplaceAll(v, "'", "''") + "'"
	case []byte:
		return fmt.Sprintf("X'%X'", v)
	}
	return fmt.Sprint(v)
}
