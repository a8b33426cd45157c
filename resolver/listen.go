package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
)

// portTries is how many free ports are tried when one that is free for UDP is in use
// for TCP. That seldom happens twice in a row.
const portTries = 10

// listener is what one address of Config.Listen becomes.
type listener struct {
	addr netip.AddrPort // as bound
	udp  []*net.UDPConn
	tcp  *net.TCPListener

	// Nil where the system cannot share a port that way.
	side  *net.UDPConn // receives from those that are set aside
	known bool         // by another process, which has told the program who they are
	spare *net.UDPConn // only sends: the first of the lanes
}

func (l *listener) close() {
	for _, c := range l.udp {
		c.Close()
	}
	if l.tcp != nil {
		l.tcp.Close()
	}
	for _, c := range []*net.UDPConn{l.side, l.spare} {
		if c != nil {
			c.Close()
		}
	}
}

// Listen binds every address of the configuration, or none: its error names each
// that cannot be bound and what would mend it. Sockets of Config.Given are taken over
// instead, and closed where they are of no such address. Nothing is read before Run.
func (r *Resolver) Listen() error {
	if len(r.cfg.Listen) == 0 {
		return errors.New("no address to listen on")
	}
	r.given = r.openGiven()
	defer r.dropGiven()
	var bound []*listener
	var errs []error
	for _, addr := range r.cfg.Listen {
		l, err := r.bind(addr)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		bound = append(bound, l)
	}
	if len(errs) > 0 {
		for _, l := range bound {
			l.close()
		}
		return errors.Join(errs...)
	}
	for _, l := range bound {
		r.adopt(l)
	}
	return nil
}

// adopt gives each socket of l its owner.
func (r *Resolver) adopt(l *listener) {
	log := r.log.With("listen", l.addr)
	lanes := newLanes(l.spare, func() (*net.UDPConn, error) { return r.listenUDP(l.addr, reusePort) },
		max(r.cfg.MaxLanes/len(r.cfg.Listen), 1), log)
	aside := newAside(nil, log)
	receivers := l.udp
	if l.side != nil {
		aside.steer = func(aside []netip.Prefix) error { return steer(l.side, len(l.udp), aside) }
		aside.learns.Store(l.known)
		receivers = append(slices.Clone(l.udp), l.side)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bound = append(r.bound, l.addr)
	r.lanes, r.asides = append(r.lanes, lanes), append(r.asides, aside)
	for _, c := range receivers {
		s := newSocket(r, c, lanes, aside, &stats{proto: UDP}, log)
		s.side = c == l.side
		r.stats = append(r.stats, s.stats)
		r.sockets = append(r.sockets, s)
	}
	s := &stats{proto: TCP}
	r.stats = append(r.stats, s)
	r.acceptors = append(r.acceptors, &acceptor{r: r, listener: l.tcp, stats: s, log: log.With("proto", "tcp")})
}

// Addresses returns the addresses that Listen has bound, in the order of
// Config.Listen. Each is served over UDP and TCP.
func (r *Resolver) Addresses() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]netip.AddrPort(nil), r.bound...)
}

// bind binds one address for UDP and TCP, with the same port for both.
func (r *Resolver) bind(addr netip.AddrPort) (*listener, error) {
	for try := 1; ; try++ {
		l, proto, err := r.bindBoth(addr)
		if err == nil {
			return l, nil
		}
		if addr.Port() == 0 && try < portTries && errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		return nil, explain(err, proto, addr)
	}
}

func (r *Resolver) bindBoth(addr netip.AddrPort) (_ *listener, proto string, err error) {
	l := r.take(addr)
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if len(l.udp) > 0 {
		err = r.prepareGiven(l)
	} else {
		err = r.bindLoops(l)
	}
	if err != nil {
		return nil, "udp", err
	}
	r.growQueues(l)
	if err := r.bindOthers(l); err != nil {
		r.log.Warn("the port cannot be shared as it should: one network's flood, or responses that wait in the kernel, can cost others theirs",
			"listen", l.addr, "err", err)
	}
	if l.tcp != nil {
		return l, "", nil
	}
	// Connections end after TCPIdle, so that the kernel need not probe them.
	lc := net.ListenConfig{KeepAlive: -1}
	tl, err := lc.Listen(context.Background(), r.network("tcp", l.addr), l.addr.String())
	if err != nil {
		return nil, "tcp", err
	}
	l.tcp = tl.(*net.TCPListener)
	return l, "", nil
}

// bindLoops binds the sockets of l.addr that receive, and sets its port.
func (r *Resolver) bindLoops(l *listener) error {
	for i := range min(r.cfg.Sockets, maxSockets) {
		conn, err := r.bindUDP(l.addr, i == 0)
		if err != nil {
			return err
		}
		l.udp = append(l.udp, conn)
		if i == 0 {
			// The first socket is bound without sharing, so that an address which
			// another process serves is an error: otherwise the two would share
			// its packets. The others follow.
			l.addr = netip.AddrPortFrom(l.addr.Addr(), conn.LocalAddr().(*net.UDPAddr).AddrPort().Port())
			if err := shareUDP(conn); err != nil {
				return fmt.Errorf("sharing the port among sockets: %w", err)
			}
		}
	}
	return nil
}

