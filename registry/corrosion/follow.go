package corrosion

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"dnsd/registry"
	"dnsd/registry/contain"
	"dnsd/registry/follow"
)

const (
	// maxGhosts bounds the objects that the first try at a listing had and the
	// second one lacks: they are deleted by changes, which the sweep guard does not
	// see. It is the number of removals at which the guard begins.
	maxGhosts = 20

	// maxMend bounds the objects to be corrected after a listing.
	maxMend = 4096
)

// subscription is what is known of one kind of object between two calls of
// Follow. It belongs to the goroutine in Follow, apart from shape and query, which
// never change, sql, which changes only between two runs, and the atomics.
type subscription struct {
	shape *shape
	query string // the statement
	sql   string // its text, to which a comment makes a new subscription

	from    origin
	binding binding
	last    uint64 // the newest change that the feed has taken
	table   *table
	ready   bool // listed or resumed in this call of Follow

	compared atomic.Int64 // when it was last compared with its table, Unix milliseconds
	drifted  atomic.Int64 // rows that were found to differ

	// While listing:
	first *table          // of a first try that was cut short
	mend  []registry.Item // changes that correct the listing once it is complete
}

// run follows all subscriptions with one listing at most.
func (s *Source) run(ctx context.Context, a *agent, feed follow.Feed, resume bool) error {
	s.listed = resume
	if !resume {
		s.stuck = 0
	}
	for _, sub := range s.subs {
		sub.ready, sub.first, sub.mend = false, nil, nil
		if !resume {
			sub.table = nil
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	messages, gate := make(chan message), make(chan struct{})
	begin := func(do func() error) { wg.Go(func() { cancel(contain.Run(do)) }) }
	for _, sub := range s.subs {
		st := &stream{
			agent: a, sub: sub, log: s.log, out: messages, gate: gate,
			from: sub.from, binding: sub.binding, last: sub.last,
		}
		begin(func() error { return st.run(inner, resume) })
	}
	begin(func() error { return s.prove(inner, a, messages) })
	begin(func() error { return s.watch(inner, a, messages) })
	if s.whole.doubt == "" { // the tables of an agent that is being filled differ all the time
		begin(func() error { return s.compare(inner, a, messages) })
	}
	err := s.merge(ctx, inner, feed, messages, gate)
	if errors.Is(err, errLost) {
		s.listed = false
	}
	return err
}

// prove asks for signs of life until ctx ends or proveFailures in a row fail.
func (s *Source) prove(ctx context.Context, a *agent, out chan<- message) error {
	ticker := time.NewTicker(s.proveEvery)
	defer ticker.Stop()
	for failures := 0; ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := a.alive(ctx); err != nil {
			if failures++; failures == proveFailures {
				return fmt.Errorf("corrosion agent at %s gives no sign of life: %w", s.cfg.Addr, err)
			}
			continue
		}
		failures = 0
		if err := send(ctx, out, message{what: alive}); err != nil {
			return err
		}
	}
}

// merge passes what the streams send to the feed, in one goroutine, until one of
// them ends, which ends inner.
func (s *Source) merge(ctx, inner context.Context, feed follow.Feed, messages <-chan message, gate chan struct{}) error {
	var items []registry.Item
	for {
		var m message
		select {
		case m = <-messages:
		case <-inner.Done():
			return context.Cause(inner)
		}
		var err error
		switch {
		case m.what == alive:
			if s.listed {
				s.stuck = 0
				err = s.heard(ctx, feed)
			}
		case m.what == looked:
			err = s.looked(&m)
		case m.what == asked:
			if s.listed {
				m.reply <- m.sub.table.sums()
			} else {
				close(m.reply)
			}
		case m.what == changed:
			if items, err = m.sub.take(&m, items[:0]); err == nil {
				err = s.change(ctx, feed, items)
			}
			m.sub.last = m.last
		case m.what == rows:
			if items, err = m.sub.take(&m, items[:0]); err == nil {
				err = feed.List(ctx, items)
			}
		case m.what == began:
			m.sub.first, m.sub.table = m.sub.table, newTable(s.whole.doubt == "")
		default:
			err = s.ready(ctx, feed, &m, gate)
		}
		if err != nil {
			return err
		}
		clear(items) // the objects belong to the feed now
	}
}

// heard reports a sign of life to the feed, unless the agent is cut off.
func (s *Source) heard(ctx context.Context, feed follow.Feed) error {
	if !s.proven() {
		return nil
	}
	return feed.Change(ctx, nil)
}

// change passes items to the feed. If that fails, the tables are ahead of the
// feed, and everything has to be listed again.
func (s *Source) change(ctx context.Context, feed follow.Feed, items []registry.Item) error {
	s.stuck = 0
	err := feed.Change(ctx, items)
	if err != nil {
		s.listed = false
	}
	return err
}

// ready marks a subscription as listed or resumed, and completes the listing when
// all are.
func (s *Source) ready(ctx context.Context, feed follow.Feed, m *message, gate chan<- struct{}) error {
	m.sub.ready = true
	if m.what == listed {
		m.sub.from, m.sub.binding, m.sub.last = m.from, m.binding, m.last
		if err := m.sub.reconcile(); err != nil {
			return err
		}
	}
	for _, sub := range s.subs {
		if !sub.ready {
			return nil
		}
	}
	s.whole.remember(s.whole.seen)
	if m.what == resumed { // the agent has just answered for every subscription
		return s.heard(ctx, feed)
	}
	if err := feed.Listed(ctx, s.whole.doubt); err != nil {
		return err
	}
	for _, sub := range s.subs {
		if len(sub.mend) > 0 {
			if err := feed.Change(ctx, sub.mend); err != nil {
				return err
			}
			sub.mend = nil
		}
	}
	s.listed = true
	close(gate)
	return nil
}

// take turns rows or changes into items for the feed. An object that was listed
// before with another content is put once more when the listing is complete.
func (sub *subscription) take(m *message, items []registry.Item) (_ []registry.Item, err error) {
	for i := range m.entries {
		e := &m.entries[i]
		if o := e.item.Object; o != nil && m.what == rows {
			if key := o.Key(); sub.table.other(key, e.sum) || sub.first.other(key, e.sum) {
				sub.mend = append(sub.mend, e.item)
			}
		}
		if items, err = sub.table.apply(e, items); err != nil {
			return nil, err
		}
	}
	if len(sub.mend) > maxMend {
		return nil, fmt.Errorf("the table %s changes too fast to be listed in two tries, or has several rows for one object", sub.shape.table)
	}
	return items, nil
}

// reconcile ends a listing. Objects that only the first try had are in the feed's
// listing too, and are to be deleted.
func (sub *subscription) reconcile() error {
	sub.table.keeps = false
	if sub.first == nil {
		return nil
	}
	ghosts := 0
	for key := range sub.first.held {
		if _, ok := sub.table.held[key]; !ok {
			sub.mend = append(sub.mend, registry.Delete(key))
			ghosts++
		}
	}
	sub.first = nil
	if ghosts > maxGhosts {
		return fmt.Errorf("%w: %d objects of %s were in its beginning and no longer in the second try", errCut, ghosts, sub.shape.table)
	}
	return nil
}
