package file

import (
	"bytes"
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

	"dnsd/registry/follow/followtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// never is a poll so slow that only notification can show a change.
const never = time.Hour

// feed is a Recorder that is asked for machines.
type feed struct {
	followtest.Recorder
	history []string // the ids of every listing
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

// begin runs a source until the test ends.
func begin(t *testing.T, path string, poll time.Duration) (*Source, *feed, *logs) {
	t.Helper()
	l, f := &logs{}, &feed{}
	f.Applied = func(s *followtest.Seen) { f.history = append(f.history, ids(s)) }
	s := New(Config{Path: path, Poll: poll}, slog.New(slog.NewTextHandler(l, nil)))
	followtest.Follow(t, s, &f.Recorder, false)
	return s, f, l
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
