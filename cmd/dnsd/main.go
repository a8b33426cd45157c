// Dnsd is the DNS server of a platform's private networks. It answers the names
// under internal. and flycast. from a registry of what runs, to each client
// those of its own network, and forwards every other name.
//
//	dnsd [FLAGS]                serve
//	dnsd check [FLAGS] [FILE]   say what is wrong with flags or a registry file
//	dnsd export [FLAGS]         print the registry as a registry file
//	dnsd healthcheck [FLAGS]    ask the dnsd that runs here whether it is ready;
//	                            with live behind it: whether it answers at all
//	dnsd version                say which dnsd this is
//
// # Settings
//
// Every flag may stand in the environment instead: --stale-after is
// DNSD_STALE_AFTER. Flags win. Where a flag may be repeated, the environment
// holds its values with commas between them. All mistakes are reported at once,
// and dnsd check with the same flags reports them without serving; where the
// registry is a Corrosion agent that answers, it is asked what is wrong with the
// queries. dnsd --help lists the flags. Of a variable called DNSD_… that is no
// setting, a flag for another kind of registry and a --region that no table knows
// dnsd and dnsd check warn.
//
// # Starting
//
// Port 53 needs root or the capability CAP_NET_BIND_SERVICE, and the default
// address must exist: ip -6 addr add fdaa::3/128 dev lo. A mistake in the flags, an
// address that is not there or in use, or a --state-dir that is no directory ends
// dnsd at once with a message. Errors that may pass do not: a registry file that is
// missing or broken, an etcd that is down. dnsd then says so in its log and at /readyz, answers internal names SERVFAIL (never
// NXDOMAIN) and all others as ever, and serves as soon as the source does; with
// --state-dir it serves the last known state meanwhile. A state directory that is
// missing, full, read-only or hangs costs the saving and nothing else.
//
// # Signals
//
//	SIGTERM, SIGINT  finish what is in hand, within 3 s, and exit 0; a second one ends at once
//	SIGHUP           read the registry file again
//	SIGUSR1          let go of what the sweep guard holds
//	SIGUSR2          start the program again, hand over to the new process, and end
//
// The last three are caught from the first moment; while dnsd starts they wait.
//
// The new process has the same arguments, environment and sockets. When it has
// listed the registry it answers, and the old one ends as on SIGTERM; no question is
// lost. If it ends or does not get there within two minutes, the old one goes on as
// before and says why. While the sweep guard holds something back and there is no last
// known state, SIGUSR2 is refused: the new process would let it go.
//
// # systemd
//
// dnsd tells systemd when it is ready, how it is, that its loops turn (WatchdogSec=)
// and which process is the main one (sd_notify); gives it its sockets to keep while
// it restarts (FileDescriptorStoreMax=); and takes those of a socket unit
// (sd_listen_fds) instead of binding their addresses. Without systemd none of that
// is needed.
//
// # Exit status
//
//	0  ended by a signal; or the check found nothing; or the server is ready
//	1  a failure at run time; or the check found something; or the server is not ready
//	2  a mistake in the flags, the environment or the command
//
// # Answers in the kernel
//
// With --fast-path the kernel answers kept questions at the devices that the patterns name,
// which takes Linux 6.6, CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON. Where one of them is missing
// the log says so, and the sockets answer. What is answered there passes no firewall.
//
// # Observing
//
// At --metrics-listen are /metrics for Prometheus; /healthz, which answers 200
// while the process runs, for restarting it; /readyz, which answers 200 once
// internal names can be answered and 503 with the reason before and during
// shutdown, for sending it clients; and /debug/pprof. At most 64 connections are
// open there. A stale registry is ready: an old answer is worth more than none.
// The log goes to standard error.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

// gcPercent is how much garbage may gather, in percent of what is in use, before
// it is collected; $GOGC overrules it. A kept answer makes no garbage when it is
// given, so that only changes and listings pay for less than Go's 100 (measured:
// 1,000,000 machines from a file 871 MiB instead of 1,163 when ready, for 5 % more
// CPU until then; 7 to 9 % more CPU a change at 2,000 changes a second).
const gcPercent = 50

// main only waits: see package orders.
func main() {
	status := make(chan int)
	go func() { status <- dnsd() }()
	os.Exit(<-status)
}

// dnsd is the process, and returns its exit status.
func dnsd() int {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop) // so that a second signal ends the process at once
	old := inherited().old       // before the environment is looked at
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr, os.Environ()...)
	status := report(os.Stderr, err)
	if old != nil {
		report(old.ready, err)
	}
	return status
}

// run is dnsd without the process around it. It returns nil when ctx ends, a
// usageError for a mistake of the caller's, and whatever else went wrong. In
// environ, as os.Environ has it, misspelt names are looked for.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer, environ ...string) error {
	c, rest, err := parseConfig(args, getenv)
	c.warnings = append(c.warnings, strangers(c.settings(), environ)...)
	switch {
	case c.Help:
		_, err := io.WriteString(stdout, helpText)
		return err
	case c.Version || len(rest) == 1 && rest[0] == "version":
		_, err := fmt.Fprintln(stdout, "dnsd", thisBuild())
		return err
	}
	command, operands := "", rest
	if len(rest) > 0 {
		command, operands = rest[0], rest[1:]
	}
	if len(operands) > 0 && command != "check" && command != "healthcheck" {
		err = errors.Join(err, usagef("unexpected argument %q", operands[0]))
	}
	if command == "export" {
		c.StateDir = "" // it is the serving dnsd's, and may be none of this user's
	}
	if command != "healthcheck" { // which must not depend on files that may have gone since
		err = errors.Join(err, c.load(getenv))
	}
	if command == "check" {
		err = errors.Join(err, checkStateDir(c.StateDir))
		for _, s := range c.warnings {
			fmt.Fprintln(stderr, "dnsd: warning:", s)
		}
	}
	if err != nil {
		return err
	}
	switch command {
	case "":
		return serve(ctx, c, getenv, stderr)
	case "check":
		return check(ctx, c, getenv, operands, stdout)
	case "export":
		return export(ctx, c, getenv, stdout, stderr)
	case "healthcheck":
		return healthcheck(ctx, c, operands, stdout)
	}
	return usagef("unknown command %q: write check, export, healthcheck or version, or no command to serve", command)
}

// report prints err, a line for each mistake, and returns the exit status.
func report(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(w, "dnsd:", strings.TrimSuffix(line, "\n"))
	}
	var usage usageError
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}
