package etcd

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dnsd/registry"
	"dnsd/registry/contain"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

func TestParseURL(t *testing.T) {
	for _, c := range []struct{ url, endpoints, prefix string }{
		{"etcd://h1:2379,h2:2379/dnsd/v1/", "h1:2379 h2:2379", "/dnsd/v1/"},
		{"etcd://127.0.0.1:12379/x/", "127.0.0.1:12379", "/x/"},
		{"etcd://[fdaa::5]:2379,[fdaa::6]/x/", "[fdaa::5]:2379 [fdaa::6]:2379", "/x/"},
		{"etcd://etcd.example/", "etcd.example:2379", "/"},
	} {
		endpoints, prefix, err := ParseURL(c.url)
		if err != nil || strings.Join(endpoints, " ") != c.endpoints || prefix != c.prefix {
			t.Errorf("%s: %q %q %v", c.url, endpoints, prefix, err)
		}
	}
	for url, want := range map[string]string{
		"http://h1:2379/x/":          "want etcd://",
		"etcd://h1:2379":             "does not end in /",
		"etcd://h1:2379/x":           "does not end in /",
		"etcd:///x/":                 "want host:port",
		"etcd://h1:/x/":              "want host:port",
		"etcd://h1,,h2/x/":           "want host:port",
		"etcd://fdaa::5/x/":          "brackets",
		"etcd://h1/x/?tls=1/":        "no parameters",
		"etcd://h1/x/?p=s3cret":      "no parameters",
		"etcd://h1/x/#s3cret":        "no parameters",
		"etcd://h1,?p=s3cret/x/":     "no parameters",
		"etcd://h1/joe:s3cret@h2":    "does not end in /",
		"etcd://,h1/joe:s3cret@h2/":  "want host:port",
		"etcd://joe:s3cret@h1:1/x/":  "no user or password",
		"etcd://joe:s3cret@h1:1/x/y": "no user or password",
	} {
		_, _, err := ParseURL(url)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want an error with %q", url, err, want)
		}
	}
}

