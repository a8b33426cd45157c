package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"dnsd/registry/regular"
	"dnsd/resolver/forward"
)

const (
	// nameserversEvery is how often the host's resolv.conf is looked at. It is
	// small and mostly on a file system in memory, so that looking costs
	// less than being told does, and finds it by whatever way it was replaced.
	nameserversEvery = time.Second
	// nameserversQuiet is how long a changed one is left alone, lest half a file is
	// taken for the whole.
	nameserversQuiet = 100 * time.Millisecond
)

// nameservers are the upstreams for names outside all configured domains, where no
// flag names any: those of the host, which DHCP and VPNs change.
type nameservers struct {
	path   string
	self   *config // whose own addresses are none
	always []forward.Upstream
	log    *slog.Logger

	// Owned by whoever runs follow.
	text    string             // the file's, as it was understood last
	list    []forward.Upstream // what it said
	trouble string             // why it says nothing now; empty: it does
}

var errNoNameserver = errors.New("it names no server but dnsd itself")

// look reads the file. What it says is in list where changed is true. A file
// that is gone, or names nobody, changes nothing.
func (n *nameservers) look() (changed bool) {
	text, err := n.read()
	if err == nil && text == n.text {
		n.trouble = ""
		return false
	}
	var found []forward.Upstream
	if err == nil {
		if found = forward.ParseResolvConf(text, n.self.isSelf); len(found) == 0 {
			err = errNoNameserver
		}
	}
	if err != nil {
		if n.trouble != err.Error() {
			n.trouble = err.Error()
			n.log.Warn("resolv.conf names no upstream for names outside the internal zones; name one with --upstream, or none",
				"path", n.path, "reason", err, "asked_until_then", labels(n.list))
		}
		return false
	}
	changed = !slices.Equal(found, n.list)
	n.text, n.list, n.trouble = text, found, ""
	return changed
}

// upstreams are the file's and those that flags name.
func (n *nameservers) upstreams() []forward.Upstream {
	return append(slices.Clone(n.always), n.list...)
}

// follow keeps a forwarder's upstreams those of the file, until ctx ends.
func (n *nameservers) follow(ctx context.Context, f *forward.Forwarder) error {
	ticker := time.NewTicker(nameserversEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if text, err := n.read(); err == nil && text != n.text {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(nameserversQuiet):
			}
		}
		before := n.list
		if !n.look() {
			continue
		}
		if err := f.Update(n.upstreams()); err != nil {
			return fmt.Errorf("changing upstreams: %w", err)
		}
		n.log.Info("the host's nameservers have changed", "path", n.path, "now", labels(n.list), "before", labels(before))
	}
}

func labels(list []forward.Upstream) []string {
	s := []string{} // not nil, which JSON would call null
	for _, u := range list {
		s = append(s, u.String())
	}
	return s
}

// read returns the file's text.
func (n *nameservers) read() (string, error) {
	text, err := regular.Read(n.path, regular.MaxSettings)
	return string(text), err
}
