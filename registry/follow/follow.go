package follow

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"dnsd/registry"
	"dnsd/registry/contain"
)

const (
	// batchItems bounds one transaction: large enough that a busy registry
	// pays per batch (100-row batches commit 3.6 times as many rows a second as
	// single ones), small enough that the first change of it does not wait for
	// the last.
	batchItems = 500

	// batchMost bounds one where the registry is behind: as long as there is more than a
	// batch, the next one may be twice as large. A transaction copies the pointers of
	// the fleets that it changes, so that small ones cost a large fleet that catches up
	// its size again and again. Nobody waits for longer than without.
	batchMost = 16 * batchItems

	// queueOps is how many calls a source may be ahead of the registry: enough
	// for the time of one transaction, and for large ones of single changes.
	queueOps = 4096

	// The pause before following again is drawn evenly from zero to a bound
	// that doubles (full jitter), so that ten thousand hosts do not come back
	// to a recovering cluster at once. It starts over after healthyAfter; see also
	// Config.OwnHost.
	backoffMin   = 500 * time.Millisecond
	backoffMax   = 30 * time.Second
	backoffOwn   = 5 * time.Second // of a source that serves only this host
	healthyAfter = 2 * time.Minute

	// tick is how often the apply loop looks at the clock: staleness is
	// noticed this late at most.
	tick = time.Second
)

// Config configures a follower. The zero value of a field means its default.
type Config struct {
	StaleAfter time.Duration // silence after which answers say that they may be stale; default 1 min
	StateDir   string        // where the last known state is kept; empty: nowhere
	Log        *slog.Logger  // default: discard

	// OwnHost says that the source is an agent on this host, which serves no
	// other: the pauses stay short, and start over once it has answered.
	OwnHost bool
}

// Follower keeps a registry current from one source.
type Follower struct {
	reg   *registry.Registry
	src   Source
	cfg   Config
	log   *slog.Logger
	began time.Time

	ops     chan op
	release chan struct{}
	saver   *saver
	stream  atomic.Pointer[feed] // what the source writes to at present; nil: it is not followed
	owed    atomic.Bool          // everything is to be listed again, as soon as it can be
	lag     lag

	// Owned by the apply loop.
	guard     guard
	loud      [registry.Classes]int // how much of each class was held when that was last logged
	status    registry.Status
	problemAt time.Time               // when status.Problem came up
	rejected  map[registry.Key]string // reasons already logged
	dirty     bool                    // the registry has changed since it was last saved
	room      int                     // how many changes the next batch may have

	answered bool // the source has sent something in this call of Follow; owned by its goroutine

	// Written by one goroutine each, read by the collector.
	stats followerStats

	panics contain.Counter
	load   sync.Once
	turned int64 // stats.round when Turned was last called
}

// followerStats counts for the metrics; every field may be read at any time.
type followerStats struct {
	rejected   [4]atomic.Int64
	partial    [4]atomic.Int64
	changes    atomic.Int64
	listings   atomic.Int64
	reconnects atomic.Int64
	held       [registry.Classes]atomic.Int64
	round      atomic.Int64 // when the apply loop last finished a round, Unix nanoseconds
	saved      atomic.Int64 // when the state was last written to disk, Unix nanoseconds
	saveErrors atomic.Int64
}

// op is one message to the apply loop.
type op struct {
	items   []registry.Item
	listing *listing     // complete; nil for changes
	at      int64        // the revision that the items before have brought; 0: nothing is said of it
	problem error        // what the source failed with; nil: it did not
	done    chan<- error // gets nil when the op is applied, or why it is not; has room for one; may be nil
}

// New returns a follower of src for reg; Run starts it.
func New(reg *registry.Registry, src Source, cfg Config) *Follower {
	if cfg.StaleAfter <= 0 {
		cfg.StaleAfter = time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	f := &Follower{
		reg: reg, src: src, cfg: cfg, log: cfg.Log, began: time.Now(),
		ops: make(chan op, queueOps), release: make(chan struct{}, 1),
		rejected: map[registry.Key]string{}, room: batchItems,
	}
	f.saver, f.panics.Log = newSaver(f), f.log
	f.status = registry.Status{State: registry.Listing, Source: src.String()}
	reg.SetStatus(f.status)
	f.stats.round.Store(f.began.UnixNano())
	return f
}

// Release lets through the removals that the sweep guard holds. Safe for
// concurrent use.
func (f *Follower) Release() {
	select {
	case f.release <- struct{}{}:
	default:
	}
}

// Turned reports whether the apply loop has turned since the last call, which it does
// every second where nothing is to be applied. Calls must follow one after the other.
func (f *Follower) Turned() bool {
	last := f.turned
	f.turned = f.stats.round.Load()
	return f.turned != last
}

// Round returns a number that is another one whenever the apply loop has turned. Safe
// for concurrent use.
func (f *Follower) Round() int64 { return f.stats.round.Load() }

// Run follows the source until ctx ends, and then returns nil. If there is a
// state directory, the last known state is loaded before anything else, unless
// Load has been called, and saved at the end.
//
// It waits for all that it has started, but not without end for a disk: where a
// read or a write of the state hangs in the kernel, it leaves that behind.
func (f *Follower) Run(ctx context.Context) error {
	f.Load(ctx)
	idle, saved := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(saved)
		f.saver.run(ctx, idle)
	}()
	var wg sync.WaitGroup
	wg.Go(func() { f.follow(ctx) })
	f.applyLoop(ctx)
	wg.Wait()
	close(idle)
	select {
	case <-saved:
	case <-time.After(lastPatience):
		f.log.Error("the last known state is not saved: writing it takes too long; what was saved before stays", "dir", f.cfg.StateDir, "waited", lastPatience)
	}
	return nil
}

