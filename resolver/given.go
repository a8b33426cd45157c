package resolver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
)

// SideSocket is the name of a side socket in Config.Given. All other sockets are
// known by their type and address.
const SideSocket = "side"

// given is a socket that the process was started with.
type given struct {
	addr netip.AddrPort
	side bool
	udp  *net.UDPConn     // nil: it is TCP's
	tcp  *net.TCPListener // nil: it is UDP's
}

func (g *given) close() {
	if g.udp != nil {
		g.udp.Close()
	} else {
		g.tcp.Close()
	}
}

// openGiven makes sockets of Config.Given, whose files it closes. What is neither
// UDP nor a TCP listener is reported and left out.
func (r *Resolver) openGiven() (all []*given) {
	for _, f := range r.cfg.Given {
		g, err := newGiven(f)
		f.Close()
		if err != nil {
			r.log.Error("a socket that dnsd was started with cannot be used", "name", f.Name(), "err", err)
			continue
		}
		all = append(all, g)
	}
	return all
}

func newGiven(f *os.File) (*given, error) {
	if conn, err := net.FilePacketConn(f); err == nil {
		if udp, ok := conn.(*net.UDPConn); ok {
			return &given{addr: localAddr(udp.LocalAddr().(*net.UDPAddr).AddrPort()), side: f.Name() == SideSocket, udp: udp}, nil
		}
		conn.Close()
	}
	listener, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	if tcp, ok := listener.(*net.TCPListener); ok {
		return &given{addr: localAddr(tcp.Addr().(*net.TCPAddr).AddrPort()), tcp: tcp}, nil
	}
	return nil, errors.Join(fmt.Errorf("%s is no address for DNS", listener.Addr()), listener.Close())
}

// localAddr returns an address of package net as it is configured.
func localAddr(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// take moves the sockets of an address from r.given to a listener. Port 0 stands for
// any port, but one for all of them.
func (r *Resolver) take(addr netip.AddrPort) *listener {
	l := &listener{addr: localAddr(addr)}
	r.given = slices.DeleteFunc(r.given, func(g *given) bool {
		if l.addr.Port() == 0 && g.addr.Addr() == l.addr.Addr() {
			l.addr = g.addr
		}
		if g.addr != l.addr {
			return false
		}
		switch {
		case g.side && l.side == nil:
			l.side = g.udp
		case g.udp != nil && !g.side:
			l.udp = append(l.udp, g.udp)
		case g.tcp != nil && l.tcp == nil:
			l.tcp = g.tcp
		default:
			return false
		}
		return true
	})
	l.addr = netip.AddrPortFrom(addr.Addr(), l.addr.Port())
	return l
}

// dropGiven closes what no address of Config.Listen has taken.
func (r *Resolver) dropGiven() {
	for _, g := range r.given {
		r.log.Info("a socket that dnsd was started with is closed: it belongs to no --listen address", "address", g.addr)
		g.close()
	}
	r.given = nil
}

// A NamedSocket is a socket as Config.Given wants it.
type NamedSocket struct {
	Name string
	syscall.Conn
}

// Sockets returns the sockets that another process can take over with Config.Given.
// They stay the Resolver's. Lanes are not among them: they only send, so that each
// process has its own.
func (r *Resolver) Sockets() (all []NamedSocket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sockets {
		if conn, ok := s.conn.(syscall.Conn); ok {
			name := "dns"
			if s.side {
				name = SideSocket
			}
			all = append(all, NamedSocket{name, conn})
		}
	}
	for _, a := range r.acceptors {
		all = append(all, NamedSocket{"dns", a.listener})
	}
	return all
}
