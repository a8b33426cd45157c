package follow

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"time"

	"dnsd/registry"
	"dnsd/registry/contain"
)

// applyLoop is the registry's only writer: it applies what the source sent, in
// batches of what is queued, and keeps the status. It holds no lock and does no I/O.
func (f *Follower) applyLoop(ctx context.Context) {
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
			f.contain(func() { f.releaseHeld("SIGUSR1") })
		case <-ticker.C:
		}
		f.contain(func() {
			f.updateStatus(time.Now())
			f.offerState()
		})
	}
}

// contain does a part of the apply loop's work. A panic does not end the loop: it
// is counted and returned.
func (f *Follower) contain(do func()) error {
	err := contain.Run(func() error { do(); return nil })
	f.panics.Note(err)
	return err
}

// offerState has the registry saved when that is due.
func (f *Follower) offerState() {
	if f.saver.failed.CompareAndSwap(true, false) {
		f.dirty = true
	}
	if f.worthSaving() && f.saver.offer() {
		f.dirty = false
	}
}

// batch applies o and what else is queued behind it, as many changes in one
// transaction as there is room for, up to a listing.
func (f *Follower) batch(o op) {
	var items []registry.Item
	var done []chan<- error
	full := false
	for {
		items = append(items, o.items...)
		if o.at != 0 {
			f.lag.reached(o.at, time.Now())
		}
		if o.problem != nil {
			f.status.Problem, f.problemAt = o.problem.Error(), time.Now()
		}
		if o.done != nil {
			done = append(done, o.done)
		}
		if full = len(items) >= f.room; full || o.listing != nil {
			break
		}
		select {
		case o = <-f.ops:
			continue
		default:
		}
		break
	}
	if full {
		f.room = min(2*f.room, batchMost)
	} else {
		f.room = batchItems
	}
	err := f.contain(func() {
		f.changes(items)
		f.guard.back(objectsOf(items))
		if o.listing != nil {
			f.complete(o.listing)
		}
	})
	if err != nil {
		f.lost(err)
	}
	for _, d := range done {
		d <- err // which has room
	}
}

// lost ends a stream of which a part could not be applied. Everything is listed
// when the source is followed again, after a pause.
func (f *Follower) lost(err error) {
	f.owed.Store(true)
	if d := f.stream.Load(); d != nil {
		d.end(err)
	}
}

// objectsOf yields the objects that items insert or replace.
func objectsOf(items []registry.Item) iter.Seq[registry.Object] {
	return func(yield func(registry.Object) bool) {
		for i := range items {
			if o := items[i].Object; o != nil && !yield(o) {
				return
			}
		}
	}
}

// changes applies items as one transaction, notes what was rejected, and
// returns how many objects changed. An item that makes dnsd panic is rejected.
func (f *Follower) changes(items []registry.Item) int {
	if len(items) == 0 {
		return 0
	}
	named, logged := keeper{}, 0
	for i := range items {
		if err := contain.Run(func() error { f.take(&items[i], named, &logged); return nil }); err != nil {
			items[i] = registry.Reject(registry.Key{}, items[i].Where, err)
			f.take(&items[i], named, &logged)
		}
	}
	f.guard.spare(named)
	if logged > maxLogged {
		f.log.Error("more objects of the registry's source cannot be used, as a whole or in part", "objects", logged-maxLogged, "source", f.src)
	}
	n := f.apply(items)
	if n > 0 {
		f.stats.changes.Add(int64(n))
		f.dirty = true
	}
	return n
}

// take does all that an item needs except applying it: it settles what the guard
// holds of the object, and counts and logs what cannot be used.
func (f *Follower) take(item *registry.Item, named keeper, logged *int) {
	if item.Err == nil {
		f.guard.decided(item)
	}
	err := trouble(item)
	switch err {
	case nil:
		delete(f.rejected, item.About())
		return
	case errTold:
		return
	}
	f.panics.Note(err)
	if !isPart(err) {
		named.add(item.Key)
	}
	if f.reject(item, err) {
		if *logged++; *logged <= maxLogged {
			f.logTrouble(item, err)
		}
	}
}

// apply applies items as one transaction and returns how many objects changed. If
// one of them makes the registry panic, the transaction is undone, and the items
// are applied in halves until that one is found and left out.
func (f *Follower) apply(items []registry.Item) (n int) {
	err := contain.Run(func() error { n = f.reg.Apply(items); return nil })
	if err == nil {
		return n
	}
	f.reg.Wake()
	if len(items) > 1 {
		half := len(items) / 2
		return f.apply(items[:half]) + f.apply(items[half:])
	}
	item := registry.Reject(items[0].About(), items[0].Where, err)
	f.take(&item, keeper{}, new(int))
	return 0
}

