package corrosion

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// The agent keeps a record of each subscription, from which it makes listings and
// changes. What it failed to match is missing there for good, and a listing cannot
// show it. So each table is compared now and then with its own query, run on the
// table itself, by the sums of all rows.

// compareTimeout bounds reading one table. The agent's own bound is the same.
const compareTimeout = time.Minute

// comparison is when tables are compared. Its times are shorter in tests.
type comparison struct {
	first  time.Duration // the first comparison is due within it
	every  time.Duration // between two, give or take a half, so that hosts spread
	settle time.Duration // how long a difference must last
	next   time.Time     // zero: not yet planned
}

var defaultComparison = comparison{
	first: 5 * time.Minute, // the record may be older than this dnsd

	// 100,000 machines cost an agent 0.75 s of processor each time (1.0.0), and
	// dnsd 0.5 s.
	every: time.Hour,

	// A write is matched and told within a second, unless the agent is overloaded.
	settle: 30 * time.Second,
}

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
		c.next = time.Now().Add(c.first) // unless all tables are found to be equal
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

// compareOne compares one table with its subscription.
func (s *Source) compareOne(ctx context.Context, a *agent, sub *subscription, out chan<- message) error {
	missing, extra, err := s.differences(ctx, a, sub, out)
	if err == nil && len(missing)+len(extra) > 0 { // most are changes under way
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
		s.log.Error("the corrosion agent's record of a subscription differs from its table; subscribing anew",
			"table", sub.shape.table, "rows missing or old", len(missing), "rows deleted or old", len(extra))
		return fmt.Errorf("%w: the agent's record of %s is wrong", errAgain, sub.shape.table)
	}
	return nil
}

// differences returns the sums of the rows that only the table has, and of those
// that only the subscription has.
func (s *Source) differences(ctx context.Context, a *agent, sub *subscription, out chan<- message) (missing, extra []uint64, err error) {
	table, err := a.sums(ctx, sub)
	if err != nil {
		return nil, nil, err
	}
	reply := make(chan []uint64, 1)
	if err := send(ctx, out, message{what: asked, sub: sub, reply: reply}); err != nil {
		return nil, nil, err
	}
	select {
	case told, ok := <-reply:
		if !ok {
			return nil, nil, errors.New("the subscription is still listing")
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
			sums = append(sums, sum(b.pick(h.cells)))
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

// sums returns the sums of all rows of a subscription.
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
