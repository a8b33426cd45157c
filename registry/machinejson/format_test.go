package machinejson

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"dnsd/registry"
)

const net18, net99 = registry.Network(0x0000_0018), registry.Network(0x0000_0099)

// rejected is what a test expects of a rejection.
type rejected struct {
	key   registry.Key
	where string
	err   string // a part of it
}

// parse splits what Parse makes of text.
func parse(t *testing.T, text string) (objects map[registry.Key]registry.Object, bad []rejected) {
	t.Helper()
	items, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	objects = map[registry.Key]registry.Object{}
	for _, i := range items {
		if i.Object == nil {
			bad = append(bad, rejected{i.Key, i.Where, i.Err.Error()})
		} else {
			objects[i.Object.Key()] = i.Object
		}
	}
	return objects, bad
}

func TestParse(t *testing.T) {
	objects, bad := parse(t, `{ "apps": [
    { "machines": [
        { "id": "148e21dad76789", "name": "billowing-sky-1", "state": "started", "region": "iad", "instance_id": "01H",
          "private_ip": "fdaa:0:18:a7b:7d:f066:b83b:2", "created_at": "2024-01-01T00:00:00Z", "events": [{"type": "start", "n": 1e400}],
          "config": { "metadata": { "fly_process_group": "web", "role": "primary" }, "guest": {"cpus": 1},
                      "dns": { "skip_registration": true } }, "checks": null },
        { "id": "m2", "state": "stopped", "incomplete_config": { "metadata": {"a": "b.c"} }, "config": null } ],
      "name": "my-app", "network": "fdaa:0:18::/48", "flycast": ["fdaa:0:18:0:1::7"] },
    { "name": "by-machine", "machines": [ { "id": "x", "state": "odd", "private_ip": "fdaa:0:99::1" } ], "flycast": ["fdaa:0:99:0:1::1"] },
    { "name": "bare", "network": "fdaa:0:99::", "flycast": null, "machines": null } ],
  "machines":  [ { "id": "loose", "app": "other", "state": "started", "network": "fdaa:0:18::/48" } ],
  "peers":     [ { "name": "my-peer", "private_ip": "fdaa:0:18:a7b:d6b:0:a:102", "region": "ord" } ],
  "addresses": [ { "app": "my-app", "network": "fdaa:0:99::/48", "address": "fdaa:0:99:0:1::9" } ],
  "version": 3 }`)
	want := []registry.Object{
		&registry.App{Name: "my-app", Network: net18}, &registry.App{Name: "by-machine", Network: net99}, &registry.App{Name: "bare", Network: net99},
		&registry.Machine{ID: "148e21dad76789", App: "my-app", Network: net18, State: "started", Region: "iad", Skip: true,
			Addr: netip.MustParseAddr("fdaa:0:18:a7b:7d:f066:b83b:2"), Metadata: []registry.Pair{{Key: "fly_process_group", Value: "web"}, {Key: "role", Value: "primary"}}},
		&registry.Machine{ID: "m2", App: "my-app", Network: net18, State: "stopped", Metadata: []registry.Pair{{Key: "a", Value: "b.c"}}},
		&registry.Machine{ID: "x", App: "by-machine", Network: net99, State: "odd", Addr: netip.MustParseAddr("fdaa:0:99::1")},
		&registry.Machine{ID: "loose", App: "other", Network: net18, State: "started"},
		&registry.Peer{Name: "my-peer", Network: net18, Addr: netip.MustParseAddr("fdaa:0:18:a7b:d6b:0:a:102"), Region: "ord"},
		&registry.Address{App: "my-app", Network: net18, Addr: netip.MustParseAddr("fdaa:0:18:0:1::7")},
		&registry.Address{App: "by-machine", Network: net99, Addr: netip.MustParseAddr("fdaa:0:99:0:1::1")},
		&registry.Address{App: "my-app", Network: net99, Addr: netip.MustParseAddr("fdaa:0:99:0:1::9")},
	}
	if len(bad) > 0 {
		t.Errorf("rejected: %v", bad)
	}
	if len(objects) != len(want) {
		t.Errorf("%d objects, want %d", len(objects), len(want))
	}
	for _, w := range want {
		if got := objects[w.Key()]; !reflect.DeepEqual(got, w) {
			t.Errorf("%s: %+v, want %+v", w.Key(), got, w)
		}
	}
}