// errRelist is why a healthy stream is ended: everything is to be listed again. It
// is followed again at once, so that a source that knows where it was goes on there
// while it lists.
var errRelist = errors.New("everything is to be listed again")

// follow runs the source, again and again, until ctx ends.
func (f *Follower) follow(ctx context.Context) {
	// A stream may be resumed only after a complete listing: one that was due
	// and broke off is still due.
	bound, resume := backoffMin, false
	for ctx.Err() == nil {
		began := time.Now()
		listed, err := f.followOnce(ctx, resume)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errRelist) {
			resume = false
			continue
		}
		f.panics.Note(err)
		resume = listed && !f.owed.Load()
		if time.Since(began) >= healthyAfter || f.cfg.OwnHost && f.answered {
			bound = backoffMin
		}
		pause := rand.N(bound)
		bound = min(2*bound, backoffMax)
		if f.cfg.OwnHost {
			bound = min(bound, backoffOwn)
		}
		f.stats.reconnects.Add(1)
		f.log.Warn("the registry's source broke off; following it again", "source", f.src, "err", err, "pause", pause)
		select {
		case f.ops <- op{problem: err}:
		case <-ctx.Done():
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// followOnce follows until the stream breaks or is ended to be listed again. It
// reports whether the stream can be resumed: it was, or began with a whole
// listing.
func (f *Follower) followOnce(ctx context.Context, resume bool) (listed bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f.answered = false
	d := &feed{f: f, listed: resume, end: cancel}
	d.streaming.Store(resume)
	f.stream.Store(d)
	defer f.stream.Store(nil)
	err = contain.Run(func() error { return f.src.Follow(ctx, d, resume) })
	if errors.As(err, new(*contain.Error)) {
		d.listed = false // the source may not know what it has sent
	}
	if cause := context.Cause(ctx); cause != nil {
		return d.listed, cause
	}
	if err == nil {
		err = errors.New("the stream ended without a reason")
	}
	return d.listed, err
}

// feed is what the source writes to. It lives for one call of Follow.
type feed struct {
	f       *Follower
	listing *listing // under way; nil: none
	listed  bool     // the last one that was completed was whole

	measured bool  // Reached was called
	gap      bool  // changes are missing that only the listing brings
	at       int64 // what is reached when it has brought them

	end       context.CancelCauseFunc // set once; the apply loop ends a stream by it
	streaming atomic.Bool             // no listing is under way or still to begin; read by the apply loop too
}

func (d *feed) send(ctx context.Context, o op) error {
	select {
	case d.f.ops <- o:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// await sends o and waits until it is applied.
func (d *feed) await(ctx context.Context, o op) error {
	done := make(chan error, 1)
	o.done = done
	if err := d.send(ctx, o); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// List implements Feed.
func (d *feed) List(ctx context.Context, items []registry.Item) error {
	if d.listing == nil {
		// What an earlier stream left in the queue must be in the registry
		// before the listing is compared with it.
		if err := d.await(ctx, op{}); err != nil {
			return err
		}
		d.listing = newListing(d.f.reg.Snapshot())
		d.streaming.Store(false)
	}
	var rejected []registry.Item
	for i := range items {
		item := items[i] // the slice is the caller's
		if item.Object == nil && item.Err == nil {
			item.Err = errors.New("it is deleted in the middle of a listing") // where it should just be missing
		}
		if err := contain.Run(func() error { d.listing.add(&item); return nil }); err != nil {
			item = registry.Reject(registry.Key{}, item.Where, err)
		}
		if err := trouble(&item); err != nil { // logged now; the object waits for the end of the listing
			rejected = append(rejected, registry.Item{Key: item.About(), Err: err, Where: item.Where})
		}
	}
	if len(rejected) > 0 {
		return d.send(ctx, op{items: rejected})
	}
	return context.Cause(ctx)
}

// Listed implements Feed.
func (d *feed) Listed(ctx context.Context, doubt string) error {
	if err := d.List(ctx, nil); err != nil { // an empty listing is one too
		return err
	}
	l := d.listing
	d.listing, l.doubt = nil, doubt
	if err := d.await(ctx, op{listing: l, at: d.at}); err != nil {
		return err
	}
	d.gap, d.at = false, 0
	d.listed, d.f.answered = doubt == "", true
	d.streaming.Store(true)
	return nil
}

// Change implements Feed.
func (d *feed) Change(ctx context.Context, items []registry.Item) error {
	if d.listing != nil {
		for i := range items { // one that panics is rejected when it is applied
			_ = contain.Run(func() error { d.listing.decide(&items[i]); return nil })
		}
	}
	// What is from disk keeps its age until it is compared with a whole listing.
	if s := d.f.reg.Status().State; d.listing == nil || s != registry.Listing && s != registry.Cached {
		d.f.answered = true
		d.f.reg.Heard(time.Now())
	}
	if len(items) == 0 {
		return context.Cause(ctx)
	}
	return d.send(ctx, op{items: append([]registry.Item(nil), items...)})
}

// Reached implements Feed.
func (d *feed) Reached(ctx context.Context, at, head int64) error {
	d.f.lag.knows(head, time.Now(), !d.measured)
	d.measured, d.gap = true, d.gap || at == 0
	if d.gap {
		d.at = at
		return context.Cause(ctx)
	}
	return d.send(ctx, op{at: at})
}
