package etcdtest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy stands between dnsd and a cluster's first member, so that they can be
// parted while the member goes on. Part and Join are called by one goroutine.
type Proxy struct {
	t        testing.TB
	addr, to string
	wg       sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil: parted
	conns    map[net.Conn]struct{}
}

// Through returns a new proxy, which ends with the test t.
func (c *Cluster) Through(t testing.TB) *Proxy {
	t.Helper()
	to := c.Endpoints()[0]
	host, _, _ := net.SplitHostPort(to) // the host that the member's certificate names
	p := &Proxy{t: t, addr: net.JoinHostPort(host, "0"), to: to, conns: map[net.Conn]struct{}{}}
	p.Join()
	t.Cleanup(p.Part)
	return p
}

// Addr returns the address that dnsd is told, host:port.
func (p *Proxy) Addr() string { return p.addr }

// Join lets connections through, at the address that the proxy had before.
func (p *Proxy) Join() {
	p.t.Helper()
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.addr = l.Addr().String()
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	p.wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.carry(in) })
		}
	})
}

// Part cuts all connections and refuses new ones.
func (p *Proxy) Part() {
	p.mu.Lock()
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// Count returns how many connections of dnsd are open.
func (p *Proxy) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) / 2
}

// hold keeps a connection among those that Part cuts.
func (p *Proxy) hold(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.Close()
	delete(p.conns, c)
}

func (p *Proxy) carry(in net.Conn) {
	defer p.drop(in)
	out, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer p.drop(out)
	if !p.hold(in) || !p.hold(out) {
		return
	}
	p.wg.Go(func() {
		io.Copy(out, in)
		out.Close()
	})
	io.Copy(in, out)
	in.Close()
}
