package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"dnsd/registry"
)

// The functions here read one value each. Their errors follow the value in a
// message, and say what to write instead.

// listenAddr reads an address and port to bind. Where the port is missing, its
// error proposes usual's, and where all is wrong, usual itself.
func listenAddr(s, usual string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a, nil
	}
	port := netip.MustParseAddrPort(usual).Port()
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Is4() {
			return netip.AddrPort{}, fmt.Errorf("no port: write %s:%d", a, port)
		}
		// fdaa::3:53 is an address, but the person meant fdaa::3 and port 53.
		if i := strings.LastIndexByte(s, ':'); !strings.HasSuffix(s[:i], ":") {
			if meant, err := netip.ParseAddr(s[:i]); err == nil {
				return netip.AddrPort{}, fmt.Errorf("an IPv6 address without brackets: write [%s]:%s", meant, s[i+1:])
			}
		}
		return netip.AddrPort{}, fmt.Errorf("no port: write [%s]:%d", a, port)
	}
	if port, ok := strings.CutPrefix(s, ":"); ok {
		return netip.AddrPort{}, fmt.Errorf("no address: write [::]:%s for every address of this host", port)
	}
	return netip.AddrPort{}, fmt.Errorf("not an address and port: write one such as %s", usual)
}

// set returns what reads one value into to.
func set[T any](to *T, read func(string) (T, error)) func(string) error {
	return func(s string) error {
		v, err := read(s)
		if err == nil {
			*to = v
		}
		return err
	}
}

// add returns what appends one value to a list.
func add[T any](to *[]T, read func(string) (T, error)) func(string) error {
	return func(s string) error {
		v, err := read(s)
		if err == nil {
			*to = append(*to, v)
		}
		return err
	}
}

// text takes any text.
func text(s string) (string, error) { return s, nil }

// region reads a region's code, as machines have them.
func region(s string) (string, error) {
	for i := range len(s) {
		if c := s[i] | 0x20; (c < 'a' || c > 'z') && (s[i] < '0' || s[i] > '9') && s[i] != '-' {
			return "", errors.New("not a region's code: write one such as fra")
		}
	}
	return s, nil
}

// listen reads a listen address beside those of c, of which none may be bound twice.
func (c *config) listen(s string) (netip.AddrPort, error) {
	a, err := listenAddr(s, "[fdaa::3]:53")
	if err != nil {
		return a, err
	}
	for _, b := range c.Listen {
		switch {
		case a.Port() != b.Port() || a.Port() == 0:
		case a == b:
			return a, errors.New("given twice: once is enough")
		case includes(a, b) || includes(b, a):
			return a, fmt.Errorf("cannot stand beside %s: one of them is every address, the other among them", b)
		}
	}
	return a, nil
}

// includes reports whether a listener at a is one at the address b as well; [::] is
// one at the addresses of IPv4, too, but stands beside 0.0.0.0.
func includes(a, b netip.AddrPort) bool {
	return a.Addr().IsUnspecified() && !b.Addr().IsUnspecified() && (a.Addr().Is6() || b.Addr().Is4())
}

// metricsListen reads an address to bind, or none.
func metricsListen(s string) (netip.AddrPort, error) {
	if s == "none" {
		return netip.AddrPort{}, nil
	}
	return listenAddr(s, "127.0.0.1:9153")
}

// stateDir reads a directory, or none.
func stateDir(s string) (string, error) {
	if s == "none" {
		return "", nil
	}
	return s, nil
}

// ipv6 reads the address of an AAAA record.
func ipv6(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" {
		return a, errors.New("it becomes an AAAA record: write an IPv6 address such as fdaa::3")
	}
	return a, nil
}

// devices reads a pattern of network devices' names.
func devices(s string) (string, error) {
	if _, err := path.Match(s, ""); err != nil || strings.Contains(s, "/") {
		return "", errors.New("not a pattern of network devices: write a name, or one such as tap*")
	}
	if s == "lo" {
		return "", errors.New("the loopback device is no way in: write the devices that machines are behind, such as tap*")
	}
	return s, nil
}

// network reads a private network.
func network(s string) (netip.Prefix, error) {
	n, err := registry.ParseNetwork(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return n.Prefix(), nil
}

// clients reads a prefix whose hosts may ask.
func clients(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			return p, fmt.Errorf("not a prefix: write %s for this one address", netip.PrefixFrom(a, a.BitLen()))
		}
		return p, errors.New("not a prefix: write one such as 10.0.0.0/8 or 2001:db8::/32")
	case p != p.Masked():
		return p, fmt.Errorf("bits are set after the first %d: write %s", p.Bits(), p.Masked())
	case p.Bits() == 0:
		return p, errors.New("that would serve the whole Internet: name the networks that your clients are in")
	}
	return p, nil
}

// duration reads a span of time that lies between least and most and is a
// multiple of unit.
func duration(least, most, unit time.Duration) func(string) (time.Duration, error) {
	return func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		switch {
		case err != nil:
			return 0, errors.New("not a duration: write a number with its unit, such as 5s, 500ms or 1m")
		case d < least || d > most:
			return 0, fmt.Errorf("out of range: write a duration from %s to %s", short(least), short(most))
		case d%unit != 0:
			return 0, fmt.Errorf("too fine: write a multiple of %s", short(unit))
		}
		return d, nil
	}
}

// short is d without the zero parts that time.Duration prints: 1m, not 1m0s.
func short(d time.Duration) string {
	return strings.ReplaceAll(strings.ReplaceAll(d.String(), "m0s", "m"), "h0m", "h")
}

// number reads a whole number between least and most.
func number(least, most int) func(string) (int, error) {
	return func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("write a whole number from %d to %d", least, most)
		}
		return n, nil
	}
}

// memory reads an amount from 1 MiB to 1 TiB: more is surely a slip.
func memory(s string) (int64, error) {
	digits := strings.TrimRight(s, "KMGiB")
	unit := map[string]int64{"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[s[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case err != nil || unit == 0 || n > 1<<40/unit:
		return 0, errors.New("not an amount of memory: write a number with its unit, such as 64MiB or 1GiB")
	case n*unit < 1<<20:
		return 0, errors.New("too small: write at least 1MiB")
	}
	return n * unit, nil
}

// toggle reads true or false.
func toggle(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, errors.New("write true or false")
	}
	return b, nil
}

// oneOf takes one of a few words.
func oneOf(words ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !slices.Contains(words, s) {
			last := len(words) - 1
			return "", fmt.Errorf("write %s or %s", strings.Join(words[:last], ", "), words[last])
		}
		return s, nil
	}
}

// logLevel reads the least level that is logged.
func logLevel(s string) (level slog.Level, err error) {
	word, err := oneOf("debug", "info", "warn", "error")(s)
	if err != nil {
		return level, err
	}
	return level, level.UnmarshalText([]byte(word))
}
