package zones

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"dnsd/registry"
	"dnsd/resolver"

	"github.com/miekg/dns"
)

// The SOA's numbers. Only MINIMUM, the time for which a negative answer may be
// kept, means anything here: dnsd has no zone transfer, so nobody compares
// serials. They are constants, so that a negative answer does not change with the
// registry or the clock.
const (
	soaSerial  = 1
	soaRefresh = 3600
	soaRetry   = 600
	soaExpire  = 86400
)

// soaData returns an SOA's rdata (RFC 1035, section 3.3.13).
func soaData(mname []string, minimum uint32) []byte {
	b := appendName(nil, mname...)
	b = appendName(b, "hostmaster", "internal")
	for _, v := range []uint32{soaSerial, soaRefresh, soaRetry, soaExpire, minimum} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// The extended errors with a constant text. Other texts depend neither on the
// clock nor on a count that changes without a channel closing.
var (
	staleAnswer = resolver.EDE{Code: dns.ExtendedErrorCodeStaleAnswer,
		Text: "the registry's source is silent: this is the last known state"}
	earlierAnswer = resolver.EDE{Code: dns.ExtendedErrorCodeStaleAnswer,
		Text: "the registry is catching up with its source: this is an earlier state"}
	noNetwork = resolver.EDE{Code: dns.ExtendedErrorCodeProhibited,
		Text: "your address is in no private network: ask from one that is (dig -b), or start dnsd with --network"}
	emptyRegistry = resolver.EDE{Code: dns.ExtendedErrorCodeOther,
		Text: "the registry is empty: no app, machine or peer is known, of any network"}
	notReady = resolver.EDE{Code: dns.ExtendedErrorCodeNotReady,
		Text: "dnsd has not read its registry yet: ask again in a moment"}
)

// notReady answers until the registry has been read: never with NXDOMAIN, which
// clients would believe and cache.
func (l *lookup) notReady() *resolver.Answer {
	return l.finish(&resolver.Answer{Rcode: dns.RcodeServerFailure}, notReady)
}

// nodata says that the name exists and has no record of the type asked
// (RFC 2308, section 2.2); why may be empty.
func (l *lookup) nodata(why string) *resolver.Answer {
	return l.finish(&resolver.Answer{Rcode: dns.RcodeSuccess}, other(why)...)
}

// nxdomain says that neither the name nor anything below it exists. Where nothing
// exists at all, which is a mistake more often than not, it says that, too; no such
// answer is kept.
func (l *lookup) nxdomain(why string) *resolver.Answer {
	ede := other(why)
	if l.empty() {
		ede = append([]resolver.EDE{emptyRegistry}, ede...)
	}
	return l.finish(&resolver.Answer{Rcode: dns.RcodeNameError}, ede...)
}

// empty reports whether the registry was read and holds nothing.
func (l *lookup) empty() bool { return l.status != nil && l.status.Synced() && l.reg.Empty() }

// other returns why as an extended error of no particular kind, nothing for the
// empty string.
func other(why string) []resolver.EDE {
	if why == "" {
		return nil
	}
	return []resolver.EDE{{Code: dns.ExtendedErrorCodeOther, Text: why}}
}

// otherType answers a question for a type that an existing name does not have; has
// is the type that it can have.
func (l *lookup) otherType(has uint16) *resolver.Answer {
	switch has {
	case dns.TypeAAAA:
		return l.nodata("this name has AAAA records only")
	case dns.TypeTXT:
		return l.nodata("this name has a TXT record only")
	}
	return l.nodata("this name has PTR records only")
}

const textBetween = "this name has no records, only names below it"

// The texts below are for a person with dig. They contain nothing but what is in the
// client's own network and what the client has asked.

func noApp(app string) string { return "no app " + clean(app) + " in your network" }

// subject says which machines of an app a name stands for: "my-app in region fra".
func subject(app string, n *name) string {
	arg := clean(n.arg)
	switch n.kind {
	case kindRegion:
		return app + " in region " + arg
	case kindMachine:
		return app + " with the id " + arg
	case kindGroup:
		return app + " in process group " + arg
	case kindKey:
		return app + " with the metadata key " + arg
	case kindPair:
		return app + " with the metadata " + arg + "=" + clean(n.value)
	}
	return app
}

// missing says why a name below an existing app does not exist.
func missing(app string, n *name) string {
	switch {
	case n.kind != kindNone:
		return "no machine of " + subject(app, n)
	case n.arg != "":
		return clean(n.arg) + " is no name here: want top1, top2, top3 …"
	}
	return app + " has no such name below it"
}

// noneStarted says why a name that exists has no addresses: "my-app in region fra:
// 3 machines, none started". It takes a step for each machine.
func (l *lookup) noneStarted(app string, n *name, machines []*registry.Machine) string {
	return subject(app, n) + ": " + l.countStates(machines)
}

// countStates counts machines of which none is started, or none with an address.
func (l *lookup) countStates(machines []*registry.Machine) string {
	noAddress := 0
	if !l.budget.Need(len(machines)) {
		return ""
	}
	for _, m := range machines {
		l.budget.Step(1)
		if m.State == "started" {
			noAddress++
		}
	}
	count := fmt.Sprintf("%d machines", len(machines))
	switch len(machines) {
	case 0:
		return "no machines"
	case 1:
		count = "1 machine"
	}
	if noAddress > 0 {
		return fmt.Sprintf("%s, %d started but without an address", count, noAddress)
	}
	return count + ", none started"
}

// notStarted says why a machine has no address to give.
func notStarted(app string, m *registry.Machine) string {
	if m.State == "started" {
		return "machine " + m.ID + " of " + app + " is started but has no address"
	}
	return "machine " + m.ID + " of " + app + " is " + clean(m.State) + ", not started"
}

// maxShown is how many bytes of a name an extended error repeats: enough to
// recognize it, and few enough that the text never displaces a record.
const maxShown = 63

// clean returns s for a sentence: bytes that cannot be printed become \DDD (RFC
// 1035, section 5.1), and a long end is cut off. The result shares no memory with s.
func clean(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if i == maxShown {
			b.WriteString("…")
			break
		}
		if c := s[i]; c > ' ' && c < 0x7f {
			b.WriteByte(c)
		} else {
			b.WriteByte('\\')
			d := strconv.Itoa(int(c))
			b.WriteString("000"[len(d):] + d)
		}
	}
	return b.String()
}
