package followtest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"

	"dnsd/registry"
)

// four returns an object of each kind, as it is in a version; no other n has one of
// them. An app and an address are the same in all versions.
func four(n, version int) []registry.Object {
	const network registry.Network = 0x18
	addr := func(kind byte) netip.Addr { // fdaa:0:18:<kind>::<n>
		return netip.AddrFrom16([16]byte{0: 0xfd, 0xaa, 5: byte(network), 7: kind, 14: byte(n >> 8), 15: byte(n)})
	}
	app, v := fmt.Sprintf("app-%d", n), strconv.Itoa(version)
	return []registry.Object{
		&registry.App{Name: app, Network: network},
		&registry.Machine{ID: fmt.Sprintf("m%d", n), App: app, Network: network, State: "started", Region: "iad", Addr: addr(1),
			Metadata: []registry.Pair{{Key: "role", Value: "primary"}, {Key: "version", Value: v}}},
		&registry.Peer{Name: fmt.Sprintf("peer-%d", n), Network: network, Addr: addr(2), Region: "v" + v},
		&registry.Address{App: app, Network: network, Addr: addr(3)},
	}
}

// spoilt returns a machine and a peer under the keys of those in objects that
// nobody can use: one has no state and the other no address.
func spoilt(objects []registry.Object) []registry.Object {
	m, p := *objects[1].(*registry.Machine), *objects[2].(*registry.Peer)
	m.State, p.Addr = "", netip.Addr{}
	return []registry.Object{&m, &p}
}

// Fields returns an object's fields under the names that the registry file has for
// them; most are those of columns of an agent's tables, too.
func Fields(o registry.Object) map[string]any {
	addr := func(a netip.Addr) string {
		if !a.IsValid() {
			return ""
		}
		return a.String()
	}
	switch o := o.(type) {
	case *registry.App:
		return map[string]any{"name": o.Name, "network": o.Network.String()}
	case *registry.Machine:
		metadata := map[string]string{}
		for _, p := range o.Metadata {
			metadata[p.Key] = p.Value
		}
		return map[string]any{"id": o.ID, "app": o.App, "network": o.Network.String(), "state": o.State, "region": o.Region,
			"private_ip": addr(o.Addr), "config": map[string]any{"metadata": metadata}}
	case *registry.Peer:
		return map[string]any{"name": o.Name, "network": o.Network.String(), "private_ip": addr(o.Addr), "region": o.Region}
	case *registry.Address:
		return map[string]any{"app": o.App, "network": o.Network.String(), "address": addr(o.Addr)}
	}
	panic(fmt.Sprintf("%T is no object", o))
}

// JSON returns an object as a writer of the registry writes it.
func JSON(o registry.Object) string {
	text, err := json.Marshal(Fields(o))
	if err != nil {
		panic(err)
	}
	return string(text)
}

// Lists are what the lists of a registry file are called, by kind.
var Lists = [...]string{"apps", "machines", "peers", "addresses"}