func TestParseFileRejects(t *testing.T) {
	app := func(machines string) string {
		return "{\"apps\": [{\"name\": \"my-app\", \"network\": \"fdaa:0:18::/48\", \"machines\": [\n" + machines + "\n]}]}"
	}
	key := func(kind registry.Kind, n registry.Network, name, id string) registry.Key {
		return registry.Key{Kind: kind, Network: n, Name: name, ID: id}
	}
	anywhere := func(kind registry.Kind, name, id string) registry.Key {
		return registry.Key{Kind: kind, Name: name, ID: id, AnyNetwork: true}
	}
	for _, c := range []struct {
		name, text string
		good       int
		want       []rejected
	}{
		{"machine outside its network", app(`{"id": "M1", "state": "started", "private_ip": "fdaa:0:99::1"},` + "\n" + `  {"id": "m2", "state": "started"}`), 2,
			[]rejected{{anywhere(registry.KindMachine, "my-app", "m1"), "line 2, column 1", "not in its network"}}},
		{"machine of another app", app(`{"id": "m1", "app": "your-app", "state": "started"}`), 1,
			[]rejected{{key(registry.KindMachine, net18, "my-app", "m1"), "line 2, column 1", "does not agree"}}},
		{"machine of another network", app(`{"id": "m1", "network": "fdaa:0:99::/48", "state": "started"}`), 1,
			[]rejected{{anywhere(registry.KindMachine, "my-app", "m1"), "line 2, column 1", "does not agree"}}},
		{"machine with an address that is none", app(`{"id": "m1", "state": "started", "private_ip": "::g"}`), 1,
			[]rejected{{key(registry.KindMachine, net18, "my-app", "m1"), "line 2, column 1", "not an IPv6 address"}}},
		{"machine without id", app(`{"state": "started"}`), 1,
			[]rejected{{key(registry.KindMachine, net18, "my-app", ""), "line 2, column 1", "id is missing"}}},
		{"machine with a wrong type", app(`{"id": "m1", "state": 5}`), 1,
			[]rejected{{key(registry.KindMachine, net18, "my-app", "m1"), "line 2, column 1", "state is a JSON number, want a string"}}},
		{"machines that are none", app(`null, 5, [[]]`), 1, []rejected{
			{key(registry.KindMachine, net18, "my-app", ""), "line 2, column 1", "the machine is a JSON null"},
			{key(registry.KindMachine, net18, "my-app", ""), "line 2, column 7", "the machine is a JSON number"},
			{key(registry.KindMachine, net18, "my-app", ""), "line 2, column 10", "the machine is a JSON list"}}},
		{"machine twice", app(`{"id": "m1", "state": "started"}, {"id": "M1", "state": "stopped"}`), 2,
			[]rejected{{key(registry.KindMachine, net18, "my-app", "m1"), "line 2, column 35", "already at line 2, column 1"}}},
		{"app with a bad network", `{"apps": [{"name": "a", "network": "fdaa::/32", "flycast": ["fdaa:0:18::7"], "machines": [{"id": "m", "private_ip": "fdaa:0:18::1"}]}]}`, 0, []rejected{
			{anywhere(registry.KindApp, "a", ""), "line 1, column 11", "not a /48"},
			{anywhere(registry.KindMachine, "a", "m"), "line 1, column 91", "its app, which begins at line 1, column 11, cannot be used"},
			{anywhere(registry.KindAddress, "a", "fdaa:0:18::7"), "line 1, column 61", "its app"}}},
		{"app with a network of a wrong type", `{"apps": [{"name": "a", "network": 5, "flycast": ["fdaa:0:18::7"], "machines": [{"id": "m", "private_ip": "fdaa:0:18::1"}]}]}`, 0, []rejected{
			{anywhere(registry.KindApp, "a", ""), "line 1, column 11", "network is a JSON number, want a string"},
			{anywhere(registry.KindMachine, "a", "m"), "line 1, column 81", "its app"},
			{anywhere(registry.KindAddress, "a", "fdaa:0:18::7"), "line 1, column 51", "its app"}}},
		{"app with a bad name", `{"apps": [{"name": "a.b", "network": "fdaa:0:18::/48", "machines": [{"id": "m"}]}]}`, 0, []rejected{
			{key(registry.KindApp, net18, "", ""), "line 1, column 11", "'.'"},
			{key(registry.KindMachine, net18, "", "m"), "line 1, column 69", "its app"}}},
		{"app without network and machines", `{"apps": [{"name": "a", "flycast": ["fdaa:0:18::7"]}]}`, 1,
			[]rejected{{anywhere(registry.KindApp, "a", ""), "line 1, column 11", "network is missing"}}},
		{"app with machines in two networks", `{"apps": [{"name": "a", "machines": [{"id": "m", "state": "started", "private_ip": "fdaa:0:18::1"}, {"id": "m", "state": "started", "private_ip": "fdaa:0:99::1"}]}]}`, 2,
			[]rejected{{anywhere(registry.KindApp, "a", ""), "line 1, column 11", "say which"}}},
		{"apps that are none", `{"apps": [1, null]}`, 0, []rejected{
			{registry.Key{Kind: registry.KindApp}, "line 1, column 11", "the app is a JSON number"}, {registry.Key{Kind: registry.KindApp}, "line 1, column 14", "the app is a JSON null"}}},
		{"app whose parts are no lists", `{"apps": [{"name": "a", "network": "fdaa:0:18::/48", "machines": {}, "flycast": "fdaa:0:18::7"}]}`, 1, []rejected{
			{key(registry.KindMachine, net18, "a", ""), "line 1, column 66", "machines is a JSON object, want a list"},
			{key(registry.KindAddress, net18, "a", ""), "line 1, column 81", "flycast is a JSON string, want a list"}}},
		{"app twice", `{"apps": [{"name": "a", "network": "fdaa:0:18::/48"}, {"name": "A", "network": "fdaa:0:18::", "machines": [{"id": "m", "state": "started"}]}]}`, 2,
			[]rejected{{key(registry.KindApp, net18, "a", ""), "line 1, column 55", "already"}}},
		{"flycast of another network", `{"apps": [{"name": "a", "network": "fdaa:0:18::/48", "flycast": ["fdaa:0:99::7", 5]}]}`, 1, []rejected{
			{anywhere(registry.KindAddress, "a", "fdaa:0:99::7"), "line 1, column 66", "not in its network"},
			{key(registry.KindAddress, net18, "a", ""), "line 1, column 82", "want a string"}}},
		{"peers", `{"peers": [{"name": "p", "private_ip": "fdaa:0:18::1"}, {"name": "Q", "network": "fdaa:0:18::/48"}, {"name": "r", "private_ip": "10.0.0.1"}, "s"]}`, 1, []rejected{
			{key(registry.KindPeer, net18, "q", ""), "line 1, column 57", "private_ip is missing"},
			{anywhere(registry.KindPeer, "r", ""), "line 1, column 101", "outside"},
			{anywhere(registry.KindPeer, "", ""), "line 1, column 142", "the peer is a JSON string"}}},
		{"addresses", `{"addresses": [{"app": "a", "address": "fdaa:0:18::7", "network": "fdaa:0:99::/48"}, {"app": "a"}]}`, 0, []rejected{
			{anywhere(registry.KindAddress, "a", "fdaa:0:18::7"), "line 1, column 16", "not in its network"},
			{anywhere(registry.KindAddress, "a", ""), "line 1, column 86", "both missing"}}},
		{"machine without id", app(`{"state": "started", "private_ip": "fdaa:0:18::1"}`), 1,
			[]rejected{{key(registry.KindMachine, net18, "my-app", ""), "line 2, column 1", "id is missing"}}},
		{"address outside", `{"addresses": [{"app": "a", "address": "10.0.0.1"}]}`, 0,
			[]rejected{{anywhere(registry.KindAddress, "a", "10.0.0.1"), "line 1, column 16", "outside"}}},
		{"space of all kinds", "{\t\"apps\"\r:\r\n[\t{\"name\":\t\"a\"\n,\r\"network\" \t: \n\"fdaa:0:18::/48\"\t}\r]\t}\r\n", 1, nil},
		{"text without spaces", `{"v":0,"apps":[{"v":1,"w":true,"name":"a","network":"fdaa:0:18::/48","flycast":[5,"fdaa:0:18::7"]}],"x":null,"peers":[]}`, 2,
			[]rejected{{key(registry.KindAddress, net18, "a", ""), "line 1, column 81", "want a string"}}},
		{"peer without a usable name", `{"peers": [{"name": "a.b", "private_ip": "fdaa:0:18::1"}]}`, 0,
			[]rejected{{key(registry.KindPeer, net18, "", "fdaa:0:18::1"), "line 1, column 12", "has the character"}}},
		{"loose machine without app", `{"machines": [{"id": "m", "state": "started", "network": "fdaa:0:18::/48"}]}`, 0,
			[]rejected{{key(registry.KindMachine, net18, "", "m"), "line 1, column 15", "app is missing"}}},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			objects, bad := parse(t, c.text)
			if len(objects) != c.good {
				t.Errorf("%d good objects, want %d: %v", len(objects), c.good, objects)
			}
			if len(bad) != len(c.want) {
				t.Fatalf("rejected %+v, want %+v", bad, c.want)
			}
			for _, w := range c.want { // an app comes after its machines
				found := false
				for _, b := range bad {
					if b.where == w.where {
						found = true
						if b.key != w.key || !strings.Contains(b.err, w.err) {
							t.Errorf("rejected %+v, want %+v", b, w)
						}
					}
				}
				if !found {
					t.Errorf("nothing rejected at %s: %+v", w.where, bad)
				}
			}
		})
	}
}

