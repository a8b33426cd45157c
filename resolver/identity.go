package resolver

import (
	"fmt"

	"github.com/miekg/dns"

	"dnsd/resolver/internal/wire"
)

// Identity is what dnsd says of itself to allowed clients that ask: CHAOS TXT
// and NSID (RFC 4892, RFC 5001). What is empty is not said.
type Identity struct {
	Version  string // version.bind and version.server; at most 255 bytes
	Hostname string // hostname.bind, id.server and NSID; at most 255 bytes
	Off      bool   // say nothing: CHAOS is REFUSED and NSID left out
}

// maxString is the longest character-string (RFC 1035, section 3.3).
const maxString = 255

// identify prepares the answers of class CHAOS and the NSID.
func (r *Resolver) identify(id Identity) error {
	r.chaos = make(map[string]*Answer)
	if id.Off {
		return nil
	}
	for _, c := range []struct{ name, text string }{
		{"version.bind.", id.Version},
		{"version.server.", id.Version},
		{"hostname.bind.", id.Hostname},
		{"id.server.", id.Hostname},
	} {
		if len(c.text) > maxString {
			return fmt.Errorf("%s is %d bytes long: want at most %d", c.name, len(c.text), maxString)
		}
		if c.text == "" {
			continue
		}
		key, err := wire.PackName(c.name)
		if err != nil {
			return fmt.Errorf("packing %s: %w", c.name, err)
		}
		text := append([]byte{byte(len(c.text))}, c.text...)
		r.chaos[string(key)] = &Answer{Type: dns.TypeTXT, Data: [][]byte{text}}
	}
	r.nsid = id.Hostname
	return nil
}
