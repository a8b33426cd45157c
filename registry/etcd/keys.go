package etcd

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"dnsd/registry"
	"dnsd/registry/contain"
	"dnsd/registry/machinejson"
)

// errKey is why a key under the prefix names no object.
var errKey = errors.New("not a key of dnsd: want machines/<network>/<app>/<id>, apps/<network>/<name>, peers/<network>/<name> or addresses/<network>/<app>/<address> after the prefix")

// parsed is an etcd key taken apart.
type parsed struct {
	key   registry.Key
	scope machinejson.Scope
}

// parseKey parses name, a key without the prefix. Only the canonical spelling is
// accepted: if an object had two keys, deleting either would delete it.
func parseKey(name string) (p parsed, err error) {
	dir, rest, _ := strings.Cut(name, "/")
	network, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return p, errKey
	}
	id := rest // the last part
	switch dir {
	case "apps":
		p.key.Kind, p.key.Name, p.scope.App = registry.KindApp, rest, rest
	case "peers":
		p.key.Kind, p.key.Name, p.scope.ID = registry.KindPeer, rest, rest
	case "machines", "addresses":
		p.key.Kind = registry.KindMachine
		if dir == "addresses" {
			p.key.Kind = registry.KindAddress
		}
		p.key.Name, id, _ = strings.Cut(rest, "/")
		p.key.ID, p.scope.App, p.scope.ID = id, p.key.Name, id
	default:
		return p, errKey
	}
	if p.key.Name == "" || id == "" || strings.Contains(id, "/") {
		return p, errKey
	}
	if p.key.Network, err = registry.ParseNetwork(network); err != nil {
		return p, err
	}
	p.scope.Network = network
	return p, canonical(p, network)
}

// canonical returns an error that names the part of a key that is not in its
// canonical form.
func canonical(p parsed, network string) error {
	if want := p.key.Network.Prefix().Addr().String(); network != want {
		return fmt.Errorf("network %q in the key: want it as %q", network, want)
	}
	for _, part := range []string{p.key.Name, p.key.ID} {
		if want := registry.Lower(part); part != want {
			return fmt.Errorf("%q in the key: want it in lower case, %q", part, want)
		}
	}
	if p.key.Kind == registry.KindAddress {
		addr, err := netip.ParseAddr(p.key.ID)
		if err != nil {
			return fmt.Errorf("%q in the key is no IPv6 address", p.key.ID)
		}
		if want := addr.String(); p.key.ID != want {
			return fmt.Errorf("address %q in the key: want it as %q", p.key.ID, want)
		}
	}
	return nil
}

// put turns a key and its value into the item that inserts the object, or
// rejects it. A malformed key keeps no older version alive.
func (s *Source) put(key, value []byte) registry.Item {
	var o registry.Object
	reject := registry.Key{AnyNetwork: true}
	err := contain.Run(func() error {
		p, err := parseKey(string(key[len(s.cfg.Prefix):]))
		if err != nil {
			return err
		}
		reject = p.key
		o, err = p.decode(value)
		return err
	})
	if err != nil {
		return registry.Reject(reject, string(key), err)
	}
	item := registry.Put(o)
	if item.Note != nil {
		item.Where = string(key)
	}
	return item
}

// decode decodes the value of a key.
func (p parsed) decode(value []byte) (registry.Object, error) {
	switch p.key.Kind {
	case registry.KindMachine:
		return machinejson.DecodeMachine(value, p.scope)
	case registry.KindApp:
		return machinejson.DecodeApp(value, p.scope)
	case registry.KindPeer:
		return machinejson.DecodePeer(value, p.scope)
	}
	return machinejson.DecodeAddress(value, p.scope)
}

// remove returns the item for a deleted key, and false for a key that never
// named an object.
func (s *Source) remove(key []byte) (item registry.Item, ok bool) {
	err := contain.Run(func() error {
		p, err := parseKey(string(key[len(s.cfg.Prefix):]))
		item = registry.Delete(p.key)
		return err
	})
	return item, err == nil
}