func TestParseFileUnusable(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", `line 1, column 1: the file is empty`},
		{"blank", " \n\t\r\n", `line 1, column 1: the file is empty`},
		{"cut", "{\"apps\": [\n{\"name\": \"a", "line 2, column 12: the file ends in the middle"},
		{"bom", "\xef\xbb\xbf{}", "line 1, column 1: the file begins with a byte order mark"},
		{"utf16", "\xff\xfe{\x00}\x00", "line 1, column 1: the file begins with a byte order mark"},
		{"binary", "\x00\x01", "line 1, column 1: invalid character '\\x00' looking for beginning of value: want a value"},
		{"yaml", "apps:\n- name: a", "line 1, column 1: invalid character 'a' looking for beginning of value: want a value"},
		{"comma", "{\"apps\": [\n  {\"name\": \"a\",},\n]}", `line 2, column 16: invalid character '}' looking for beginning of object key string: want a name in double quotes (is there a comma too many?)`},
		{"listcomma", "{\"apps\": [\n]]}", `line 2, column 2: invalid character ']' after object key:value pair: want "," or "}"`},
		{"element", "{\"apps\": [1 2]}", `line 1, column 13: invalid character '2' after array element: want "," or "]"`},
		{"colon", "{\"apps\" []}", `line 1, column 9: invalid character '[' after object key: want ":"`},
		{"newline", "{\"apps\n\": []}", `line 1, column 7: invalid character '\n' in string literal: want it escaped`},
		{"escape", `{"apps\x": []}`, `line 1, column 8: invalid character 'x' in string escape code: want one of`},
		{"trailing", "{\"apps\": []}\n{}", `line 2, column 1: invalid character '{' after top-level value: want the end of the file`},
		{"null", "null", `line 1, column 1: the file holds a JSON null: want an object with the lists "apps"`},
		{"list", "\n [{\"id\": \"m1\"}]", `line 2, column 2: the file holds a JSON list: want an object`},
		{"number", "1e999", `line 1, column 1: the file holds a JSON number`},
		{"strange", `{"app": []}`, `line 1, column 1: the file has none of the lists`},
		{"object", `{"peers": [], "apps": {}}`, `line 1, column 23: "apps" is a JSON object: want a list`},
		{"twice", `{"apps": [], "apps": []}`, `line 1, column 22: "apps" is here a second time`},
		{"deep", strings.Repeat("[", 20_000), "line 1, column 10001: invalid character '[' exceeded max depth"},
	} {
		t.Run(c.name, func(t *testing.T) {
			items, err := Parse([]byte(c.text))
			if err == nil || !strings.HasPrefix(err.Error(), c.want) || items != nil {
				t.Errorf("%v, %v\nwant %s", items, err, c.want)
			}
			r := Check([]byte(c.text))
			if !r.Unusable || len(r.Problems) != 1 {
				t.Fatalf("report %+v", r)
			}
			if p := r.Problems[0]; err != nil && fmt.Sprintf("line %d, column %d: %s", p.Line, p.Column, p.Text) != err.Error() {
				t.Errorf("report %+v, error %v", p, err)
			}
		})
	}
}

func TestParseFileEmptyRegistry(t *testing.T) {
	for _, text := range []string{`{"apps": []}`, `{"peers": null}`, `{"\u0061pps": [], "extra": {"apps": 5}}`, " {\"addresses\":[]}\n"} {
		if objects, bad := parse(t, text); len(objects)+len(bad) > 0 {
			t.Errorf("%s: %v %v", text, objects, bad)
		}
	}
}

func TestCheckReport(t *testing.T) {
	r := Check([]byte(`{"apps": [
  {"name": "a", "network": "fdaa:0:18::/48", "machines": [
    {"id": "m1", "state": "started", "config": {"metadata": {"a": "` + strings.Repeat("x", 64<<10) + `"}}},
    {"id": "m2", "state": "started", "region": "no.where"}]},
  {"name": "a"}],
 "peers": [{"name": "p", "private_ip": "fdaa:0:99::1"}]}`))
	want := Report{
		Objects:  [4]int{registry.KindApp: 1, registry.KindMachine: 1, registry.KindPeer: 1},
		Networks: []NetworkReport{{net18, [4]int{registry.KindApp: 1, registry.KindMachine: 1}}, {net99, [4]int{registry.KindPeer: 1}}},
		States:   map[string]int{"started": 1},
		Problems: []Problem{
			{3, 5, "machine a/m1: 1 of its metadata pairs are left out: a machine has at most 256, and 64 KiB of them"},
			{4, 5, `machine a/m2: region "no.where" has the character '.' at byte 3: use letters, digits, '-' and '_'`},
			{5, 3, "app a: network is missing: want a /48 such as fdaa:0:18::/48"}},
	}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("%+v\nwant %+v", r, want)
	}
}

