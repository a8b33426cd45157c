package file

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"dnsd/registry"
	"dnsd/registry/follow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// never is a poll so slow that only notification can show a change.
const never = time.Hour

// feed applies listings to a map and counts.
type feed struct {
	mu       sync.Mutex
	pending  []registry.Item
	now      string   // the ids of the machines listed last, in order
	history  []string // every listing
	lives    int      // calls that proved the source alive
	rejected int
}

func (f *feed) List(_ context.Context, items []registry.Item) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = append(f.pending, items...)
	return nil
}

func (f *feed) Listed(context.Context, string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []string
	for _, i := range f.pending {
		if m, ok := i.Object.(*registry.Machine); ok {
			ids = append(ids, m.ID)
		} else if i.Err != nil {
			f.rejected++
		}
	}
	f.pending, f.now = nil, strings.Join(ids, " ")
	f.history = append(f.history, f.now)
	f.lives++
	return nil
}

func (f *feed) Change(_ context.Context, items []registry.Item) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(items) > 0 {
		panic("a file knows no changes, only listings")
	}
	f.lives++
	return nil
}

func (f *feed) listed() string { f.mu.Lock(); defer f.mu.Unlock(); return f.now }
func (f *feed) listings() int  { f.mu.Lock(); defer f.mu.Unlock(); return len(f.history) }
func (f *feed) alive() int     { f.mu.Lock(); defer f.mu.Unlock(); return f.lives }

// logs is a log that tests read while it is written.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }
func (l *logs) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// begin runs a source until the test ends.
func begin(t *testing.T, path string, poll time.Duration) (*Source, *feed, *logs) {
	t.Helper()
	l, f := &logs{}, &feed{now: "nothing"}
	s := New(Config{Path: path, Poll: poll}, slog.New(slog.NewTextHandler(l, nil)))
	run(t, s, f)
	return s, f, l
}

func run(t *testing.T, s *Source, f follow.Feed) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Follow(ctx, f, false) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != context.Canceled {
			t.Errorf("Follow returned %v", err)
		}
	})
}

// until waits for something that must come true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not so: %s", what)
		}
	}
}

func (f *feed) until(t *testing.T, ids string) {
	t.Helper()
	until(t, "listed are "+ids, func() bool { return f.listed() == ids })
}

// content returns a registry file with these machines.
func content(ids ...string) string {
	var b strings.Builder
	b.WriteString(`{"apps": [{"name": "web", "network": "fdaa:0:18::/48", "machines": [`)
	for i, id := range ids {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, "\n"+`{"id": %q, "state": "started"}`, id)
	}
	b.WriteString("]}]}\n")
	return b.String()
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	ok(t, os.WriteFile(path, []byte(text), 0o644))
}

func replace(t *testing.T, path, text string) {
	t.Helper()
	write(t, path+".tmp", text)
	ok(t, os.Rename(path+".tmp", path))
}

// kubernetes publishes text as the volume of a config map does: a directory of
// its own, and a link to it swapped by rename.
func kubernetes(t *testing.T, dir, version, text string) {
	t.Helper()
	ok(t, os.MkdirAll(filepath.Join(dir, version), 0o755))
	write(t, filepath.Join(dir, version, "registry.json"), text)
	ok(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
	old, _ := os.Readlink(filepath.Join(dir, "..data"))
	ok(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	if old == "" {
		ok(t, os.Symlink("..data/registry.json", filepath.Join(dir, "registry.json")))
	} else {
		ok(t, os.RemoveAll(filepath.Join(dir, old)))
	}
}
