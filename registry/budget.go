package registry

// Budget counts the steps of one answer under way. A step is a look at one
// object: 10 to 20 ns where memory is warm, 100 ns where nothing of it is in a
// cache. It belongs to one goroutine.
//
// A budget without a pause ends: its user then gives up at once and drops what it
// has found. One with a pause never ends; it calls the pause now and then instead,
// which may block. No lock may be held then.
type Budget struct {
	pause func()
	limit int
	steps int
	due   int // steps at which the pause is due, or the budget is over
	over  bool
}

// pauseEvery is how many steps lie between two pauses: 0.2 ms at most.
const pauseEvery = 2000

// NewBudget returns a budget of limit steps where pause is nil, and one without
// end where it is not.
func NewBudget(limit int, pause func()) Budget {
	b := Budget{pause: pause, limit: limit, due: limit + 1}
	if pause != nil {
		b.due = pauseEvery
	}
	return b
}

// Step counts n steps, which may block, and reports whether the budget goes on.
func (b *Budget) Step(n int) bool {
	b.steps += n
	if b.steps < b.due {
		return !b.over
	}
	if b.pause == nil {
		b.over = true
		return false
	}
	b.pause()
	b.due = b.steps + pauseEvery
	return true
}

// Need reports whether the budget has n more steps, and ends it if not, so that
// work known to be too much is not begun. It counts no steps.
func (b *Budget) Need(n int) bool {
	if b.pause == nil && b.steps+n > b.limit {
		b.over = true
	}
	return !b.over
}

// Over reports whether the budget has ended.
func (b *Budget) Over() bool { return b.over }

// Steps returns how many steps were taken.
func (b *Budget) Steps() int { return b.steps }
