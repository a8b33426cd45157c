package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"dnsd/registry"
	"dnsd/registry/etcd"
	"dnsd/registry/follow"
)

// siteEnv is set in the process that is a site: it reads orders from its standard
// input, a line of JSON each, answers each with a report, and ends with its input.
const siteEnv = "DNSD_SCALE_SITE"

// order says what a site is to do.
type order struct {
	Sources int         // how many are to run from now on; those that run are kept
	Whole   int         // so many of them follow everything
	Stop    bool        // end all
	Config  etcd.Config // without the prefix
	Seq     int64       // the report counts who has not seen this change
}

// report says how a site's sources are.
type report struct {
	Running int
	Listed  int // of those
	Behind  int // have not seen order.Seq
	Seen    *histogram
	Sent    int64 // bytes, on the site's own loopback device
	Err     string
}

// site is a process with many dnsds' sources and followers.
type site struct {
	ctx     context.Context
	sources []*tap
	seen    atomic.Pointer[histogram]

	running context.Context // of the sources
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

func serveSite(ctx context.Context, in io.Reader, out io.Writer) error {
	s := &site{ctx: ctx}
	s.seen.Store(&histogram{})
	defer s.end()
	orders, reports := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := reports.Encode(s.obey(&o)); err != nil {
			return err
		}
	}
}

func (s *site) obey(o *order) *report {
	if o.Stop {
		s.end()
	}
	r := &report{}
	if err := s.grow(o); err != nil {
		r.Err = err.Error()
	}
	for _, t := range s.sources {
		r.Running++
		if t.reg.Status().State != registry.Listing {
			r.Listed++
		}
		if t.seq.Load() < o.Seq {
			r.Behind++
		}
	}
	r.Seen, r.Sent = s.seen.Swap(&histogram{}), loopbackSent()
	return r
}

// grow starts the sources that are missing, all at once.
func (s *site) grow(o *order) error {
	if s.stop == nil {
		s.running, s.stop = context.WithCancel(s.ctx)
	}
	for i := len(s.sources); i < o.Sources; i++ {
		conf, whole := o.Config, i < o.Whole
		conf.Prefix = prefixOf(whole)
		source, err := etcd.New(conf, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		t := &tap{Source: source, site: s, reg: registry.New(), whole: whole}
		s.sources = append(s.sources, t)
		follower := follow.New(t.reg, t, follow.Config{})
		s.wg.Go(func() { _ = follower.Run(s.running) }) // returns nil
	}
	return nil
}

func (s *site) end() {
	if s.stop == nil {
		return
	}
	s.stop()
	s.wg.Wait()
	s.sources, s.stop = nil, nil
}

// tap is a source that is listened to.
type tap struct {
	*etcd.Source
	site  *site
	reg   *registry.Registry
	whole bool         // the follower is given everything; others nothing
	seq   atomic.Int64 // the newest change seen
}

// Follow implements follow.Source.
func (t *tap) Follow(ctx context.Context, feed follow.Feed, resume bool) error {
	return t.Source.Follow(ctx, &tapped{Feed: feed, tap: t}, resume)
}

// tapped is a feed that notes what passes.
type tapped struct {
	follow.Feed
	*tap
}

// List implements follow.Feed.
func (t *tapped) List(ctx context.Context, items []registry.Item) error {
	for i := range items {
		t.note(&items[i], time.Time{})
	}
	if !t.whole {
		items = nil
	}
	return t.Feed.List(ctx, items)
}

// Change implements follow.Feed.
func (t *tapped) Change(ctx context.Context, items []registry.Item) error {
	now := time.Now()
	for i := range items {
		t.note(&items[i], now)
	}
	if !t.whole {
		items = nil
	}
	return t.Feed.Change(ctx, items)
}

// note notes which change an item is, and, if it came as a change, how long after it
// was made.
func (t *tap) note(item *registry.Item, now time.Time) {
	m, ok := item.Object.(*registry.Machine)
	if !ok {
		return
	}
	var seq, at int64
	for _, pair := range m.Metadata {
		switch pair.Key {
		case seqKey:
			seq, _ = strconv.ParseInt(pair.Value, 10, 64)
		case atKey:
			at, _ = strconv.ParseInt(pair.Value, 10, 64)
		}
	}
	for old := t.seq.Load(); old < seq && !t.seq.CompareAndSwap(old, seq); old = t.seq.Load() {
	}
	if at != 0 && !now.IsZero() {
		t.site.seen.Load().add(now.Sub(time.Unix(0, at)))
	}
}

// loopbackSent returns how many bytes the loopback device of this network has sent.
func loopbackSent() int64 {
	text, _ := os.ReadFile("/proc/self/net/dev")
	n, _ := sent(string(text), "lo")
	return n
}

// sent returns the bytes that a device has sent, from the text of /proc/net/dev.
func sent(text, device string) (int64, error) {
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if fields := strings.Fields(rest); ok && name == device && len(fields) >= 9 {
			return strconv.ParseInt(fields[8], 10, 64)
		}
	}
	return 0, fmt.Errorf("no device %s", device)
}
