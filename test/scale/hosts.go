package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// centreEnv is set in the process that has gone on in a network namespace of its own,
// which is the centre: etcd and a bridge are there, to which each site has a link.
const centreEnv = "DNSD_SCALE_CENTRE"

// centreAddr is the centre's address on the bridge.
const centreAddr = "10.77.0.1"

// isolable says why there can be no namespaces; empty: there can.
func isolable() string {
	if os.Geteuid() != 0 {
		return "not root"
	}
	for _, tool := range []string{"ip", "tc", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			return tool + " is missing"
		}
	}
	probe := exec.Command("ip", "link", "add", "centre", "type", "bridge")
	probe.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := probe.Run(); err != nil {
		return "no network namespace with a bridge: " + err.Error()
	}
	return ""
}

// isolate runs the program again in a network namespace.
func isolate(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), centreEnv+"=1")
	cmd.Stdout, cmd.Stderr = stdout, stderr
	runtime.LockOSThread() // the kernel sends the signal when this thread ends
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("making a network namespace (-loopback does without): %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })()
	return cmd.Wait()
}

// host is a site as the centre sees it: a process, and its link if it has a network of
// its own.
type host struct {
	addr    string
	link    string // the device of its link at the centre; empty: none
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	orders  *json.Encoder
	reports *json.Decoder
}

// bridge makes the centre's side of the network.
func bridge() error {
	return ip("link set lo up", "link add centre type bridge", "address add "+centreAddr+"/24 dev centre", "link set centre up")
}

// startSite starts the i-th site, with a network of its own unless on loopback.
func startSite(i int, o *options) (h *host, err error) {
	h = &host{addr: fmt.Sprintf("10.77.0.%d", 10+i)}
	h.cmd = exec.Command("/proc/self/exe")
	h.cmd.Env = append(os.Environ(), siteEnv+"=1")
	h.cmd.Stderr = os.Stderr
	if o.loopback {
		h.addr = fmt.Sprintf("127.77.0.%d", 10+i)
	} else {
		h.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	}
	if h.stdin, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.orders, h.reports = json.NewEncoder(h.stdin), json.NewDecoder(out)
	if err := h.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting a site: %w", err)
	}
	if o.loopback {
		return h, nil
	}
	h.link = fmt.Sprintf("site%d", i)
	if err := h.wire(); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// wire links the site's network to the centre's.
func (h *host) wire() error {
	pid := fmt.Sprint(h.cmd.Process.Pid)
	if err := ip("link add "+h.link+" type veth peer name uplink netns "+pid, "link set "+h.link+" master centre", "link set "+h.link+" up"); err != nil {
		return err
	}
	for _, line := range []string{"link set lo up", "address add " + h.addr + "/24 dev uplink", "link set uplink up"} {
		if err := h.tool(exec.Command("ip", strings.Fields(line)...)); err != nil {
			return err
		}
	}
	return nil
}

// limit limits the link in both directions, and says how it is limited: by netem,
// which delays as well, or by tbf, where the kernel has neither not at all.
func (h *host) limit(rate, delay string) string {
	for _, how := range []struct{ says, qdisc string }{
		{rate + " and " + delay, "netem limit 100000 rate " + rate + " delay " + delay},
		{rate + ", no delay (this kernel has no netem)", "tbf burst 256kb latency 200ms rate " + rate},
	} {
		add := func(device string) *exec.Cmd {
			return exec.Command("tc", append([]string{"qdisc", "replace", "dev", device, "root"}, strings.Fields(how.qdisc)...)...)
		}
		if add(h.link).Run() == nil && h.tool(add("uplink")) == nil {
			return how.says
		}
	}
	return "not limited (this kernel has neither netem nor tbf)"
}

// inside changes a command so that it starts in the site's network, under the
// same process id.
func (h *host) inside(cmd *exec.Cmd) error {
	if h.link == "" {
		return cmd.Start()
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return err
	}
	cmd.Args = append([]string{"nsenter", "-t", fmt.Sprint(h.cmd.Process.Pid), "-n", "--", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = nsenter
	return cmd.Start()
}

// tool runs a command in the site's network to its end.
func (h *host) tool(cmd *exec.Cmd) error {
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := h.inside(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(said.String()))
	}
	return nil
}

// tell gives the site an order and returns its report.
func (h *host) tell(o *order) (*report, error) {
	if err := h.orders.Encode(o); err != nil {
		return nil, fmt.Errorf("telling a site: %w", err)
	}
	r := &report{Seen: &histogram{}}
	if err := h.reports.Decode(r); err != nil {
		return nil, fmt.Errorf("hearing from a site: %w", err)
	}
	if r.Err != "" {
		return nil, errors.New(r.Err)
	}
	return r, nil
}

// close ends the site.
func (h *host) close() {
	_ = h.stdin.Close()
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait()
}

// ip runs lines of ip -batch.
func ip(lines ...string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(lines, "; "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
