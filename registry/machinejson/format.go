package machinejson

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"dnsd/registry"
	"dnsd/registry/contain"
)

// Parse reads a whole registry file:
//
//	{ "apps":      [ { "name", "network", "flycast": [address], "machines": [machine] } ],
//	  "machines":  [ machine with "app" ],
//	  "peers":     [ { "name", "network", "private_ip", "region" } ],
//	  "addresses": [ { "app", "network", "address" } ] }
//
// A machine is the Machines API's own JSON. Members that dnsd does not know are
// ignored. A list may be left out or null, but one of the four must be there.
//
// The rules, where the format leaves room:
//
//   - An app's network holds for its machines and flycast addresses, which are
//     rejected when they say otherwise. Without one, each of them says itself
//     whose it is, and the app takes the network in which all its machines lie;
//     it is rejected when there are none, or they lie in several.
//   - An app with an unusable name or network takes its machines and flycast
//     addresses with it: whose they are is not known.
//   - Of two objects with one key the first is used and the other rejected.
//   - The machines of the list "machines" belong to apps that are not registered
//     by themselves.
//
// An object that cannot be used is an Item made by Reject whose Where is its
// place ("line 12, column 8") and whose Key says as much as can be read, its
// kind at least; it costs no other object. An object of which a part cannot be
// used is an Item with a Note and its place. The error is for a file that cannot
// be used as a whole, being no JSON or not of this shape; it begins with the
// place as well.
func Parse(data []byte) ([]registry.Item, error) {
	p := newParser(data)
	if err := p.file(); err != nil {
		return nil, err
	}
	return p.items, nil
}

// batch is how many items EachBatch hands over at a time: enough that the call
// is nothing beside the parsing.
const batch = 1000

// EachBatch reads a file as Parse does and hands over what it holds by and
// by, so that it need not fit into memory all at once. That a file cannot be
// used as a whole is found before the first batch. The slice is valid during
// the call. An error of take ends the reading and is returned.
func EachBatch(data []byte, take func([]registry.Item) error) error {
	p := newParser(data)
	p.take = take
	if err := p.file(); err != nil {
		return err
	}
	p.flush()
	return p.err
}

// parser reads one file.
type parser struct {
	*document
	items    []registry.Item
	problems []Problem                   // one for each rejection and note among the items
	first    map[registry.Key]int        // where each object was listed first
	take     func([]registry.Item) error // what EachBatch was given; nil: all items are kept
	err      error                       // of take; nothing more is read
}

// add takes an item that is complete.
func (p *parser) add(item registry.Item) {
	p.items = append(p.items, item)
	if p.take != nil && len(p.items) >= batch {
		p.flush()
	}
}

func (p *parser) flush() {
	if p.err == nil && len(p.items) > 0 {
		p.err = p.take(p.items)
	}
	clear(p.items) // lets go of the objects
	p.items = p.items[:0]
}

func newParser(data []byte) *parser {
	return &parser{document: &document{data: data}, first: map[registry.Key]int{}}
}

func (p *parser) file() error {
	if err := p.check(); err != nil {
		return err
	}
	const want = `want an object with the lists "apps", "peers" and "addresses"`
	root := p.root()
	if kind := p.kind(root); kind != "object" {
		return p.fail(root.from, "the file holds a JSON %s: %s", kind, want)
	}
	lists := map[string]func(span){
		"apps":      p.app,
		"machines":  func(v span) { p.machine(v, Scope{}) },
		"peers":     p.peer,
		"addresses": p.address,
	}
	found := map[string]span{}
	var order []string // of the file
	for name, value := range p.members(root) {
		if lists[name] == nil {
			continue
		}
		if kind := p.kind(value); kind != "list" && kind != "null" {
			return p.fail(value.from, "%q is a JSON %s: want a list", name, kind)
		}
		if _, twice := found[name]; twice {
			return p.fail(value.from, "%q is here a second time: want one list that holds all", name)
		}
		found[name] = value
		order = append(order, name)
	}
	if len(found) == 0 {
		return p.fail(root.from, `the file has none of the lists of a registry: %s; an empty registry is {"apps": []}`, want)
	}
	for _, name := range order {
		for v := range p.elements(found[name]) {
			if lists[name](v); p.err != nil {
				break
			}
		}
	}
	return nil
}

