package corrosion

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// batch bounds the entries of a message. The follower's own batches are as large.
const batch = 500

var (
	// errLost says that everything has to be listed again.
	errLost = errors.New("subscription lost")

	// errGap says that changes are missing, or cannot be read.
	errGap = errors.New("changes are missing")

	// errCut says that a listing ended before its end-of-query event.
	errCut = errors.New("listing cut short")
)

// message goes from the other goroutines to the one in Follow.
type message struct {
	sub     *subscription // nil for alive and looked
	what    what
	entries []entry // of rows and changed
	from    origin  // of listed
	binding binding // of listed
	last    uint64  // of listed and changed: the newest change id

	known  *knowledge // of looked; nil: the internal tables cannot be read
	health *health    // of looked; nil: not known

	reply chan<- []uint64 // of asked; has room for the answer, and is closed instead while listing
}

type what int

const (
	began   what = iota // a listing begins, in place of one that was cut short
	rows                // rows of the listing
	listed              // the listing is complete
	resumed             // the stream continues where the last one ended
	changed             // changes
	alive               // the agent has given a sign of life
	looked              // what the agent has
	asked               // a comparison asks for the sums of all rows
)

// stream reads one subscription. It belongs to one goroutine.
type stream struct {
	agent *agent
	sub   *subscription // only shape and sql are read
	log   *slog.Logger
	out   chan<- message
	gate  <-chan struct{} // closed when all subscriptions are listed

	// Where the stream is.
	from    origin
	binding binding
	last    uint64 // the newest change id; the next one is one more

	body      io.ReadCloser // nil: not open
	lines     *lineReader
	replaying bool // a stream resumed at change 0 sends its listing again
	pending   []entry
}

