package registry

import (
	"fmt"
	"net/netip"
	"strings"
	"unique"
)

// Network is a private network: the 32 bits that follow fdaa in its /48.
type Network uint32

// ula is the 16-bit prefix under which all private networks lie.
var ula = netip.MustParsePrefix("fdaa::/16")

// NetworkOf returns the network that addr lies in, and false for an address
// outside fdaa::/16.
func NetworkOf(addr netip.Addr) (Network, bool) {
	b := addr.As16() // of an IPv4 address ::ffff:0:0/96
	if b[0] != 0xfd || b[1] != 0xaa {
		return 0, false
	}
	return Network(b[2])<<24 | Network(b[3])<<16 | Network(b[4])<<8 | Network(b[5]), true
}

// ParseNetwork reads a network as a /48 ("fdaa:0:18::/48") or as that /48's
// address ("fdaa:0:18::").
func ParseNetwork(s string) (Network, error) {
	text, bits := s, 48
	if i := strings.IndexByte(s, '/'); i >= 0 {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return 0, fmt.Errorf("network %q is not a prefix: want a /48 inside %s, such as fdaa:0:18::/48", s, ula)
		}
		text, bits = s[:i], p.Bits()
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return 0, fmt.Errorf("network %q is not an IPv6 prefix: want a /48 inside %s, such as fdaa:0:18::/48", s, ula)
	}
	n, ok := NetworkOf(addr)
	if !ok || bits != 48 {
		return 0, fmt.Errorf("network %q is not a /48 inside %s: want one such as fdaa:0:18::/48", s, ula)
	}
	if n.Prefix().Addr() != addr {
		return 0, fmt.Errorf("network %q has bits set after its first 48: want %s", s, n)
	}
	return n, nil
}

// Prefix returns the network as its /48.
func (n Network) Prefix() netip.Prefix {
	b := [16]byte{0xfd, 0xaa, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	return netip.PrefixFrom(netip.AddrFrom16(b), 48)
}

// String returns the network as its /48: "fdaa:0:18::/48".
func (n Network) String() string { return n.Prefix().String() }

// Kind says which of the four kinds of objects a key names.
type Kind uint8

// The kinds, in the order in which an export lists them.
const (
	KindApp Kind = iota
	KindMachine
	KindPeer
	KindAddress
)

var kindNames = [...]string{"app", "machine", "peer", "address"}

// String returns the kind's name in the singular.
func (k Kind) String() string { return kindNames[k] }

// Kinds lists every kind.
func Kinds() []Kind { return []Kind{KindApp, KindMachine, KindPeer, KindAddress} }

// Key is an object's identity. Names are held in lower case, as DNS compares
// them. It is comparable.
type Key struct {
	Kind    Kind
	Network Network
	Name    string // app of an app, machine or address; name of a peer
	ID      string // machine id, or the address in its canonical form (of a rejected peer too); otherwise empty

	// AnyNetwork says that the network could not be read. Such a key serves
	// only to protect what is known under the name: see Item.
	AnyNetwork bool
}

// String returns the key for logs: "machine my-app/148e21dad76789 in fdaa:0:18::/48".
func (k Key) String() string {
	if k.Name == "" && k.ID == "" {
		return k.Kind.String() + " without a name"
	}
	s := k.Kind.String() + " " + k.Name
	if k.Name != "" && k.ID != "" {
		s += "/"
	}
	s += k.ID
	if !k.AnyNetwork {
		s += " in " + k.Network.String()
	}
	return s
}

// Object is a *Machine, *App, *Peer or *Address. Objects are immutable once
// they are handed to a feed or a registry.
type Object interface {
	Key() Key
	equal(Object) bool
}

// Equal reports whether two objects are the same. Metadata beyond the bound is not
// compared.
func Equal(a, b Object) bool { return a.equal(b) }

// Machine is one VM of an app.
type Machine struct {
	ID       string
	App      string
	Network  Network
	State    string // one of the Machines API's states, or one that dnsd does not know
	Region   string
	Addr     netip.Addr // zero when the machine has none yet
	Metadata []Pair     // sorted by key without regard to case; no key twice
	Skip     bool       // config.dns.skip_registration: the machine is in no answer

	omitted int32 // metadata pairs that the source has beyond what a machine may have; not compared
}

// Key implements Object.
func (m *Machine) Key() Key {
	return Key{Kind: KindMachine, Network: m.Network, Name: Lower(m.App), ID: Lower(m.ID)}
}

// Started reports whether the machine may be in an answer that clients connect
// to: its state is exactly "started" and it has an address.
func (m *Machine) Started() bool { return m.State == "started" && m.Addr.IsValid() }

// Deployed reports whether the machine still counts as part of its app: every
// state but the four of a machine that is gone or on its way out. A state that
// dnsd does not know counts as deployed.
func (m *Machine) Deployed() bool {
	switch m.State {
	case "destroying", "destroyed", "replaced", "migrated":
		return false
	}
	return true
}

func (m *Machine) equal(o Object) bool {
	n, ok := o.(*Machine)
	if !ok || m.ID != n.ID || m.App != n.App || m.Network != n.Network || m.State != n.State ||
		m.Region != n.Region || m.Addr != n.Addr || m.Skip != n.Skip || len(m.Metadata) != len(n.Metadata) {
		return false
	}
	for i, p := range m.Metadata {
		if p != n.Metadata[i] {
			return false
		}
	}
	return true
}

// App is an app registered by itself, with or without machines.
type App struct {
	Name    string
	Network Network
}

// Key implements Object.
func (a *App) Key() Key { return Key{Kind: KindApp, Network: a.Network, Name: Lower(a.Name)} }

func (a *App) equal(o Object) bool { b, ok := o.(*App); return ok && *a == *b }

// Peer is a WireGuard peer of a network.
type Peer struct {
	Name    string
	Network Network
	Addr    netip.Addr
	Region  string
}

// Key implements Object.
func (p *Peer) Key() Key { return Key{Kind: KindPeer, Network: p.Network, Name: Lower(p.Name)} }

// Interactive reports whether the peer is a person's temporary session, which is
// not in DNS at all.
func (p *Peer) Interactive() bool { return strings.HasPrefix(Lower(p.Name), "interactive-") }

func (p *Peer) equal(o Object) bool { q, ok := o.(*Peer); return ok && *p == *q }

// Address is a private proxy ("flycast") address of an app, allocated for the
// clients of one network, which need not be the app's own.
type Address struct {
	App     string
	Network Network
	Addr    netip.Addr
}

// Key implements Object.
func (a *Address) Key() Key {
	return Key{Kind: KindAddress, Network: a.Network, Name: Lower(a.App), ID: a.Addr.String()}
}

func (a *Address) equal(o Object) bool { b, ok := o.(*Address); return ok && *a == *b }

// Lower returns s with A to Z in lower case and every other byte as it is,
// which is how DNS compares names (RFC 4343, section 3). It returns s itself
// where nothing changes.
func Lower(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if c := b[i]; 'A' <= c && c <= 'Z' {
					b[i] = c + ('a' - 'A')
				}
			}
			return string(b)
		}
	}
	return s
}

// intern returns a copy of s shared by all equal strings: regions, states and
// app names recur in every machine.
func intern(s string) string { return unique.Make(s).Value() }
