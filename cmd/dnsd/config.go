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
	Sockets   int // for each listen address; 0: as the resolver sees fit

	Help, Version bool

	strangers  []string       // sentences about variables that are no settings
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
		{name: "listen", def: "[fdaa::3]:53", repeat: true, use: listenAddrs(&c.Listen)},
		{name: "network", use: network(&c.Network)},
		{name: "allow", repeat: true, use: prefixes(&c.Allow)},
		{name: "region", use: region(&c.Region)},
		{name: "regions", use: text(&c.Regions)},

		{name: "registry", def: "file:/etc/dnsd/registry.json", use: c.Registry.set},
		{name: "state-dir", use: text(&c.StateDir)},
		{name: "stale-after", def: "1m", use: c.staleAfter},
		{name: "etcd-ca", use: text(&c.Etcd.CA)},
		{name: "etcd-cert", use: text(&c.Etcd.Cert)},
		{name: "etcd-key", use: text(&c.Etcd.Key)},
		{name: "etcd-user", use: text(&c.Etcd.User)},
		{name: "etcd-password-file", use: text(&c.Etcd.PasswordFile)},
		{name: "corrosion-token-file", use: text(&c.Corrosion.TokenFile)},
		{name: "corrosion-queries", use: text(&c.Corrosion.Queries)},

		{name: "upstream", repeat: true, use: c.Upstreams.set},
		{name: "upstream-timeout", def: "5s", use: duration(&c.UpstreamTimeout, 100*time.Millisecond, time.Minute, 1)},
		{name: "cache-size", def: "64MiB", use: bytes(&c.CacheSize, 1<<20)},
		{name: "cache-per-network", toggle: true, use: toggle(&c.CachePerNetwork)},
		{name: "max-inflight", def: "4096", use: number(&c.MaxInflight, 1, 1<<20)},

		{name: "api-address", use: ipv6(&c.API)},
		{name: "advertise", def: "fdaa::3", use: ipv6(&c.Advertise)},
		{name: "ttl", def: "5s", use: duration(&c.TTL, 0, 24*time.Hour, time.Second)},
		// RFC 6891, section 6.2.3: less than 512 is treated as 512. More than
		// 4096 is what no resolver asks for and every path fragments.
		{name: "max-udp-size", def: "1232", use: number(&c.MaxUDPSize, 512, 4096)},
		{name: "no-identity", toggle: true, use: toggle(&c.NoIdentity)},

		{name: "metrics-listen", def: "127.0.0.1:9153", use: optionalListenAddr(&c.Metrics)},
		{name: "log-level", def: "info", use: logLevel(&c.LogLevel)},
		{name: "log-format", def: "text", use: oneOf(&c.LogFormat, "text", "json")},
		{name: "sockets", use: number(&c.Sockets, 1, 256)},
		{name: "help", short: "h", toggle: true, order: true, use: toggle(&c.Help)},
		{name: "version", short: "V", toggle: true, order: true, use: toggle(&c.Version)},
	}
}

// parseConfig reads flags and environment. It returns the arguments that are no
// flags as well; the error, a usageError, names every mistake.
func parseConfig(args []string, getenv func(string) string) (*config, []string, error) {
	c := &config{resolvConf: "/etc/resolv.conf"}
	rest, err := parseSettings(c.settings(), args, getenv)
	if c.Help || c.Version {
		return c, rest, nil // whatever else is wrong: that is what was asked
	}
	if err := errors.Join(err, c.check()); err != nil {
		return c, rest, usageError{err}
	}
	return c, rest, nil
}

// staleAfter reads --stale-after, which is not to call a healthy source silent.
// --registry has been read.
func (c *config) staleAfter(s string) error {
	return duration(&c.StaleAfter, c.Registry.silence(), 24*time.Hour, 1)(s)
}

// check finds the mistakes that no single value shows.
func (c *config) check() error {
	var errs []error
	if (c.Etcd.Cert == "") != (c.Etcd.Key == "") {
		errs = append(errs, errors.New("--etcd-cert and --etcd-key go together: give both or neither"))
	}
	if c.Etcd.PasswordFile != "" && c.Etcd.User == "" {
		errs = append(errs, errors.New("--etcd-password-file is given but not whose password it is: add --etcd-user NAME"))
	}
	errs = append(errs, c.checkUpstreams())
	return errors.Join(errs...)
}

// mended returns e without the mistakes that check has found, so that none is
// reported twice.
func (e etcdFiles) mended() etcdFiles {
	if e.Cert == "" || e.Key == "" {
		e.Cert, e.Key = "", ""
	}
	if e.PasswordFile != "" && e.User == "" {
		e.User = "someone"
	}
	return e
}

// usageError is a mistake in how dnsd was called. The process exits with 2.
type usageError struct{ error }

// Unwrap returns the mistake itself.
func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }
