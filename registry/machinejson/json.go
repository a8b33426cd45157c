// Package machinejson is the text form of what a registry holds: objects as the
// Machines API writes them, and the registry file, which is read, checked and
// written.
package machinejson

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"dnsd/registry"
)

// Scope is what an object's surroundings say about it: the app that a file
// lists it under, the parts of an etcd key. An empty field says nothing. An
// object that contradicts its scope is rejected.
type Scope struct{ App, Network, ID string }

// agreed returns what value and scope agree on, and an error when they differ.
func agreed(field, value, scope string) (string, error) {
	switch {
	case value == "":
		return scope, nil
	case scope == "" || registry.Lower(value) == registry.Lower(scope):
		return value, nil
	}
	return "", fmt.Errorf("%s %q does not agree with where it stands (%q)", field, value, scope)
}

// agreedNetwork is agreed for networks, which may be written in two ways.
func agreedNetwork(value, scope string) (string, error) {
	if value == "" || scope == "" {
		return value + scope, nil
	}
	a, err := registry.ParseNetwork(value)
	if err != nil {
		return "", err
	}
	b, err := registry.ParseNetwork(scope)
	if err != nil {
		return "", err
	}
	if a != b {
		return "", fmt.Errorf("network %s does not agree with where it stands (%s)", a, b)
	}
	return value, nil
}

// machineJSON is a machine as the Machines API writes it. Fields that dnsd does
// not know are ignored.
type machineJSON struct {
	ID               string         `json:"id"`
	App              string         `json:"app,omitempty"`
	Network          string         `json:"network,omitempty"`
	State            string         `json:"state"`
	Region           string         `json:"region,omitempty"`
	PrivateIP        string         `json:"private_ip,omitempty"`
	Config           *machineConfig `json:"config,omitempty"`
	IncompleteConfig *machineConfig `json:"incomplete_config,omitempty"`
}

type machineConfig struct {
	Metadata map[string]string `json:"metadata,omitempty"`
	DNS      *machineDNS       `json:"dns,omitempty"`
}

type machineDNS struct {
	SkipRegistration bool `json:"skip_registration,omitempty"`
}

// DecodeMachine reads a machine from its Machines API JSON.
func DecodeMachine(data []byte, scope Scope) (*registry.Machine, error) {
	var j machineJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, jsonError(err)
	}
	app, errApp := agreed("app", j.App, scope.App)
	id, errID := agreed("id", j.ID, scope.ID)
	network, errNet := agreedNetwork(j.Network, scope.Network)
	if err := errors.Join(errApp, errID, errNet); err != nil {
		return nil, registry.OneLine(err)
	}
	spec := registry.MachineSpec{ID: id, App: app, State: j.State, Region: j.Region, Network: network, PrivateIP: j.PrivateIP}
	config := j.Config
	if config == nil { // the API sends this one where it could not load the whole
		config = j.IncompleteConfig
	}
	if config != nil {
		spec.Metadata = config.Metadata
		spec.SkipRegistration = config.DNS != nil && config.DNS.SkipRegistration
	}
	return registry.NewMachine(spec)
}

type appJSON struct {
	Name    string `json:"name"`
	Network string `json:"network"`
}

// DecodeApp reads an app from {"name": …, "network": …}.
func DecodeApp(data []byte, scope Scope) (*registry.App, error) {
	var j appJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, jsonError(err)
	}
	name, errName := agreed("name", j.Name, scope.App)
	network, errNet := agreedNetwork(j.Network, scope.Network)
	if err := errors.Join(errName, errNet); err != nil {
		return nil, registry.OneLine(err)
	}
	return registry.NewApp(registry.AppSpec{Name: name, Network: network})
}

type peerJSON struct {
	Name      string `json:"name"`
	Network   string `json:"network,omitempty"`
	PrivateIP string `json:"private_ip"`
	Region    string `json:"region,omitempty"`
}

// DecodePeer reads a peer from its JSON. Its name is checked against scope.ID.
func DecodePeer(data []byte, scope Scope) (*registry.Peer, error) {
	var j peerJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, jsonError(err)
	}
	name, errName := agreed("name", j.Name, scope.ID)
	network, errNet := agreedNetwork(j.Network, scope.Network)
	if err := errors.Join(errName, errNet); err != nil {
		return nil, registry.OneLine(err)
	}
	return registry.NewPeer(registry.PeerSpec{Name: name, Network: network, PrivateIP: j.PrivateIP, Region: j.Region})
}

type addressJSON struct {
	App     string `json:"app"`
	Network string `json:"network,omitempty"`
	Address string `json:"address"`
}

// DecodeAddress reads a flycast address from its JSON. The address is checked
// against scope.ID.
func DecodeAddress(data []byte, scope Scope) (*registry.Address, error) {
	var j addressJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, jsonError(err)
	}
	app, errApp := agreed("app", j.App, scope.App)
	address, errAddr := j.Address, error(nil)
	if scope.ID != "" {
		a, _ := netip.ParseAddr(j.Address)
		b, err := netip.ParseAddr(scope.ID)
		if err != nil || j.Address != "" && a != b {
			errAddr = fmt.Errorf("address %q does not agree with where it stands (%q)", j.Address, scope.ID)
		}
		address = scope.ID
	}
	network, errNet := agreedNetwork(j.Network, scope.Network)
	if err := errors.Join(errApp, errAddr, errNet); err != nil {
		return nil, registry.OneLine(err)
	}
	return registry.NewAddress(registry.AddressSpec{App: app, Network: network, Address: address})
}

// jsonError turns a decoder's error into a sentence without Go's type names.
func jsonError(err error) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		field := wrong.Field
		if field == "" {
			field = "the object"
		}
		return fmt.Errorf("%s is a JSON %s, want %s", field, wrong.Value, wantedJSON(wrong.Type.Kind().String()))
	}
	return err
}

func wantedJSON(kind string) string {
	switch kind {
	case "struct", "map":
		return "an object"
	case "slice":
		return "a list"
	case "bool":
		return "true or false"
	}
	return "a " + kind
}
