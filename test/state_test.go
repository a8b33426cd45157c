package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dnsd/test/internal/lab"

	"golang.org/x/sys/unix"
)

// A state directory that cannot be written, on real file systems of the lab's own:
// dnsd starts with it, serves, says so everywhere, and saves when it can again.
func TestStateDirectoryFails(t *testing.T) {
	t.Parallel()
	const full, readOnly = "no space left on device", "read-only file system"
	for name, c := range map[string]struct {
		mount string // options of a tmpfs
		fail  func(dir string) error
		mend  func(dir string) error
		says  string
	}{
		"full": {"size=1m", func(dir string) error {
			for i := 0; ; i++ { // up to the last page
				if err := os.WriteFile(fmt.Sprint(dir, "/filler", i), make([]byte, 64<<10), 0o600); err != nil {
					return nil
				}
			}
		}, func(dir string) error { return os.Remove(dir + "/filler0") }, full},
		"without_inodes": {"nr_inodes=8", func(dir string) error {
			for i := 0; ; i++ {
				if err := os.WriteFile(fmt.Sprint(dir, "/filler", i), nil, 0o600); err != nil {
					return nil
				}
			}
		}, func(dir string) error {
			for i := range 3 {
				if err := os.Remove(fmt.Sprint(dir, "/filler", i)); err != nil {
					return err
				}
			}
			return nil
		}, full},
		"read_only": {"", func(dir string) error { return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "") },
			func(dir string) error { return unix.Mount("", dir, "", unix.MS_REMOUNT, "") }, readOnly},
		"missing": {"", func(dir string) error { return os.Remove(dir + "/state") },
			func(dir string) error { return os.Mkdir(dir+"/state", 0o700) }, "there is no such directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			mount := t.TempDir()
			dir := filepath.Join(mount, "state")
			do := func(what string, fn func(dir string) error) {
				t.Helper()
				var err error
				l.Do(func() { err = fn(mount) })
				if err != nil {
					lab.Skip(t, what+": "+err.Error())
				}
			}
			do("mounting a tmpfs", func(string) error { return unix.Mount("tmpfs", mount, "tmpfs", 0, c.mount) })
			do("making a directory", func(string) error { return os.Mkdir(dir, 0o700) })
			do("failing", c.fail)

			path := writeFile(t, filepath.Join(t.TempDir(), "registry.json"), pair("started"))
			args := []string{"--listen", "[::]:53", "--registry", "file:" + path, "--upstream", "none", "--state-dir", dir}
			w := &world{ttl: 5, maxUDP: 1232, path: path, Server: l.Serve(t, args...)}
			if n := w.shown(t); n != 2 {
				t.Errorf("%d machines are shown, want 2", n)
			}
			says := "the last known state cannot be written: " + c.says
			var text string
			if !lab.Until(lab.Patience, func() bool {
				_, text = l.Get("http://" + lab.Admin + "/readyz")
				return strings.HasPrefix(text, "live: ") && strings.Contains(text, says)
			}) {
				t.Errorf("/readyz does not say %q: %s", says, text)
			}
			_, metrics := l.Get("http://" + lab.Admin + "/metrics")
			if !strings.Contains(metrics, "\ndnsd_registry_state_failing 1\n") || strings.Contains(metrics, "\ndnsd_registry_state_errors_total 0\n") {
				t.Error("the metrics do not say that the state cannot be written")
			}
			if n := strings.Count(w.Stderr.String(), "level=ERROR"); n != 1 {
				t.Errorf("%d errors are logged, want one:\n%s", n, w.Stderr.String())
			}
			do("mending", c.mend)
			w.Signal(syscall.SIGTERM)
			if code := w.Wait(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
			// It is saved now, and is what a dnsd without a source serves, also from
			// a directory that fails again.
			do("failing again", func(string) error { return unix.Mount("", mount, "", unix.MS_REMOUNT|unix.MS_RDONLY, "") })
			rename(t, path, path+".gone")
			w.Server = l.Serve(t, args...)
			if n := w.shown(t); n != 2 {
				t.Errorf("%d machines are shown from disk, want 2", n)
			}
			if _, text := l.Get("http://" + lab.Admin + "/readyz"); !strings.HasPrefix(text, "cached: ") {
				t.Errorf("/readyz: %s", text)
			}
		})
	}
}

// What dnsd was told is on disk a few seconds later, and there when it is killed, again
// and again: each start goes on with the file of the one before.
func TestStateSurvivesAKill(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	dir := t.TempDir()
	path := writeFile(t, filepath.Join(t.TempDir(), "registry.json"), pair("started"))
	w := &world{ttl: 5, maxUDP: 1232, path: path}
	args := []string{"--listen", "[::]:53", "--registry", "file:" + path, "--upstream", "none", "--state-dir", dir}
	for round, state := range []string{"stopped", "started", "stopped"} {
		w.Server = l.Serve(t, args...)
		rename(t, writeFile(t, path+".new", pair(state)), path)
		began := time.Now()
		if !lab.Until(lab.Patience, func() bool {
			_, out, _ := l.Run(t, nil, "export", "--log-level=error", "--registry", "state:"+dir)
			return strings.Contains(out, `"id":"m2","state":"`+state+`"`)
		}) {
			t.Fatalf("round %d: after %v a change is not saved", round, time.Since(began))
		}
		w.Signal(syscall.SIGKILL)
		w.Wait(t)
		rename(t, path, path+".gone")
		w.Server = l.Serve(t, args...)
		if n, want := w.shown(t), map[string]int{"started": 2, "stopped": 1}[state]; n != want {
			t.Errorf("round %d: %d machines are shown from disk, want %d", round, n, want)
		}
		if _, text := l.Get("http://" + lab.Admin + "/readyz"); !strings.HasPrefix(text, "cached: ") {
			t.Errorf("round %d: /readyz: %s", round, text)
		}
		w.Signal(syscall.SIGKILL)
		w.Wait(t)
		rename(t, path+".gone", path)
	}
	if code, out, _ := l.Run(t, nil, "check", "state:"+dir); code != 0 || strings.Contains(out, "registry.state.previous") || strings.Contains(out, "with 0 batches") {
		t.Errorf("all was not appended to one file: %d %s", code, out)
	}
}

// A state directory that is something else is a mistake, and one that cannot be
// written ends a check of the flags.
func TestStateDirectoryMistakes(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	path := writeFile(t, filepath.Join(dir, "registry.json"), pair("started"))
	args := []string{"--listen", "[::]:53", "--registry", "file:" + path, "--upstream", "none", "--state-dir"}
	if code, _, errs := l.Run(t, nil, append(args, path)...); code != 2 || !strings.Contains(errs, "--state-dir "+path+": this is no directory") {
		t.Errorf("a file: %d, want 2: %s", code, errs)
	}
	for where, says := range map[string]string{dir + "/none": "there is no such directory", "/sys": "dnsd cannot write there"} {
		code, _, errs := l.Run(t, nil, append([]string{"check"}, append(args, where, "--ttl=soon")...)...)
		if code != 2 || !strings.Contains(errs, says) {
			t.Errorf("check: %d, want 2 with %q: %s", code, says, errs)
		}
	}
}