const (
	// maxLogged is how many unusable objects of one transaction are logged one
	// by one. A mistake in an app's network rejects its thousand machines too, and
	// the first few lines show it.
	maxLogged = 20

	// maxReasons bounds the memory of reasons already logged; beyond it a
	// reason may be logged again.
	maxReasons = 10_000
)

// errTold takes the place of a note that was logged while its object was listed.
var errTold = errors.New("logged already")

// partError is why an object is used in part.
type partError struct{ error }

func isPart(err error) bool { return errors.As(err, new(*partError)) }

// trouble returns why the object, or a part of it, could not be used.
func trouble(i *registry.Item) error {
	switch {
	case i.Err != nil:
		return i.Err
	case i.Note == nil || i.Note == errTold:
		return i.Note
	}
	return &partError{i.Note}
}

// logTrouble logs an object that cannot be used, as a whole or in part.
func (f *Follower) logTrouble(item *registry.Item, err error) {
	key, level := item.About(), slog.LevelError
	msg := "an object of the registry's source cannot be used; the version known before stays"
	switch {
	case isPart(err):
		msg, level = "an object of the registry's source is used in part", slog.LevelWarn
	case key.Name == "" && key.ID == "":
		msg = "an object of the registry's source cannot be used, and does not say which it is"
	}
	f.log.Log(context.Background(), level, msg, "object", key.String(), "where", item.Where, "reason", err)
}

