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
	"time"

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
	seen := func(name string, mod int64) witness {
		w := witness{key: prefix + "apps/fdaa:0:18::/" + name}
		if mod > 0 {
			w = present(&mvccpb.KeyValue{Key: []byte(w.key), Value: []byte(`{}`), ModRevision: mod})
		}
		return w
	}
	a, z := seen("a", 7), seen("z", 6)
	at := position{rev: 10, event: 8, seen: witnesses{a, z}} // progress has moved it on
	header := func(rev int64) *pb.ResponseHeader { return &pb.ResponseHeader{Revision: rev} }
	app := func(kind mvccpb.Event_EventType, name string, rev int64) *mvccpb.Event {
		return &mvccpb.Event{Type: kind, Kv: &mvccpb.KeyValue{Key: []byte(prefix + "apps/fdaa:0:18::/" + name), Value: []byte(`{}`), ModRevision: rev, CreateRevision: 5}}
	}
	created := app(mvccpb.Event_PUT, "b", 11)
	created.Kv.CreateRevision = 11
	const put, gone = mvccpb.Event_PUT, mvccpb.Event_DELETE
	for name, c := range map[string]struct {
		r          *pb.WatchResponse
		rev, event int64
		seen       witnesses
		n          int
		born       int64
		lost       bool
	}{
		"created by a member that lags": {r: &pb.WatchResponse{Header: header(3), Created: true}, rev: 10, event: 8, seen: at.seen},
		"progress":                      {r: &pb.WatchResponse{Header: header(17)}, rev: 17, event: 8, seen: at.seen},
		"progress without news":         {r: &pb.WatchResponse{Header: header(10)}, rev: 10, event: 8, seen: at.seen},
		"progress going back":           {r: &pb.WatchResponse{Header: header(9)}, lost: true},
		"change going back":             {r: &pb.WatchResponse{Header: header(4), Events: []*mvccpb.Event{app(put, "b", 4)}}, lost: true},
		"compacted":                     {r: &pb.WatchResponse{Header: header(20), CompactRevision: 15, Canceled: true}, lost: true},
		"more to come": {
			r:   &pb.WatchResponse{Header: header(5000), Events: []*mvccpb.Event{created, app(put, "c", 12)}},
			rev: 12, event: 12, seen: witnesses{seen("c", 12), seen("b", 11), a, z}, n: 2, born: 1,
		},
		"known already": {
			r:   &pb.WatchResponse{Header: header(11), Events: []*mvccpb.Event{app(gone, "b", 8), app(put, "c", 11)}},
			rev: 11, event: 11, seen: witnesses{seen("c", 11), a, z}, n: 1,
		},
		"overtaken by progress": {
			r:   &pb.WatchResponse{Header: header(11), Events: []*mvccpb.Event{app(gone, "b", 9)}},
			rev: 10, event: 9, seen: witnesses{seen("b", 0), a, z}, n: 1, born: -1,
		},
		"deleted": {
			r:   &pb.WatchResponse{Header: header(11), Events: []*mvccpb.Event{app(gone, "b", 11)}},
			rev: 11, event: 11, seen: witnesses{seen("b", 0), a, z}, n: 1, born: -1,
		},
		"a witness changed": {
			r:   &pb.WatchResponse{Header: header(11), Events: []*mvccpb.Event{app(put, "z", 11)}},
			rev: 11, event: 11, seen: witnesses{seen("z", 11), a}, n: 1,
		},
		"the newest witness changed": {
			r:   &pb.WatchResponse{Header: header(11), Events: []*mvccpb.Event{app(put, "a", 11)}},
			rev: 11, event: 11, seen: witnesses{seen("a", 11), z}, n: 1,
		},
		"rubbish deleted": {
			r:   &pb.WatchResponse{Header: header(11), Events: []*mvccpb.Event{app(gone, "B", 11)}},
			rev: 11, event: 11, seen: witnesses{seen("B", 0), a, z}, born: -1,
		},
	} {
		s := &Source{cfg: Config{Prefix: prefix}, log: slog.New(slog.DiscardHandler)}
		u, err := s.changes(c.r, at)
		var sum int64
		for _, b := range u.born {
			sum += b.by
		}
		if c.lost != errors.Is(err, errHistory) || !c.lost && (err != nil || u.at.rev != c.rev || u.at.event != c.event || u.at.seen != c.seen || len(u.items) != c.n || sum != c.born) {
			t.Errorf("%s: %d items, %d born, %+v, %v", name, len(u.items), sum, u.at, err)
		}
		if overtaken := name == "overtaken by progress"; s.quirks.overtakes != overtaken {
			t.Errorf("%s: progress is distrusted: %t", name, s.quirks.overtakes)
		}
	}
	// A server that is known to overtake moves the position on by changes alone.
	s := &Source{cfg: Config{Prefix: prefix}, quirks: quirks{overtakes: true}}
	if u, err := s.changes(&pb.WatchResponse{Header: header(17)}, at); err != nil || u.at.rev != 10 || u.reached != 17 {
		t.Errorf("%+v, %v", u, err)
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
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		n, bytes int64
		took     time.Duration
		want     int64
	}{
		"at once":                   {100, 30_000, 0, 1000},
		"small objects":             {10_000, 3_000_000, 20 * ms, 20_000},
		"medium objects":            {4000, 4_000_000, 20 * ms, 8388},
		"large objects":             {100, 20_000_000, 20 * ms, 41},
		"a slow link":               {1000, 300_000, 2 * time.Second, 500},
		"a faster one":              {500, 300_000, 500 * ms, 1000},
		"so slow that one is much":  {1, 300, 10 * time.Second, 1},
		"an object beyond all size": {1, 1 << 30, ms, 1},
	} {
		if got := defaultPages.next(c.n, c.bytes, c.took); got != c.want {
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
