package resolver

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Run serves the bound addresses until ctx ends, and then drains: it reads no
// more, finishes what is in hand for at most Config.Drain, closes everything and
// returns nil. It returns an error as soon as a socket can no longer be read: a
// process that serves only some of its sockets would look healthy. It binds first where
// Listen was not called, and may be called once.
func (r *Resolver) Run(ctx context.Context) error {
	if len(r.sockets) == 0 {
		if err := r.Listen(); err != nil {
			return err
		}
	}
	serving, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	// What is in hand outlives ctx, but not Run.
	working, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()

	var loops sync.WaitGroup
	start := func(serve func(context.Context) error) {
		loops.Go(func() {
			if err := serve(working); err != nil {
				fail(err)
			}
		})
	}
	for _, s := range r.sockets {
		start(s.serve)
	}
	for _, a := range r.acceptors {
		start(a.serve)
	}
	var sweeping sync.WaitGroup
	sweeping.Go(func() { r.sweep(working) })
	<-serving.Done()
	r.drain(&loops, abandon)
	abandon()
	sweeping.Wait()
	for _, l := range r.lanes {
		l.close()
	}
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(serving)
}

// DrainFor sets for how long Run waits for what is in hand, instead of Config.Drain.
// It must be called before Run's context ends.
func (r *Resolver) DrainFor(d time.Duration) { r.cfg.Drain = d }

// sweepEvery is how often networks that have a lane or are set aside are looked at,
// to take them back. They stay there for ten seconds at least.
const sweepEvery = 5 * time.Second

// sweep looks after lanes and asides until ctx ends.
func (r *Resolver) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			for i := range r.lanes {
				r.lanes[i].sweep(now)
				r.asides[i].sweep(now)
			}
		case <-ctx.Done():
			return
		}
	}
}

// lastWords is for how long dnsd, when it ends, goes on reading what the kernel has
// received already: those questions are answered too.
const lastWords = 100 * time.Millisecond

// drain stops reading and waits for loops, all of which end when they have
// nothing in hand. After Config.Drain it gives up what is left.
func (r *Resolver) drain(loops *sync.WaitGroup, abandon func()) {
	for _, s := range r.sockets {
		s.stop()
	}
	for _, a := range r.acceptors {
		a.stop()
	}
	r.conns.drain(time.Now().Add(lastWords))
	patience := time.AfterFunc(r.cfg.Drain, func() {
		r.log.Warn("not everything in hand was finished in time", "drain", r.cfg.Drain)
		abandon()
		r.conns.closeAll()
		for _, s := range r.sockets {
			s.conn.Close()
		}
	})
	loops.Wait()
	patience.Stop()
	for _, s := range r.sockets {
		s.conn.Close()
	}
}

// Errors of a socket that may pass are waited out, in steps that double: the first
// is short because most pass at once, and the last long enough to cost nothing.
// After maxTrouble failures in a row, some 10 s, the error will not pass.
const (
	firstPause = time.Millisecond
	lastPause  = time.Second
	maxTrouble = 20
)

// trouble counts the failures in a row of one loop, which owns it.
type trouble int

// wait pauses after a failure. It reports false when the loop should give up:
// the failures do not end, or ctx has.
func (t *trouble) wait(ctx context.Context) bool {
	if *t++; *t > maxTrouble {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(min(firstPause<<(*t-1), lastPause)):
		return true
	}
}

// quietFor is how long repeated trouble is only counted after it was logged.
const quietFor = time.Minute

// limitedLog logs a recurring event at most once in quietFor, with how often it was
// held back. Safe for concurrent use; the zero value is ready.
type limitedLog struct {
	last atomic.Int64 // Unix time in nanoseconds
	held atomic.Uint64
}

func (o *limitedLog) log(log *slog.Logger, level slog.Level, msg string, args ...any) {
	now, last := time.Now().UnixNano(), o.last.Load()
	if last != 0 && now-last < int64(quietFor) || !o.last.CompareAndSwap(last, now) {
		o.held.Add(1)
		return
	}
	if n := o.held.Swap(0); n > 0 {
		args = append(args, "repeated", n)
	}
	log.Log(context.Background(), level, msg, args...)
}