func TestNewNamesEveryMistake(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := New(Config{CAFile: empty, PasswordFile: "/nowhere"}, slog.Default())
	for _, want := range []string{"no PEM certificate", "needs a user"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
	for _, c := range []struct {
		Config
		want string
	}{
		{Config{CertFile: empty}, "both"},
		{Config{KeyFile: empty}, "both"},
		{Config{CAFile: "/nowhere"}, "no such file"},
		{Config{CertFile: "/nowhere", KeyFile: empty}, "no such file"},
		{Config{CertFile: empty, KeyFile: "/nowhere"}, "no such file"},
		{Config{CertFile: empty, KeyFile: empty}, "client certificate"},
		{Config{Password: "p"}, "needs a user"},
		{Config{Username: "u", Password: "p", PasswordFile: empty}, "twice"},
		{Config{Username: "u", PasswordFile: "/nowhere"}, "no such file"},
	} {
		if _, err := New(c.Config, slog.Default()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want an error with %q", c.Config, err, c.want)
		}
	}
	s, err := New(Config{Endpoints: []string{"h1:1", "h2:2"}, Prefix: "/x/", Username: "u", Password: "s3cret"}, slog.Default())
	if err != nil || s.String() != "etcd://h1:1,h2:2/x/" {
		t.Errorf("%v %v", s, err)
	}
}

func TestPut(t *testing.T) {
	s := &Source{cfg: Config{Prefix: prefix}}
	machine := registry.Key{Kind: registry.KindMachine, Network: 0x18, Name: "my-app", ID: "m1"}
	nowhere := registry.Key{AnyNetwork: true}
	for _, c := range []struct {
		key, value string
		want       registry.Key // of the object, or of the rejection
		err        string
	}{
		{"machines/fdaa:0:18::/my-app/m1", `{"id":"m1","app":"my-app","state":"started","private_ip":"fdaa:0:18::7"}`, machine, ""},
		{"machines/fdaa:0:18::/my-app/m1", `{"state":"started"}`, machine, ""},
		{"machines/fdaa:0:18::/my-app/m1", `{"id":"M1","app":"My-App","state":"started"}`, machine, ""},
		{"apps/fdaa:0:18::/my-app", `{"name":"my-app"}`, registry.Key{Kind: registry.KindApp, Network: 0x18, Name: "my-app"}, ""},
		{"peers/fdaa:0:18::/p", `{"private_ip":"fdaa:0:18::8"}`, registry.Key{Kind: registry.KindPeer, Network: 0x18, Name: "p"}, ""},
		{"addresses/fdaa:0:99::/my-app/fdaa:0:99::9", `{}`, registry.Key{Kind: registry.KindAddress, Network: 0x99, Name: "my-app", ID: "fdaa:0:99::9"}, ""},

		{"machines/fdaa:0:18::/my-app/m1", `{`, machine, "JSON"},
		{"machines/fdaa:0:18::/my-app/m1", `{"id":"m2","state":"started"}`, machine, "does not agree"},
		{"machines/fdaa:0:18::/my-app/m1", `{"app":"other","state":"started"}`, machine, "does not agree"},
		{"machines/fdaa:0:18::/my-app/m1", `{"network":"fdaa:0:99::/48","state":"started"}`, machine, "does not agree"},
		{"machines/fdaa:0:18::/my-app/m1", `{"state":"started","private_ip":"fdaa:0:99::7"}`, machine, "fdaa:0:99::7"},

		{"machines/fdaa:0:18::/my-app", `{}`, nowhere, "not a key"},
		{"machines/fdaa:0:18::/my-app/", `{}`, nowhere, "not a key"},
		{"machines/fdaa:0:18:://m1", `{}`, nowhere, "not a key"},
		{"machines/fdaa:0:18::/my-app/m1/x", `{}`, nowhere, "not a key"},
		{"apps/fdaa:0:18::/my-app/x", `{}`, nowhere, "not a key"},
		{"apps/fdaa:0:18::", `{}`, nowhere, "not a key"},
		{"volumes/fdaa:0:18::/v1", `{}`, nowhere, "not a key"},
		{"", `{}`, nowhere, "not a key"},
		{"apps/fd00:0:18::/my-app", `{}`, nowhere, "fd00:0:18::"},
		{"apps/fdaa:0:0018::/my-app", `{}`, nowhere, `want "apps/fdaa:0:18::/my-app"`},
		{"apps/fdaa:0:18::/My-App", `{}`, nowhere, `want "apps/fdaa:0:18::/my-app"`},
		{"machines/fdaa:0:18::/My-App/m1", `{}`, nowhere, `want "machines/fdaa:0:18::/my-app/m1"`},
		{"machines/fdaa:0:18::/my-app/M1", `{}`, nowhere, `want "machines/fdaa:0:18::/my-app/m1"`},
		{"addresses/fdaa:0:99::/my-app/fdaa:0:99:0::9", `{}`, nowhere, `want "addresses/fdaa:0:99::/my-app/fdaa:0:99::9"`},
		{"addresses/fdaa:0:99::/my-app/nine", `{}`, nowhere, "no IPv6 address"},
	} {
		item := s.put([]byte(prefix+c.key), []byte(c.value))
		switch {
		case c.err == "" && (item.Err != nil || item.Object.Key() != c.want):
			t.Errorf("%s %s: %+v", c.key, c.value, item)
		case c.err != "" && (item.Err == nil || item.Key != c.want || item.Where != prefix+c.key || !strings.Contains(item.Err.Error(), c.err)):
			t.Errorf("%s %s: %+v, want a rejection of %v with %q", c.key, c.value, item, c.want, c.err)
		}
		removed, ok := s.remove([]byte(prefix + c.key))
		if known := c.want != nowhere; ok != known || ok && removed.Key != c.want {
			t.Errorf("removing %s: %+v %v", c.key, removed, ok)
		}
	}
	m := s.put([]byte(prefix+"machines/fdaa:0:18::/my-app/m1"), []byte(`{"state":"started","private_ip":"fdaa:0:18::7"}`)).Object.(*registry.Machine)
	if m.Addr != netip.MustParseAddr("fdaa:0:18::7") || m.App != "my-app" || m.ID != "m1" {
		t.Errorf("%+v", m)
	}
	key, value := prefix+"machines/fdaa:0:18::/my-app/m1", `{"state":"started","config":{"metadata":{"a":"1","b":"`+strings.Repeat("x", 1<<16)+`"}}}`
	if item := s.put([]byte(key), []byte(value)); item.Object == nil || item.Note == nil || item.Where != key {
		t.Errorf("a machine with too much metadata: %+v", item)
	}
}

// TestChanges is about what a real server is hard to bring to.
func TestChanges(t *testing.T) {
	s := &Source{cfg: Config{Prefix: prefix}}
	seen := func(name string, mod int64) witness {
		w := witness{key: prefix + "apps/fdaa:0:18::/" + name}
		if mod > 0 {
			w = present(&mvccpb.KeyValue{Key: []byte(w.key), Value: []byte(`{}`), ModRevision: mod})
		}
		return w
	}
	a, z := seen("a", 9), seen("z", 8)
	at := position{10, witnesses{a, z}}
	header := func(rev int64) *pb.ResponseHeader { return &pb.ResponseHeader{Revision: rev} }
	app := func(kind mvccpb.Event_EventType, name string, rev int64) *mvccpb.Event {
		return &mvccpb.Event{Type: kind, Kv: &mvccpb.KeyValue{Key: []byte(prefix + "apps/fdaa:0:18::/" + name), Value: []byte(`{}`), ModRevision: rev}}
	}
	for name, c := range map[string]struct {
		r    *pb.WatchResponse
		want position
		n    int
		lost bool
	}{
		"created by a member that lags": {&pb.WatchResponse{Header: header(3), Created: true}, at, 0, false},
		"progress":                      {&pb.WatchResponse{Header: header(17)}, position{17, at.seen}, 0, false},
		"progress without news":         {&pb.WatchResponse{Header: header(10)}, at, 0, false},
		"progress going back":           {&pb.WatchResponse{Header: header(9)}, at, 0, true},
		"change going back":             {&pb.WatchResponse{Header: header(4), Events: []*mvccpb.Event{app(mvccpb.Event_PUT, "b", 4)}}, at, 0, true},
		"compacted":                     {&pb.WatchResponse{Header: header(20), CompactRevision: 15, Canceled: true}, at, 0, true},
		"more to come": {
			&pb.WatchResponse{Header: header(5000), Events: []*mvccpb.Event{app(mvccpb.Event_PUT, "b", 11), app(mvccpb.Event_PUT, "c", 12)}},
			position{12, witnesses{seen("c", 12), seen("b", 11), a, z}}, 2, false,
		},
		"known already": {
			&pb.WatchResponse{Header: header(11), Events: []*mvccpb.Event{app(mvccpb.Event_DELETE, "b", 10), app(mvccpb.Event_PUT, "c", 11)}},
			position{11, witnesses{seen("c", 11), a, z}}, 1, false,
		},
		"deleted": {
			&pb.WatchResponse{Header: header(11), Events: []*mvccpb.Event{app(mvccpb.Event_DELETE, "b", 11)}},
			position{11, witnesses{seen("b", 0), a, z}}, 1, false,
		},
		"a witness changed": {
			&pb.WatchResponse{Header: header(11), Events: []*mvccpb.Event{app(mvccpb.Event_PUT, "z", 11)}},
			position{11, witnesses{seen("z", 11), a}}, 1, false,
		},
		"the newest witness changed": {
			&pb.WatchResponse{Header: header(11), Events: []*mvccpb.Event{app(mvccpb.Event_PUT, "a", 11)}},
			position{11, witnesses{seen("a", 11), z}}, 1, false,
		},
		"rubbish deleted": {
			&pb.WatchResponse{Header: header(11), Events: []*mvccpb.Event{app(mvccpb.Event_DELETE, "B", 11)}},
			position{11, witnesses{seen("B", 0), a, z}}, 0, false,
		},
	} {
		items, got, err := s.changes(c.r, at)
		if c.lost != errors.Is(err, errHistory) || !c.lost && (err != nil || got != c.want || len(items) != c.n) {
			t.Errorf("%s: %d items, %+v, %v", name, len(items), got, err)
		}
	}
}

// TestWitnessesListed lists keys whose last changes are in no order, two in each
// transaction.
func TestWitnessesListed(t *testing.T) {
	var got witnesses
	for i := range int64(100) {
		got.listed(&mvccpb.KeyValue{Key: fmt.Append(nil, i), ModRevision: 1 + i*37%100/2})
	}
	for i, w := range got {
		if w.mod != int64(50-i/2) {
			t.Fatalf("witness %d is of revision %d, want the last %d changed, newest first", i, w.mod, len(got))
		}
	}
	last := got[len(got)-2]
	got.changed(witness{key: "new"})
	if got[0].key != "new" || got[1].mod != 50 || got[len(got)-1] != last {
		t.Errorf("after another change: %+v", got)
	}
}

func TestPageSize(t *testing.T) {
	for name, c := range map[string]struct {
		objects, bytes int
		want           int64
	}{
		"small objects":  {1000, 300, 20_000},
		"medium objects": {1000, 1000, 8388},
		"large objects":  {1000, 100_000, 1000},
	} {
		page := &pb.RangeResponse{}
		for range c.objects {
			page.Kvs = append(page.Kvs, &mvccpb.KeyValue{Key: make([]byte, 100), Value: make([]byte, c.bytes-100)})
		}
		if got := defaultPages.next(page); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// What makes dnsd panic costs the key that it stands under, put or deleted.
func TestAPanicCostsOneKey(t *testing.T) {
	s := &Source{cfg: Config{Prefix: prefix}}
	var bug *contain.Error
	short := []byte("/") // shorter than any key that etcd sends
	if item := s.put(short, nil); !errors.As(item.Err, &bug) || !item.Key.AnyNetwork || item.Where != "/" {
		t.Errorf("put: %+v", item)
	}
	if item, ok := s.remove(short); ok {
		t.Errorf("remove: %+v", item)
	}
}
