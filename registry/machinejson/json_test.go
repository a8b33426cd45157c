package machinejson

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"dnsd/registry"
	"dnsd/registry/contain"
)

func TestDecodeMachine(t *testing.T) {
	const whole = `{"id":"148e21dad76789","state":"started","region":"iad","private_ip":"fdaa:0:18:a7b:7d:f066:b83b:2",
		"instance_id":"ignored","config":{"metadata":{"fly_process_group":"web","role":"primary"},"dns":{"skip_registration":true}}}`
	m, err := DecodeMachine([]byte(whole), Scope{App: "my-app"})
	if err != nil {
		t.Fatal(err)
	}
	if m.ID != "148e21dad76789" || m.App != "my-app" || m.Network.String() != "fdaa:0:18::/48" || m.Metadata[0] != (registry.Pair{Key: "fly_process_group", Value: "web"}) || !m.Skip || !m.Started() {
		t.Errorf("read as %+v", m)
	}
	m, err = DecodeMachine([]byte(`{"id":"a","state":"failed","private_ip":"fdaa:0:18::2","incomplete_config":{"metadata":{"fly_process_group":"w"}}}`), Scope{App: "x"})
	if err != nil || m.Metadata[0].Value != "w" {
		t.Errorf("incomplete_config does not stand in for config: %+v, %v", m, err)
	}
}

// An address may leave out what its place says, or say the same in other words.
func TestDecodeAddress(t *testing.T) {
	for _, body := range []string{`{}`, `{"app":"web","address":"fdaa:0:18:0::7","network":"fdaa:0:18::/48"}`} {
		a, err := DecodeAddress([]byte(body), Scope{App: "web", Network: "fdaa:0:18::", ID: "fdaa:0:18::7"})
		if err != nil || a.Key().String() != "address web/fdaa:0:18::7 in fdaa:0:18::/48" {
			t.Errorf("%s: %+v, %v", body, a, err)
		}
	}
}

// So may an app and a peer.
func TestDecodeAppAndPeer(t *testing.T) {
	for _, network := range []string{"", `"network":"fdaa:0:18::/48",`} {
		a, err := DecodeApp([]byte(`{`+network+`"name":"Web"}`), Scope{App: "web", Network: "fdaa:0:18::"})
		if err != nil || *a != (registry.App{Name: "Web", Network: net18}) {
			t.Errorf("%s: %+v, %v", network, a, err)
		}
		p, err := DecodePeer([]byte(`{`+network+`"private_ip":"fdaa:0:18::2","region":"ams"}`), Scope{Network: "fdaa:0:18::", ID: "laptop"})
		if err != nil || *p != (registry.Peer{Name: "laptop", Network: net18, Addr: netip.MustParseAddr("fdaa:0:18::2"), Region: "ams"}) {
			t.Errorf("%s: %+v, %v", network, p, err)
		}
	}
}

