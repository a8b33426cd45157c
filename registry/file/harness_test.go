package file

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"dnsd/registry"
	"dnsd/registry/follow"
	"dnsd/registry/follow/followtest"
)

func TestMain(m *testing.M) {
	// Tests here wait for quiet times, and not for processors.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// never is a poll so slow that only notification can show a change.
const never = time.Hour

// feed is a Recorder that is asked for machines.
type feed struct {
	followtest.Recorder
	history []string    // the ids of every listing
	looks   []time.Time // that found the file usable
}

// listed returns the ids of the machines known, or "nothing" before any listing.
func (f *feed) listed() string {
	seen := f.Seen()
	if seen.Listings == 0 {
		return "nothing"
	}
	return ids(&seen)
}

func (f *feed) listings() (all []string) {
	f.See(func(*followtest.Seen) { all = slices.Clone(f.history) })
	return all
}

func ids(s *followtest.Seen) string {
	return strings.ReplaceAll(strings.Join(s.Machines(), " "), " started", "")
}

// logs is a log that tests read while it is written.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }
func (l *logs) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }
func (l *logs) reset()                      { l.mu.Lock(); defer l.mu.Unlock(); l.b.Reset() }

// begin runs a source until the test ends.
func begin(t *testing.T, path string, poll time.Duration) (*Source, *feed, *logs) {
	t.Helper()
	return beginUnwatched(t, path, poll, nil)
}

// beginUnwatched does, with a watch that is not the system's, as a test with a clock
// of its own needs it; nil: the system's.
func beginUnwatched(t *testing.T, path string, poll time.Duration, w *watch) (*Source, *feed, *logs) {
	t.Helper()
	l, f := &logs{}, &feed{}
	f.Applied = func(s *followtest.Seen) { f.history = append(f.history, ids(s)) }
	f.Before = func(_ context.Context, call followtest.Call, _ []registry.Item) {
		if call == followtest.Change {
			f.See(func(*followtest.Seen) { f.looks = append(f.looks, time.Now()) })
		}
	}
	s := New(Config{Path: path, Poll: poll}, slog.New(slog.NewTextHandler(l, nil)))
	var source follow.Source = s
	if w != nil {
		source = unwatched{s, w}
	}
	followtest.Follow(t, source, &f.Recorder, false)
	return s, f, l
}

// unwatched is a source with another watch than the system's.
type unwatched struct {
	*Source
	w *watch
}

func (u unwatched) Follow(ctx context.Context, feed follow.Feed, _ bool) error {
	return u.follow(ctx, feed, u.w)
}

// tick waits until the file system's clock has gone on.
func tick(t *testing.T) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tick")
	write(t, path, "")
	before, err := stampOf(path)
	ok(t, err)
	for after := before; after.changed == before.changed; {
		write(t, path, "")
		after, err = stampOf(path)
		ok(t, err)
	}
}

func (f *feed) until(t *testing.T, ids string) {
	t.Helper()
	followtest.Eventually(t, "listed are "+ids, func() bool { return f.listed() == ids })
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
