package corrosion

import (
	"encoding/json"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/corrosion/corrosiontest"
	"dnsd/registry/follow/followtest"
)

// rowOfObject returns the columns of an object.
func rowOfObject(t *testing.T, o registry.Object) corrosiontest.Row {
	row := corrosiontest.Row(followtest.Fields(o))
	if config, ok := row["config"].(map[string]any); ok {
		metadata, err := json.Marshal(config["metadata"])
		if err != nil {
			t.Error(err)
		}
		row["metadata"] = string(metadata)
		delete(row, "config")
	}
	return row
}

// conforming returns a source and the agent that it follows, as a fixture.
func conforming(t *testing.T, src *Source, agent interface {
	Put(table string, rows ...corrosiontest.Row)
	Delete(table string, rows ...corrosiontest.Row)
	Start() error
}, stop func()) followtest.Fixture {
	tables := [...]string{"apps", "machines", "peers", "app_addresses"} // by kind
	return followtest.Fixture{
		Source: src,
		Put: func(objects ...registry.Object) {
			var rows [len(tables)][]corrosiontest.Row
			for _, o := range objects {
				kind := o.Key().Kind
				rows[kind] = append(rows[kind], rowOfObject(t, o))
			}
			for kind, rows := range rows {
				agent.Put(tables[kind], rows...)
			}
		},
		Delete: func(keys ...registry.Key) {
			for _, k := range keys {
				agent.Delete(tables[k.Kind], corrosiontest.Row{"id": k.ID, "network": k.Network.String(), "name": k.Name, "app": k.Name, "address": k.ID})
			}
		},
		Break: stop,
		Mend: func() {
			if err := agent.Start(); err != nil {
				t.Fatal(err)
			}
		},
		Silence: src.proveEvery, Secrets: []string{src.token.text},
	}
}

func TestConform(t *testing.T) {
	for name, test := range map[string]struct {
		opts corrosiontest.Options
		stop func(*corrosiontest.Agent)
	}{
		"HTTP2, terminated": {corrosiontest.Options{Token: "hunter2"}, (*corrosiontest.Agent).Stop},
		"HTTP1, killed":     {corrosiontest.Options{Token: "hunter2", NoHTTP2: true}, (*corrosiontest.Agent).Kill},
	} {
		t.Run(name, func(t *testing.T) {
			followtest.Conform(t, func(t *testing.T) followtest.Fixture {
				f := stopped(t, test.opts, Config{Token: test.opts.Token})
				fixture := conforming(t, f.src, f.agent, func() { test.stop(f.agent) })
				fixture.Apart = true
				return fixture
			})
		})
	}
}

func TestRealAgentConforms(t *testing.T) {
	realBin(t)
	followtest.Conform(t, func(t *testing.T) followtest.Fixture {
		agent := startReal(t, 1).Agents[0]
		src, err := New(Config{Addr: agent.Addr(), Token: corrosiontest.Token}, testLog(t))
		if err != nil {
			t.Fatal(err)
		}
		src.proveEvery = 100 * time.Millisecond
		src.whole.pace.wait, src.whole.pace.standstillEmpty = 20*time.Millisecond, 20*time.Millisecond
		return conforming(t, src, agent, agent.Stop)
	})
}
