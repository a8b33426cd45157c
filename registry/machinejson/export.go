package machinejson

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"io"

	"dnsd/registry"
)

// Export writes what the registry holds as a registry file, from which
// Parse makes the same objects. The order depends on nothing but the
// objects, and a machine, a peer or an address is one line, so that two exports
// can be compared and an error's line number names one object.
func Export(w io.Writer, v *registry.Snapshot) error {
	e := &exporter{w: bufio.NewWriterSize(w, 64<<10)}
	e.encoder = json.NewEncoder(&e.line)
	e.encoder.SetEscapeHTML(false) // the file is read by people, not by browsers
	var loose []*registry.Machine  // of apps that are not registered
	v.EachFleet(func(f *registry.Fleet) bool {
		if f.Registered() {
			e.app(f, v)
		} else {
			loose = append(loose, f.Machines()...)
		}
		return e.err == nil
	})
	for _, m := range loose {
		e.element("machines", jsonOf(m))
	}
	v.Each(registry.KindPeer, func(o registry.Object) bool {
		p := o.(*registry.Peer)
		e.element("peers", peerJSON{Name: p.Name, Network: p.Network.String(), PrivateIP: p.Addr.String(), Region: p.Region})
		return e.err == nil
	})
	v.Each(registry.KindAddress, func(o registry.Object) bool {
		a := o.(*registry.Address)
		if f, _ := v.Fleet(a.Network, registry.Lower(a.App)); f == nil || !belongs(a, f) {
			e.element("addresses", addressJSON{App: a.App, Network: a.Network.String(), Address: a.Addr.String()})
		}
		return e.err == nil
	})
	if e.list == "" {
		e.print("{\n\"apps\": [")
	}
	e.print("\n]\n}\n")
	return cmp.Or(e.err, e.w.Flush())
}

// exporter writes lists of objects, one after the other.
type exporter struct {
	w       *bufio.Writer
	err     error // the first; nothing is written after it
	line    bytes.Buffer
	encoder *json.Encoder // into line
	list    string        // the list that is open
}

func (e *exporter) print(s string) {
	if e.err == nil {
		_, e.err = e.w.WriteString(s)
	}
}

// json returns value on one line.
func (e *exporter) json(value any) string {
	e.line.Reset()
	e.err = cmp.Or(e.err, e.encoder.Encode(value))
	return string(bytes.TrimSuffix(e.line.Bytes(), []byte("\n")))
}

// open begins the next element of a list, and the list where it is another.
func (e *exporter) open(list string) {
	switch e.list {
	case list:
		e.print(",\n  ")
	case "":
		e.print("{\n\"" + list + "\": [\n  ")
	default:
		e.print("\n],\n\"" + list + "\": [\n  ")
	}
	e.list = list
}

func (e *exporter) element(list string, value any) {
	e.open(list)
	e.print(e.json(value))
}

// belongs reports whether an address is written with the app f of its name and
// network. One that spells the app otherwise keeps its own spelling.
func belongs(a *registry.Address, f *registry.Fleet) bool {
	return f.Registered() && f.Name() == a.App
}

// app writes an app. Its machines and addresses take their app and network from it.
func (e *exporter) app(f *registry.Fleet, v *registry.Snapshot) {
	e.open("apps")
	e.print(`{"name":` + e.json(f.Name()) + `,"network":"` + f.Network().String() + `"`)
	var flycast []string
	addresses, _ := v.Addresses(f.Network(), registry.Lower(f.Name()))
	for a := range addresses.All {
		if belongs(a, f) {
			flycast = append(flycast, a.Addr.String())
		}
	}
	if len(flycast) > 0 {
		e.print(`,"flycast":` + e.json(flycast))
	}
	for i, m := range f.Machines() {
		if i == 0 {
			e.print(`,"machines":[`)
		} else {
			e.print(",")
		}
		j := jsonOf(m)
		if m.App == f.Name() {
			j.App = ""
		}
		j.Network = ""
		e.print("\n    " + e.json(j))
	}
	if len(f.Machines()) > 0 {
		e.print("]")
	}
	e.print("}")
}

// jsonOf returns a machine in the Machines API's form.
func jsonOf(m *registry.Machine) machineJSON {
	j := machineJSON{ID: m.ID, App: m.App, Network: m.Network.String(), State: m.State, Region: m.Region}
	if m.Addr.IsValid() {
		j.PrivateIP = m.Addr.String()
	}
	if len(m.Metadata) == 0 && !m.Skip {
		return j
	}
	j.Config = &machineConfig{Metadata: make(map[string]string, len(m.Metadata))}
	if m.Skip {
		j.Config.DNS = &machineDNS{SkipRegistration: true}
	}
	for _, p := range m.Metadata {
		j.Config.Metadata[p.Key] = p.Value
	}
	return j
}
