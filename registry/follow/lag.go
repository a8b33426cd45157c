package follow

import (
	"fmt"
	"sync"
	"time"
)

const (
	// behindAfter is how old a change may be, since the source was known to have it,
	// before answers are marked for want of it. Most reconnects are caught up with
	// in less; a mark is read by people and closes the channels of all answers.
	behindAfter = 2 * time.Second

	// markEvery is how exactly the age of what is missing is known.
	markEvery = 100 * time.Millisecond

	// maxMarks bounds their number: for a minute and a half at least they are as
	// exact as that, and after it half as exact each time it doubles.
	maxMarks = 1024
)

// lag is how far the registry is behind the revisions that its source is known to
// have. The source's goroutine says what is known, the apply loop what is reached,
// and anybody may ask.
type lag struct {
	mu       sync.Mutex
	at, head int64
	missing  []mark // revisions that are known and not reached, the oldest first
	goal     int64  // what was known when the source was last followed, or when catching up began
}

// mark says since when it has been known that the source has a revision.
type mark struct {
	rev   int64
	known time.Time
}

// knows notes that the source has the revision head. first is for the first time in a
// call of Follow. A lower revision than before is of another history.
func (l *lag) knows(head int64, now time.Time, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if head < l.head {
		l.at, l.head, l.missing = 0, 0, nil
	}
	if first || l.goal > head {
		l.goal = head
	}
	if head == l.head {
		return
	}
	l.head = head
	if n := len(l.missing); n > 0 && now.Sub(l.missing[n-1].known) < markEvery {
		return // it is marked when that one is reached
	}
	l.missing = append(l.missing, mark{head, now})
	if len(l.missing) > maxMarks {
		kept := l.missing[:1] // the oldest, which tells the lag
		for i := 2; i < len(l.missing); i += 2 {
			kept = append(kept, l.missing[i])
		}
		l.missing = kept
	}
}

// reached notes that the registry is at a revision.
func (l *lag) reached(at int64, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = at
	n := 0
	for n < len(l.missing) && l.missing[n].rev <= at {
		n++
	}
	if l.missing = l.missing[n:]; len(l.missing) == 0 && at < l.head {
		l.missing = append(l.missing, mark{l.head, now})
	}
}

// behind returns how many revisions are known and not reached, and for how long the
// oldest of them has been.
func (l *lag) behind(now time.Time) (revisions int64, age time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.missing) == 0 {
		return 0, 0
	}
	return l.head - l.at, now.Sub(l.missing[0].known)
}

// catchingUp reports whether the registry is behind. was is for one that has been stale
// or behind until now: it must have reached all that was known when it was followed
// again, or when it fell behind. The apply loop calls it.
func (l *lag) catchingUp(now time.Time, was bool) bool {
	_, age := l.behind(now)
	l.mu.Lock()
	defer l.mu.Unlock()
	if was && l.at < l.goal {
		return true
	}
	if age <= behindAfter {
		return false
	}
	l.goal = l.head
	return true
}

// sentence says how far the registry is behind.
func (l *lag) sentence(now time.Time) string {
	revisions, age := l.behind(now)
	return fmt.Sprintf("%d revisions of the source are still to be applied, the oldest for %s", revisions, age.Round(time.Second))
}
