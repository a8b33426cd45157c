package follow

import (
	"context"
	"sync"
	"testing"
	"time"

	"dnsd/registry"
)

// puppet is a source that lists what it holds when it is told to, by a test or by
// the follower, sends the changes of a test, and proves itself alive meanwhile.
type puppet struct {
	mu       sync.Mutex
	items    []registry.Item
	doubt    string
	pause    time.Duration // between the beginning of a listing and its end
	followed int
	sent     []event

	// Of the bubble that Follow runs in: what it is to do, and to send in the midst of a
	// listing as well.
	strings, beside chan func(context.Context, Feed) error
}

func newPuppet(items []registry.Item) *puppet { return &puppet{items: items} }

func (*puppet) String() string { return "puppet://" }

func (p *puppet) Follow(ctx context.Context, feed Feed, resume bool) error {
	p.mu.Lock()
	if p.followed++; p.followed == 1 {
		p.strings, p.beside = make(chan func(context.Context, Feed) error), make(chan func(context.Context, Feed) error)
	}
	p.mu.Unlock()
	if !resume {
		if err := p.listing(ctx, feed); err != nil {
			return err
		}
	}
	for {
		select {
		case pull := <-p.strings:
			if err := pull(ctx, feed); err != nil {
				return err
			}
		case send := <-p.beside:
			if err := send(ctx, feed); err != nil {
				return err
			}
		case <-time.After(10 * time.Second):
			if err := feed.Change(ctx, nil); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *puppet) listing(ctx context.Context, feed Feed) error {
	p.mu.Lock()
	items, doubt, wait := p.items, p.doubt, p.pause
	p.mu.Unlock()
	began := time.Now()
	if err := feed.List(ctx, items); err != nil {
		return err
	}
	p.note(event{what: "begins", items: items})
	for end := time.After(wait); end != nil; {
		select {
		case send := <-p.beside:
			if err := send(ctx, feed); err != nil {
				return err
			}
		case <-end:
			end = nil
		}
	}
	if err := feed.Listed(ctx, doubt); err != nil {
		return err
	}
	p.note(event{"lists", items, doubt != "", began, time.Now()})
	return nil
}

// event is what has been sent: a listing's items, its end, changes.
type event struct {
	what       string // begins, lists, changes
	items      []registry.Item
	doubted    bool
	began, now time.Time // of the end of a listing
}

func (p *puppet) note(e event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = append(p.sent, e)
}

// events returns what has been sent since it was last called.
func (p *puppet) events() []event {
	p.mu.Lock()
	defer p.mu.Unlock()
	events := p.sent
	p.sent = nil
	return events
}

func (p *puppet) set(items []registry.Item, doubt string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.items, p.doubt = items, doubt
}

// slow makes every listing last that long from now on.
func (p *puppet) slow(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pause = d
}

// calls returns how often the source has been followed.
func (p *puppet) calls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.followed
}

// pull has the source do something, and waits until it is done, in no time.
func (p *puppet) pull(t *testing.T, do func(context.Context, Feed) error) {
	t.Helper()
	p.mu.Lock()
	strings := p.strings
	p.mu.Unlock()
	strings <- do
	pass(0)
}

// list has the source list items from now on, and do so once at once.
func (p *puppet) list(t *testing.T, items []registry.Item, doubt string) {
	t.Helper()
	p.set(items, doubt)
	p.pull(t, p.listing)
}

// change has the source send changes.
func (p *puppet) change(t *testing.T, items ...registry.Item) {
	t.Helper()
	p.mu.Lock()
	beside := p.beside
	p.mu.Unlock()
	beside <- func(ctx context.Context, feed Feed) error {
		err := feed.Change(ctx, items)
		if err == nil { // otherwise it is the next listing that says it
			p.note(event{what: "changes", items: items})
		}
		return err
	}
	pass(0)
}
