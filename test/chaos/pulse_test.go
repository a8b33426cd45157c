package chaos

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const (
	// standstill is how long the test may not run before it no longer knows how
	// late something was: what it carries between the hosts waits as well, and
	// what holds it up may hold dnsd up.
	standstill = time.Second

	// memory is how long after a standstill something may seem late because of it:
	// a silence lasts so long before answers must be marked.
	memory = staleAfter + notice
)

// pulse tells whether the test itself was held up, by a machine that does much
// else. Safe for concurrent use.
type pulse struct {
	mu    sync.Mutex
	last  time.Time // beat
	stood time.Time // when a standstill last ended
	times int
	worst time.Duration
}

func newPulse() *pulse { return &pulse{last: time.Now()} }

// beat is called many times within a standstill.
func (p *pulse) beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if pause := now.Sub(p.last); pause > standstill {
		p.stood = now
		p.times++
		p.worst = max(p.worst, pause)
	}
	p.last = now
}

// steady reports whether there has been no standstill of late, and is none now.
func (p *pulse) steady() bool {
	p.beat()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.times == 0 || time.Since(p.stood) > memory
}

// pulsate keeps the scene's pulse until the run ends.
func (s *scene) pulsate() {
	for s.sleep(standstill / 10) {
		s.pulse.beat()
	}
}

func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPulse()
		want := func(steady bool) {
			t.Helper()
			if p.steady() != steady {
				t.Errorf("steady %v, want %v", !steady, steady)
			}
		}
		time.Sleep(standstill)
		want(true)
		time.Sleep(standstill + moment)
		want(false)
		for range memory / standstill {
			time.Sleep(standstill)
			want(false)
		}
		time.Sleep(moment)
		want(true)
		if p.times != 1 || p.worst != standstill+moment {
			t.Errorf("%d standstills, of %v at most; want one", p.times, p.worst)
		}
	})
}
