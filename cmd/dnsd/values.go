package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
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

// region reads a region's code, as machines have them.
func region(to *string) func(string) error {
	return func(s string) error {
		for i := 0; i < len(s); i++ {
			if c := s[i] | 0x20; (c < 'a' || c > 'z') && (s[i] < '0' || s[i] > '9') && s[i] != '-' {
				return errors.New("not a region's code: write one such as fra")
			}
		}
		*to = s
		return nil
	}
}

// listenAddrs collects listen addresses and refuses the same one twice.
func listenAddrs(to *[]netip.AddrPort) func(string) error {
	return func(s string) error {
		a, err := listenAddr(s, "[fdaa::3]:53")
		if err != nil {
			return err
		}
		for _, b := range *to {
			switch {
			case a.Port() != b.Port() || a.Port() == 0:
			case a == b:
				return errors.New("given twice: once is enough")
			case includes(a, b) || includes(b, a):
				return fmt.Errorf("cannot stand beside %s: one of them is every address, the other among them", b)
			}
		}
		*to = append(*to, a)
		return nil
	}
}

// includes reports whether a listener at a is one at the address b as well; [::] is
// one at the addresses of IPv4, too, but stands beside 0.0.0.0.
func includes(a, b netip.AddrPort) bool {
	return a.Addr().IsUnspecified() && !b.Addr().IsUnspecified() && (a.Addr().Is6() || b.Addr().Is4())
}

// optionalListenAddr reads an address to bind, or none.
func optionalListenAddr(to *netip.AddrPort) func(string) error {
	return func(s string) (err error) {
		if s == "none" {
			*to = netip.AddrPort{}
			return nil
		}
		*to, err = listenAddr(s, "127.0.0.1:9153")
		return err
	}
}

// ipv6 reads the address of an AAAA record.
func ipv6(to *netip.Addr) func(string) error {
	return func(s string) error {
		a, err := netip.ParseAddr(s)
		if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" {
			return errors.New("it becomes an AAAA record: write an IPv6 address such as fdaa::3")
		}
		*to = a
		return nil
	}
}

// network reads a private network.
func network(to *netip.Prefix) func(string) error {
	return func(s string) error {
		n, err := registry.ParseNetwork(s)
		if err != nil {
			return err
		}
		*to = n.Prefix()
		return nil
	}
}

// prefixes collects networks whose hosts may ask.
func prefixes(to *[]netip.Prefix) func(string) error {
	return func(s string) error {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
				return fmt.Errorf("not a prefix: write %s for this one address", netip.PrefixFrom(a, a.BitLen()))
			}
			return errors.New("not a prefix: write one such as 10.0.0.0/8 or 2001:db8::/32")
		}
		if p != p.Masked() {
			return fmt.Errorf("bits are set after the first %d: write %s", p.Bits(), p.Masked())
		}
		if p.Bits() == 0 {
			return errors.New("that would serve the whole Internet: name the networks that your clients are in")
		}
		*to = append(*to, p)
		return nil
	}
}

// duration reads a span of time that lies between least and most and is a
// multiple of unit.
func duration(to *time.Duration, least, most, unit time.Duration) func(string) error {
	return func(s string) error {
		d, err := time.ParseDuration(s)
		switch {
		case err != nil:
			return errors.New("not a duration: write a number with its unit, such as 5s, 500ms or 1m")
		case d < least || d > most:
			return fmt.Errorf("out of range: write a duration from %s to %s", short(least), short(most))
		case d%unit != 0:
			return fmt.Errorf("too fine: write a multiple of %s", short(unit))
		}
		*to = d
		return nil
	}
}

// short is d without the zero parts that time.Duration prints: 1m, not 1m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// number reads a whole number between least and most.
func number(to *int, least, most int) func(string) error {
	return func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < least || n > most {
			return fmt.Errorf("write a whole number from %d to %d", least, most)
		}
		*to = n
		return nil
	}
}

// bytes reads an amount of memory of at least least bytes.
func bytes(to *int64, least int64) func(string) error {
	units := []struct {
		suffix string
		bytes  int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"", 1}}
	return func(s string) error {
		for _, u := range units {
			digits, ok := strings.CutSuffix(s, u.suffix)
			if !ok {
				continue
			}
			n, err := strconv.ParseInt(digits, 10, 64)
			if err != nil || n > 1<<40/u.bytes { // 1 TiB is surely a slip
				break
			}
			if n*u.bytes < least {
				return fmt.Errorf("too small: write at least %dKiB", least>>10)
			}
			*to = n * u.bytes
			return nil
		}
		return errors.New("not an amount of memory: write a number with its unit, such as 64MiB or 1GiB")
	}
}

// toggle reads true or false.
func toggle(to *bool) func(string) error {
	return func(s string) error {
		b, err := strconv.ParseBool(s)
		if err != nil {
			return errors.New("write true or false")
		}
		*to = b
		return nil
	}
}

// text takes any text.
func text(to *string) func(string) error {
	return func(s string) error {
		*to = s
		return nil
	}
}

// oneOf takes one of a few words.
func oneOf(to *string, words ...string) func(string) error {
	return func(s string) error {
		for _, w := range words {
			if s == w {
				*to = s
				return nil
			}
		}
		last := len(words) - 1
		return fmt.Errorf("write %s or %s", strings.Join(words[:last], ", "), words[last])
	}
}

// logLevel reads the least level that is logged.
func logLevel(to *slog.Level) func(string) error {
	return func(s string) error {
		var word string
		if err := oneOf(&word, "debug", "info", "warn", "error")(s); err != nil {
			return err
		}
		return to.UnmarshalText([]byte(word))
	}
}
