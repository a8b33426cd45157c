package corrosion

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// The agent keeps a record of each subscription, from which listings are made
// and changes are told. What it failed to match is missing there for good, and a
// listing cannot show it. So each table is compared now and then with its own
// query, run on the table itself: by the sums of all rows, on either side of
// which nothing is kept.

const (
	// compareFirst is when the first comparison is due at the latest: a record
	// may be older than this dnsd.
	compareFirst = 5 * time.Minute

	// compareEvery is the time between comparisons, give or take a half, so that
	// the hosts of a cluster spread. 100,000 machines cost an agent 0.75 s of
	// processor each time (v1.0.0), and dnsd 0.5 s.
	compareEvery = time.Hour

	// compareSettle is how long a difference must last: what has been written is
	// matched and told within a second, and later only by an agent under stress.
	compareSettle = 30 * time.Second

	// compareTimeout bounds reading one table. The agent's own bound is the same.
	compareTimeout = time.Minute
)

// comparison is when tables are compared, and its times; shorter in tests.
type comparison struct {
	first, every, settle time.Duration
	next                 time.Time // zero: not yet planned
}

var defaultComparison = comparison{first: compareFirst, every: compareEvery, settle: compareSettle}

// compare compares all tables, again and again, until ctx ends or there is a
// difference that lasts: then the error is errAgain.
func (s *Source) compare(ctx context.Context, a *agent, out chan<- message) error {
	c := &s.comparison
	if c.next.IsZero() {
		c.next = time.Now().Add(c.first/5 + rand.N(c.first*4/5))
	}
	for {
		if err := sleep(ctx, time.Until(c.next)); err != nil {
			return err
		}
		c.next = time.Now().Add(c.first) // if this one comes to no end, or to a new subscription
		failed := false
		for _, sub := range s.subs {
			err := s.compareOne(ctx, a, sub, out)
			if ctx.Err() != nil || errors.Is(err, errAgain) {
				return err
			}
			if err != nil {
				failed = true
				s.log.Warn("a corrosion table could not be compared with its subscription", "table", sub.shape.table, "err", err)
			}
		}
		if !failed {
			c.next = time.Now().Add(c.every/2 + rand.N(c.every))
		}
	}
}

// compareOne compares one table with what its subscription has told.
func (s *Source) compareOne(ctx context.Context, a *agent, sub *subscription, out chan<- message) error {
	missing, extra, err := s.differences(ctx, a, sub, out)
	if err == nil && len(missing)+len(extra) > 0 { // mostly what is under way
		if err := sleep(ctx, s.comparison.settle); err != nil {
			return err
		}
		missing1, extra1 := missing, extra
		missing, extra, err = s.differences(ctx, a, sub, out)
		missing, extra = common(missing, missing1), common(extra, extra1)
	}
	if err != nil {
		return err
	}
	sub.compared.Store(time.Now().UnixMilli())
	if n := len(missing) + len(extra); n > 0 {
		sub.drifted.Add(int64(n))
		s.log.Error("the corrosion agent's record of a subscription is not what its table holds; subscribing anew",
			"table", sub.shape.table, "rows missing or old", len(missing), "rows that are no more or old", len(extra))
		return fmt.Errorf("%w: the agent's record of %s is wrong", errAgain, sub.shape.table)
	}
	return nil
}

// differences returns the sums of the rows that only the table has, and of those
// that only the subscription has told of.
func (s *Source) differences(ctx context.Context, a *agent, sub *subscription, out chan<- message) (missing, extra []uint64, err error) {
	table, err := a.sums(ctx, sub)
	if err != nil {
		return nil, nil, err
	}
	reply := make(chan []uint64, 1)
	select {
	case out <- message{what: asked, sub: sub, reply: reply}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	select {
	case told, ok := <-reply:
		if !ok {
			return nil, nil, errors.New("it is being listed")
		}
		slices.Sort(told)
		missing, extra = difference(table, told)
		return missing, extra, nil
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

// sums returns the sums of all rows of a query, sorted.
func (a *agent) sums(ctx context.Context, sub *subscription) (sums []uint64, err error) {
	var b binding
	err = a.events(ctx, sub.query, compareTimeout, func(ev *event, long *longLine) error {
		switch {
		case ev != nil && ev.Columns != nil:
			b, err = sub.shape.bind(ev.Columns)
			return err
		case b == nil:
			return errNoColumns
		case long != nil:
			h, _ := headOf(long.head)
			sums = append(sums, sum(b.begun(h)))
		case ev.Row != nil:
			_, cells, err := rowOf(ev.Row)
			if err != nil {
				return err
			}
			_, n, _ := b.read(cells)
			sums = append(sums, n)
		}
		return nil
	})
	slices.Sort(sums)
	return sums, err
}

// sums returns the sums of all rows that a subscription has told of.
func (t *table) sums() []uint64 {
	sums := make([]uint64, 0, len(t.rows))
	for _, row := range t.rows {
		sums = append(sums, row.sum)
	}
	return sums
}

// difference returns what is only in a and what is only in b, both sorted.
func difference(a, b []uint64) (onlyA, onlyB []uint64) {
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0] < b[0]:
			onlyA, a = append(onlyA, a[0]), a[1:]
		case len(a) == 0 || b[0] < a[0]:
			onlyB, b = append(onlyB, b[0]), b[1:]
		default:
			a, b = a[1:], b[1:]
		}
	}
	return onlyA, onlyB
}

// common returns what is in both a and b, both sorted.
func common(a, b []uint64) []uint64 {
	onlyA, _ := difference(a, b)
	both, _ := difference(a, onlyA)
	return both
}

// sleep waits for d, or returns why ctx has ended.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
