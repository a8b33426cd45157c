package etcd

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// quirks are what is known to be wrong with a server.
type quirks struct {
	version   string // that was logged
	overtakes bool   // progress may be told before the changes that it is about (etcd issue 15220)
	logged    bool   // that it has done so
}

// checkVersion looks at the version of the server, a member or a proxy. One that is too
// old is an error. A server that does not say its version is taken for a good one.
func (s *Source) checkVersion(ctx context.Context, c *client) error {
	bounded, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r, err := c.status.Status(c.outgoing(bounded), &pb.StatusRequest{})
	if err != nil {
		s.log.Debug("etcd does not say its version", "source", s, "err", c.plain(err))
		return nil
	}
	var major, minor, patch int
	if n, _ := fmt.Sscanf(r.Version, "%d.%d.%d", &major, &minor, &patch); n < 3 {
		return nil
	}
	below := func(minors ...int) bool { // the first good patch of 3.4 and of 3.5
		return major == 3 && (minor == 4 && patch < minors[0] || minor == 5 && patch < minors[1])
	}
	why := ""
	s.quirks.overtakes = s.quirks.logged || below(25, 8)
	switch {
	case major < 3 || major == 3 && minor < 4:
		return fmt.Errorf("etcd %s is too old: dnsd needs 3.4 or newer", r.Version)
	case s.quirks.overtakes:
		why = "it may tell of progress before it tells of the changes: dnsd relies on the changes alone, and lists again where they are compacted"
	case below(31, 13):
		why = "it tells of no progress until there is a change: a quiet cluster seems dead"
	}
	if s.quirks.version != r.Version {
		s.quirks.version = r.Version
		if why != "" {
			s.log.Warn("this version of etcd has a fault; upgrade to 3.4.31, 3.5.13 or newer", "source", s, "version", r.Version, "fault", why)
		}
	}
	return nil
}

// overtaken notes that a change has come after progress that it belongs to.
func (s *Source) overtaken(mod, told int64) {
	s.quirks.overtakes = true
	if !s.quirks.logged {
		s.quirks.logged = true
		s.log.Warn("etcd has told of progress before it told of the changes; progress is not relied on any more",
			"source", s, "version", s.quirks.version, "change", mod, "progress", told)
	}
}
