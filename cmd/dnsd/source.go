package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"dnsd/registry/corrosion"
	"dnsd/registry/etcd"
	"dnsd/registry/file"
	"dnsd/registry/follow"
	"dnsd/registry/regular"
)

// registryURL says where the registry comes from.
type registryURL struct {
	scheme    string   // file, etcd or corrosion
	path      string   // of a file
	endpoints []string // of an etcd cluster
	prefix    string   // of its keys
	agent     string   // host:port of a Corrosion agent
}

// set reads --registry. A wrong one leaves u as it is.
func (u *registryURL) set(s string) (err error) {
	scheme, rest, found := strings.Cut(s, ":")
	if !found {
		return fmt.Errorf("no scheme: write file:%s for a file", s)
	}
	read := registryURL{scheme: scheme}
	switch scheme {
	case "file":
		read.path, err = filePath(rest)
	case "etcd":
		read.endpoints, read.prefix, err = etcd.ParseURL(s)
	case "corrosion":
		read.agent, err = corrosion.ParseURL(s)
	default:
		return fmt.Errorf("unknown scheme %q: write file:PATH, etcd://HOST:PORT,.../PREFIX/ or corrosion://HOST:PORT", scheme)
	}
	if err == nil {
		*u = read
	}
	return err
}

// filePath reads what follows file: in a URL.
func filePath(s string) (string, error) {
	if path, ok := strings.CutPrefix(s, "//"); ok {
		if !strings.HasPrefix(path, "/") {
			return "", fmt.Errorf("a file has no host: write file:%s", path)
		}
		s = path
	}
	if s == "" {
		return "", errors.New("no path: write one such as file:/etc/dnsd/registry.json")
	}
	return s, nil
}

// source returns the registry's source. It connects to nothing, but reads the
// files that the flags name, so that a mistake in them shows at start.
func (c *config) source(getenv func(string) string, log *slog.Logger) (follow.Source, error) {
	switch c.Registry.scheme {
	case "etcd":
		return etcd.New(etcd.Config{
			Endpoints: c.Registry.endpoints, Prefix: c.Registry.prefix,
			CAFile: c.Etcd.CA, CertFile: c.Etcd.Cert, KeyFile: c.Etcd.Key,
			Username: c.Etcd.User, Password: getenv(etcdPassword), PasswordFile: c.Etcd.PasswordFile,
		}, log)
	case "corrosion":
		queries, err := c.corrosionQueries()
		if err != nil {
			return nil, err
		}
		return corrosion.New(corrosion.Config{
			Addr: c.Registry.agent, Token: getenv(corrosionToken), TokenFile: c.Corrosion.TokenFile, Queries: queries,
			StateDir: c.StateDir,
		}, log)
	}
	// An unchanged file proves itself alive at each look, so it is looked at
	// more often than it could go stale.
	return file.New(file.Config{Path: c.Registry.path, Poll: min(file.DefaultPoll, c.StaleAfter/3)}, log), nil
}

// Secrets that may stand in the environment. They have no flag: other users of
// a host can read the arguments of a process.
const (
	etcdPassword   = "DNSD_ETCD_PASSWORD"
	corrosionToken = "DNSD_CORROSION_TOKEN"
)

// corrosionQueries returns the SELECTs for the agent: the default ones, but for
// those that --corrosion-queries replaces. A kind whose query is empty there is
// not read at all.
func (c *config) corrosionQueries() (corrosion.Queries, error) {
	defaults := corrosion.DefaultQueries()
	if c.Corrosion.Queries == "" {
		return defaults, nil
	}
	data, err := regular.Read(c.Corrosion.Queries, regular.MaxSettings)
	if err != nil {
		return defaults, fmt.Errorf("--corrosion-queries: %w", err)
	}
	given := map[string]string{}
	if err := json.Unmarshal(data, &given); err != nil {
		return defaults, fmt.Errorf("--corrosion-queries %s: want a JSON object of SELECTs: %w", c.Corrosion.Queries, err)
	}
	queries := map[string]*string{
		"machines": &defaults.Machines, "apps": &defaults.Apps,
		"peers": &defaults.Peers, "addresses": &defaults.Addresses,
	}
	for name, sql := range given {
		query := queries[name]
		if query == nil {
			return defaults, fmt.Errorf("--corrosion-queries %s: unknown name %q: write machines, apps, peers or addresses",
				c.Corrosion.Queries, name)
		}
		*query = sql
	}
	return defaults, nil
}
