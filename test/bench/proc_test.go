package main

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

func TestParseStatus(t *testing.T) {
	const text = "Name:\tdnsd\nVmPeak:\t 2345678 kB\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\nThreads:\t7\n"
	m, err := parseStatus(text)
	if err != nil || m != (memory{RSS: 10 << 20, Peak: 20 << 20}) {
		t.Errorf("memory is %+v, %v", m, err)
	}
	for _, bad := range []string{"", "VmRSS:\t1 kB\n", "VmRSS:\t1 MB\nVmHWM:\t1 kB\n", "VmRSS:\tx kB\nVmHWM:\t1 kB\n"} {
		if _, err := parseStatus(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestStatTicks(t *testing.T) {
	const fields = " S 1 42 42 0 -1 4194560 900 0 3 0 1234 567 0 0 20 0 9 0 100 1000 10 1844"
	for _, name := range []string{"(dnsd)", "(nsd: server 1)", "(a) b) (c)"} {
		if n, err := statTicks("42 " + name + fields); err != nil || n != 1801 {
			t.Errorf("%s: %d ticks, %v; want 1801", name, n, err)
		}
	}
	for _, bad := range []string{"", "42 (dnsd) S 1", "42 dnsd S 1 2 3"} {
		if _, err := statTicks(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestParseChildren(t *testing.T) {
	if pids := parseChildren("17 4242 "); !slices.Equal(pids, []int{17, 4242}) {
		t.Errorf("children are %v", pids)
	}
	if pids := parseChildren(""); len(pids) != 0 {
		t.Errorf("children are %v, want none", pids)
	}
}

// The CPU clock and /proc/<pid>/stat tell of the same time, the latter in whole
// ticks of user and of system time.
func TestCPUTimeAgreesWithStat(t *testing.T) {
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	pid := os.Getpid()
	for range 3 {
		for end := time.Now().Add(30 * time.Millisecond); time.Now().Before(end); {
		}
		before, err := cpuTime([]int{pid})
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		after, err := cpuTime([]int{pid})
		if err != nil {
			t.Fatal(err)
		}
		ticks, err := statTicks(string(text))
		if err != nil {
			t.Fatal(err)
		}
		if stat := time.Duration(ticks) * tick; stat < before-2*tick || stat > after+2*tick {
			t.Errorf("stat says %s, the clock %s to %s", stat, before, after)
		}
	}
}

func TestCPUTimeOfNobody(t *testing.T) {
	if _, err := cpuTime([]int{1 << 26}); err == nil {
		t.Error("a process that does not exist has a CPU time")
	}
}
