package cluster

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"dnsd/registry/etcd/etcdtest"
	"dnsd/test/internal/lab"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const prefix = "/dnsd/v1/"

func newEtcd(t testing.TB, o etcdtest.Options) *etcdStore {
	c := etcdtest.Start(t, o)
	return &etcdStore{c: c, cli: c.Client(), prefix: prefix, t: t}
}

// on returns the same cluster for another test, with keys of its own.
func (e *etcdStore) on(t testing.TB) *etcdStore {
	return &etcdStore{c: e.c, cli: e.cli, prefix: "/" + strings.ReplaceAll(t.Name(), "/", "-") + "/", t: t}
}

// TestMember is about one member that fails, or loses what it had.
func TestMember(t *testing.T) {
	t.Parallel()
	e := newEtcd(t, etcdtest.Options{})

	t.Run("killed", func(t *testing.T) {
		e := e.on(t)
		s := play(t, e, e.c.URL(e.prefix))
		for range 3 {
			e.c.Kill(0)
			e.c.Restart(0)
		}
		s.turn()
		s.heals()
	})
	t.Run("dead_when_the_host_reboots", func(t *testing.T) {
		e, dir := e.on(t), t.TempDir()
		url := e.c.URL(e.prefix)
		s := play(t, e, url, "--state-dir", dir)
		s.await(t, "the state on disk", func() bool { return s.metrics()["dnsd_registry_state_saved_timestamp_seconds"] > 0 })
		s.asker.end(t)
		s.Signal(syscall.SIGKILL)
		s.Wait(t)
		e.c.Kill(0)
		s.server = serve(t, lab.Binary(t), "--registry", url, "--state-dir", dir)
		s.awaitState(t, "cached")
		s.asker = s.begin(t)
		s.await(t, "answers that are marked", s.asker.sees)
		e.c.Restart(0)
		s.turn()
		s.heals()
	})
	t.Run("compacted_while_away", func(t *testing.T) {
		e := e.on(t)
		p, url := e.through()
		s := play(t, e, url)
		p.Part()
		s.turn()
		e.compact()
		e.compact() // with nothing to forget
		p.Join()
		s.heals()
		if n := p.Count(); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	})
	t.Run("restored", func(t *testing.T) {
		e := e.on(t)
		s := play(t, e, e.c.URL(e.prefix))
		backup := e.c.Backup()
		late := machineNumber(9001)
		s.put(late) // not in the backup
		s.del(s.dead)
		s.agrees()
		e.c.Restore(backup)
		delete(s.world, late.Key())
		s.world[s.dead.Key()] = s.dead
		s.heals()
	})
	t.Run("wiped", func(t *testing.T) {
		e := e.on(t)
		e.c.Kill(0)
		e.c.Restart(0) // an election, as an old cluster has seen some
		p, url := e.through()
		s := play(t, e, url)
		for i := range 50 { // so that the revision is well ahead of what comes
			s.put(machineNumber(100 + i))
		}
		s.agrees()
		p.Part()
		e.c.Wipe()
		delete(s.world, s.dead.Key())
		for _, o := range s.world {
			e.put(o)
		}
		p.Join()
		s.heals()
	})
	t.Run("wiped_and_filled_alike", func(t *testing.T) {
		e := e.on(t)
		e.c.Wipe()
		e.c.Kill(0)
		e.c.Restart(0) // an election, as before
		p, url := e.through()
		last := machineNumber(9001)
		s := play(t, e, url)
		s.put(last)
		s.agrees()
		p.Part()
		e.c.Wipe()
		// The same program as before writes as many transactions in the same
		// order: only the dead machine is another.
		delete(s.world, s.dead.Key())
		delete(s.world, last.Key())
		s.world[s.fresh.Key()] = s.fresh
		e.put(slices.Collect(maps.Values(s.world))...)
		s.put(last)
		p.Join()
		s.heals()
	})
	t.Run("emptied", func(t *testing.T) {
		e := e.on(t)
		p, url := e.through()
		s := play(t, e, url)
		known := len(s.world)
		p.Part()
		_, err := e.cli.Delete(e.c.Context(), e.prefix, clientv3.WithPrefix())
		e.must(err)
		e.compact()
		p.Join()
		s.awaitState(t, "held")
		if n := s.held(); n != known {
			t.Errorf("%d losses are held, want %d", n, known)
		}
		s.agrees() // with all that was there before
		s.put(s.fresh)
		s.agrees() // additions pass
		s.asker.end(t)
		s.Signal(syscall.SIGUSR1)
		s.world = world{s.fresh.Key(): s.fresh}
		s.heals()
	})
}

