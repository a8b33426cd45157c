package zones

import (
	"strconv"
	"strings"
)

// kind says what a name under internal. stands for.
type kind uint8

const (
	kindNone      kind = iota // nothing, whatever the registry holds
	kindApex                  // internal. itself
	kindAPI                   // _api
	kindWhoami                // _whoami
	kindInfo                  // _dnsd
	kindApps                  // _apps
	kindInstances             // _instances, all._instances
	kindPeers                 // _peer
	kindPeer                  // <peer>._peer
	kindApp                   // <app>, global.<app>
	kindBetween               // a name of an app that only has names below it
	kindRegion                // <region>.<app>
	kindMachine               // <id>.vm.<app>
	kindGroup                 // <group>.process.<app>
	kindNearest               // top<N>.nearest.of.<app>
	kindKey                   // <key>.kv._metadata.<app>
	kindPair                  // <value>.<key>.kv._metadata.<app>
	kindVMs                   // vms.<app>, all.vms.<app>
	kindRegions               // regions.<app>, all.regions.<app>
)

// name is a parsed name under internal. Its strings are those of the question, in
// lower case, and must not outlive it.
type name struct {
	kind  kind
	all   bool   // of a list: deployed machines, not only started ones
	top   int    // of kindNearest: how many
	app   string // the app, for every name at or below one
	arg   string // the peer, region, machine id, group or metadata key
	value string // of kindPair: the metadata value, its labels joined by dots
}

// maxTop is the largest N of top<N>: larger ones are read as this one, which is
// more than any fleet has.
const maxTop = 1 << 30

// parseName reads the labels left of internal., leftmost first. The label next
// to the origin is one of the six names of the network itself, or an app. The
// others are read from there leftwards, so an app or a region may have the name
// of any other part of the grammar; only a region with the name of one of an
// app's branches cannot be asked for.
func parseName(labels []string) name {
	n := len(labels)
	if n == 0 {
		return name{kind: kindApex}
	}
	rest := labels[:n-1]
	switch labels[n-1] {
	case "_api":
		return leaf(rest, kindAPI)
	case "_whoami":
		return leaf(rest, kindWhoami)
	case "_dnsd":
		return leaf(rest, kindInfo)
	case "_apps":
		return leaf(rest, kindApps)
	case "_instances":
		return list(rest, name{kind: kindInstances})
	case "_peer":
		switch len(rest) {
		case 0:
			return name{kind: kindPeers}
		case 1:
			return name{kind: kindPeer, arg: rest[0]}
		}
		return name{}
	}
	return parseApp(labels[n-1], rest)
}

func leaf(rest []string, k kind) name {
	if len(rest) > 0 {
		return name{}
	}
	return name{kind: k}
}

// list reads what may precede the name of a list: nothing, or "all".
func list(rest []string, n name) name {
	switch {
	case len(rest) == 0:
		return n
	case len(rest) == 1 && rest[0] == "all":
		n.all = true
		return n
	}
	return name{app: n.app}
}

// parseApp reads the labels left of an app's name.
func parseApp(app string, labels []string) name {
	if len(labels) == 0 {
		return name{kind: kindApp, app: app}
	}
	branch, rest := labels[len(labels)-1], labels[:len(labels)-1]
	switch branch {
	case "vms":
		return list(rest, name{kind: kindVMs, app: app})
	case "regions":
		return list(rest, name{kind: kindRegions, app: app})
	case "vm":
		return below(rest, name{kind: kindMachine, app: app})
	case "process":
		return below(rest, name{kind: kindGroup, app: app})
	case "of":
		return parseNearest(app, rest)
	case "_metadata":
		return parseMetadata(app, rest)
	}
	switch {
	case len(rest) > 0: // below a leaf
		return name{app: app}
	case branch == "global":
		return name{kind: kindApp, app: app}
	}
	return name{kind: kindRegion, app: app, arg: branch}
}

// below reads the one label that a branch has under it.
func below(rest []string, n name) name {
	switch len(rest) {
	case 0:
		return name{kind: kindBetween, app: n.app}
	case 1:
		n.arg = rest[0]
		return n
	}
	return name{app: n.app}
}

// parseNearest reads what precedes of.<app>: [top<N>.]nearest.
func parseNearest(app string, rest []string) name {
	i := len(rest)
	switch {
	case i == 0, i == 1 && rest[0] == "nearest":
		return name{kind: kindBetween, app: app}
	case i == 2 && rest[1] == "nearest":
		if top, ok := parseTop(rest[0]); ok {
			return name{kind: kindNearest, app: app, top: top}
		}
		return name{app: app, arg: rest[0]}
	}
	return name{app: app}
}

// parseTop reads top<N>, N a decimal number without leading zeros.
func parseTop(label string) (int, bool) {
	digits, ok := strings.CutPrefix(label, "top")
	if !ok || digits == "" || digits[0] == '0' || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	if err != nil { // out of range
		n = maxTop
	}
	return min(n, maxTop), true
}

// parseMetadata reads what precedes _metadata.<app>: [[<value>.]<key>.]kv.
// A value may hold dots, so every label left of the key belongs to it.
func parseMetadata(app string, rest []string) name {
	i := len(rest)
	switch {
	case i == 0:
		return name{kind: kindBetween, app: app}
	case rest[i-1] != "kv":
		return name{app: app}
	case i == 1:
		return name{kind: kindBetween, app: app}
	case i == 2:
		return name{kind: kindKey, app: app, arg: rest[0]}
	}
	return name{kind: kindPair, app: app, arg: rest[i-2], value: strings.Join(rest[:i-2], ".")}
}
