package main

import (
	"testing"

	"dnsd/registry/machinejson"
)

// TestCanonical compares objects with values that a platform may have written.
func TestCanonical(t *testing.T) {
	items, err := machinejson.Parse([]byte(`{"apps": [{"name": "web", "network": "fdaa:0:18::/48", "flycast": ["fdaa:0:18:0:1::7"], "machines": [
		{"id": "m1", "state": "started", "region": "iad", "private_ip": "fdaa:0:18:a7b::2", "config": {"metadata": {"a": "1", "b": "2"}}}]}],
		"peers": [{"name": "p", "network": "fdaa:0:18::/48", "private_ip": "fdaa:0:18:a7b::3", "region": "ord"}]}`))
	if err != nil || len(items) != 4 {
		t.Fatalf("%d objects, %v", len(items), err)
	}
	wanted := map[string]string{}
	for _, item := range items {
		if item.Err != nil {
			t.Fatal(item.Err)
		}
		key, value, err := entry(item.Object)
		if err != nil {
			t.Fatal(err)
		}
		wanted[key] = value
	}
	const machine, peer = "machines/fdaa:0:18::/web/m1", "peers/fdaa:0:18::/p"
	for _, c := range []struct {
		name, key, value string
		same             bool
	}{
		{"a machine in other words", machine, `{"updated_at": 7, "config": {"metadata": {"b": "2", "a": "1"}, "image": "x"}, "private_ip": "fdaa:0:18:a7b:0::2", "region": "iad", "state": "started"}`, true},
		{"another state", machine, `{"config": {"metadata": {"b": "2", "a": "1"}}, "private_ip": "fdaa:0:18:a7b::2", "region": "iad", "state": "stopped"}`, false},
		{"other metadata", machine, `{"config": {"metadata": {"a": "1"}}, "private_ip": "fdaa:0:18:a7b::2", "region": "iad", "state": "started"}`, false},
		{"a machine that disagrees with its key", machine, `{"id": "m2", "state": "started"}`, false},
		{"no JSON", machine, `{`, false},
		{"an app", "apps/fdaa:0:18::/web", `{}`, true},
		{"a peer", peer, `{"region": "ord", "private_ip": "fdaa:0:18:a7b::3"}`, true},
		{"another peer", peer, `{"region": "iad", "private_ip": "fdaa:0:18:a7b::3"}`, false},
		{"an address", "addresses/fdaa:0:18::/web/fdaa:0:18:0:1::7", `{"app": "web"}`, true},
	} {
		if wanted[c.key] == "" {
			t.Fatalf("no key %s in %v", c.key, wanted)
		}
		if got := canonical(c.key, []byte(c.value)); (got == wanted[c.key]) != c.same {
			t.Errorf("%s: %q beside %q, want same: %v", c.name, got, wanted[c.key], c.same)
		}
	}
}
