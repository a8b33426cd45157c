package main

import (
	"errors"
	"fmt"
	"strings"
)

// registryURL says where the registry comes from.
type registryURL struct {
	scheme string // file, etcd or corrosion
	text   string // the URL as it was given
	path   string // of a file
}

// set reads --registry.
func (u *registryURL) set(s string) error {
	scheme, rest, found := strings.Cut(s, ":")
	if !found {
		return fmt.Errorf("no scheme: write file:%s for a file", s)
	}
	*u = registryURL{scheme: scheme, text: s}
	switch scheme {
	case "file":
		u.path = rest
		if path, ok := strings.CutPrefix(rest, "//"); ok {
			if !strings.HasPrefix(path, "/") {
				return fmt.Errorf("a file has no host: write file:%s", path)
			}
			u.path = path
		}
		if u.path == "" {
			return errors.New("no path: write one such as file:/etc/dnsd/registry.json")
		}
		return nil
	case "etcd", "corrosion":
		return nil
	}
	return fmt.Errorf("unknown scheme %q: write file:PATH, etcd://HOST:PORT,.../PREFIX/ or corrosion://HOST:PORT", scheme)
}

// upstream reads one --upstream.
func (c *config) upstream(s string) error {
	c.Upstreams = append(c.Upstreams, s)
	return nil
}