// prepareGiven prepares sockets that another process has bound. Their number stays:
// the kernel numbers the sockets of a port in the order of their binding, and steer
// needs the loops' before that of the side socket.
func (r *Resolver) prepareGiven(l *listener) error {
	for _, c := range l.udp {
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		if err := control(raw, func(fd int) error { return prepareUDP(fd, false, l.addr.Addr().IsUnspecified()) }); err != nil {
			return fmt.Errorf("preparing a socket that dnsd was started with: %w", err)
		}
		if err := stamp(c, false); err != nil {
			return fmt.Errorf("preparing a socket that dnsd was started with: %w", err)
		}
	}
	if n := len(l.udp); n != r.cfg.Sockets {
		r.log.Info("dnsd was started with another number of sockets than --sockets says, and uses those", "listen", l.addr, "sockets", n)
	}
	return nil
}

// growQueues lets the kernel hold many questions while nobody reads them, and says
// where it does not hold as many as it should.
func (r *Resolver) growQueues(l *listener) {
	for i, c := range l.udp {
		granted, asked, err := growQueue(c, len(l.udp))
		if i == 0 && (err != nil || granted < asked) {
			r.log.Info("the kernel holds fewer questions than it should while dnsd restarts or gets no processor: raise net.core.rmem_max",
				"listen", l.addr, "bytes", granted, "wanted", asked, "err", err)
		}
	}
}

// bindUDP binds one socket of an address, which receives.
func (r *Resolver) bindUDP(addr netip.AddrPort, first bool) (*net.UDPConn, error) {
	return r.listenUDP(addr, func(fd int) error { return prepareUDP(fd, first, addr.Addr().IsUnspecified()) })
}

// bindOthers binds the side socket, unless one was given, and the first lane of an
// address, and keeps received packets away from all lanes, present and future.
func (r *Resolver) bindOthers(l *listener) (err error) {
	defer func() {
		if err != nil && l.side != nil {
			l.side.Close()
			l.side = nil
		}
	}()
	if l.known = l.side != nil; !l.known {
		// The order matters: steer knows the side socket by its number.
		l.side, err = r.listenUDP(l.addr, func(fd int) error { return prepareSide(fd, l.addr.Addr().IsUnspecified()) })
		if err != nil {
			return err
		}
		if err := steer(l.side, len(l.udp), nil); err != nil {
			return err
		}
	}
	l.spare, err = r.listenUDP(l.addr, reusePort)
	return err
}

// listenUDP binds a socket of an address. prepare sets its options before.
func (r *Resolver) listenUDP(addr netip.AddrPort, prepare func(fd int) error) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return control(c, prepare) }}
	pc, err := lc.ListenPacket(context.Background(), r.network("udp", addr), addr.String())
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

// network is proto with the address family of addr. [::] takes IPv4 as well,
// unless 0.0.0.0 with the same port is to be bound too.
func (r *Resolver) network(proto string, addr netip.AddrPort) string {
	if addr.Addr().Is4() || addr.Addr().Is4In6() {
		return proto + "4"
	}
	if addr.Addr().IsUnspecified() {
		for _, other := range r.cfg.Listen {
			if other.Addr() == netip.IPv4Unspecified() && other.Port() == addr.Port() {
				return proto + "6"
			}
		}
		return proto
	}
	return proto + "6"
}

// control runs set on the descriptor of a socket.
func control(c syscall.RawConn, set func(fd int) error) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = set(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// explain adds to err what the operator can do so that addr can be bound.
func explain(err error, proto string, addr netip.AddrPort) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("listening on %s (%s): %s: %w", addr, proto, fmt.Sprintf(format, args...), err)
	}
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		family, bits := "-6", 128
		if addr.Addr().Unmap().Is4() {
			family, bits = "-4", 32
		}
		return fail("this host does not have the address; to give it one: ip %s addr add %s/%d dev lo",
			family, addr.Addr().Unmap().WithZone(""), bits)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fail("no privilege for port %d; run as root, or once: setcap cap_net_bind_service=+ep %s, or: sysctl net.ipv4.ip_unprivileged_port_start=%[1]d",
			addr.Port(), executable())
	case errors.Is(err, syscall.EADDRINUSE):
		flags := "-lunp"
		if proto == "tcp" {
			flags = "-ltnp"
		}
		return fail("something else serves it; to see what: ss %s 'sport = :%d'", flags, addr.Port())
	}
	return fmt.Errorf("listening on %s (%s): %w", addr, proto, err)
}

// executable is the program's file for the text of an error.
func executable() string {
	if path, err := os.Executable(); err == nil {
		return path
	}
	return os.Args[0]
}
