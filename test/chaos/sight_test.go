package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"dnsd/test/internal/truth"

	"github.com/miekg/dns"
)

// How far behind a dnsd may be. docs/failures.md says the same.
const (
	// usual is how late a change may come where nothing is wrong. dnsd needs some
	// milliseconds; the rest is for a machine that does much else.
	usual = 5 * time.Second

	// staleAfter is the least --stale-after of dnsd for etcd, and what each has.
	staleAfter = 15 * time.Second

	// notice is how late the silence may be noticed: a tick of dnsd's clock, and
	// what a busy machine adds.
	notice = 4 * time.Second

	// quiet is how long a source may have been silent before its fault began: it
	// is asked for a sign of life every 10 s.
	quiet = 11 * time.Second

	// recovery is how long after the last fault a dnsd must be current again: 15 s
	// until a dead connection is noticed, a pause of at most 30 s, and a listing.
	recovery = 60 * time.Second

	// startup is how long after its start a process may know nothing.
	startup = 10 * time.Second

	// saving is how long the state that is on disk may have been on its way there.
	saving = 10 * time.Second
)

// sight is what one dnsd may see of the histories, given what has happened to it,
// and what it has shown of them. Safe for concurrent use.
type sight struct {
	histories []*truth.History // of each network

	mu       sync.Mutex
	process  int // which one it is; 0: none runs
	started  int // processes
	began    time.Time
	knows    time.Time // when the process was first seen to answer from its registry; zero: not yet
	floor    []int     // of each network the oldest version that may still be shown
	saved    []int     // as floor, of a process that starts from disk
	marks    []waymark
	trouble  *trouble
	silences map[*silence]struct{}
	frozen   bool
	pauses   int       // how often it was frozen or thawed
	stilled  time.Time // when last
	mixes    bool      // a listing's removals may be held back: objects are of several versions
}

// waymark is what floor was at a time.
type waymark struct {
	at    time.Time
	floor []int
}

// trouble is a time in which a dnsd may be behind.
type trouble struct {
	from   time.Time
	faults int       // in force
	over   time.Time // when the last one ended and all had settled that it disturbed
}

// silence is a time in which nothing can reach a dnsd from its source.
type silence struct{ from time.Time }

func newSight(histories []*truth.History) *sight {
	n := len(histories)
	return &sight{histories: histories, floor: make([]int, n), saved: make([]int, n), silences: map[*silence]struct{}{}}
}

// start says that a process begins, on what the last one has saved.
func (g *sight) start() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.started++
	g.process, g.began, g.knows, g.frozen = g.started, time.Now(), time.Time{}, false
	g.marks = nil
}

// stop says that the process is about to end. saves says that it does so in its
// own time and with a disk to write to, so that nothing is lost which it knew
// from its source.
func (g *sight) stop(saves bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.process = 0
	if saves && !g.mixes {
		copy(g.saved, g.floor)
	}
	g.floor = slices.Clone(g.saved)
}

// mark notes where the process is; wrote says that a state has been written since
// the last call.
func (g *sight) mark(wrote bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for len(g.marks) > 1 && now.Sub(g.marks[1].at) > saving {
		g.marks = g.marks[1:]
	}
	if wrote && len(g.marks) > 0 && now.Sub(g.marks[0].at) > saving {
		g.saved = g.marks[0].floor
	}
	g.marks = append(g.marks, waymark{now, slices.Clone(g.floor)})
}

// freeze and thaw say that the process stands still from here to there.
func (g *sight) freeze() { g.still(true) }
func (g *sight) thaw()   { g.still(false) }

func (g *sight) still(frozen bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	// What had arrived before its source fell silent, the process reads only now,
	// and cannot tell when it came.
	for s := range g.silences {
		if !frozen && s.from.After(g.stilled) && s.from.Before(now) {
			s.from = now
		}
	}
	g.frozen, g.stilled = frozen, now
	g.pauses++
}

// enter says that a fault begins that may keep dnsd behind.
func (g *sight) enter() {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if g.trouble == nil || g.trouble.faults == 0 && now.After(g.trouble.over.Add(recovery)) {
		g.trouble = &trouble{from: now}
	}
	g.trouble.faults++
}

// leave says that a fault has ended, and what it disturbed takes so long to settle.
func (g *sight) leave(settle time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.trouble.faults--
	if over := time.Now().Add(settle); over.After(g.trouble.over) {
		g.trouble.over = over
	}
}