// run reads until ctx ends or the stream breaks for good.
func (s *stream) run(ctx context.Context, resume bool) error {
	defer s.close()
	err := s.start(ctx, resume)
	if err == nil {
		err = s.follow(ctx)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("corrosion subscription for %s: %w", s.sub.shape.table, err)
}

// start lists, or resumes. A listing that is cut short is tried once more, at
// once: the agent serves the first subscriber while it runs the query and drops
// one that reads too slowly, but a second one gets its rows from the record, at
// its own pace.
func (s *stream) start(ctx context.Context, resume bool) error {
	if resume {
		if err := s.resume(ctx); err != nil {
			return err
		}
		return s.send(ctx, message{what: resumed})
	}
	err := s.list(ctx)
	if errors.Is(err, errCut) && ctx.Err() == nil {
		s.log.Info("corrosion listing was cut short; trying once more", "table", s.sub.shape.table, "err", err)
		err = s.list(ctx)
	}
	if err != nil {
		return err
	}
	select { // the agent waits meanwhile: nothing is read
	case <-s.gate:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// list subscribes and reads up to the end-of-query event.
func (s *stream) list(ctx context.Context) error {
	from, body, err := s.agent.subscribe(ctx, s.sub.sql)
	if err != nil {
		return err
	}
	s.open(from, body)
	if err := s.send(ctx, message{what: began}); err != nil {
		return err
	}
	for {
		ev, err := s.next()
		if long := (*longLine)(nil); errors.As(err, &long) && s.binding != nil { // costs this row alone
			h, _ := headOf(long.head)
			s.pending = append(s.pending, s.sub.shape.tooLong(s.binding, h, long))
			continue
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errCut, err)
		}
		switch {
		case ev.Error != nil:
			return fmt.Errorf("%w: the agent says: %s", errCut, *ev.Error)
		case ev.Columns != nil:
			if s.binding, err = s.sub.shape.bind(ev.Columns); err != nil {
				return err
			}
		case ev.Row != nil:
			id, cells, err := rowOf(ev.Row)
			if err != nil || s.binding == nil {
				return fmt.Errorf("%w: unreadable row event: %w", errCut, cmp.Or(err, errNoColumns))
			}
			s.pending = append(s.pending, s.sub.shape.entry(s.binding, id, cells))
		case ev.EOQ != nil:
			if ev.EOQ.ChangeID == nil || s.binding == nil {
				return fmt.Errorf("%w: no change id or no columns before its end-of-query event", errCut)
			}
			if err := s.flush(ctx, rows); err != nil {
				return err
			}
			s.last = *ev.EOQ.ChangeID
			return s.send(ctx, message{what: listed, from: s.from, binding: s.binding, last: s.last})
		}
		if err := s.handOver(ctx, rows); err != nil {
			return err
		}
	}
}

var errNoColumns = errors.New("no columns event came before it")

// resume reopens the stream where it ended. A subscription that has had no change
// has no id to resume from and replays its rows. They are known already, if its
// end-of-query event still has change id 0.
func (s *stream) resume(ctx context.Context) error {
	body, err := s.agent.resume(ctx, s.from, s.last)
	if err != nil {
		return err
	}
	s.open(s.from, body)
	s.replaying = s.last == 0
	return nil
}

// follow hands changes over until the stream breaks for good. It resumes after a
// break, a gap or an unreadable line, unless nothing came since the last time.
func (s *stream) follow(ctx context.Context) error {
	for retried := false; ; retried = true {
		before := s.last
		err := s.changes(ctx)
		switch progress := s.last != before; {
		case errors.Is(err, errLost):
			return err
		case retried && !progress && errors.Is(err, errGap):
			return fmt.Errorf("%w: %w", errLost, err)
		case retried && !progress:
			return err
		}
		s.log.Debug("corrosion stream broke; resuming it", "table", s.sub.shape.table, "last", s.last, "err", err)
		if err := s.resume(ctx); err != nil {
			return err
		}
	}
}

// changes reads a stream from its opening until it breaks.
func (s *stream) changes(ctx context.Context) error {
	for {
		ev, err := s.next()
		if long := (*longLine)(nil); errors.As(err, &long) {
			err = s.longChange(long)
		} else if err == nil {
			err = s.change(ev)
		}
		if err != nil {
			// The changes before the break are good.
			return cmp.Or(s.flush(ctx, changed), err)
		}
		if err := s.handOver(ctx, changed); err != nil {
			return err
		}
	}
}

// change takes one event of a stream that has been listed.
func (s *stream) change(ev *event) error {
	switch {
	case ev.Error != nil: // such as that the change id is too old
		return fmt.Errorf("%w: the agent says: %s", errLost, *ev.Error)
	case ev.Columns != nil:
		b, err := s.sub.shape.bind(ev.Columns)
		if err != nil {
			return fmt.Errorf("%w: %w", errLost, err)
		}
		s.binding = b
	case ev.Row != nil:
		if !s.replaying {
			return fmt.Errorf("%w: the agent lists again instead of resuming", errLost)
		}
	case ev.EOQ != nil:
		if !s.replaying || ev.EOQ.ChangeID == nil || *ev.EOQ.ChangeID != 0 {
			return fmt.Errorf("%w: there were changes before it was resumed", errLost)
		}
		s.replaying = false
	case ev.Change != nil:
		c, err := changeOf(ev.Change)
		if err != nil {
			return fmt.Errorf("%w: unreadable change event: %w", errGap, err)
		}
		if err := s.count(c.id); err != nil {
			return err
		}
		if c.gone {
			s.pending = append(s.pending, entry{row: c.row, gone: true})
		} else {
			s.pending = append(s.pending, s.sub.shape.entry(s.binding, c.row, c.cells))
		}
	}
	return nil
}

// longChange takes a change that is too long to be read. Its beginning has the
// row, and its end the change id.
func (s *stream) longChange(long *longLine) error {
	h, ok := headOf(long.head)
	id, err := changeID(long.tail)
	switch {
	case ok && h.kind == "row" && s.replaying:
		return nil
	case !ok || h.kind != "change" || err != nil:
		return fmt.Errorf("%w: %w", errGap, long)
	}
	if err := s.count(id); err != nil {
		return err
	}
	if h.typ == "delete" {
		s.pending = append(s.pending, entry{row: h.row, gone: true})
	} else {
		s.pending = append(s.pending, s.sub.shape.tooLong(s.binding, h, long))
	}
	return nil
}

// count checks that a change id is the next one.
func (s *stream) count(id uint64) error {
	if s.replaying || id != s.last+1 {
		return fmt.Errorf("%w: change %d came after %d", errGap, id, s.last)
	}
	s.last = id
	return nil
}

// next reads the next event.
func (s *stream) next() (*event, error) {
	line, err := s.lines.next()
	if err == io.EOF {
		return nil, errors.New("the agent ended the stream")
	}
	if err != nil {
		return nil, err
	}
	ev := new(event)
	if err := json.Unmarshal(line, ev); err != nil { // it may have been a change
		return nil, fmt.Errorf("%w: unreadable event: %w", errGap, err)
	}
	return ev, nil
}

// handOver sends what is pending when there is enough of it, or when reading the
// next line would block.
func (s *stream) handOver(ctx context.Context, as what) error {
	if len(s.pending) < batch && s.lines.ready() {
		return nil
	}
	return s.flush(ctx, as)
}

func (s *stream) flush(ctx context.Context, as what) error {
	if len(s.pending) == 0 {
		return nil
	}
	m := message{what: as, entries: s.pending, last: s.last}
	s.pending = nil // it belongs to the receiver now
	return s.send(ctx, m)
}

func (s *stream) send(ctx context.Context, m message) error {
	m.sub = s.sub
	return send(ctx, s.out, m)
}

func send(ctx context.Context, out chan<- message, m message) error {
	select {
	case out <- m:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// open takes the body of another response, in place of the one before.
func (s *stream) open(from origin, body io.ReadCloser) {
	s.close()
	s.from, s.body, s.lines, s.pending, s.replaying = from, body, newLineReader(body), nil, false
}

func (s *stream) close() {
	if s.body != nil {
		s.body.Close()
		s.body = nil
	}
}
