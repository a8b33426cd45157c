package registry

import (
	"context"
	"errors"
	"time"
)

// applyLoop is the registry's only writer: it takes what the source sent in
// natural batches and keeps the status. No lock is held and nothing is read
// from outside while it works.
func (f *Follower) applyLoop(ctx context.Context, saver *saver) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		f.stats.round.Store(time.Now().UnixNano())
		select {
		case <-ctx.Done():
			return
		case o := <-f.ops:
			f.batch(o)
		case <-f.release:
			f.releaseHeld("SIGUSR1")
		case <-ticker.C:
		}
		f.settle(time.Now())
		if saver.failed.CompareAndSwap(true, false) {
			f.dirty = true
		}
		if f.worthSaving() && saver.offer() {
			f.dirty = false
		}
	}
}

// batch applies o and what else is queued behind it, at most batchItems changes
// in one transaction.
func (f *Follower) batch(o op) {
	var items []Item
	var done []chan struct{}
	for {
		if o.listing != nil {
			f.changes(items)
			items = nil
			f.complete(o.listing)
		} else {
			items = append(items, o.items...)
		}
		if o.done != nil {
			done = append(done, o.done)
		}
		if len(items) >= batchItems || o.listing != nil {
			break
		}
		select {
		case o = <-f.ops:
			continue
		default:
		}
		break
	}
	f.changes(items)
	for _, d := range done {
		close(d)
	}
}

// changes applies items as one transaction, notes what was rejected, and
// returns how many objects changed.
func (f *Follower) changes(items []Item) int {
	if len(items) == 0 {
		return 0
	}
	var source *sourceError
	logged := 0
	for i := range items {
		item := &items[i]
		switch {
		case item.Err == nil:
			delete(f.rejected, item.key())
			f.guard.forget(item.key())
		case errors.As(item.Err, &source):
			f.status.Problem, f.problemAt = source.Error(), time.Now()
		case f.reject(item):
			if logged++; logged <= maxLogged {
				msg := "an object of the registry's source cannot be used; the version known before stays"
				if item.Key.Name == "" && item.Key.ID == "" {
					msg = "an object of the registry's source cannot be used, nor can be told which it is"
				}
				f.log.Error(msg, "object", item.Key.String(), "where", item.Where, "reason", item.Err)
			}
		}
	}
	if logged > maxLogged {
		f.log.Error("more objects of the registry's source cannot be used", "objects", logged-maxLogged, "source", f.src)
	}
	n := f.reg.Apply(items)
	if n > 0 {
		f.stats.changes.Add(int64(n))
		f.dirty = true
	}
	return n
}

const (
	// maxLogged is how many unusable objects of one transaction are logged one
	// by one: a mistake in an app's network rejects its thousand machines too,
	// and the first few lines say what all of them would.
	maxLogged = 20

	// maxReasons bounds the memory of reasons already logged; beyond it a
	// reason may be logged again.
	maxReasons = 10_000
)

// reject counts an unusable object and reports whether its reason is new.
func (f *Follower) reject(item *Item) bool {
	f.stats.rejected[item.Key.Kind].Add(1)
	reason := item.Err.Error()
	logKey := item.Key
	if logKey.Name == "" { // not even its name could be read: tell them apart by their place
		logKey.ID = item.Where
	}
	if f.rejected[logKey] == reason {
		return false
	}
	if len(f.rejected) >= maxReasons {
		clear(f.rejected)
	}
	f.rejected[logKey] = reason
	return true
}

// complete applies a complete listing as one transaction: what it has, and the
// removal of what it lacks unless the sweep guard holds that back.
func (f *Follower) complete(l *listing) {
	now := time.Now()
	total := 0
	for _, k := range Kinds() {
		total += f.reg.Count(k)
	}
	view := f.reg.View()
	items := make([]Item, 0, len(l.puts)+len(l.late))
	for _, o := range l.undone(view) { // before puts, which are newer
		items = append(items, Put(o))
	}
	for _, o := range l.puts {
		items = append(items, Put(o))
	}
	gone := l.absent(view)
	pass := f.guard.judge(gone, total, now, l.doubt != "")
	for _, key := range pass {
		items = append(items, Delete(key))
	}
	items = append(items, l.late...)
	f.reg.heard(now)
	changed := f.changes(items)
	f.stats.listings.Add(1)
	f.stats.held.Store(int64(f.guard.len()))
	f.status.Problem = ""
	f.log.Info("the registry is listed", "source", f.src, "changed", changed, "removed", len(pass),
		"rejected", len(l.rejected), "held", f.guard.len())
	f.doubt(l.doubt)
	if l.doubt != "" {
		return
	}
	f.dirty = true // a listing is saved even where it changed nothing: it is proven
	f.status.SyncedAt, f.status.State = now, Live
	if n := f.guard.len(); n > 0 {
		f.log.Error("a listing would remove more than half of the registry: its removals are held back until a listing at least 30 s later agrees, or SIGUSR1 releases them",
			"held", n, "objects", total, "source", f.src)
	}
}

// doubt notes why the last listing may lack what is there, if it may.
func (f *Follower) doubt(why string) {
	switch old := f.status.Doubt; {
	case why != "" && old == "":
		f.log.Warn("the registry's source doubts that its listing is whole: what it lacks stays until the source is sure, or SIGUSR1",
			"source", f.src, "doubt", why)
	case why == "" && old != "":
		f.log.Info("the registry's source has no doubt any more", "source", f.src)
	}
	f.status.Doubt = why
}

// releaseHeld applies the removals that were held back. Who releases them vouches
// for the last listing, so that what was not ready before is so now.
func (f *Follower) releaseHeld(why string) {
	if s := &f.status; s.Doubt != "" && (s.State == Listing || s.State == Cached) {
		s.State, s.SyncedAt = Live, time.Now()
	}
	held := f.guard.take()
	items := make([]Item, 0, len(held))
	for _, key := range held {
		items = append(items, Delete(key))
	}
	f.log.Warn("removals that were held back are let through", "removed", len(held), "by", why)
	f.changes(items)
	f.stats.held.Store(0)
}

// settle brings the status up to date with the clock.
func (f *Follower) settle(now time.Time) {
	s := &f.status
	if s.Problem != "" && f.reg.LastAlive().After(f.problemAt) {
		s.Problem = "" // heard since
	}
	s.Held = f.guard.len()
	f.stats.held.Store(int64(s.Held))
	if s.State != Listing && s.State != Cached {
		silent := now.Sub(f.reg.LastAlive()) > f.cfg.StaleAfter
		switch {
		case silent && s.State != Stale:
			f.log.Warn("the registry's source is silent; the last known state is served and marked stale",
				"source", f.src, "since", f.reg.LastAlive(), "problem", s.Problem)
			s.State = Stale
		case silent:
		case s.State == Stale:
			f.log.Info("the registry's source is heard again", "source", f.src)
			s.State = Live
		}
		if s.State == Live && s.Held > 0 {
			s.State = Held
		} else if s.State == Held && s.Held == 0 {
			s.State = Live
		}
	}
	if f.guard.wantsListing(now) {
		select {
		case f.relist <- struct{}{}:
		default:
		}
	}
	if *s != f.published() {
		f.reg.SetStatus(*s)
	}
}

// published is the status as readers have it, in the form that settle compares.
func (f *Follower) published() Status {
	s := *f.reg.Status()
	s.changed = nil
	return s
}