// TestSecondListing is about a prefix that was emptied on purpose: half a minute
// later another listing says the same.
func TestSecondListing(t *testing.T) {
	t.Parallel()
	e := newEtcd(t, etcdtest.Options{})
	p, url := e.through()
	s := play(t, e, url)
	p.Part()
	_, err := e.cli.Delete(e.c.Context(), e.prefix, clientv3.WithPrefix())
	e.must(err)
	e.compact()
	p.Join()
	s.awaitState(t, "held")
	held := time.Now()
	s.asker.end(t)
	s.world = world{}
	s.heals()
	if took := time.Since(held); took < 25*time.Second {
		t.Errorf("held for %v, want 30 s", took)
	}
}

// TestFrozen is about a server that is there and says nothing.
func TestFrozen(t *testing.T) {
	t.Parallel()
	e := newEtcd(t, etcdtest.Options{})
	s := play(t, e, e.c.URL(e.prefix))
	thaw := time.Now().Add(15 * time.Second)
	e.c.Stop(0)
	s.goesStale()
	time.Sleep(time.Until(thaw))
	e.c.Cont(0)
	s.turn()
	s.heals()
}

// TestQuorum is about a cluster of which too little is left.
func TestQuorum(t *testing.T) {
	t.Parallel()
	e := newEtcd(t, etcdtest.Options{Members: 3})
	s := play(t, e, e.c.URL(e.prefix))
	e.c.Kill(1)
	s.turn()
	s.agrees() // two of three are enough
	e.c.Kill(2)
	s.goesStale("no leader")
	e.c.Restart(1, 2)
	s.put(s.dead)
	s.del(s.fresh)
	s.heals()
}

// TestRefused is about a role that is taken away.
func TestRefused(t *testing.T) {
	t.Parallel()
	e := newEtcd(t, etcdtest.Options{})
	e.c.AddUsers(e.cli, e.prefix)
	_, err := e.cli.AuthEnable(e.c.Context())
	e.must(err)
	e.cli = e.c.ClientAs("root", "s3cret-root")

	p, url := e.through()
	s := play(t, e, url, "--etcd-user", "dnsd", "--etcd-password-file", password(t, "s3cret-dnsd"))
	e.c.Revoke(e.cli, e.prefix)
	p.Part()
	p.Join()
	s.goesStale("permission denied")
	s.turn()
	e.c.Grant(e.cli, e.prefix)
	s.heals()
}

// TestCertificate is about a client certificate that expires.
func TestCertificate(t *testing.T) {
	t.Parallel()
	e := newEtcd(t, etcdtest.Options{TLS: true})
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
	e.c.CA.Renew(etcdtest.Leaf{User: "dnsd"}, cert, key)
	p, url := e.through()
	s := play(t, e, url, "--etcd-ca", e.c.CA.File, "--etcd-cert", cert, "--etcd-key", key)
	e.c.CA.Renew(etcdtest.Leaf{User: "dnsd", Expiry: time.Now().Add(-time.Second)}, cert, key)
	p.Part()
	p.Join()
	s.goesStale("client certificate " + cert + " expired on ")
	s.turn()
	e.c.CA.Renew(etcdtest.Leaf{User: "dnsd"}, cert, key)
	s.heals()
}
