package etcd

import (
	"fmt"
	"testing"

	"dnsd/registry"
	"dnsd/registry/etcd/etcdtest"
	"dnsd/registry/follow/followtest"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestConform(t *testing.T) {
	if defaultPace.steady >= Silence {
		t.Errorf("proof is asked for every %v, and Silence is %v", defaultPace.steady, Silence)
	}
	c, n := start(t, etcdtest.Options{}), 0
	followtest.Conform(t, func(t *testing.T) followtest.Fixture {
		n++
		prefix := fmt.Sprintf("/dnsd/v%d/", n)
		c.put(fmt.Sprintf("/dnsd/v%dx/apps/fdaa:0:18::/next-door", n), `{}`)
		p := c.Through(t)
		path := func(key registry.Key) string {
			path := prefix + followtest.Lists[key.Kind] + "/" + key.Network.Prefix().Addr().String() + "/" + key.Name
			if key.ID != "" {
				path += "/" + key.ID
			}
			return path
		}
		return followtest.Fixture{
			Source: c.source(func(conf *Config) {
				conf.Endpoints, conf.Prefix = []string{p.Addr()}, prefix
				conf.Username, conf.Password = "dnsd", "hunter2"
			}),
			Put: func(objects ...registry.Object) {
				if err := load(c.Context(), c.cli, len(objects), func(i int) (string, string) {
					return path(objects[i].Key()), followtest.JSON(objects[i])
				}); err != nil {
					t.Error(err)
				}
			},
			Delete: func(keys ...registry.Key) {
				var ops []clientv3.Op
				for _, key := range keys {
					ops = append(ops, clientv3.OpDelete(path(key)))
				}
				if _, err := c.cli.Txn(c.Context()).Then(ops...).Commit(); err != nil {
					t.Error(err)
				}
			},
			Break: p.Part, Mend: p.Join,
			Silence: quick.steady, Patience: quick.silence, Secrets: []string{"hunter2"}, Apart: true,
		}
	})
}
