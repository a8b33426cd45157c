package test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fleet is a registry file, as far as these tests look into it.
type fleet struct {
	Apps      []*app     `json:"apps"`
	Peers     []*peer    `json:"peers,omitempty"`
	Addresses []*address `json:"addresses,omitempty"`
}

type app struct {
	Name     string     `json:"name"`
	Network  string     `json:"network,omitempty"`
	Flycast  []string   `json:"flycast,omitempty"`
	Machines []*machine `json:"machines,omitempty"`
}

type machine struct {
	ID        string  `json:"id"`
	State     string  `json:"state"`
	Region    string  `json:"region"`
	PrivateIP string  `json:"private_ip"`
	Config    *config `json:"config,omitempty"`
}

type config struct {
	Metadata map[string]string `json:"metadata,omitempty"`
	DNS      struct {
		Skip bool `json:"skip_registration"`
	} `json:"dns"`
}

type peer struct {
	Name      string `json:"name"`
	Network   string `json:"network,omitempty"`
	PrivateIP string `json:"private_ip"`
	Region    string `json:"region,omitempty"`
}

type address struct {
	App     string `json:"app"`
	Network string `json:"network"`
	Address string `json:"address"`
}

// The networks of the fixture: two with the same app names, one of large sets,
// one of long names, and one with nothing in it.
const (
	netA     = "fdaa:0:18::/48"
	netB     = "fdaa:0:99::/48"
	netLarge = "fdaa:0:c0::/48"
	netLong  = "fdaa:0:d0::/48"
	netEmpty = "fdaa:0:e0::/48"
)

const (
	hugeMachines = 3000 // their AAAA need 84,000 bytes: more than any message holds
	manyMachines = 80   // their lists need several character-strings
	hugeApp      = "huge"
	manyApp      = "many"
)

// longLabel is a label of the most bytes that DNS allows.
func longLabel(first string) string { return first + strings.Repeat("x", 63-len(first)) }

// large returns the part of the fixture that is better counted than written.
func large() *fleet {
	var f fleet
	huge := &app{Name: hugeApp, Network: netLarge}
	for i := range hugeMachines {
		huge.Machines = append(huge.Machines, &machine{
			ID: fmt.Sprintf("%014x", 0x48e21dad76000+i), State: "started", Region: "iad",
			PrivateIP: fmt.Sprintf("fdaa:0:c0:a7b:1:1:%x:2", i),
		})
	}
	many := &app{Name: manyApp, Network: netLarge}
	for i := range manyMachines {
		many.Machines = append(many.Machines, &machine{
			ID: fmt.Sprintf("%014x", 0x58e21dad76000+i), State: "started", Region: fmt.Sprintf("r%02d", i),
			PrivateIP: fmt.Sprintf("fdaa:0:c0:a7b:2:1:%x:2", i),
		})
	}
	f.Apps = append(f.Apps, huge, many)
	for i := range 40 {
		f.Apps = append(f.Apps, &app{Name: fmt.Sprintf("filler-app-%02d", i), Network: netLarge})
		f.Peers = append(f.Peers, &peer{
			Name: fmt.Sprintf("filler-peer-%02d", i), PrivateIP: fmt.Sprintf("fdaa:0:c0:a7b:d6b:0:a:%x", i+2),
		})
	}
	long := &app{Name: longLabel("app-"), Network: netLong}
	for i := range 3 {
		long.Machines = append(long.Machines, &machine{
			ID: longLabel(fmt.Sprintf("m%d-", i)), State: "started", Region: longLabel(fmt.Sprintf("r%d-", i)),
			PrivateIP: fmt.Sprintf("fdaa:0:d0:1111:2222:3333:%x:5555", 0x4440+i),
		})
	}
	f.Apps = append(f.Apps, long)
	return &f
}

// fixture writes the whole fixture into a directory of the test's own: the
// fleet in the Machines API's own JSON, byte for byte as it stands in testdata,
// with the large networks added.
func fixture(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile("testdata/fleet.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string][]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	extra, err := json.Marshal(large())
	if err != nil {
		t.Fatal(err)
	}
	var more map[string][]json.RawMessage
	if err := json.Unmarshal(extra, &more); err != nil {
		t.Fatal(err)
	}
	for part, objects := range more {
		all[part] = append(all[part], objects...)
	}
	return writeFile(t, filepath.Join(t.TempDir(), "registry.json"), all)
}

// writeFile writes v as JSON, or as it is when it is a string, and returns path.
func writeFile(t testing.TB, path string, v any) string {
	t.Helper()
	data, ok := v.(string)
	if !ok {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		data = string(b)
	}
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// addressBook maps a machine's id or a peer's name to its address, by network:
// "fdaa:0:18::/48 148e21dad76789".
func addressBook(t testing.TB, path string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var f fleet
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	book := make(map[string]string)
	for _, a := range f.Apps {
		for _, m := range a.Machines {
			if m.PrivateIP != "" {
				book[networkOf(m.PrivateIP)+" "+m.ID] = m.PrivateIP
			}
		}
	}
	for _, p := range f.Peers {
		book[networkOf(p.PrivateIP)+" "+p.Name] = p.PrivateIP
	}
	return book
}

// networkOf returns the /48 that an address lies in.
func networkOf(addr string) string {
	return netip.PrefixFrom(netip.MustParseAddr(addr), 48).Masked().String()
}
