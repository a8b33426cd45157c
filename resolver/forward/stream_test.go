package forward

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// certificate returns one for a name, and the pool that trusts it.
func certificate(t testing.TB, name string) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"dot"}}, pool
}

func TestTLS(t *testing.T) {
	server, pool := certificate(t, "dns.example")
	s := (&scripted{onTCP: onTCP}).start(t, server)
	for _, c := range []struct {
		name string
		pool *x509.CertPool
		want string
	}{
		{"dns.example", pool, oneAnswer},
		{"other.example", pool, "SERVFAIL; EDE 22"},
		{"dns.example", x509.NewCertPool(), "SERVFAIL; EDE 22"},
	} {
		f := newReal(t, Config{RootCAs: c.pool, Upstreams: []Upstream{{Domain: ".", Addr: s.addr, TLS: true, Name: c.name}}})
		q := query("a.example", dns.TypeA)
		r := f.Resolve(t.Context(), q)
		wantText(t, q, r, c.want)
		if r.Rcode != dns.RcodeSuccess && !strings.Contains(r.EDE[0].Text, "certificate") {
			t.Errorf("the EDE does not name the reason: %s", r.EDE[0].Text)
		}
	}
	if n := s.packets.Load(); n != 0 {
		t.Errorf("%d packets in the clear", n)
	}
}

// TestShutdown: Run returns while a connection is open, one is being opened to
// somebody who never answers, and questions wait.
func TestShutdown(t *testing.T) {
	asked := make(chan struct{}, 10)
	s := (&scripted{onUDP: truncating, onTCP: func(*dns.Msg, func(*dns.Msg)) bool {
		asked <- struct{}{}
		return true
	}}).start(t, nil)
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	f, err := New(Config{Upstreams: []Upstream{
		{Domain: ".", Addr: s.addr},
		{Domain: "tls.example.", Addr: deaf.Addr().(*net.TCPAddr).AddrPort(), TLS: true, Name: "x"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	var g sync.WaitGroup
	for _, name := range []string{"a.example", "a.tls.example"} {
		g.Go(func() { f.Resolve(ctx, query(name, dns.TypeA)) })
	}
	<-asked
	cancel()
	g.Wait()
	stop()
	q := query("late.tls.example", dns.TypeA)
	wantText(t, q, f.Resolve(t.Context(), q), "SERVFAIL; EDE 22")
}

// TestStreamAge: connections are not kept for ever, nor is one that fell silent.
func TestStreamAge(t *testing.T) {
	var mute atomic.Bool
	s := (&scripted{onUDP: truncating, onTCP: func(q *dns.Msg, send func(*dns.Msg)) bool {
		if !mute.Load() {
			send(answering(q, "192.0.2.1"))
		}
		return true
	}}).start(t, nil)
	f := newReal(t, Config{TryTimeout: 200 * time.Millisecond, Timeout: time.Second, Upstreams: []Upstream{{Domain: ".", Addr: s.addr}}})
	ask := func(name string) *Reply { return f.Resolve(t.Context(), query(name, dns.TypeA)) }
	ask("a.example")
	f.pools[0].mu.Lock()
	f.pools[0].cur.born = time.Now().Add(-2 * streamMaxAge)
	f.pools[0].mu.Unlock()
	ask("b.example")
	if n := s.accepts.Load(); n != 2 {
		t.Errorf("%d connections after the first grew old", n)
	}
	mute.Store(true)
	ask("c.example")
	mute.Store(false)
	if r := ask("d.example"); r.Rcode != dns.RcodeSuccess {
		t.Errorf("after a silent connection: %v", r)
	}
	if n := s.accepts.Load(); n < 3 {
		t.Errorf("%d connections: the silent one is still used", n)
	}
	eventually(t, "without the old connections", func() bool {
		f.pools[0].mu.Lock()
		defer f.pools[0].mu.Unlock()
		return len(f.pools[0].live) == 1
	})
}
