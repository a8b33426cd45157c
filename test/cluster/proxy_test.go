package cluster

import (
	"io"
	"net"
	"sync"
	"testing"
)

// proxy stands between dnsd and one server, so that they can be parted while
// the server goes on.
type proxy struct {
	t    testing.TB
	addr string // that dnsd is told
	to   string

	wg sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil: parted
	conns    map[net.Conn]struct{}
}

// interpose opens a proxy at addr. It ends with the test.
func interpose(t testing.TB, addr, to string) *proxy {
	p := &proxy{t: t, addr: addr, to: to, conns: map[net.Conn]struct{}{}}
	p.join()
	t.Cleanup(p.part)
	return p
}

// join lets connections through.
func (p *proxy) join() {
	p.t.Helper()
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
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

// part cuts all connections and refuses new ones.
func (p *proxy) part() {
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

// count returns how many connections of dnsd are open.
func (p *proxy) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) / 2
}

// hold keeps a connection among those that part cuts.
func (p *proxy) hold(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil {
		c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.Close()
	delete(p.conns, c)
}

func (p *proxy) carry(in net.Conn) {
	out, err := net.Dial("tcp", p.to)
	if err != nil {
		in.Close()
		return
	}
	defer p.drop(in)
	defer p.drop(out)
	if !p.hold(in) || !p.hold(out) {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(out, in)
		out.Close()
	}()
	io.Copy(in, out)
	in.Close()
	<-done
}
