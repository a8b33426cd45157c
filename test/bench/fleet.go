package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"dnsd/registry"
)

// fleet is what the servers know: the same for all of them.
type fleet struct{ apps []*app }

// app is one app and its machines, all of which are started.
type app struct {
	name     string
	network  registry.Network
	machines []instance
}

// instance is one machine.
type instance struct {
	id, region string
	addr       netip.Addr
}

// fleetRegions are where machines run, in turns.
var fleetRegions = []string{"iad", "ams", "sin", "fra", "syd", "gru"}

// home is the network of the small fleets and of clients on loopback.
const home registry.Network = 0x18

// newFleet returns apps of equal size, appsPerNetwork of them in each network
// from home on. Regions repeat within an app, so that a region has one machine
// of it or several.
func newFleet(apps, machines, appsPerNetwork int) *fleet {
	f := &fleet{}
	for i := range apps {
		a := &app{name: fmt.Sprintf("app-%05d", i), network: home + registry.Network(i/appsPerNetwork)}
		for j := range machines {
			n := uint64(i*machines + j)
			a.machines = append(a.machines, instance{
				id: fmt.Sprintf("%014x", 0x148e21dad76789+n*7919), region: fleetRegions[(i+j%4)%len(fleetRegions)],
				addr: machineAddr(a.network, n, 2),
			})
		}
		f.apps = append(f.apps, a)
	}
	return f
}

// machineAddr returns an address in the /112 of the n-th machine.
func machineAddr(network registry.Network, n uint64, last byte) netip.Addr {
	b := network.Prefix().Addr().As16()
	b[6], b[7], b[8], b[9] = 0x0a, 0x7b, 0, 0x7d
	b[10], b[11], b[12], b[13] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	b[15] = last
	return netip.AddrFrom16(b)
}

// clientAddr returns an address of a network that belongs to no machine.
func clientAddr(network registry.Network) netip.Addr {
	b := network.Prefix().Addr().As16()
	b[6], b[15] = 0xff, 9
	return netip.AddrFrom16(b)
}

func (f *fleet) machines() (n int) {
	for _, a := range f.apps {
		n += len(a.machines)
	}
	return n
}

// The Machines API's JSON, as far as the fleets use it.
type (
	registryJSON struct {
		Name     string        `json:"name"`
		Network  string        `json:"network"`
		Machines []machineJSON `json:"machines"`
	}
	machineJSON struct {
		ID        string     `json:"id"`
		App       string     `json:"app,omitempty"`
		State     string     `json:"state"`
		Region    string     `json:"region"`
		PrivateIP string     `json:"private_ip"`
		Config    configJSON `json:"config"`
	}
	configJSON struct {
		Metadata map[string]string `json:"metadata"`
	}
)

// fleetMetadata is every machine's: the least that a deployed one has.
var fleetMetadata = map[string]string{"fly_process_group": "web", "role": "primary"}

func (m instance) json(app string) machineJSON {
	return machineJSON{ID: m.id, App: app, State: "started", Region: m.region, PrivateIP: m.addr.String(), Config: configJSON{fleetMetadata}}
}

// keyValue returns the machine as etcd holds it below the prefix.
func (a *app) keyValue(m instance) (key, value string) {
	text, err := json.Marshal(m.json(a.name))
	if err != nil {
		panic(err) // strings only
	}
	return "machines/" + a.network.Prefix().Addr().String() + "/" + a.name + "/" + m.id, string(text)
}

// writeRegistry writes the fleet as dnsd's registry file.
func (f *fleet) writeRegistry(file string) error {
	return writeFile(file, func(w io.Writer) error {
		fmt.Fprint(w, "{\"apps\": [\n")
		for i, a := range f.apps {
			j := registryJSON{Name: a.name, Network: a.network.String()}
			for _, m := range a.machines {
				j.Machines = append(j.Machines, m.json(""))
			}
			text, err := json.Marshal(j)
			if err != nil {
				return err
			}
			if i > 0 {
				fmt.Fprint(w, ",\n")
			}
			if _, err := w.Write(text); err != nil {
				return err
			}
		}
		_, err := fmt.Fprint(w, "\n]}\n")
		return err
	})
}

// writeZone writes the RRsets of the fleet that questions ask for as a zone
// file, with the values and the TTL that dnsd gives them.
func (f *fleet) writeZone(file string) error {
	return writeFile(file, func(w io.Writer) error {
		fmt.Fprint(w, "$ORIGIN internal.\n$TTL 5\n@ SOA internal. hostmaster.internal. 1 3600 600 86400 5\n@ NS internal.\n@ AAAA fdaa::3\n")
		for _, a := range f.apps {
			for _, m := range a.machines {
				fmt.Fprintf(w, "%[1]s AAAA %[2]s\n%[3]s.%[1]s AAAA %[2]s\n%[4]s.vm.%[1]s AAAA %[2]s\n", a.name, m.addr, m.region, m.id)
			}
			fmt.Fprintf(w, "vms.%s TXT", a.name)
			for _, s := range split(a.vms()) {
				fmt.Fprintf(w, " %q", s)
			}
			fmt.Fprintln(w)
		}
		return nil
	})
}

// vms returns the list of the app's machines, sorted by id.
func (a *app) vms() string {
	var entries []string
	for _, m := range a.machines {
		entries = append(entries, m.id+" "+m.region)
	}
	slices.Sort(entries)
	return strings.Join(entries, ",")
}

// split cuts a list into character-strings, each but the last after a comma.
func split(list string) []string {
	const most = 255 // bytes of a character-string (RFC 1035, section 3.3)
	var out []string
	for len(list) > most {
		cut := strings.LastIndexByte(list[:most], ',') + 1
		out = append(out, list[:cut])
		list = list[cut:]
	}
	return append(out, list)
}

// writeFile writes a file through a buffer.
func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err := write(w); err != nil {
		f.Close()
		return err
	}
	if err := w.Flush(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
