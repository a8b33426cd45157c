package registry

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// fence notes what it is told, and what can be seen then.
type fence struct {
	see  func() string
	told []string
}

func (f *fence) Close(n netip.Prefix, app string) {
	f.told = append(f.told, fmt.Sprintf("close %s %s: %s", n, app, f.see()))
}
func (f *fence) CloseAll() { f.told = append(f.told, "close all: "+f.see()) }
func (f *fence) Open()     { f.told = append(f.told, "open: "+f.see()) }

// The fence is told of what changes before anybody can see it and before a channel closes,
// and once more when everybody sees it and the channels have closed. It is told of nothing else.
func TestFence(t *testing.T) {
	const n = Network(0x18)
	machine := func(app, state string) Item {
		return Item{Object: &Machine{ID: "m", App: app, Network: n, State: state, Addr: netip.MustParseAddr("fdaa:0:18::2")}}
	}
	for _, c := range []struct {
		name   string
		change func(*Registry)
		told   []string
	}{
		{"an_app", func(r *Registry) { r.Apply([]Item{machine("App", "stopped")}) },
			[]string{"close fdaa:0:18::/48 app: started=1 state=live woken=false", "open: started=0 state=live woken=true"}},
		{"another_app", func(r *Registry) { r.Apply([]Item{machine("other", "started")}) },
			[]string{"close fdaa:0:18::/48 other: started=1 state=live woken=false", "open: started=1 state=live woken=false"}},
		{"nothing", func(r *Registry) { r.Apply([]Item{machine("app", "started")}) }, nil},
		{"a_deletion", func(r *Registry) { r.Apply([]Item{Delete(Key{Kind: KindMachine, Network: n, Name: "app", ID: "m"})}) },
			[]string{"close fdaa:0:18::/48 app: started=1 state=live woken=false", "open: started=-1 state=live woken=true"}},
		{"status", func(r *Registry) { r.SetStatus(Status{State: Stale}) },
			[]string{"close all: started=1 state=live woken=false", "open: started=1 state=stale woken=true"}},
		{"status_that_answers_do_not_show", func(r *Registry) { r.SetStatus(Status{State: Held}) }, nil},
		{"wake", func(r *Registry) { r.Wake() },
			[]string{"close all: started=1 state=live woken=false", "open: started=1 state=live woken=true"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := New()
			r.SetStatus(Status{State: Live})
			r.Apply([]Item{machine("app", "started")})
			_, watch := r.Snapshot().Fleet(n, "app")
			changed := r.Status().Changed()
			f := &fence{see: func() string {
				started := -1
				if fleet, _ := r.Snapshot().Fleet(n, "app"); fleet != nil {
					started = fleet.Started()
				}
				return fmt.Sprintf("started=%d state=%s woken=%t", started, r.Status().State, closed(watch) || closed(changed))
			}}
			r.SetFence(f)
			if c.change(r); !slices.Equal(f.told, c.told) {
				t.Errorf("told\n%q\nwant\n%q", f.told, c.told)
			}
		})
	}
	t.Run("restore", func(t *testing.T) {
		r := New()
		f := &fence{see: func() string { return fmt.Sprint(r.Count(KindMachine)) }}
		r.SetFence(f)
		m := machine("app", "started").Object.(*Machine)
		fleet, err := NewFleet(n, "app", false, []*Machine{m})
		if err != nil {
			t.Fatal(err)
		}
		r.Restore([]*Fleet{fleet}, nil)
		if len(f.told) < 2 || f.told[0] != "close all: 0" || f.told[len(f.told)-1] != "open: 1" {
			t.Errorf("told %q", f.told)
		}
		f.told = nil
		r.Restore(nil, nil) // nothing: what was closed is opened all the same
		if len(f.told) < 2 || f.told[len(f.told)-1] != "open: 1" {
			t.Errorf("told %q", f.told)
		}
	})
}
