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

// parseKey reads name, a key without the prefix. Only the canonical spelling is
// taken: with two keys for one object, deleting either would delete it.
func parseKey(name string) (p parsed, err error) {
	dir, rest, _ := strings.Cut(name, "/")
	network, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return p, errKey
	}
	id, two := rest, false // what follows the network: one part, or two
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
		p.key.Name, id, two = strings.Cut(rest, "/")
		if !two {
			return p, errKey
		}
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

// canonical says which part of a key is not written in the one accepted way.
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
	where := string(key)
	p, err := s.parse(key)
	if err != nil {
		return registry.Reject(registry.Key{AnyNetwork: true}, where, err)
	}
	var o registry.Object
	err = contain.Run(func() (err error) {
		o, err = p.decode(value)
		return err
	})
	if err != nil {
		return registry.Reject(p.key, where, err)
	}
	item := registry.Put(o)
	if item.Note != nil {
		item.Where = where
	}
	return item
}

// parse reads a key.
func (s *Source) parse(key []byte) (p parsed, err error) {
	err = contain.Run(func() (err error) {
		p, err = parseKey(string(key[len(s.cfg.Prefix):]))
		return err
	})
	return p, err
}

// decode reads the value of a key.
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
func (s *Source) remove(key []byte) (registry.Item, bool) {
	p, err := s.parse(key)
	if err != nil {
		return registry.Item{}, false
	}
	return registry.Delete(p.key), true
}
