package corrosiontest

// faults are those to come, guarded by the agent's mu.
type faults struct {
	skip     skip
	cuts     int // listings yet to be cut short
	cutAfter int // rows
	cutTable string
	hold     chan struct{} // end-of-query events wait for it
	selects  int           // status of the answer to queries of a whole table; 0: none
	deafened string        // a table whose writes match no subscription
}

// skip is which streams leave out the next change.
type skip int

const (
	skipLive    skip = iota + 1 // those that are open
	skipForGood                 // and those that resume
)

// SkipNext leaves the next change out of the open streams, which show a gap
// then. If forGood is set, resuming does not bring it back.
func (a *Agent) SkipNext(forGood bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.faults.skip = skipLive
	if forGood {
		a.faults.skip = skipForGood
	}
}

// CutListings ends the next n listings of a table, or of any if it is empty,
// cleanly after so many rows, before their end-of-query event.
func (a *Agent) CutListings(n, rows int, table string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.faults.cuts, a.faults.cutAfter, a.faults.cutTable = n, rows, table
}

// HoldEOQ holds back the end of every listing until release is called, once.
func (a *Agent) HoldEOQ() (release func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	hold := make(chan struct{})
	a.faults.hold = hold
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		close(hold)
		a.faults.hold = nil
	}
}

// FailSelects answers queries of a whole table with a status; 0: properly again.
func (a *Agent) FailSelects(status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.faults.selects = status
}

// Deafen makes the agent match no write of a table until it is called again.
func (a *Agent) Deafen(table string, deaf bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !deaf {
		table = ""
	}
	a.faults.deafened = table
}

// SetToken changes the bearer token that requests must have. Streams stay.
func (a *Agent) SetToken(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.opts.Token = token
}

// End ends all streams cleanly: a lagging subscriber, a cancelled subscription.
func (a *Agent) End() { a.each((*sub).end) }

// Forget drops all subscriptions: their ids are unknown from now on.
func (a *Agent) Forget() {
	a.each((*sub).end)
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.subs)
}

// Rehash gives every subscription another hash.
func (a *Agent) Rehash() { a.each(func(s *sub) { s.hash += "0" }) }

// Compact drops the changes that are kept for resuming.
func (a *Agent) Compact() { a.each(func(s *sub) { s.kept = nil }) }

// SendError sends an error event down all streams and ends them.
func (a *Agent) SendError(text string) {
	a.each(func(s *sub) {
		s.send(errorLine(text))
		s.end()
	})
}

// SendLine sends a line of the caller's down the open streams of a table.
func (a *Agent) SendLine(table, line string) {
	a.each(func(s *sub) {
		if s.table == table {
			s.send(line)
		}
	})
}

func (a *Agent) each(f func(*sub)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.subs {
		f(s)
	}
}