// put takes a good object, unless its key has been listed before.
func (p *parser) put(o registry.Object, at span) {
	key := o.Key()
	if first, ok := p.first[key]; ok {
		p.reject(key, at, fmt.Errorf("it is listed already at %s: only the first is used", p.place(first)))
		return
	}
	p.first[key] = at.from
	item := registry.Put(o)
	if item.Note != nil {
		item.Where = p.place(at.from)
		p.problem(key, at, item.Note)
	}
	p.add(item)
}

func (p *parser) reject(key registry.Key, at span, err error) {
	p.add(registry.Reject(key, p.place(at.from), err))
	p.problem(key, at, err)
}

func (p *parser) problem(key registry.Key, at span, err error) {
	line, column := p.position(at.from)
	p.problems = append(p.problems, Problem{line, column, rejectedName(key) + ": " + err.Error()})
}

// wrongKind says that a value is not what it stands for.
func (p *parser) wrongKind(what string, v span, want string) error {
	return fmt.Errorf("%s is a JSON %s, want %s", what, p.kind(v), want)
}

// appEntry is one element of "apps".
type appEntry struct {
	at                span
	name, network     string
	flycast, machines []span // lists; a careless writer may repeat the member
}

func (p *parser) app(at span) {
	if p.kind(at) != "object" {
		p.reject(registry.Key{Kind: registry.KindApp}, at, p.wrongKind("the app", at, "an object"))
		return
	}
	e := appEntry{at: at}
	var errName, errNetwork error
	for name, v := range p.members(at) {
		switch name {
		case "name":
			e.name, errName = p.str(name, v)
		case "network":
			e.network, errNetwork = p.str(name, v)
		case "flycast":
			e.flycast = append(e.flycast, v)
		case "machines":
			e.machines = append(e.machines, v)
		}
	}
	if errName == nil {
		errName = registry.CheckLabel("name", e.name)
	}
	if errNetwork == nil && e.network != "" {
		_, errNetwork = registry.ParseNetwork(e.network)
	}
	if err := errors.Join(errName, errNetwork); err != nil {
		p.rejectApp(&e, errNetwork != nil, registry.OneLine(err))
		return
	}
	p.goodApp(&e)
}

// goodApp reads an app whose name is good and whose network is good or absent.
func (p *parser) goodApp(e *appEntry) {
	scope := Scope{App: e.name, Network: e.network}
	networks := map[registry.Network]bool{}
	for v := range p.parts(e.machines, scope, registry.KindMachine) {
		if m := p.machine(v, scope); m != nil {
			networks[m.Network] = true
		}
	}
	if scope.Network == "" && len(networks) == 1 {
		for n := range networks {
			scope.Network = n.String()
		}
	}
	for v := range p.parts(e.flycast, scope, registry.KindAddress) {
		p.flycast(v, scope)
	}
	app, err := registry.NewApp(registry.AppSpec{Name: e.name, Network: scope.Network})
	switch {
	case err == nil:
		p.put(app, e.at)
	case len(networks) > 1:
		p.reject(scope.key(registry.KindApp, ""), e.at, fmt.Errorf("it has no network, and its machines lie in %d of them: say which is its own", len(networks)))
	default:
		p.reject(scope.key(registry.KindApp, ""), e.at, err)
	}
}

// rejectApp rejects an app with all that it holds.
func (p *parser) rejectApp(e *appEntry, anyNetwork bool, err error) {
	scope := Scope{App: e.name, Network: e.network}
	whole := func(key registry.Key) registry.Key {
		if anyNetwork {
			key.Network, key.AnyNetwork = 0, true
		}
		return key
	}
	p.reject(whole(scope.key(registry.KindApp, "")), e.at, err)
	err = fmt.Errorf("its app, which begins at %s, cannot be used: %w", p.place(e.at.from), err)
	for v := range p.parts(e.machines, scope, registry.KindMachine) {
		p.reject(whole(p.machineKey(v, scope)), v, err)
	}
	for v := range p.parts(e.flycast, scope, registry.KindAddress) {
		address, _ := p.str("flycast", v)
		p.reject(whole(scope.key(registry.KindAddress, address)), v, err)
	}
}