// reject counts an object that cannot be used, as a whole or in part, and
// reports whether its reason is new.
func (f *Follower) reject(item *registry.Item, err error) bool {
	logKey, reason := item.About(), err.Error()
	if isPart(err) {
		f.stats.partial[logKey.Kind].Add(1)
	} else {
		f.stats.rejected[logKey.Kind].Add(1)
	}
	if logKey.Name == "" { // those without a name are told apart by their place
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

// complete applies a complete listing as one transaction: what it has, and its
// losses, unless the sweep guard holds them back.
func (f *Follower) complete(l *listing) {
	now, doubted := time.Now(), l.doubt != ""
	var sizes [registry.Classes]int
	for c := range registry.Classes {
		sizes[c] = f.reg.Size(registry.Class(c))
	}
	view := f.reg.Snapshot()
	losses, rest := l.losses(view)
	f.guard.back(slices.Values(l.puts))
	pass := f.guard.judge(losses, sizes, l.began, now, doubted)
	items, removed := f.itemsOf(l, view, losses, rest)
	f.reg.Heard(now)
	changed := f.changes(items)
	f.guard.note(pass, losses, now)
	f.stats.listings.Add(1)
	f.owed.Store(false)
	f.status.Problem = ""
	f.log.Info("the registry is listed", "source", f.src, "changed", changed, "removed", removed,
		"rejected", len(l.rejected), "held", len(f.guard.held))
	f.doubt(l.doubt)
	if !doubted {
		f.logHeld(sizes)
		f.dirty = true // the state is saved even if nothing changed: it is newer
		f.status.SyncedAt, f.status.State = now, registry.Live
	}
}

// logHeld logs what is held back: each class once, and again when it has doubled.
func (f *Follower) logHeld(sizes [registry.Classes]int) {
	for c, n := range f.guard.counts {
		if n > 2*f.loud[c] {
			f.log.Error("a listing takes away most of what answers hold: it stays until a listing at least 30 s later agrees, or SIGUSR1 lets it go",
				"what", registry.Class(c).Plural(), "held", n, "of", sizes[c], "source", f.src)
			f.loud[c] = n
		} else if n == 0 {
			f.loud[c] = 0
		}
	}
}

// itemsOf returns the changes that a listing makes after the guard has judged its
// losses, and how many objects they remove.
func (f *Follower) itemsOf(l *listing, view *registry.Snapshot, losses map[registry.Key]loss, rest []registry.Key) (items []registry.Item, removed int) {
	items = slices.Grow(items, len(l.puts)+len(rest))
	for _, o := range l.changedSince(view, losses) { // before puts, which are newer
		items = append(items, registry.Put(o))
	}
	held := f.guard.held
	for _, o := range l.puts {
		if len(held)+len(l.decided) > 0 {
			key := o.Key()
			if _, ok := held[key]; ok || !l.open(key) {
				continue
			}
		}
		item := registry.Put(o)
		if item.Note != nil {
			item.Note = errTold
		}
		items = append(items, item)
	}
	for key, loss := range losses {
		if _, ok := held[key]; !ok && loss.put == nil {
			items = append(items, registry.Delete(key))
			removed++
		}
	}
	if l.doubt == "" {
		for _, key := range rest {
			items = append(items, registry.Delete(key))
		}
		removed += len(rest)
	}
	return items, removed
}

// doubt notes why the last listing may be incomplete; empty: it is not.
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

// releaseHeld makes all changes that are held back. The operator confirms the last
// listing by it: a registry that waits for a listing without doubt becomes live.
func (f *Follower) releaseHeld(why string) {
	ready := false
	if s := &f.status; s.Doubt != "" && (s.State == registry.Listing || s.State == registry.Cached) {
		s.State, s.SyncedAt, ready = registry.Live, time.Now(), true
	}
	items := f.guard.take()
	if len(items) == 0 && !ready {
		f.log.Info("nothing is held back that could be let through", "by", why)
		return
	}
	f.log.Warn("what was held back is let through", "objects", len(items), "by", why)
	f.changes(items)
}

// hold says what the guard holds back and what lets it go, in a sentence.
func (f *Follower) hold() string {
	if len(f.guard.held) == 0 {
		return ""
	}
	var parts []string
	for c, n := range f.guard.counts {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d of %d %s", n, f.reg.Size(registry.Class(c)), registry.Class(c).Plural()))
		}
	}
	until := "a listing at least 30 s later agrees"
	if f.guard.due.IsZero() {
		until = "the source lists without doubt"
	}
	return fmt.Sprintf("the last listing takes away %s: they stay until %s, or SIGUSR1", strings.Join(parts, ", "), until)
}

// updateStatus brings the status up to date with the clock.
func (f *Follower) updateStatus(now time.Time) {
	s := &f.status
	if s.Problem != "" && f.reg.LastAlive().After(f.problemAt) {
		s.Problem = "" // heard since
	}
	s.Held, s.Hold = len(f.guard.held), f.hold()
	for c, n := range f.guard.counts {
		f.stats.held[c].Store(int64(n))
	}
	f.guard.expire(now)
	s.Unsaved = f.saver.problem(now)
	if s.State != registry.Listing && s.State != registry.Cached {
		f.fresh(now)
	}
	f.relist(now)
	f.reg.SetStatus(*s)
}

// fresh sets the state of a registry that has been listed.
func (f *Follower) fresh(now time.Time) {
	s, state := &f.status, registry.Live
	was, behind := s.State, ""
	switch {
	case now.Sub(f.reg.LastAlive()) > f.cfg.StaleAfter:
		state = registry.Stale
	case f.lag.catchingUp(now, was == registry.Stale || was == registry.CatchingUp):
		state, behind = registry.CatchingUp, f.lag.sentence(now)
	case s.Held > 0:
		state = registry.Held
	}
	if state != was {
		f.logState(was, state, behind)
	}
	s.State, s.Behind = state, behind
}

// logState logs that the state of a registry that has been listed changes.
func (f *Follower) logState(was, state registry.State, behind string) {
	if state == registry.Stale {
		f.log.Warn("the registry's source is silent; the last known state is served and marked stale",
			"source", f.src, "since", f.reg.LastAlive(), "problem", f.status.Problem)
	} else if was == registry.Stale {
		f.log.Info("the registry's source is heard again", "source", f.src)
	}
	if state == registry.CatchingUp {
		f.log.Warn("the registry is behind its source; answers are marked stale until it has caught up", "source", f.src, "lag", behind)
	} else if was == registry.CatchingUp && state != registry.Stale {
		f.log.Info("the registry has caught up with its source", "source", f.src)
	}
}

// relist ends the stream when everything is to be listed again: because
// something was lost, or the guard waits for a second opinion. It leaves alone
// a source that doubts its listing, and a listing under way: one that takes longer
// than guardHold would never end.
func (f *Follower) relist(now time.Time) {
	d := f.stream.Load()
	if d == nil || !d.streaming.Load() { // which is set after the listing has been judged
		return
	}
	if f.owed.Load() || f.guard.wantsListing(now) && f.status.Doubt == "" {
		d.end(errRelist)
	}
}
