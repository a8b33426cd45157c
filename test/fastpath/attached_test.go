package fastpath

import (
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// attached returns how many programs there are at a device's ingress, in the network
// of the calling thread.
func attached(device string) (int, error) {
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return 0, err
	}
	r, err := link.QueryPrograms(link.QueryOptions{Target: dev.Index, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return 0, err
	}
	return len(r.Programs), nil
}

func mustAddr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
