package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// A spec is an object as text, before it is validated. The New functions turn specs
// into objects or say what is wrong with them. Every source uses them, so that one
// set of rules holds everywhere.

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
// the bounds are left out, which Put notes.
func NewMachine(s MachineSpec) (*Machine, error) {
	network, addr, err := place(s.Network, "private_ip", s.PrivateIP)
	errs := []error{CheckLabel("id", s.ID), CheckLabel("app", s.App), optionalLabel("region", s.Region), err, checkState(s.State)}
	m := &Machine{
		ID: strings.Clone(s.ID), App: intern(s.App), Network: network, State: intern(s.State),
		Region: intern(s.Region), Addr: addr, Skip: s.SkipRegistration,
	}
	m.Metadata, m.omitted = newMetadata(s.Metadata)
	if err := errors.Join(errs...); err != nil {
		return nil, OneLine(err)
	}
	return m, nil
}

// NewApp validates an app.
func NewApp(s AppSpec) (*App, error) {
	network, _, err := place(s.Network, "", "")
	if err := errors.Join(CheckLabel("name", s.Name), err); err != nil {
		return nil, OneLine(err)
	}
	return &App{Name: intern(s.Name), Network: network}, nil
}

// NewPeer validates a peer.
func NewPeer(s PeerSpec) (*Peer, error) {
	network, addr, err := place(s.Network, "private_ip", s.PrivateIP)
	if err == nil && !addr.IsValid() {
		err = errors.New("private_ip is missing")
	}
	if err := errors.Join(CheckLabel("name", s.Name), optionalLabel("region", s.Region), err); err != nil {
		return nil, OneLine(err)
	}
	return &Peer{Name: strings.Clone(s.Name), Network: network, Addr: addr, Region: intern(s.Region)}, nil
}

// NewAddress validates a flycast address.
func NewAddress(s AddressSpec) (*Address, error) {
	network, addr, err := place(s.Network, "address", s.Address)
	if err == nil && !addr.IsValid() {
		err = errors.New("address is missing")
	}
	if err := errors.Join(CheckLabel("app", s.App), err); err != nil {
		return nil, OneLine(err)
	}
	return &Address{App: intern(s.App), Network: network, Addr: addr}, nil
}

// place reads a network and an address that must lie in it: the network is a
// tenant's boundary.
func place(network, field, address string) (n Network, addr netip.Addr, err error) {
	if network == "" && address == "" {
		if field == "" {
			return 0, addr, errors.New("network is missing: want a /48 such as fdaa:0:18::/48")
		}
		return 0, addr, fmt.Errorf("network and %s are both missing: one of them must name the network", field)
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

// CheckLabel checks that a name can be one label of an owner name (RFC 1035,
// section 2.3.4), and holds no byte that would break the lists it is part of.
func CheckLabel(field, s string) error {
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

// maxState is the most bytes of a machine's state: as many as a label has, and several
// times what the longest of the Machines API has.
const maxState = 63

func checkState(s string) error {
	switch {
	case s == "":
		return errors.New(`state is missing: want "started", "stopped" or another of the Machines API's states`)
	case len(s) > maxState:
		return fmt.Errorf("state %q… has %d bytes: want at most %d", s[:maxState], len(s), maxState)
	}
	return nil
}

func optionalLabel(field, s string) error {
	if s == "" {
		return nil
	}
	return CheckLabel(field, s)
}

// OneLine joins the lines of a joined error with "; ", for logs and tables.
func OneLine(err error) error {
	return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
}
