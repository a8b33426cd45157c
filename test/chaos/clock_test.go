package chaos

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"dnsd/test/internal/lab"
)

// The wall clock of a process cannot be set apart from that of its machine: no
// namespace has one of its own, and Go reads it from memory that the kernel
// shares, past every library. So dnsd is built with a time package of which one
// line is another: time.Now adds what stands in a file. dnsd's own source is as it
// is. What the kernel stamps, packets and files, keeps the right time.

// clockEnv names the file, in a dnsd that is built so.
const clockEnv = "DNSD_TEST_CLOCK"

var timeNow = regexp.MustCompile(`(func Now\(\) Time \{\n\tsec, nsec, mono := \w+\(\)\n)`)

const (
	skewed = `package time

import "sync/atomic"

// Skew is added to the wall clock, in seconds.
var Skew atomic.Int64
`
	follower = `package main

import (
	"os"
	"strconv"
	"time"
)

func init() {
	go func() {
		for ; ; time.Sleep(50 * time.Millisecond) {
			text, _ := os.ReadFile(os.Getenv("` + clockEnv + `"))
			if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
				time.Skew.Store(n)
			}
		}
	}()
}
`
)

// clockedBinary returns the path of a dnsd whose wall clock can be moved, with the
// race detector where there is a C compiler.
func clockedBinary(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	std := filepath.Join(strings.TrimSpace(string(goroot)), "src", "time")
	source, err := os.ReadFile(filepath.Join(std, "time.go"))
	if err != nil {
		t.Fatal(err)
	}
	changed := timeNow.ReplaceAll(source, []byte("${1}\tsec += Skew.Load()\n"))
	if len(changed) == len(source) {
		t.Fatal("time.Now of this Go is not written as expected: the clock cannot be moved")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	replace := map[string]string{}
	for path, text := range map[string]string{
		filepath.Join(std, "time.go"): string(changed), filepath.Join(std, "skew.go"): skewed,
		filepath.Join(root, "cmd", "dnsd", "clock.go"): follower,
	} {
		file := filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[path] = file
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		t.Fatal(err)
	}
	flags := []string{"-overlay", overlay}
	if raceable() {
		flags = append(flags, "-race")
	} else {
		t.Log("no C compiler: dnsd runs without the race detector")
	}
	return lab.Build(t, flags...)
}

// setClock moves dnsd's wall clock.
func (h *host) setClock(by time.Duration) {
	next := h.clock + ".new"
	err := os.WriteFile(next, fmt.Appendf(nil, "%d", int64(by/time.Second)), 0o644)
	if err == nil {
		err = os.Rename(next, h.clock)
	}
	if err != nil {
		h.s.errorf("%v: setting its clock: %v", h, err)
	}
}

// raceable reports whether dnsd can be built with the race detector.
func raceable() bool {
	_, err := exec.LookPath("gcc")
	return lab.Race || err == nil
}
