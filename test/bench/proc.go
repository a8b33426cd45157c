package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processTree returns pid and all that descend from it: NSD's workers are
// children of the process that was started.
func processTree(pid int) []int {
	pids := []int{pid}
	for i := 0; i < len(pids); i++ {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[i]))
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				continue // the thread has ended
			}
			pids = append(pids, parseChildren(string(text))...)
		}
	}
	return pids
}

// parseChildren reads /proc/<pid>/task/<tid>/children.
func parseChildren(text string) []int {
	var pids []int
	for _, field := range strings.Fields(text) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// cpuTime returns the user and system time that the processes have used, their
// ended threads included. It reads their CPU clocks, which count nanoseconds
// and of which /proc/<pid>/stat shows the same sum in ticks of 10 ms.
func cpuTime(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		var ts unix.Timespec
		if err := unix.ClockGettime(processClock(pid), &ts); err != nil {
			return 0, fmt.Errorf("reading the CPU clock of process %d: %w", pid, err)
		}
		sum += time.Duration(ts.Nano())
	}
	return sum, nil
}

// processClock returns the clock of a process, as clock_getcpuclockid(3) makes
// it: the complement of the pid, shifted, and 2 for scheduled time.
func processClock(pid int) int32 { return int32(^pid<<3 | 2) }

// statTicks returns utime + stime in clock ticks from the text of
// /proc/<pid>/stat. The name in its second field may hold spaces and brackets.
func statTicks(text string) (int64, error) {
	_, rest, ok := strings.Cut(text[max(0, strings.LastIndexByte(text, ')')):], ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("a stat line of %d fields", len(fields))
	}
	// Fields 14 and 15 of proc(5), the third being the first of ours.
	utime, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	stime, err := strconv.ParseInt(fields[12], 10, 64)
	return utime + stime, err
}

// memory is what a process holds, in bytes.
type memory struct{ RSS, Peak int64 }

// memoryOf sums the memory of processes. Pages that they share count for each.
func memoryOf(pids []int) (memory, error) {
	var sum memory
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return sum, err
		}
		m, err := parseStatus(string(text))
		if err != nil {
			return sum, fmt.Errorf("status of process %d: %w", pid, err)
		}
		sum.RSS += m.RSS
		sum.Peak += m.Peak
	}
	return sum, nil
}

// parseStatus reads VmRSS and VmHWM from the text of /proc/<pid>/status.
func parseStatus(text string) (memory, error) {
	var m memory
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		to := map[string]*int64{"VmRSS": &m.RSS, "VmHWM": &m.Peak}[key]
		if to == nil {
			continue
		}
		fields := strings.Fields(value)
		if len(fields) != 2 || fields[1] != "kB" {
			return m, fmt.Errorf("%s is %q, want kB", key, strings.TrimSpace(value))
		}
		kib, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return m, err
		}
		*to = kib << 10
	}
	if m.RSS == 0 || m.Peak == 0 {
		return m, fmt.Errorf("no VmRSS or no VmHWM")
	}
	return m, nil
}