// hush says that nothing reaches dnsd from its source after some time. Whoever
// lifts the fault calls speak first.
func (g *sight) hush(after time.Duration) *silence {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := &silence{time.Now().Add(after)}
	g.silences[s] = struct{}{}
	return s
}

func (g *sight) speak(s *silence) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.silences, s)
}

// mix says whether removals may be held back.
func (g *sight) mix(may bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mixes = may
}

// settle says that dnsd was seen to be current, and no fault is in force.
func (g *sight) settle() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.trouble, g.mixes = nil, false
	for i, h := range g.histories {
		g.floor[i], _ = h.Newest()
	}
}

// inTrouble reports whether dnsd may be behind at a time, and since when.
func (g *sight) inTrouble(at time.Time) (from time.Time, may bool) {
	tr := g.trouble
	if tr == nil || tr.faults == 0 && at.After(tr.over.Add(recovery)) {
		return time.Time{}, false
	}
	return tr.from, true
}

// ticket is a question's, from when it is asked until it is judged.
type ticket struct {
	asked    time.Time
	process  int
	pauses   int
	low      int  // the oldest version that the answer may be of
	troubled bool // dnsd may have been behind
	mixes    bool // removals may have been held back
}

// ask returns a ticket for a question of a network; false: there is no process to
// ask, or it stands still.
func (g *sight) ask(network int) (ticket, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	since, low := now, g.floor[network]
	from, troubled := g.inTrouble(now)
	if troubled {
		since = from
	}
	// A process that has started meanwhile may know only what was on disk.
	if !troubled || g.began.Before(from) {
		low = max(low, g.histories[network].Settled(since.Add(-usual)))
	}
	return ticket{now, g.process, g.pauses, low, troubled, g.mixes}, g.process != 0 && !g.frozen
}

// steady reports whether since the ticket's question the same process has run
// all the time.
func (g *sight) steady(tk ticket) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return tk.process == g.process && tk.pauses == g.pauses
}

// judge holds an answer that has just come against the history of its network. The
// error says what is wrong with it.
func (g *sight) judge(network int, tk ticket, q *truth.Question, resp *dns.Msg) error {
	now := time.Now()
	h := g.histories[network]
	g.mu.Lock()
	defer g.mu.Unlock()
	if tk.process != g.process {
		return nil // which process gave it is not known
	}
	if reason, ok := unready(resp); ok {
		return g.judgeUnready(tk, reason)
	}
	if g.knows.IsZero() {
		g.knows = now
	}
	stale := marked(resp)
	if err := g.judgeMark(tk, now, stale); err != nil {
		return err
	}
	said, low, mixes := truth.Said(resp), tk.low, tk.mixes || g.mixes
	if !stale && !mixes {
		// What is not marked was listed by this process.
		low = max(low, h.Settled(g.began))
	}
	if mixes { // whatever version it fits, other objects may be of an older one
		if h.Mixes(q, said, low, now) {
			return nil
		}
		return g.wrong(h, q, said, low, now)
	}
	v, ok := h.First(q, said, low, now)
	if !ok {
		return g.wrong(h, q, said, low, now)
	}
	g.floor[network] = max(g.floor[network], v)
	if tr := g.trouble; tr != nil && tr.faults == 0 && !stale && h.Begun(v).After(tr.over) {
		g.trouble = nil
	}
	return nil
}

// judgeUnready is about an answer that says that nothing is known yet.
func (g *sight) judgeUnready(tk ticket, reason string) error {
	switch {
	case !g.knows.IsZero() && tk.asked.After(g.knows):
		return fmt.Errorf("SERVFAIL (%s) from a process that has answered before", reason)
	case tk.asked.Sub(g.began) > startup:
		return fmt.Errorf("SERVFAIL (%s) %v after the start, with a state on disk", reason, tk.asked.Sub(g.began).Round(time.Millisecond))
	}
	return nil
}

// judgeMark is about whether an answer says that it may be stale.
func (g *sight) judgeMark(tk ticket, now time.Time, stale bool) error {
	if !stale {
		if why := g.mustMark(tk); why != "" {
			return fmt.Errorf("not marked stale, although %s", why)
		}
		return nil
	}
	from, troubled := g.inTrouble(now)
	switch {
	case !troubled && !tk.troubled:
		return fmt.Errorf("marked stale, and nothing is wrong")
	case troubled && g.began.Before(from) && now.Sub(from) < staleAfter-quiet:
		return fmt.Errorf("marked stale %v after its source was heard", now.Sub(from).Round(time.Millisecond))
	}
	return nil
}

