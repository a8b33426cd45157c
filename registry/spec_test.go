package registry

import "testing"

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