func TestRejectedObjects(t *testing.T) {
	machine := func(body string, scope Scope) error {
		_, err := DecodeMachine([]byte(body), scope)
		return err
	}
	registered := func(body string) error {
		_, err := DecodeApp([]byte(body), Scope{App: "web", Network: "fdaa:0:18::"})
		return err
	}
	peer := func(body string) error {
		_, err := DecodePeer([]byte(body), Scope{Network: "fdaa:0:18::", ID: "laptop"})
		return err
	}
	address := func(body, id string) error {
		_, err := DecodeAddress([]byte(body), Scope{App: "web", ID: id})
		return err
	}
	app := Scope{App: "web", Network: "fdaa:0:18::"}
	long := strings.Repeat("x", 64)
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"address outside its network": {machine(`{"id":"a","state":"started","private_ip":"fdaa:0:19::2"}`, app), "private_ip fdaa:0:19::2 lies in fdaa:0:19::/48, not in its network fdaa:0:18::/48"},
		"networks that disagree":      {machine(`{"id":"a","state":"started","network":"fdaa:0:19::/48"}`, app), "network fdaa:0:19::/48 does not agree with where it stands (fdaa:0:18::/48)"},
		"address outside fdaa":        {machine(`{"id":"a","state":"started","private_ip":"fd00::2"}`, app), "private_ip fd00::2 lies outside fdaa::/16"},
		"no network at all":           {machine(`{"id":"a","state":"started"}`, Scope{App: "web"}), "network and private_ip are both missing"},
		"not an address":              {machine(`{"id":"a","state":"started","private_ip":"10.0.0.1"}`, app), "private_ip 10.0.0.1 lies outside fdaa::/16"},
		"zone in the address":         {machine(`{"id":"a","state":"started","private_ip":"fdaa:0:18::2%lo"}`, app), "is not an IPv6 address"},
		"a prefix that is no /48":     {machine(`{"id":"a","state":"started","network":"fdaa:0:18::/64"}`, Scope{App: "web"}), "is not a /48 inside fdaa::/16"},
		"bits behind the /48":         {machine(`{"id":"a","state":"started","network":"fdaa:0:18:1::/48"}`, Scope{App: "web"}), "want fdaa:0:18::/48"},
		"no id":                       {machine(`{"state":"started"}`, app), "id is missing"},
		"no state":                    {machine(`{"id":"a"}`, app), "state is missing"},
		"id too long":                 {machine(`{"id":"`+long+`","state":"started"}`, app), "a DNS label holds at most 63"},
		"dot in an id":                {machine(`{"id":"a.b","state":"started"}`, app), `has the character '.' at byte 2`},
		"comma in a region":           {machine(`{"id":"a","state":"started","region":"a,b"}`, app), `region "a,b" has the character ','`},
		"another app":                 {machine(`{"id":"a","app":"db","state":"started"}`, app), `app "db" does not agree with where it stands ("web")`},
		"wrong type":                  {machine(`{"id":7,"state":"started"}`, app), "id is a JSON number, want a string"},
		"another address":             {address(`{"address":"fdaa:0:18::8"}`, "fdaa:0:18::7"), `address "fdaa:0:18::8" does not agree with where it stands ("fdaa:0:18::7")`},
		"no address where one stands": {address(`{}`, "here"), `address "" does not agree with where it stands ("here")`},
		"another name of an app":      {registered(`{"name":"db"}`), `name "db" does not agree`},
		"another network of an app":   {registered(`{"network":"fdaa:0:19::"}`), "network fdaa:0:19::/48 does not agree"},
		"an app of a wrong type":      {registered(`["web"]`), "the object is a JSON array, want an object"},
		"another name of a peer":      {peer(`{"name":"phone","private_ip":"fdaa:0:18::2"}`), `name "phone" does not agree`},
		"a peer of a wrong type":      {peer(`{"private_ip":true}`), "private_ip is a JSON bool, want a string"},
		"an address of a wrong type":  {address(`{"address":{}}`, ""), "address is a JSON object, want a string"},
		"two mistakes":                {machine(`{"id":"a.b","private_ip":"x"}`, app), `; state is missing`},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) || strings.Contains(c.err.Error(), "\n") {
			t.Errorf("%s: got %q, want it to say %q on one line", name, c.err, c.want)
		}
	}
}

// In a file, a machine whose reading panics is one that cannot be used.
func TestAPanicInAFileCostsOneObject(t *testing.T) {
	for list, want := range map[string]string{
		"machines":  "machine web/m1",
		"peers":     "peer p",
		"addresses": "address web/fdaa:0:18::1",
	} {
		p := newParser([]byte(`[{"id": "m1", "app": "web", "name": "p", "network": "fdaa:0:18::/48", "private_ip": "fdaa:0:18::1", "address": "fdaa:0:18::1"}]`), nil)
		beyond := span{1, 10_000} // an object that ends behind the text
		switch list {
		case "machines":
			object(p, registry.KindMachine, beyond, Scope{}, DecodeMachine)
		case "peers":
			object(p, registry.KindPeer, beyond, Scope{}, DecodePeer)
		default:
			object(p, registry.KindAddress, beyond, Scope{}, DecodeAddress)
		}
		var bug *contain.Error
		if len(p.items) != 1 || !errors.As(p.items[0].Err, &bug) || !strings.HasPrefix(p.items[0].Key.String(), want) {
			t.Errorf("%s: %+v, want a rejection of %s", list, p.items, want)
		}
	}
}
