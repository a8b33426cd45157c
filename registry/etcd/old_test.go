package etcd

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"dnsd/registry/etcd/etcdtest"
	"dnsd/registry/follow/followtest"
)

// TestOldEtcd follows an etcd that tells of progress before it tells of the changes that
// it is about, as Debian's does (etcd issue 15220): a source that is far behind asks for
// progress all the time, misses nothing, and takes progress that is older than
// the last change for no sign of another history.
func TestOldEtcd(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{Program: etcdtest.Old(t)})
	const keys, rounds = 500, 20
	c.fill(keys)
	s := c.source()
	s.pace.first = time.Millisecond
	log := c.log(s)
	f := &feed{}
	run := followtest.Follow(t, s, f, false)
	c.settles(f)
	for round := range rounds {
		run.Stop()
		// Much is missed; progress is asked for while it is sent, and more is written.
		for part := range 8 {
			if err := load(c.Context(), c.cli, keys, func(i int) (string, string) {
				id := fmt.Sprintf("m%04d", i)
				return machineKey(id), machineJSON(id, fmt.Sprintf("state-%d-%d", round, part))
			}); err != nil {
				t.Fatal(err)
			}
		}
		run = followtest.Follow(t, s, f, true)
		for i := range 20 {
			c.machine(fmt.Sprintf("late%02d", i), fmt.Sprintf("state-%d", round))
		}
		c.settles(f)
	}
	run.Stop()
	r, err := c.cli.Status(c.Context(), c.Endpoints()[0])
	if err != nil {
		t.Fatal(err)
	}
	if said := log.String(); strings.HasPrefix(r.Version, "3.4.2") && strings.Count(said, "this version of etcd has a fault") != 1 {
		t.Errorf("etcd is %s, and the log says: %s", r.Version, said)
	}
}
