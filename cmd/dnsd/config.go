package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"dnsd/zones"
)

// config is what the flags and the environment say, checked.
type config struct {
	// Who may ask, and as whom.
	Listen  []netip.AddrPort
	Network netip.Prefix // of clients outside fdaa::/16; zero: none
	Allow   []netip.Prefix
	Region  string
	Regions string // file

	// Where the registry comes from.
	Registry   registryURL
	StateDir   string
	StaleAfter time.Duration
	Etcd       etcdFiles
	Corrosion  corrosionFiles

	// Names outside the internal zones.
	Upstreams       upstreams
	UpstreamTimeout time.Duration
	CacheSize       int64
	CachePerNetwork bool
	MaxInflight     int

	// Answers.
	API        netip.Addr // zero: none
	Advertise  netip.Addr
	TTL        time.Duration
	MaxUDPSize int
	NoIdentity bool

	// Operation.
	Metrics   netip.AddrPort // zero: none
	LogLevel  slog.Level
	LogFormat string
	Sockets   int      // for each listen address; 0: as the resolver sees fit
	FastPath  []string // patterns of the devices at which the kernel answers

	Help, Version bool

	warnings   []string       // of settings that are ignored or cannot work well
	resolvConf string         // where upstreams are found when none is given
	regions    *zones.Regions // what Regions holds; nil: the built-in ones
}

// etcdFiles is how dnsd proves itself to etcd and etcd to dnsd.
type etcdFiles struct{ CA, Cert, Key, User, PasswordFile string }

// corrosionFiles is what a Corrosion agent may ask for.
type corrosionFiles struct{ TokenFile, Queries string }

// settings lists every flag, in the order of the help text.
func (c *config) settings() []*setting {
	return []*setting{
		{name: "listen", def: "[fdaa::3]:53", repeat: true, use: add(&c.Listen, c.listen)},
		{name: "network", use: set(&c.Network, network)},
		{name: "allow", repeat: true, use: add(&c.Allow, clients)},
		{name: "region", use: set(&c.Region, region)},
		{name: "regions", use: set(&c.Regions, text)},

		{name: "registry", def: "file:/etc/dnsd/registry.json", use: c.Registry.set},
		{name: "state-dir", use: set(&c.StateDir, stateDir)},
		{name: "stale-after", def: "1m", use: c.staleAfter},
		{name: "etcd-ca", source: "etcd", use: set(&c.Etcd.CA, text)},
		{name: "etcd-cert", source: "etcd", use: set(&c.Etcd.Cert, text)},
		{name: "etcd-key", source: "etcd", use: set(&c.Etcd.Key, text)},
		{name: "etcd-user", source: "etcd", use: set(&c.Etcd.User, text)},
		{name: "etcd-password-file", source: "etcd", use: set(&c.Etcd.PasswordFile, text)},
		{name: "corrosion-token-file", source: "corrosion", use: set(&c.Corrosion.TokenFile, text)},
		{name: "corrosion-queries", source: "corrosion", use: set(&c.Corrosion.Queries, text)},

		{name: "upstream", repeat: true, use: c.Upstreams.set},
		{name: "upstream-timeout", def: "5s", use: set(&c.UpstreamTimeout, duration(100*time.Millisecond, time.Minute, time.Nanosecond))},
		{name: "cache-size", def: "64MiB", use: set(&c.CacheSize, memory)},
		{name: "cache-per-network", toggle: true, use: set(&c.CachePerNetwork, toggle)},
		{name: "max-inflight", def: "4096", use: set(&c.MaxInflight, number(1, 1<<20))},

		{name: "api-address", use: set(&c.API, ipv6)},
		{name: "advertise", def: "fdaa::3", use: set(&c.Advertise, ipv6)},
		{name: "ttl", def: "5s", use: set(&c.TTL, duration(0, 24*time.Hour, time.Second))},
		// RFC 6891, section 6.2.3: less than 512 is treated as 512. More than
		// 4096 is what no resolver asks for and every path fragments.
		{name: "max-udp-size", def: "1232", use: set(&c.MaxUDPSize, number(512, 4096))},
		{name: "no-identity", toggle: true, use: set(&c.NoIdentity, toggle)},

		{name: "metrics-listen", def: "127.0.0.1:9153", use: set(&c.Metrics, metricsListen)},
		{name: "log-level", def: "info", use: set(&c.LogLevel, logLevel)},
		{name: "log-format", def: "text", use: set(&c.LogFormat, oneOf("text", "json"))},
		{name: "sockets", use: set(&c.Sockets, number(1, 256))},
		{name: "fast-path", repeat: true, use: add(&c.FastPath, devices)},
		{name: "help", short: "h", toggle: true, order: true, use: set(&c.Help, toggle)},
		{name: "version", short: "V", toggle: true, order: true, use: set(&c.Version, toggle)},
	}
}

// parseConfig reads flags and environment. It returns the arguments that are no
// flags as well; the error, a usageError, names every mistake.
func parseConfig(args []string, getenv func(string) string) (*config, []string, error) {
	c := &config{resolvConf: "/etc/resolv.conf"}
	settings := c.settings()
	rest, err := parseSettings(settings, args, getenv)
	if c.Help || c.Version {
		return c, rest, nil // whatever else is wrong: that is what was asked
	}
	if err := errors.Join(err, c.checkUpstreams()); err != nil {
		return c, rest, usageError{err}
	}
	for _, s := range settings {
		if s.source != "" && s.source != c.Registry.kind.scheme && (len(s.given) > 0 || getenv(s.environment()) != "") {
			c.warnings = append(c.warnings, fmt.Sprintf("--%s is ignored: --registry names a %s registry", s.name, c.Registry.kind.scheme))
		}
	}
	return c, rest, nil
}

// staleAfter reads --stale-after, which must not be so short that a healthy source
// counts as stale. --registry has been read.
func (c *config) staleAfter(s string) error {
	return set(&c.StaleAfter, duration(c.Registry.silence(), 24*time.Hour, time.Nanosecond))(s)
}

// usageError is a mistake in how dnsd was called. The process exits with 2.
type usageError struct{ error }

// Unwrap returns the mistake itself.
func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }
