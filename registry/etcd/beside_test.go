package etcd

import (
	"testing"

	"dnsd/registry/etcd/etcdtest"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestBeside(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	for name, test := range map[string]struct {
		keys []string
		want string
	}{
		"nothing":         {nil, ""},
		"another version": {[]string{"/dnsd/v2/machines/x", "/dnsd/v2/apps/y", "/other/z"}, "/dnsd/v2/"},
		"a key":           {[]string{"/dnsd/v1", "/dnsd/v2/machines/x"}, "/dnsd/v1, /dnsd/v2/"},
		"further up":      {[]string{"/other/a/b", "/some/c"}, "/other/, /some/"},
		"without a slash": {[]string{"machines/x", "plain"}, "machines/, plain"},
		"many":            {[]string{"/dnsd/a/1", "/dnsd/b/1", "/dnsd/c/1", "/dnsd/d/1", "/dnsd/e/1", "/dnsd/f/1"}, "/dnsd/a/, /dnsd/b/, /dnsd/c/, /dnsd/d/, /dnsd/e/"},
		"itself":          {[]string{machineKey("m1"), "/dnsd/v2/x"}, "/dnsd/v2/"},
	} {
		if _, err := c.cli.Delete(c.Context(), "", clientv3.WithFromKey()); err != nil {
			t.Fatal(err)
		}
		for _, key := range test.keys {
			c.put(key, "{}")
		}
		if got := c.source().Beside(t.Context()); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	// Who may see the prefix only is told nothing, and so is who cannot ask.
	c.AddUsers(c.cli, prefix)
	if _, err := c.cli.AuthEnable(c.Context()); err != nil {
		t.Fatal(err)
	}
	as := func(conf *Config) { conf.Username, conf.Password = "dnsd", "s3cret-dnsd" }
	if got := c.source(as).Beside(t.Context()); got != "" {
		t.Errorf("a role of the prefix sees %q", got)
	}
	c.Kill(0)
	if got := c.source(as).Beside(t.Context()); got != "" {
		t.Errorf("without a server: %q", got)
	}
}
