package lab

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
)

// Tenant is a machine beside the lab's host: a namespace of its own, joined to
// the host by a veth pair, as a platform joins a machine to the host that it
// runs on. What the host sends to it passes neighbour discovery, a device and its
// queue, none of which loopback has.
type Tenant struct {
	*Lab
	Addr netip.Addr // the machine's, the only one of its network that answers
	Dev  string     // the host's end of the pair
	host *Lab
}

// gateway is the host's address on every pair.
const gateway = "fe80::1"

// Tenant makes a tenant of that name, which must be unique in the lab and short,
// and whose /48 is on link: the host asks for each of its addresses by neighbour discovery.
func (l *Lab) Tenant(t testing.TB, name string, addr netip.Addr) *Tenant {
	t.Helper()
	return l.TenantIn(t, name, addr, netip.PrefixFrom(addr, 48).Masked())
}

// TenantIn is Tenant with another prefix on link than the whole /48.
func (l *Lab) TenantIn(t testing.TB, name string, addr netip.Addr, network netip.Prefix) *Tenant {
	t.Helper()
	n := &Tenant{Lab: Open(t), Addr: addr, Dev: "to-" + name, host: l}
	l.IP(t, fmt.Sprintf("link add %s type veth peer name eth0 netns /proc/%d/task/%d/ns/net", n.Dev, os.Getpid(), n.tid))
	l.IP(t, "link set "+n.Dev+" up",
		"addr add "+gateway+"/64 dev "+n.Dev+" nodad",
		fmt.Sprintf("route add %s dev %s", network, n.Dev))
	n.IP(t, "link set eth0 up",
		fmt.Sprintf("addr add %s/128 dev eth0 nodad", addr),
		"route add default via "+gateway+" dev eth0")
	// A machine may send from any address of its /112.
	n.Sysctl(t, "net/ipv6/ip_nonlocal_bind", "1")
	return n
}

// Behind puts the tenant's network behind a gateway that does not answer, or, for
// the zero Addr, back on link.
func (n *Tenant) Behind(t testing.TB, gateway netip.Addr) {
	t.Helper()
	via := ""
	if gateway.IsValid() {
		via = "via " + gateway.String() + " "
	}
	n.host.IP(t, fmt.Sprintf("route replace %s %sdev %s", netip.PrefixFrom(n.Addr, 48).Masked(), via, n.Dev))
}

// Shape bounds what the host sends to the tenant; the rest waits in a queue.
func (n *Tenant) Shape(t testing.TB, rate string) {
	t.Helper()
	n.host.Tool(t, "", "tc", "qdisc", "add", "dev", n.Dev, "root", "tbf", "rate", rate, "burst", "4kb", "limit", "10mb")
}
