//go:build linux && (amd64 || arm64)

package fastpath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// maxAddresses is how many addresses the programs know: the size of their map.
const maxAddresses = 4096

// device is a network device that a program is attached to.
type device struct {
	name string
	link link.Link
}

// served is an address and port: struct served of kernel/answer.c.
type served struct {
	Addr [16]byte
	Port [2]byte
	_    [2]byte
}

// matches reports whether a device is one of those that are asked for.
func (p *Path) matches(dev net.Interface) bool {
	if dev.Flags&net.FlagLoopback != 0 {
		return false // what comes there need not leave by it
	}
	for _, pattern := range p.cfg.Devices {
		if ok, _ := path.Match(pattern, dev.Name); ok { // a bad pattern matches nothing
			return true
		}
	}
	return false
}

// scan attaches to devices that have come, lets go of those that are gone or have
// another name, and tells the programs which addresses are this host's. The calling
// thread's network is looked at.
func (p *Path) scan() error {
	err := p.updateAddresses()
	all, listErr := net.Interfaces()
	if listErr != nil {
		return errors.Join(err, listErr)
	}
	there := make(map[int]bool)
	for _, dev := range all {
		if !p.matches(dev) {
			continue
		}
		there[dev.Index] = true
		if _, ok := p.devices[dev.Index]; ok {
			continue
		}
		d, attachErr := p.attach(dev)
		if attachErr != nil {
			err = errors.Join(err, fmt.Errorf("attaching to %s: %w", dev.Name, attachErr))
			continue
		}
		p.log.Debug("the kernel answers questions that come in here", "device", dev.Name)
		p.devices[dev.Index] = d
	}
	for index, d := range p.devices {
		if !there[index] {
			_ = d.link.Close() // of a device that is gone, maybe
			delete(p.devices, index)
		}
	}
	p.attached.Store(int64(len(p.devices)))
	return err
}

// attach attaches the program for a device, behind those that are there.
func (p *Path) attach(dev net.Interface) (*device, error) {
	program := p.kernel.ethernet
	switch len(dev.HardwareAddr) {
	case 0:
		program = p.kernel.plain
	case 6:
	default:
		return nil, errors.New("neither an Ethernet device nor one without a link layer")
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: dev.Index, Program: program, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return nil, err
	}
	return &device{name: dev.Name, link: l}, nil
}

// detach lets go of all devices.
func (p *Path) detach() {
	for index, d := range p.devices {
		_ = d.link.Close()
		delete(p.devices, index)
	}
	p.attached.Store(0)
}

// updateAddresses tells the programs the addresses of this host that dnsd answers at.
func (p *Path) updateAddresses() error {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	now := make(map[served]bool)
	for _, a := range own {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, ok := netip.AddrFromSlice(n.IP)
		if !ok || !addr.Is6() || addr.Is4In6() || addr.IsLinkLocalUnicast() {
			continue
		}
		for _, at := range p.listen {
			if (at.Addr() == addr || at.Addr() == netip.IPv6Unspecified()) && len(now) < maxAddresses {
				now[served{Addr: addr.As16(), Port: [2]byte{byte(at.Port() >> 8), byte(at.Port())}}] = true
			}
		}
	}
	var errs []error
	for s := range p.served {
		if !now[s] {
			errs = append(errs, p.kernel.addresses.Delete(s))
			delete(p.served, s)
		}
	}
	for s := range now {
		if !p.served[s] {
			if err := p.kernel.addresses.Put(s, uint32(1)); err != nil {
				errs = append(errs, err)
				continue
			}
			p.served[s] = true
		}
	}
	return errors.Join(errs...)
}

// openNews opens a socket at which the kernel reports that devices or addresses
// change.
func openNews() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV6_IFADDR}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}
