package cluster

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"dnsd/registry/etcd/etcdtest"
)

// notes is how often etcd's servers tell of progress by themselves here. It is
// 5 s where docs/scale.md says how to run proxies.
const notes = time.Second

// proxied is an etcd with grpc-proxies before it.
type proxied struct {
	*etcdStore
	proxies []*etcdtest.GRPCProxy
}

func newProxied(t testing.TB, proxies int, o etcdtest.Options) *proxied {
	o.Notify = notes
	p := &proxied{etcdStore: newEtcd(t, o)}
	for range proxies {
		p.proxies = append(p.proxies, p.c.GRPCProxy(t, etcdtest.GRPCProxyOptions{Program: o.Program}))
	}
	return p
}

// url names all proxies and no member.
func (p *proxied) url() string {
	var addrs []string
	for _, proxy := range p.proxies {
		addrs = append(addrs, proxy.Addr())
	}
	return "etcd://" + strings.Join(addrs, ",") + p.prefix
}

// TestQuietBehindGRPCProxy is about a cluster in which nothing happens: its notes of
// progress are all that tells it from a dead one, as a proxy answers no requests.
func TestQuietBehindGRPCProxy(t *testing.T) {
	t.Parallel()
	p := newProxied(t, 1, etcdtest.Options{})
	s := play(t, p, p.url())
	// Silence is stale after 15 s, and a stream that hears nothing is given up after 30.
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if state := s.state(); state != "live" {
			_, why := s.ready()
			t.Fatalf("in a quiet cluster the state is %q: %s", state, why)
		}
	}
	if n := s.metrics()["dnsd_registry_reconnects_total"]; n != 0 {
		t.Errorf("in a quiet cluster the stream broke off %v times", n)
	}
	s.turn()
	s.heals()
}

// TestGRPCProxyDies is about one of two proxies that ends, and comes back when the
// other ends.
func TestGRPCProxyDies(t *testing.T) {
	t.Parallel()
	p := newProxied(t, 2, etcdtest.Options{})
	s := play(t, p, p.url())
	p.proxies[0].Kill()
	s.turn()
	s.agrees()
	p.proxies[0].Restart()
	p.proxies[1].Kill()
	s.put(s.dead)
	s.del(s.fresh)
	s.agrees()
	p.proxies[1].Restart()
	s.heals()
}

// TestGRPCProxyFrozen is about a proxy that is there and says nothing, and about one
// whose etcd is.
func TestGRPCProxyFrozen(t *testing.T) {
	t.Parallel()
	for name, freeze := range map[string]func(*proxied) (thaw func()){
		"proxy": func(p *proxied) func() { p.proxies[0].Stop(); return p.proxies[0].Cont },
		"etcd":  func(p *proxied) func() { p.c.Stop(0); return func() { p.c.Cont(0) } },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProxied(t, 1, etcdtest.Options{})
			s := play(t, p, p.url())
			thaw := freeze(p)
			s.goesStale()
			thaw()
			s.turn()
			s.heals()
		})
	}
}

// playAsUser begins a scene in which dnsd logs in through the proxies.
func (p *proxied) playAsUser(t testing.TB) *scene {
	t.Helper()
	p.c.AddUsers(p.cli, p.prefix)
	_, err := p.cli.AuthEnable(p.c.Context())
	p.must(err)
	p.cli = p.c.ClientAs("root", "s3cret-root")
	return play(t, p, p.url(), "--etcd-user", "dnsd", "--etcd-password-file", password(t, "s3cret-dnsd"))
}

// TestUsersBehindGRPCProxy is about users who log in through a proxy, and tokens that
// a restarted etcd does not know any more.
func TestUsersBehindGRPCProxy(t *testing.T) {
	t.Parallel()
	p := newProxied(t, 2, etcdtest.Options{})
	s := p.playAsUser(t)
	p.c.Kill(0)
	p.c.Restart(0)
	s.turn()
	s.heals()
}

// TestTokensBehindGRPCProxy is about a token that is no good any more when the proxy
// repeats its watch with it: the proxy says nothing of that, and dnsd must notice.
func TestTokensBehindGRPCProxy(t *testing.T) {
	t.Parallel()
	p := newProxied(t, 1, etcdtest.Options{})
	s := p.playAsUser(t)
	_, err := p.cli.UserChangePassword(p.c.Context(), "dnsd", "s3cret-dnsd")
	p.must(err)
	p.c.Kill(0)
	p.c.Restart(0)
	s.turn()
	s.heals()
}

// TestHistoryBehindGRPCProxies holds every answer of a dnsd behind two proxies
// against what was true.
func TestHistoryBehindGRPCProxies(t *testing.T) {
	p := &proxiedPlatform{proxied: newProxied(t, 2, etcdtest.Options{}), down: -1}
	recount(t, p, false)
}

// proxiedPlatform is an etcd of one member behind two grpc-proxies.
type proxiedPlatform struct {
	*proxied
	down int // the proxy that is away; -1: none
}

func (p *proxiedPlatform) commit(put, gone []object) { p.write(put, gone) }

func (p *proxiedPlatform) fault(r *rand.Rand, rough bool) {
	switch {
	case p.down >= 0:
		p.heal()
	case !rough:
		p.compact()
	case r.IntN(3) == 0:
		p.c.Kill(0)
		p.c.Restart(0)
	default:
		p.down = r.IntN(len(p.proxies))
		p.proxies[p.down].Kill()
	}
}

func (p *proxiedPlatform) heal() {
	if p.down >= 0 {
		p.proxies[p.down].Restart()
		p.down = -1
	}
}

// TestHistoryOfOldEtcd is TestHistoryOfEtcd and TestHistoryBehindGRPCProxies with
// the etcd and the proxy that Debian 12 has.
func TestHistoryOfOldEtcd(t *testing.T) {
	program := etcdtest.Old(t)
	t.Run("direct", func(t *testing.T) {
		e := newEtcd(t, etcdtest.Options{Program: program})
		p := &etcdPlatform{etcdStore: e}
		p.proxy, p.through = e.through()
		recount(t, p, false)
	})
	t.Run("proxies", func(t *testing.T) {
		recount(t, &proxiedPlatform{proxied: newProxied(t, 2, etcdtest.Options{Program: program}), down: -1}, false)
	})
}

// TestQuorumBehindGRPCProxy is about a member that has lost the others, and a proxy
// that asks no other.
func TestQuorumBehindGRPCProxy(t *testing.T) {
	t.Parallel()
	p := newProxied(t, 1, etcdtest.Options{Members: 3})
	s := play(t, p, p.url())
	p.c.Kill(1, 2)
	s.goesStale()
	p.c.Restart(1, 2)
	s.turn()
	s.heals()
}