// parts yields the elements of an app's lists. One that is no list is rejected
// in their stead.
func (p *parser) parts(lists []span, scope Scope, kind registry.Kind) iter.Seq[span] {
	return func(yield func(span) bool) {
		for _, list := range lists {
			if k := p.kind(list); k != "list" && k != "null" {
				field := map[registry.Kind]string{registry.KindMachine: "machines", registry.KindAddress: "flycast"}[kind]
				p.reject(scope.key(kind, ""), list, p.wrongKind(field, list, "a list"))
			}
			for v := range p.elements(list) {
				if !yield(v) {
					return
				}
			}
		}
	}
}

// machine reads one machine and returns it, nil where it cannot be used.
func (p *parser) machine(at span, scope Scope) *registry.Machine {
	var m *registry.Machine
	err := p.wrongKind("the machine", at, "an object")
	if p.kind(at) == "object" {
		err = contain.Run(func() (err error) {
			m, err = DecodeMachine(p.text(at), scope)
			return err
		})
	}
	if err != nil {
		p.reject(p.machineKey(at, scope), at, err)
		return nil
	}
	p.put(m, at)
	return m
}

func (p *parser) flycast(at span, scope Scope) {
	address, err := p.str("flycast address", at)
	var a *registry.Address
	if err == nil {
		a, err = registry.NewAddress(registry.AddressSpec{App: scope.App, Network: scope.Network, Address: address})
	}
	if err != nil {
		p.reject(scope.key(registry.KindAddress, address), at, err)
		return
	}
	p.put(a, at)
}

func (p *parser) peer(at span) {
	var o *registry.Peer
	err := p.wrongKind("the peer", at, "an object")
	if p.kind(at) == "object" {
		err = contain.Run(func() (err error) {
			o, err = DecodePeer(p.text(at), Scope{})
			return err
		})
	}
	if err != nil {
		f := p.strings(at)
		p.reject(Scope{App: f["name"], Network: f["network"]}.key(registry.KindPeer, f["private_ip"]), at, err)
		return
	}
	p.put(o, at)
}

func (p *parser) address(at span) {
	var o *registry.Address
	err := p.wrongKind("the address", at, "an object")
	if p.kind(at) == "object" {
		err = contain.Run(func() (err error) {
			o, err = DecodeAddress(p.text(at), Scope{})
			return err
		})
	}
	if err != nil {
		f := p.strings(at)
		p.reject(Scope{App: f["app"], Network: f["network"]}.key(registry.KindAddress, f["address"]), at, err)
		return
	}
	p.put(o, at)
}

// machineKey reads what it can of a rejected machine's identity.
func (p *parser) machineKey(at span, scope Scope) registry.Key {
	f := p.strings(at)
	if scope.App == "" {
		scope.App = f["app"]
	}
	network, err := agreedNetwork(f["network"], scope.Network)
	scope.Network = network
	key := scope.key(registry.KindMachine, f["private_ip"])
	if err != nil {
		key.Network, key.AnyNetwork = 0, true
	}
	if registry.CheckLabel("id", f["id"]) == nil {
		key.ID = registry.Lower(f["id"])
	}
	return key
}

// strings returns the members of an object that are strings.
func (p *parser) strings(at span) map[string]string {
	fields := map[string]string{}
	if p.kind(at) != "object" {
		return fields
	}
	for name, v := range p.members(at) {
		if p.kind(v) == "string" {
			fields[name], _ = p.str(name, v)
		}
	}
	return fields
}

// key returns as much of a rejected object's key as its name (of the app or
// peer), network and address tell. Where network and address disagree, or
// neither can be read, it holds for any network.
func (s Scope) key(kind registry.Kind, address string) registry.Key {
	key := registry.Key{Kind: kind, AnyNetwork: true}
	if registry.CheckLabel("name", s.App) == nil {
		key.Name = registry.Lower(s.App)
	}
	addr, errAddr := netip.ParseAddr(address)
	network, errNetwork := registry.ParseNetwork(s.Network)
	in, inside := registry.NetworkOf(addr)
	if kind == registry.KindAddress && errAddr == nil || kind == registry.KindPeer && inside {
		key.ID = addr.String()
	}
	switch {
	case s.Network == "" && inside:
		key.Network, key.AnyNetwork = in, false
	case s.Network != "" && errNetwork == nil && (!inside || in == network):
		key.Network, key.AnyNetwork = network, false
	}
	return key
}
