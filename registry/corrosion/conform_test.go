package corrosion

import (
	"encoding/json"
	"testing"

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

func TestConform(t *testing.T) {
	tables := [...]string{"apps", "machines", "peers", "app_addresses"} // by kind
	for name, opts := range map[string]struct {
		corrosiontest.Options
		stop func(*corrosiontest.Agent)
	}{
		"HTTP2, terminated": {corrosiontest.Options{}, (*corrosiontest.Agent).Stop},
		"HTTP1, killed":     {corrosiontest.Options{NoHTTP2: true}, (*corrosiontest.Agent).Kill},
	} {
		t.Run(name, func(t *testing.T) {
			followtest.Conform(t, func(t *testing.T) followtest.Fixture {
				opts.Token = "hunter2"
				f := stopped(t, opts.Options, Config{Token: opts.Token})
				return followtest.Fixture{
					Source: f.src,
					Put: func(objects ...registry.Object) {
						for _, o := range objects {
							f.agent.Put(tables[o.Key().Kind], rowOfObject(t, o))
						}
					},
					Delete: func(keys ...registry.Key) {
						for _, k := range keys {
							network := k.Network.String()
							f.agent.Delete(tables[k.Kind], corrosiontest.Row{"id": k.ID, "network": network, "name": k.Name, "app": k.Name, "address": k.ID})
						}
					},
					Break:   func() { opts.stop(f.agent) },
					Mend:    f.start,
					Silence: f.src.proveEvery, Secrets: []string{opts.Token}, Apart: true,
				}
			})
		})
	}
}
