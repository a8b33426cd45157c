package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// A spec is an object as text, before anything about it is believed. The New
// functions turn specs into objects and say what is wrong with them; every
// source goes through them, so that one set of rules holds everywhere.

// MachineSpec describes a machine in the words of the Machines API.
type MachineSpec struct {
	ID, App, State, Region string
	Network                string // a /48 or its address; may be empty where PrivateIP gives it
	PrivateIP              string // may be empty
	Metadata               map[string]string
	SkipRegistration       bool
}

// AppSpec describes an app registered by itself.
type AppSpec struct{ Name, Network string }

// PeerSpec describes a WireGuard peer.
type PeerSpec struct{ Name, Network, PrivateIP, Region string }

// AddressSpec describes a flycast address.
type AddressSpec struct{ App, Network, Address string }

// NewMachine validates a machine. The error names every mistake. Metadata beyond
// what a machine may have are left out, which costs nothing but them: Put says so.
func NewMachine(s MachineSpec) (*Machine, error) {
	network, addr, err := place(s.Network, "private_ip", s.PrivateIP)
	errs := []error{label("id", s.ID), label("app", s.App), optionalLabel("region", s.Region), err}
	if s.State == "" {
		errs = append(errs, errors.New(`state is missing: want "started", "stopped" or another of the Machines API's states`))
	}
	m := &Machine{
		ID: strings.Clone(s.ID), App: intern(s.App), Network: network, State: intern(s.State),
		Region: intern(s.Region), Addr: addr, Skip: s.SkipRegistration,
	}
	omitted := 0
	m.Metadata, omitted = newMetadata(s.Metadata)
	m.omitted = int32(omitted)
	if err := errors.Join(errs...); err != nil {
		return nil, oneLine(err)
	}
	return m, nil
}

// NewApp validates an app.
func NewApp(s AppSpec) (*App, error) {
	network, _, err := place(s.Network, "", "")
	if err := errors.Join(label("name", s.Name), err); err != nil {
		return nil, oneLine(err)
	}
	return &App{Name: intern(s.Name), Network: network}, nil
}

// NewPeer validates a peer.
func NewPeer(s PeerSpec) (*Peer, error) {
	network, addr, err := place(s.Network, "private_ip", s.PrivateIP)
	if err == nil && !addr.IsValid() {
		err = errors.New("private_ip is missing")
	}
	if err := errors.Join(label("name", s.Name), optionalLabel("region", s.Region), err); err != nil {
		return nil, oneLine(err)
	}
	return &Peer{Name: strings.Clone(s.Name), Network: network, Addr: addr, Region: intern(s.Region)}, nil
}

// NewAddress validates a flycast address.
func NewAddress(s AddressSpec) (*Address, error) {
	network, addr, err := place(s.Network, "address", s.Address)
	if err == nil && !addr.IsValid() {
		err = errors.New("address is missing")
	}
	if err := errors.Join(label("app", s.App), err); err != nil {
		return nil, oneLine(err)
	}
	return &Address{App: intern(s.App), Network: network, Addr: addr}, nil
}

// place reads a network and an address that must lie in it. Where both are
// given they must agree: the network is a tenant's boundary.
func place(network, field, address string) (n Network, addr netip.Addr, err error) {
	if network == "" && address == "" {
		if field == "" {
			return 0, addr, errors.New("network is missing: want a /48 such as fdaa:0:18::/48")
		}
		return 0, addr, fmt.Errorf("network and %s are both missing: at least one must say whose it is", field)
	}
	if network != "" {
		if n, err = ParseNetwork(network); err != nil {
			return 0, addr, err
		}
	}
	if address == "" {
		return n, addr, nil
	}
	addr, err = netip.ParseAddr(address)
	if err != nil || addr.Zone() != "" {
		return 0, netip.Addr{}, fmt.Errorf("%s %q is not an IPv6 address", field, address)
	}
	in, ok := NetworkOf(addr)
	if !ok {
		return 0, netip.Addr{}, fmt.Errorf("%s %s lies outside %s, where private networks are", field, addr, ula)
	}
	if network != "" && in != n {
		return 0, netip.Addr{}, fmt.Errorf("%s %s lies in %s, not in its network %s", field, addr, in, n)
	}
	return in, addr, nil
}

// label checks that a name can be one label of an owner name (RFC 1035,
// section 2.3.4), and holds no byte that would break the lists it is part of.
func label(field, s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%s is missing", field)
	case len(s) > 63:
		return fmt.Errorf("%s %q… has %d bytes: a DNS label holds at most 63", field, s[:63], len(s))
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '.' || c == ',' || c == ';' || c == '=' {
			return fmt.Errorf("%s %q has the character %q at byte %d: use letters, digits, '-' and '_'", field, s, c, i+1)
		}
	}
	return nil
}

