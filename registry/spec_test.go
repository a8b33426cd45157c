package registry

import (
	"strings"
	"testing"
)

func TestDecodeMachine(t *testing.T) {
	const whole = `{"id":"148e21dad76789","state":"started","region":"iad","private_ip":"fdaa:0:18:a7b:7d:f066:b83b:2",
		"instance_id":"ignored","config":{"metadata":{"fly_process_group":"web","role":"primary"},"dns":{"skip_registration":true}}}`
	m, err := DecodeMachine([]byte(whole), Scope{App: "my-app"})
	if err != nil {
		t.Fatal(err)
	}
	if m.ID != "148e21dad76789" || m.App != "my-app" || m.Network.String() != "fdaa:0:18::/48" || m.Metadata[0] != (Pair{processGroupKey, "web"}) || !m.Skip || !m.Started() {
		t.Errorf("read as %+v", m)
	}
	m, err = DecodeMachine([]byte(`{"id":"a","state":"failed","private_ip":"fdaa:0:18::2","incomplete_config":{"metadata":{"fly_process_group":"w"}}}`), Scope{App: "x"})
	if err != nil || m.Metadata[0].Value != "w" {
		t.Errorf("incomplete_config does not stand in for config: %+v, %v", m, err)
	}
}

func TestRejectedObjects(t *testing.T) {
	machine := func(body string, scope Scope) error {
		_, err := DecodeMachine([]byte(body), scope)
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
		"two mistakes":                {machine(`{"id":"a.b","private_ip":"x"}`, app), `; state is missing`},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) || strings.Contains(c.err.Error(), "\n") {
			t.Errorf("%s: got %q, want it to say %q on one line", name, c.err, c.want)
		}
	}
}

func TestStates(t *testing.T) {
	for state, want := range map[string][2]bool{ // deployed, started
		"started": {true, true}, "stopped": {true, false}, "created": {true, false}, "suspended": {true, false}, "replacing": {true, false},
		"destroying": {false, false}, "destroyed": {false, false}, "replaced": {false, false}, "migrated": {false, false}, "unheard-of": {true, false}, "Started": {true, false},
	} {
		m := machine(t, "a", inState(state), at("fdaa:0:18::2"))
		if m.Deployed() != want[0] || m.Started() != want[1] {
			t.Errorf("%s: deployed %t, started %t; want %v", state, m.Deployed(), m.Started(), want)
		}
	}
}
