package chaos

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"dnsd/test/internal/truth"

	"github.com/miekg/dns"
)

// calm waits until every dnsd says exactly what is true, once nothing is broken
// and nothing changes.
func (s *scene) calm() {
	if s.ctx.Err() != nil {
		return
	}
	s.platform.idle.Lock()
	defer s.platform.idle.Unlock()
	s.log("calm")
	began := time.Now()
	var waiting sync.WaitGroup
	for _, h := range s.hosts {
		waiting.Go(func() {
			if why := h.agrees(began.Add(recovery + holding)); why != "" {
				s.errorf("%v is not well %v after the last fault: %s\n%s", h, time.Since(began).Round(time.Second), why, h.sight)
				return
			}
			s.log("%v is well", h)
			s.recovered(time.Since(began))
		})
	}
	waiting.Wait()
	for _, h := range s.hosts {
		h.settle()
	}
	s.log("all are well")
}

// holding is how long the sweep guard may hold removals back, and list once more.
const holding = 35 * time.Second

// agrees waits until dnsd is live and answers everything as it is now. It returns
// what is wrong until the end.
func (h *host) agrees(end time.Time) (why string) {
	for time.Now().Before(end) && h.s.ctx.Err() == nil {
		if why = h.disagrees(); why == "" {
			return ""
		}
		h.s.sleep(250 * time.Millisecond)
	}
	return why
}

// disagrees returns what dnsd says that is not so, empty for nothing.
func (h *host) disagrees() string {
	if ready := h.get("/readyz"); !strings.HasPrefix(ready, "live: ") {
		return "it is " + ready
	}
	for _, m := range h.machine {
		_, world := m.net.history.Newest()
		c := newClient(h, m, "tcp", h.s.rand("calm"))
		lasting := truth.Network(m.net.name)
		for _, q := range append(c.g.Everything(), lasting.AAAA("", "still", nil), lasting.Machines("spare", true), lasting.Flycast("still")) {
			resp, err := c.exchange(q.Name, q.Type)
			if err != nil {
				return err.Error()
			}
			if got, want := truth.Said(resp), q.Answer(world); got != want || marked(resp) {
				return fmt.Sprintf("%s %s for %s (marked stale: %v) is\n     %s\nwant %s", q.Name, dns.TypeToString[q.Type], m.net.name, marked(resp), got, want)
			}
		}
	}
	return ""
}

// leaks says what a process that has lived through the run holds in the end that
// it did not hold at first.
func (h *host) leaks() string {
	var now load
	for range 60 { // what is idle for long goes too
		if now = h.weigh(); now.goroutines <= h.light.goroutines && now.files <= h.light.files && now.heap <= h.light.heap+mayGrow {
			return ""
		}
		time.Sleep(time.Second)
	}
	return fmt.Sprintf("it holds %+v, at first %+v\n%s", now, h.light, h.get("/debug/pprof/goroutine?debug=1"))
}

// mayGrow is how much more a process may keep on its heap than at first: kept
// answers and the caches' own.
const mayGrow = 8 << 20