func TestCheckNamesWhatIsRejected(t *testing.T) {
	r := Check([]byte(`{"peers": [5,
{"name": "a.b", "private_ip": "fdaa:0:18::1"},
{"name": "p"},
{"name": "p", "private_ip": "fdaa:0:18::1", "region": "a.b"}]}`))
	var names []string
	for _, p := range r.Problems {
		name, _, _ := strings.Cut(p.Text, ": ")
		names = append(names, name)
	}
	if want := []string{"peer without a name", "peer fdaa:0:18::1", "peer p", "peer p/fdaa:0:18::1"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}

func TestCheckSortsNetworks(t *testing.T) {
	var peers []string
	for i := range 20 {
		peers = append(peers, fmt.Sprintf(`{"name": "p", "private_ip": "fdaa:0:%x::1"}`, 20-i))
	}
	r := Check([]byte(`{"peers": [` + strings.Join(peers, ",\n") + `]}`))
	if len(r.Networks) != 20 || !slices.IsSortedFunc(r.Networks, func(a, b NetworkReport) int { return cmp.Compare(a.Network, b.Network) }) {
		t.Errorf("%+v", r)
	}
}

func TestNotesHaveTheirPlace(t *testing.T) {
	items, err := Parse([]byte(`{"machines": [
  {"id": "m1", "app": "a", "state": "started", "private_ip": "fdaa:0:18::1", "config": {"metadata": {"a": "` + strings.Repeat("x", 64<<10) + `"}}}]}`))
	if err != nil || len(items) != 1 || items[0].Object == nil || items[0].Note == nil || items[0].Where != "line 2, column 3" {
		t.Errorf("%+v, %v", items, err)
	}
}

func TestEachBatch(t *testing.T) {
	data := fleetFile(2500)
	want, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("the same items", func(t *testing.T) {
		var got []registry.Item
		calls := 0
		err := EachBatch(data, func(items []registry.Item) error {
			if calls++; len(items) > batch {
				t.Errorf("%d items at a time", len(items))
			}
			got = append(got, items...)
			return nil
		})
		if err != nil || calls != 3 || !reflect.DeepEqual(got, want) {
			t.Errorf("%d items in %d calls, %v; want %d in 3", len(got), calls, err, len(want))
		}
	})
	for text, want := range map[string]int{`{"apps": []}`: 0, `{"peers": [5]}`: 1} {
		got, calls := 0, 0
		err := EachBatch([]byte(text), func(items []registry.Item) error { calls++; got += len(items); return nil })
		if err != nil || got != want || calls != want {
			t.Errorf("%s: %d items in %d calls, %v; want %d", text, got, calls, err, want)
		}
	}
	t.Run("ends when told", func(t *testing.T) {
		calls, enough := 0, errors.New("enough")
		err := EachBatch(data, func([]registry.Item) error { calls++; return enough })
		if err != enough || calls != 1 {
			t.Errorf("%d calls, %v; want 1 and its error", calls, err)
		}
	})
	t.Run("nothing of an unusable file", func(t *testing.T) {
		spoiled := append(bytes.TrimSuffix(bytes.TrimSpace(data), []byte("}")), `, "peers": 1}`...)
		err := EachBatch(spoiled, func(items []registry.Item) error {
			t.Errorf("%d items", len(items))
			return nil
		})
		if err == nil {
			t.Error("no error")
		}
	})
}

// FuzzParse looks for text that makes the parser panic, or lets through
// what no source may hand over.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"apps":[{"name":"a","network":"fdaa:0:18::/48","flycast":["fdaa:0:18::7"],"machines":[{"id":"m","state":"started","private_ip":"fdaa:0:18::1","config":{"metadata":{"k":"v"},"dns":{"skip_registration":true}}}]}]}`))
	f.Add([]byte(`{"machines":[{"id":"m","app":"b","state":"x","private_ip":"fdaa:0:18::1"}],"peers":[{"name":"p","private_ip":"fdaa:0:99::1"}],"addresses":[{"app":"a","address":"fdaa:0:99::2"}]}`))
	f.Add([]byte(`{"\u0061pps":[{"machines":[[],{},"\\\"",1e5,true,null],"name":"\ud800"}], "x": -1.5 }`))
	f.Fuzz(func(t *testing.T, data []byte) {
		items, err := Parse(data)
		if err != nil && items != nil {
			t.Fatal("items beside an error")
		}
		seen := map[registry.Key]bool{}
		for _, i := range items {
			if i.Object == nil {
				if i.Err == nil || i.Where == "" {
					t.Fatalf("%+v says nothing", i)
				}
				continue
			}
			key := i.Object.Key()
			if seen[key] {
				t.Fatalf("%s twice", key)
			}
			seen[key] = true
			if err := valid(i.Object); err != nil {
				t.Fatalf("%+v: %v", i.Object, err)
			}
		}
		if r := Check(data); r.Unusable != (err != nil) {
			t.Fatalf("report %+v, error %v", r, err)
		}
	})
}

