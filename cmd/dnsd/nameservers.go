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

// nameserversEvery is how often the host's resolv.conf is read. It is small and
// mostly in memory, so that reading it costs less than a notification, and shows
// a change however the file was replaced.
const nameserversEvery = 500 * time.Millisecond

// nameservers are the upstreams for names outside all configured domains where no
// flag names any: those of the host, which DHCP and VPNs change.
type nameservers struct {
	path   string
	every  time.Duration // between two looks
	self   *config       // whose own addresses are no upstreams
	always []forward.Upstream
	log    *slog.Logger

	// Owned by follow.
	seen    string             // the file's text at the last look
	text    string             // the text that list is made of
	list    []forward.Upstream // what it named
	trouble string             // why the file names nobody now; empty: it does
}

var errNoNameserver = errors.New("it names no server but dnsd itself")

// look reads the file and reports whether list has changed. A file that is gone,
// or names nobody, changes nothing.
func (n *nameservers) look() (changed bool) { return n.take(n.read()) }

func (n *nameservers) read() (string, error) {
	text, err := regular.Read(n.path, regular.MaxSettings)
	return string(text), err
}

func (n *nameservers) take(text string, err error) (changed bool) {
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

// follow keeps a forwarder's upstreams those of the file, until ctx ends. A new
// text counts when two looks in turn have found it: the first may have found half
// of it.
func (n *nameservers) follow(ctx context.Context, f *forward.Forwarder) error {
	look := time.Tick(n.every)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look:
		}
		text, err := n.read()
		if err == nil && text != n.seen {
			n.seen = text
			continue
		}
		before := n.list
		if !n.take(text, err) {
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