// mustMark says why an answer must be marked, empty if it need not be.
func (g *sight) mustMark(tk ticket) string {
	if tk.pauses != g.pauses || tk.asked.Sub(g.stilled) < notice {
		return ""
	}
	for s := range g.silences {
		switch silent := tk.asked.Sub(s.from); {
		case silent > 0 && g.began.After(s.from):
			return fmt.Sprintf("the process has started %v after its source fell silent", g.began.Sub(s.from).Round(time.Millisecond))
		case silent > staleAfter+notice:
			return fmt.Sprintf("its source has been silent for %v", silent.Round(time.Millisecond))
		}
	}
	return ""
}

// judgeInfo holds what dnsd says of itself against what has happened to it.
func (g *sight) judgeInfo(tk ticket, stale bool, state string, age time.Duration) error {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if tk.process != g.process || tk.pauses != g.pauses || tk.asked.Sub(g.stilled) < notice {
		return nil
	}
	if state == "listing" {
		return g.judgeUnready(tk, "state listing")
	}
	if err := g.judgeMark(tk, now, stale); err != nil {
		return err
	}
	if stale != (state == "cached" || state == "stale" || state == "catching-up") {
		return fmt.Errorf("state %s, and marked stale: %v", state, stale)
	}
	if !stale && age > staleAfter+notice {
		return fmt.Errorf("state %s at an age of %v", state, age)
	}
	for s := range g.silences { // then no listing makes it younger at this very moment
		if up := tk.asked.Sub(g.began); g.began.After(s.from) && age < up-notice {
			return fmt.Errorf("state %s at an age of %v, in a process that has heard nothing for %v", state, age, up.Round(time.Millisecond))
		}
	}
	return nil
}

// beganAt returns when the process was started.
func (g *sight) beganAt() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.began
}

// wrong describes an answer that is not true.
func (g *sight) wrong(h *truth.History, q *truth.Question, said string, low int, now time.Time) error {
	newest, _ := h.Newest()
	want := fmt.Sprintf("got  %s\nwant one of, from version %d (%v old) to %d,\n     %s", said,
		low, now.Sub(h.Begun(low)).Round(time.Millisecond), newest, strings.Join(h.Answers(q, low, now), "\n     "))
	if last := lastly(h, q, said, low); last >= 0 {
		return fmt.Errorf("was true last in version %d, over %v ago\n%s", last, now.Sub(h.Begun(last+1)).Round(time.Millisecond), want)
	}
	return wrongAnswer{fmt.Errorf("was never true\n%s", want)}
}

// lastly returns the last version before low in which q is answered so, -1 for
// none.
func lastly(h *truth.History, q *truth.Question, said string, low int) int {
	for v := low - 1; v >= 0; v-- {
		if q.Answer(h.At(v)) == said {
			return v
		}
	}
	return -1
}

// unready reports whether a response says that nothing is known yet, and in what
// words.
func unready(resp *dns.Msg) (reason string, ok bool) {
	text, ok := extended(resp)[dns.ExtendedErrorCodeNotReady]
	return text, ok && resp.Rcode == dns.RcodeServerFailure
}

// marked reports whether a response says that it may be stale.
func marked(resp *dns.Msg) bool {
	_, ok := extended(resp)[dns.ExtendedErrorCodeStaleAnswer]
	return ok
}

// extended returns a response's extended errors.
func extended(resp *dns.Msg) map[uint16]string {
	all := map[uint16]string{}
	if opt := resp.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if ede, ok := o.(*dns.EDNS0_EDE); ok {
				all[ede.InfoCode] = ede.ExtraText
			}
		}
	}
	return all
}

// String says what is wrong at present.
func (g *sight) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var words []string
	if tr := g.trouble; tr != nil {
		words = append(words, fmt.Sprintf("in trouble for %v, %d faults in force", time.Since(tr.from).Round(time.Second), tr.faults))
	}
	for s := range maps.Keys(g.silences) {
		words = append(words, fmt.Sprintf("cut off for %v", time.Since(s.from).Round(time.Second)))
	}
	if g.mixes {
		words = append(words, "may hold removals back")
	}
	return strings.Join(words, ", ")
}
