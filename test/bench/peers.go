package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// The servers' ports, in a network namespace that holds nothing else. Each name
// is one process at a time.
const (
	portDNSD = 5301 + iota
	portAgainst
	portNSD
	portKnot
	portUnbound
	portDnsmasq
	portUpstream
	portAdmin        // of dnsd
	portAdminAgainst // of the other dnsd
	portSlow         // of the scripted upstream
	portSpread       // of a third dnsd
	portAdminSpread
)

func at(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

func splitAddr(addr string) (host, port string) {
	host, port, _ = net.SplitHostPort(addr)
	return host, port
}

func newServer(s *server, port int) *server {
	s.v4, s.v6 = at("127.0.0.1", port), at("::1", port)
	return s
}

// daemon is a dnsd to start.
type daemon struct {
	name     string // of the entrant; "dnsd" when empty
	bin      string // b.dnsd when empty
	registry string // URL
	port     int    // portDNSD when 0
	admin    int    // portAdmin when 0
	args     []string
}

// dnsdServer starts a dnsd on loopback and on [fdaa::3] and waits until it is
// ready. Clients on loopback are in the home network. It has as many sockets
// for each address as NSD has workers; Go's runtime settings are the defaults.
func (b *bench) dnsdServer(ctx context.Context, d daemon) (*server, error) {
	s, admin, err := b.startDNSD(d)
	if err != nil {
		return nil, err
	}
	if err := s.awaitReady(ctx, admin); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// startDNSD is dnsdServer without the waiting. It also returns the address of
// the admin listener.
func (b *bench) startDNSD(d daemon) (s *server, admin string, err error) {
	set := func(to *int, def int) {
		if *to == 0 {
			*to = def
		}
	}
	set(&d.port, portDNSD)
	set(&d.admin, portAdmin)
	if d.name == "" {
		d.name = "dnsd"
	}
	if d.bin == "" {
		d.bin = b.dnsd
	}
	admin = at("127.0.0.1", d.admin)
	args := append([]string{
		"--registry", d.registry, "--network", home.String(), "--sockets", strconv.Itoa(b.workers), "--metrics-listen", admin,
		"--listen", at("127.0.0.1", d.port), "--listen", at("::1", d.port), "--listen", at("fdaa::3", d.port),
	}, d.args...)
	if !strings.Contains(strings.Join(d.args, " "), "--upstream") {
		args = append(args, "--upstream", "none")
	}
	cmd := exec.Command(d.bin, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	s, err = b.launch(d.name, cmd)
	if err != nil {
		return nil, "", err
	}
	return newServer(s, d.port), admin, nil
}

// nsdServer starts NSD with a zone. Debian builds it with rate limiting, which
// is off here; minimal responses leave out what dnsd leaves out.
func (b *bench) nsdServer(ctx context.Context, name string, port int, zone, file, first string) (*server, error) {
	return b.peer(ctx, name, port, b.nsdConf(name, port, zone, file), first, "nsd", "-d", "-c")
}

// nsdConf is NSD's configuration, to answer on loopback and at more addresses.
func (b *bench) nsdConf(name string, port int, zone, file string, more ...string) string {
	addresses := ""
	for _, a := range more {
		addresses += fmt.Sprintf("\n  ip-address: %s@%d", a, port)
	}
	return fmt.Sprintf(`server:%[8]s
  ip-address: 127.0.0.1@%[1]d
  ip-address: ::1@%[1]d
  server-count: %[2]d
  username: ""
  chroot: ""
  zonesdir: ""
  database: ""
  pidfile: ""
  zonelistfile: %[3]q
  xfrdfile: %[4]q
  xfrdir: %[5]q
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
  minimal-responses: yes
  refuse-any: yes
remote-control:
  control-enable: no
zone:
  name: %[6]q
  zonefile: %[7]q
`, port, b.workers, filepath.Join(b.dir, name+".list"), filepath.Join(b.dir, name+".xfrd"), b.dir, zone, file, addresses)
}

// knotServer starts Knot DNS with the zone internal. It has no rate limiting
// unless a module is loaded.
func (b *bench) knotServer(ctx context.Context, port int, file, first string) (*server, error) {
	conf := fmt.Sprintf(`server:
  rundir: %[1]q
  listen: [ 127.0.0.1@%[2]d, ::1@%[2]d ]
  udp-workers: %[3]d
  tcp-workers: 1
  background-workers: 1
database:
  storage: %[1]q
zone:
  - domain: internal
    file: %[4]q
    zonefile-sync: -1
    semantic-checks: off
`, b.dir, port, b.workers, file)
	return b.peer(ctx, "Knot", port, conf, first, "knotd", "-c")
}

// unboundServer starts unbound as a caching forwarder, without validation.
func (b *bench) unboundServer(ctx context.Context, upstream, first string) (*server, error) {
	host, port := splitAddr(upstream)
	conf := fmt.Sprintf(`server:
  interface: 127.0.0.1@%[1]d
  num-threads: %[2]d
  module-config: "iterator"
  do-not-query-localhost: no
  do-daemonize: no
  use-syslog: no
  username: ""
  chroot: ""
  pidfile: ""
  directory: %[3]q
  minimal-responses: yes
  prefetch: yes
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-addr: %[4]s@%[5]s
`, portUnbound, b.workers, b.dir, host, port)
	return b.peer(ctx, "unbound", portUnbound, conf, first, "unbound", "-d", "-c")
}

// dnsmasqServer starts dnsmasq as a caching forwarder.
func (b *bench) dnsmasqServer(ctx context.Context, upstream, first string) (*server, error) {
	host, port := splitAddr(upstream)
	conf := fmt.Sprintf("port=%d\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nserver=%s#%s\ncache-size=10000\nuser=\npid-file=\n",
		portDnsmasq, host, port)
	return b.peer(ctx, "dnsmasq", portDnsmasq, conf, first, "dnsmasq", "--keep-in-foreground", "--log-facility=-", "-C")
}

// peer starts a server with a configuration file and waits until it answers
// the name first. The file's path follows the command.
func (b *bench) peer(ctx context.Context, name string, port int, conf, first, program string, args ...string) (*server, error) {
	file := filepath.Join(b.dir, name+".conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	s, err := b.launch(name, exec.Command(program, append(args, file)...))
	if err != nil {
		return nil, err
	}
	newServer(s, port)
	if err := s.awaitAnswer(ctx, s.v4, first, dns.TypeAAAA); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}
