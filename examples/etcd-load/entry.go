package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"dnsd/registry"
	"dnsd/registry/machinejson"
)

// object is any of the four kinds, in the words of the Machines API.
type object struct {
	ID        string  `json:"id,omitempty"`
	Name      string  `json:"name,omitempty"`
	App       string  `json:"app,omitempty"`
	Network   string  `json:"network"`
	State     string  `json:"state,omitempty"`
	Region    string  `json:"region,omitempty"`
	PrivateIP string  `json:"private_ip,omitempty"`
	Address   string  `json:"address,omitempty"`
	Config    *config `json:"config,omitempty"`
}

type config struct {
	Metadata map[string]string `json:"metadata,omitempty"`
	DNS      *dnsConfig        `json:"dns,omitempty"`
}

type dnsConfig struct {
	SkipRegistration bool `json:"skip_registration"`
}

// entry returns an object's key, without the prefix, and its value.
func entry(o registry.Object) (key, value string, err error) {
	k := o.Key()
	j := object{Network: k.Network.String()}
	dir := ""
	switch o := o.(type) {
	case *registry.App:
		dir, j.Name = "apps", o.Name
	case *registry.Machine:
		dir, j.ID, j.App, j.State, j.Region = "machines", o.ID, o.App, o.State, o.Region
		if o.Addr.IsValid() {
			j.PrivateIP = o.Addr.String()
		}
		j.Config = configOf(o)
	case *registry.Peer:
		dir, j.Name, j.PrivateIP, j.Region = "peers", o.Name, o.Addr.String(), o.Region
	case *registry.Address:
		dir, j.App, j.Address = "addresses", o.App, o.Addr.String()
	default:
		return "", "", fmt.Errorf("%s is of a kind that has no key", k)
	}
	// Keys are in lower case, as DNS compares names; the value keeps the case.
	key = dir + "/" + k.Network.Prefix().Addr().String() + "/" + k.Name
	if k.ID != "" {
		key += "/" + k.ID
	}
	data, err := json.Marshal(j)
	return key, string(data), err
}

// canonical returns value, which stands at key (without the prefix), as entry
// would write the object in it; empty when dnsd could not use it there.
func canonical(key string, value []byte) string {
	part := strings.Split(key, "/")
	if len(part) < 3 {
		return ""
	}
	scope := machinejson.Scope{Network: part[1], App: part[2]}
	if len(part) > 3 {
		scope.ID = part[3]
	}
	var o registry.Object
	var err error
	switch part[0] {
	case "apps":
		o, err = machinejson.DecodeApp(value, scope)
	case "machines":
		o, err = machinejson.DecodeMachine(value, scope)
	case "peers":
		o, err = machinejson.DecodePeer(value, machinejson.Scope{Network: part[1], ID: part[2]})
	case "addresses":
		o, err = machinejson.DecodeAddress(value, scope)
	default:
		return ""
	}
	if err != nil {
		return ""
	}
	at, text, err := entry(o)
	if err != nil || at != key {
		return ""
	}
	return text
}

// configOf returns what a machine's config holds, nil for nothing.
func configOf(m *registry.Machine) *config {
	if len(m.Metadata) == 0 && !m.Skip {
		return nil
	}
	c := &config{}
	for _, p := range m.Metadata {
		if c.Metadata == nil {
			c.Metadata = map[string]string{}
		}
		c.Metadata[p.Key] = p.Value
	}
	if m.Skip {
		c.DNS = &dnsConfig{SkipRegistration: true}
	}
	return c
}
