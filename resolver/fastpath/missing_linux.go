//go:build linux && (amd64 || arm64)

package fastpath

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The first Linux with programs at tcx, which share a device's ingress with others
// and go with the process.
const leastMajor, leastMinor = 6, 6

// missing says what the kernel or this process lacks; empty: nothing that can be told
// before the programs are loaded.
func missing() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "which Linux this is cannot be told: " + err.Error()
	}
	if why := tooOld(unix.ByteSliceToString(u.Release[:])); why != "" {
		return why
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "the privileges of this process cannot be told: " + err.Error()
	}
	if why := lacking(string(status)); why != "" {
		return why
	}
	// Programs read the host's clock.
	offsets, _ := os.ReadFile("/proc/self/timens_offsets") // not there: there are no time namespaces
	return shifted(string(offsets))
}

// tooOld says so if a release of Linux is.
func tooOld(release string) string {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n == 2 && (major < leastMajor || major == leastMajor && minor < leastMinor) {
		return fmt.Sprintf("Linux %d.%d or newer is needed, and this is %s", leastMajor, leastMinor, release)
	}
	return ""
}

// lacking names the capabilities that a process lacks, given its /proc/PID/status.
func lacking(status string) string {
	_, rest, _ := strings.Cut(status, "\nCapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	have, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		return "the privileges of this process cannot be told: " + err.Error()
	}
	var names []string
	for _, c := range []struct {
		bit  uint
		name string
		all  bool // CAP_SYS_ADMIN has it as well
	}{{unix.CAP_BPF, "CAP_BPF", true}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", false}, {unix.CAP_PERFMON, "CAP_PERFMON", true}} {
		if have&(1<<c.bit) == 0 && !(c.all && have&(1<<unix.CAP_SYS_ADMIN) != 0) {
			names = append(names, c.name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "this process lacks " + strings.Join(names, ", ")
}

// shifted says so if the clock of a process is not the host's, given its
// /proc/PID/timens_offsets.
func shifted(offsets string) string {
	for line := range strings.Lines(offsets) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "monotonic" && (f[1] != "0" || f[2] != "0") {
			return "this process is in a time namespace with a clock of its own"
		}
	}
	return ""
}
