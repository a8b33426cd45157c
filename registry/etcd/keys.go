package etcd

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"dnsd/registry"
	"dnsd/registry/contain"
	"dnsd/registry/machinejson"
)

// errKey is why a key under the prefix names no object.
var errKey = errors.New("not a key of dnsd: want machines/<network>/<app>/<id>, apps/<network>/<name>, peers/<network>/<name> or addresses/<network>/<app>/<address> after the prefix")

// parseKey parses name, a key without the prefix. Only the canonical spelling is
// accepted: if an object had two keys, deleting either would delete it.
func parseKey(name string) (key registry.Key, err error) {
	parts := strings.Split(name, "/")
	n := 3
	switch parts[0] {
	case "machines":
		key.Kind, n = registry.KindMachine, 4
	case "apps":
		key.Kind = registry.KindApp
	case "peers":
		key.Kind = registry.KindPeer
	case "addresses":
		key.Kind, n = registry.KindAddress, 4
	default:
		return key, errKey
	}
	if len(parts) != n || slices.Contains(parts, "") {
		return key, errKey
	}
	if key.Network, err = registry.ParseNetwork(parts[1]); err != nil {
		return key, err
	}
	parts[1] = key.Network.Prefix().Addr().String()
	for i := 2; i < n; i++ {
		parts[i] = registry.Lower(parts[i])
	}
	if key.Kind == registry.KindAddress {
		addr, err := netip.ParseAddr(parts[3])
		if err != nil {
			return key, fmt.Errorf("%q in the key is no IPv6 address", parts[3])
		}
		parts[3] = addr.String()
	}
	if want := strings.Join(parts, "/"); name != want {
		return key, fmt.Errorf("the key has another spelling: want %q after the prefix", want)
	}
	key.Name, key.ID = parts[2], strings.Join(parts[3:], "")
	return key, nil
}

// put turns a key and its value into the item that inserts the object, or
// rejects it. A malformed key keeps no older version alive.
func (s *Source) put(key, value []byte) registry.Item {
	var o registry.Object
	reject := registry.Key{AnyNetwork: true}
	err := contain.Run(func() error {
		k, err := parseKey(string(key[len(s.cfg.Prefix):]))
		if err != nil {
			return err
		}
		reject = k
		o, err = decode(k, value)
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
func decode(key registry.Key, value []byte) (registry.Object, error) {
	network := key.Network.Prefix().Addr().String()
	switch key.Kind {
	case registry.KindMachine:
		return machinejson.DecodeMachine(value, machinejson.Scope{Network: network, App: key.Name, ID: key.ID})
	case registry.KindApp:
		return machinejson.DecodeApp(value, machinejson.Scope{Network: network, App: key.Name})
	case registry.KindPeer:
		return machinejson.DecodePeer(value, machinejson.Scope{Network: network, ID: key.Name})
	}
	return machinejson.DecodeAddress(value, machinejson.Scope{Network: network, App: key.Name, ID: key.ID})
}

// remove returns the item for a deleted key, and false for a key that never
// named an object.
func (s *Source) remove(key []byte) (item registry.Item, ok bool) {
	err := contain.Run(func() error {
		k, err := parseKey(string(key[len(s.cfg.Prefix):]))
		item = registry.Delete(k)
		return err
	})
	return item, err == nil
}