func optionalLabel(field, s string) error {
	if s == "" {
		return nil
	}
	return label(field, s)
}

// oneLine joins the lines of a joined error with "; ", for logs and tables.
func oneLine(err error) error {
	return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
}

// Scope is what an object's surroundings say about it: the app that a file
// lists it under, the parts of an etcd key. An empty field says nothing. An
// object that contradicts its scope is rejected.
type Scope struct{ App, Network, ID string }

// settle returns what value and scope agree on, and an error when they differ.
func settle(field, value, scope string) (string, error) {
	switch {
	case value == "":
		return scope, nil
	case scope == "" || Lower(value) == Lower(scope):
		return value, nil
	}
	return "", fmt.Errorf("%s %q does not agree with where it stands (%q)", field, value, scope)
}

// settleNetwork is settle for networks, which may be written in two ways.
func settleNetwork(value, scope string) (string, error) {
	if value == "" || scope == "" {
		return value + scope, nil
	}
	a, err := ParseNetwork(value)
	if err != nil {
		return "", err
	}
	b, err := ParseNetwork(scope)
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
func DecodeMachine(data []byte, scope Scope) (*Machine, error) {
	var j machineJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, jsonError(err)
	}
	app, errApp := settle("app", j.App, scope.App)
	id, errID := settle("id", j.ID, scope.ID)
	network, errNet := settleNetwork(j.Network, scope.Network)
	if err := errors.Join(errApp, errID, errNet); err != nil {
		return nil, oneLine(err)
	}
	spec := MachineSpec{ID: id, App: app, State: j.State, Region: j.Region, Network: network, PrivateIP: j.PrivateIP}
	if config := cmpConfig(j.Config, j.IncompleteConfig); config != nil {
		spec.Metadata = config.Metadata
		spec.SkipRegistration = config.DNS != nil && config.DNS.SkipRegistration
	}
	return NewMachine(spec)
}

// cmpConfig returns config, or incomplete, which the API sends in its place for
// a machine whose configuration it could not load whole.
func cmpConfig(config, incomplete *machineConfig) *machineConfig {
	if config != nil {
		return config
	}
	return incomplete
}

type appJSON struct {
	Name    string `json:"name"`
	Network string `json:"network"`
}

// DecodeApp reads an app from {"name": …, "network": …}.
func DecodeApp(data []byte, scope Scope) (*App, error) {
	var j appJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, jsonError(err)
	}
	name, errName := settle("name", j.Name, scope.App)
	network, errNet := settleNetwork(j.Network, scope.Network)
	if err := errors.Join(errName, errNet); err != nil {
		return nil, oneLine(err)
	}
	return NewApp(AppSpec{Name: name, Network: network})
}

type peerJSON struct {
	Name      string `json:"name"`
	Network   string `json:"network,omitempty"`
	PrivateIP string `json:"private_ip"`
	Region    string `json:"region,omitempty"`
}

// DecodePeer reads a peer from its JSON. Its name is checked against scope.ID.
func DecodePeer(data []byte, scope Scope) (*Peer, error) {
	var j peerJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, jsonError(err)
	}
	name, errName := settle("name", j.Name, scope.ID)
	network, errNet := settleNetwork(j.Network, scope.Network)
	if err := errors.Join(errName, errNet); err != nil {
		return nil, oneLine(err)
	}
	return NewPeer(PeerSpec{Name: name, Network: network, PrivateIP: j.PrivateIP, Region: j.Region})
}

type addressJSON struct {
	App     string `json:"app"`
	Network string `json:"network,omitempty"`
	Address string `json:"address"`
}

// DecodeAddress reads a flycast address from its JSON. The address is checked
// against scope.ID.
func DecodeAddress(data []byte, scope Scope) (*Address, error) {
	var j addressJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, jsonError(err)
	}
	app, errApp := settle("app", j.App, scope.App)
	address, errAddr := j.Address, error(nil)
	if scope.ID != "" {
		a, _ := netip.ParseAddr(j.Address)
		b, err := netip.ParseAddr(scope.ID)
		if err != nil || j.Address != "" && a != b {
			errAddr = fmt.Errorf("address %q does not agree with where it stands (%q)", j.Address, scope.ID)
		}
		address = scope.ID
	}
	network, errNet := settleNetwork(j.Network, scope.Network)
	if err := errors.Join(errApp, errAddr, errNet); err != nil {
		return nil, oneLine(err)
	}
	return NewAddress(AddressSpec{App: app, Network: network, Address: address})
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
