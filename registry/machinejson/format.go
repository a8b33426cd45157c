package machinejson

import (
	"cmp"
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
//     rejected when they name another. Without one, each of them must name its
//     own, and the app takes the network of its machines; it is rejected when
//     there are none, or they lie in several.
//   - An app with an unusable name or network is rejected with its machines and
//     flycast addresses.
//   - Of two objects with one key the first is used and the other rejected.
//   - The machines of the list "machines" belong to apps that are not registered
//     by themselves.
//
// An object that cannot be used is an Item made by Reject whose Where is its
// place ("line 12, column 8") and whose Key says as much as can be read, its
// kind at least; it costs no other object. An object of which a part cannot be
// used is an Item with a Note and its place. The error is for a file that is not
// JSON or not of this shape; it begins with the place as well.
func Parse(data []byte) ([]registry.Item, error) {
	var all []registry.Item
	err := EachBatch(data, func(items []registry.Item) error {
		all = append(all, items...)
		return nil
	})
	return all, err
}

// batch is how many items EachBatch hands over at a time: enough that the call
// costs nothing beside the parsing.
const batch = 1000

// EachBatch reads a file as Parse does and hands over its items a batch at a
// time, so that they need not fit into memory all at once. A file that cannot be
// used as a whole is an error before the first batch. The slice is valid during
// the call. An error of take ends the reading and is returned.
func EachBatch(data []byte, take func([]registry.Item) error) error {
	return newParser(data, take).file()
}

// parser reads one file.
type parser struct {
	*document
	take     func([]registry.Item) error
	err      error                // of take; nothing more is read
	items    []registry.Item      // not yet handed to take
	problems []Problem            // one for each rejection and note among all items
	first    map[registry.Key]int // where each object was listed first
}

func newParser(data []byte, take func([]registry.Item) error) *parser {
	return &parser{document: &document{data: data}, take: take, first: map[registry.Key]int{}}
}

func (p *parser) add(item registry.Item) {
	if p.items = append(p.items, item); len(p.items) >= batch {
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
		"machines":  func(v span) { object(p, registry.KindMachine, v, Scope{}, DecodeMachine) },
		"peers":     func(v span) { object(p, registry.KindPeer, v, Scope{}, DecodePeer) },
		"addresses": func(v span) { object(p, registry.KindAddress, v, Scope{}, DecodeAddress) },
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
				return p.err
			}
		}
	}
	p.flush()
	return p.err
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
	key.AnyNetwork = true // which is not named
	p.problems = append(p.problems, Problem{line, column, key.String() + ": " + err.Error()})
}

// wrongKind returns the error for a value of the wrong JSON type.
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
		if errNetwork != nil {
			e.network = "unreadable" // so that the keys of all that it holds are of any network
		}
		p.rejectApp(&e, registry.OneLine(err))
		return
	}
	p.goodApp(&e)
}

// goodApp reads an app whose name is good and whose network is good or absent.
func (p *parser) goodApp(e *appEntry) {
	scope := Scope{App: e.name, Network: e.network}
	networks := map[registry.Network]bool{}
	for v := range p.parts(e.machines, scope, registry.KindMachine) {
		if m := object(p, registry.KindMachine, v, scope, DecodeMachine); m != nil {
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
func (p *parser) rejectApp(e *appEntry, err error) {
	scope := Scope{App: e.name, Network: e.network}
	p.reject(scope.key(registry.KindApp, ""), e.at, err)
	err = fmt.Errorf("its app, which begins at %s, cannot be used: %w", p.place(e.at.from), err)
	for v := range p.parts(e.machines, scope, registry.KindMachine) {
		p.reject(p.rejectedKey(registry.KindMachine, v, scope), v, err)
	}
	for v := range p.parts(e.flycast, scope, registry.KindAddress) {
		address, _ := p.str("flycast", v)
		p.reject(scope.key(registry.KindAddress, address), v, err)
	}
}

// parts yields the elements of an app's lists, and rejects what is no list.
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

// object reads one object and returns it, nil where it cannot be used.
func object[T registry.Object](p *parser, kind registry.Kind, at span, scope Scope, decode func([]byte, Scope) (T, error)) (o T) {
	err := p.wrongKind("the "+kind.String(), at, "an object")
	if p.kind(at) == "object" {
		err = contain.Run(func() (err error) {
			o, err = decode(p.text(at), scope)
			return err
		})
	}
	if err != nil {
		p.reject(p.rejectedKey(kind, at, scope), at, err)
	} else {
		p.put(o, at)
	}
	return o
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

// rejectedKey reads what it can of a rejected object's identity.
func (p *parser) rejectedKey(kind registry.Kind, at span, scope Scope) registry.Key {
	f := p.strings(at)
	name, address := f["app"], f["private_ip"]
	switch kind {
	case registry.KindPeer:
		name = f["name"]
	case registry.KindAddress:
		address = f["address"]
	}
	scope.App = cmp.Or(scope.App, name)
	network, err := agreedNetwork(f["network"], scope.Network)
	scope.Network = network
	key := scope.key(kind, address)
	if err != nil {
		key.Network, key.AnyNetwork = 0, true
	}
	if kind == registry.KindMachine && registry.CheckLabel("id", f["id"]) == nil {
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
// neither can be read, the key is of any network.
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