// valid checks what the registry relies on.
func valid(o registry.Object) error {
	key := o.Key()
	if err := registry.CheckLabel("name", key.Name); err != nil {
		return err
	}
	inside := func(addr netip.Addr) error {
		if n, ok := registry.NetworkOf(addr); addr.IsValid() && (!ok || n != key.Network) {
			return fmt.Errorf("address %s", addr)
		}
		return nil
	}
	switch o := o.(type) {
	case *registry.Machine:
		if err := registry.CheckLabel("id", o.ID); err != nil || o.State == "" {
			return fmt.Errorf("id %v state %q", err, o.State)
		}
		return inside(o.Addr)
	case *registry.Peer:
		return inside(o.Addr)
	case *registry.Address:
		return inside(o.Addr)
	}
	return nil
}

// fleetFile returns a file of n machines in the Machines API's form, some 600
// bytes each.
func fleetFile(n int) []byte {
	var b strings.Builder
	b.WriteString(`{"apps": [`)
	for i := range n {
		if i%20 == 0 {
			if i > 0 {
				b.WriteString("]},\n")
			}
			fmt.Fprintf(&b, `{"name": "app-%d", "network": "fdaa:0:%x::/48", "machines": [`, i/20, i/20%1000)
		} else {
			b.WriteString(",\n")
		}
		fmt.Fprintf(&b, `{"id": "%014x", "name": "crimson-field-%d", "state": "started", "region": "iad", "instance_id": "01H4BPEGJ3NB0T01FKY4MBR5YN",
  "private_ip": "fdaa:0:%x:a7b:%x:%x:0:2", "created_at": "2024-03-01T12:00:00Z", "updated_at": "2024-03-01T12:00:09Z",
  "image_ref": {"registry": "registry.fly.io", "repository": "app-%d", "tag": "deployment-01H4BPEGJ3", "digest": "sha256:0123456789abcdef0123456789abcdef"},
  "config": {"env": {"PORT": "8080"}, "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256},
  "metadata": {"fly_process_group": "web", "fly_platform_version": "v2"}, "dns": {}}}`, i, i, i/20%1000, i>>16, i&0xffff, i/20)
	}
	if n > 0 {
		b.WriteString("]}")
	}
	b.WriteString("]}\n")
	return []byte(b.String())
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		data := fleetFile(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if items, err := Parse(data); err != nil || len(items) != n+n/20 {
					b.Fatal(len(items), err)
				}
			}
		})
	}
}
