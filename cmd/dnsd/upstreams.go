package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"

	"dnsd/resolver/forward"
)

// upstreams says where names outside dnsd's zones go.
type upstreams struct {
	list []forward.Upstream
	none bool // nowhere: they are refused
}

// set reads one --upstream.
func (u *upstreams) set(s string) error {
	if s == "none" {
		u.none = true
		return nil
	}
	up, err := forward.ParseUpstream(s)
	if err != nil {
		// The message that this becomes part of has named it already.
		return errors.New(strings.TrimPrefix(err.Error(), fmt.Sprintf("upstream %q: ", s)))
	}
	if slices.Contains(u.list, up) {
		return errors.New("given twice: once is enough")
	}
	u.list = append(u.list, up)
	return nil
}

// checkUpstreams finds mistakes that no single --upstream shows.
func (c *config) checkUpstreams() error {
	var errs []error
	if c.Upstreams.none && len(c.Upstreams.list) > 0 {
		errs = append(errs, errors.New("--upstream none stands beside other upstreams: leave it or them out"))
	}
	for _, u := range c.Upstreams.list {
		if c.isSelf(u.Addr) {
			errs = append(errs, fmt.Errorf("--upstream %s is an address that dnsd itself listens on: write the resolver that it is to ask", u))
		}
	}
	return errors.Join(errs...)
}

// isSelf reports whether what is sent to addr comes to this dnsd.
func (c *config) isSelf(addr netip.AddrPort) bool {
	for _, l := range c.Listen {
		if l.Port() != addr.Port() {
			continue
		}
		own := l.Addr().Unmap()
		if own == addr.Addr() || own.IsUnspecified() && (own.Is6() || addr.Addr().Is4()) && isLocal(addr.Addr()) {
			return true
		}
	}
	return false
}

// isLocal reports whether addr is one of this host's.
func isLocal(addr netip.Addr) bool {
	if addr.IsLoopback() || addr.IsUnspecified() {
		return true
	}
	local, err := net.InterfaceAddrs()
	if err != nil {
		return false // the forwarder recognizes a loop when it happens
	}
	for _, a := range local {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr() == addr {
			return true
		}
	}
	return false
}

// forwarder returns the forwarder, nil for --upstream none, and the host's
// nameservers if those are to be followed.
func (c *config) forwarder(descriptors int, log *slog.Logger) (*forward.Forwarder, *nameservers, error) {
	if c.Upstreams.none {
		return nil, nil, nil
	}
	list := c.Upstreams.list
	var hosts *nameservers
	if !slices.ContainsFunc(list, func(u forward.Upstream) bool { return u.Domain == "." }) {
		hosts = &nameservers{path: c.resolvConf, every: nameserversEvery, self: c, always: list, log: log}
		hosts.look()
		list = hosts.upstreams()
	}
	f, err := forward.New(forward.Config{
		Upstreams:   list,
		Timeout:     c.UpstreamTimeout,
		TryTimeout:  c.UpstreamTimeout / 5 * 2, // leaves room for two whole tries and half a third
		MaxInflight: c.MaxInflight,
		Descriptors: descriptors,
		CacheBytes:  uint64(c.CacheSize),
		PerNetwork:  c.CachePerNetwork,
		Logger:      log,
	})
	return f, hosts, err
}
