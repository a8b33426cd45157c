package etcdtest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// GRPCProxyOptions describe an etcd grpc-proxy.
type GRPCProxyOptions struct {
	Program string   // as of Options
	To      []string // the members that it asks, host:port; nil: all

	// Addr is where it listens, host:port, and Start starts it, where it is to be on
	// a host of its own.
	Addr  string
	Start func(cmd *exec.Cmd) error
}

// GRPCProxy is a running etcd grpc-proxy, a process of its own, which makes few
// watches of a cluster out of its clients' many. It has the TLS that the cluster
// has, on both sides. Methods fail the test when they cannot do what they say.
type GRPCProxy struct {
	t       testing.TB
	program string
	addr    string
	args    []string
	log     string
	process process
}

// GRPCProxy starts a proxy that ends with the test t, and waits until it listens.
func (c *Cluster) GRPCProxy(t testing.TB, o GRPCProxyOptions) *GRPCProxy {
	t.Helper()
	if o.To == nil {
		o.To = c.Endpoints()
	}
	if o.Addr == "" {
		o.Addr = fmt.Sprintf("%s:%d", c.host, 23790+c.proxies)
	}
	if o.Start == nil {
		o.Start = (*exec.Cmd).Start
	}
	c.proxies++
	p := &GRPCProxy{
		t: t, program: o.Program, addr: o.Addr, process: process{begin: o.Start},
		log: filepath.Join(c.dir, fmt.Sprintf("proxy%d.log", c.proxies)),
		args: []string{"grpc-proxy", "start", "--endpoints", strings.Join(o.To, ","),
			"--listen-addr", o.Addr, "--advertise-client-url", o.Addr},
	}
	if o.Program == "" { // an old proxy never notices that a member is frozen, nor a new one by default
		p.args = append(p.args, "--dial-keepalive-time", keepalive, "--dial-keepalive-timeout", keepaliveTimeout)
	}
	if c.CA != nil {
		host, _, _ := net.SplitHostPort(o.Addr)
		cert, key := c.CA.Issue(Leaf{}) // etcd's proxy refuses one with a name
		p.args = append(p.args, "--cacert", c.CA.File, "--cert", cert, "--key", key)
		cert, key = c.CA.Issue(Leaf{Host: host})
		p.args = append(p.args, "--trusted-ca-file", c.CA.File, "--cert-file", cert, "--key-file", key)
	}
	t.Cleanup(p.close)
	p.Restart()
	return p
}

// A proxy pings its member after so much silence, and leaves it so much later.
const (
	keepalive        = "5s"
	keepaliveTimeout = "3s"
)

// Addr returns where the proxy listens, host:port.
func (p *GRPCProxy) Addr() string { return p.addr }

// PID returns its process id, 0 while it does not run.
func (p *GRPCProxy) PID() int { return p.process.pid() }

// Restart starts a proxy that does not run, and waits until it listens.
func (p *GRPCProxy) Restart() {
	p.t.Helper()
	if err := p.start(); err != nil {
		p.t.Fatalf("starting etcd's grpc-proxy: %v\n%s", err, lastLines(p.log))
	}
}

func (p *GRPCProxy) start() error {
	program := p.program
	if program == "" {
		var err error
		if program, err = Build(); err != nil {
			return err
		}
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, p.args...)
	cmd.Stdout, cmd.Stderr = log, log
	if p.program == "" {
		err = p.process.start(cmd)
	} else {
		err = p.process.startAny(cmd)
	}
	if err != nil {
		return err
	}
	return listens(p.addr)
}

// Kill ends it at once (kill -9).
func (p *GRPCProxy) Kill() { p.process.kill() }

// Stop freezes it (SIGSTOP): its connections stay, and are silent.
func (p *GRPCProxy) Stop() { p.signal(syscall.SIGSTOP) }

// Cont thaws it (SIGCONT).
func (p *GRPCProxy) Cont() { p.signal(syscall.SIGCONT) }

func (p *GRPCProxy) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.process.signal(sig); err != nil {
		p.t.Fatalf("%v to etcd's grpc-proxy: %v", sig, err)
	}
}

func (p *GRPCProxy) close() {
	p.Kill()
	if p.t.Failed() {
		p.t.Logf("etcd's grpc-proxy: %s", lastLines(p.log))
	}
}
