package corrosion

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// agentWith returns what an agent of database self has when it sees so many others
// and has the first versions of site A.
func agentWith(self string, members int, versions uint64) *knowledge {
	return &knowledge{Self: self, Members: members, Sites: map[string]site{"A": {Head: versions}}}
}

// What becomes of a stream when the agent is asked again.
func TestLooked(t *testing.T) {
	p := defaultPace
	for _, test := range []struct {
		name       string
		unlisted   bool
		doubt      string
		now        *knowledge
		after      time.Duration // since the agent was first asked
		err        string
		remembered bool
	}{
		{name: "whole", now: agentWith("B1", 2, 11), remembered: true},
		{name: "with a loss", now: agentWith("B1", 2, 8), err: "has lost 2 versions"},
		{name: "with a loss, before it is listed", unlisted: true, now: agentWith("B1", 2, 8)},
		{name: "whole, before it is listed", unlisted: true, now: agentWith("B1", 2, 11)},
		{name: "whole after a doubt", doubt: doubt, now: agentWith("B1", 2, 10), err: "the agent has all that it had"},
		{name: "still in doubt", doubt: doubt, now: agentWith("B1", 2, 8), after: p.giveUp - 1},
		{name: "for too long", doubt: doubt, now: agentWith("B1", 2, 8), after: p.giveUp, err: "nobody has what the agent lacks"},
		{name: "for long, but cut off", doubt: doubt, now: agentWith("B1", 0, 8), after: p.giveUp},
		{name: "whole again, but as a new database", doubt: doubt, now: agentWith("B2", 2, 10)},
		{name: "as a new database, quiet for long", doubt: doubt, now: agentWith("B2", 2, 10), after: p.standstill, err: "has all that it had"},
		{name: "a new database", doubt: doubtNew, now: agentWith("B2", 2, 10), after: p.standstill - 1},
		{name: "a new database, settled", doubt: doubtNew, now: agentWith("B2", 2, 10), after: p.standstill, err: "has all that it had"},
		{name: "a new database that is remembered", doubt: doubtNew, now: agentWith("B1", 2, 11), remembered: true},
		{name: "a new database with a loss, for too long", doubt: doubtNew, now: agentWith("B2", 2, 8), after: p.giveUp, err: "nobody has"},
	} {
		synctest.Test(t, func(t *testing.T) {
			known := agentWith("B1", 2, 10)
			s := &Source{log: slog.New(slog.DiscardHandler), listed: !test.unlisted}
			s.whole.pace, s.whole.known, s.whole.doubt = p, known, test.doubt
			s.whole.note(test.now, s.whole.lacking(test.now))
			time.Sleep(test.after)
			err := s.looked(&message{known: test.now})
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: %v, want %q", test.name, err, test.err)
			}
			if (s.whole.known == test.now) != test.remembered {
				t.Errorf("%s: remembered %+v", test.name, s.whole.known)
			}
			if again := strings.HasPrefix(test.err, "has all") || strings.HasPrefix(test.err, "nobody"); again && s.whole.doubt != "" {
				t.Errorf("%s: the doubt stays", test.name)
			}
			if s.whole.seen != test.now || s.whole.view.Load().known != test.now {
				t.Errorf("%s: seen %+v, shown %+v", test.name, s.whole.seen, s.whole.view.Load())
			}
		})
	}
}

// The times that an agent is given are of use: each at its place among the others.
func TestDefaultPace(t *testing.T) {
	p := defaultPace
	times := []time.Duration{0, p.wait, p.settle, p.standstillAnew + 1, p.look, p.standstillEmpty, p.standstill, p.waitMost}
	if !slices.IsSorted(times) || p.wait < time.Second || p.giveUp < p.standstill || p.remember < p.look {
		t.Errorf("%+v", p)
	}
}

func TestLookedAtAMuteAgent(t *testing.T) {
	for _, test := range []struct {
		name, doubt string
		health      *health
		again       bool
		shown       uint64
	}{
		{"that tells nothing", doubt, nil, false, 0},
		{"with gaps", doubt, &health{Members: 1, Gaps: 1}, false, 1},
		{"without gaps", "", &health{Members: 1}, false, 0},
		{"without gaps any more", doubt, &health{Members: 1}, true, 0},
	} {
		s := &Source{log: slog.New(slog.DiscardHandler), listed: true}
		s.whole.doubt = test.doubt
		if err := s.looked(&message{health: test.health}); (err != nil) != test.again || test.again && s.whole.doubt != "" {
			t.Errorf("%s: %v, doubt %q", test.name, err, s.whole.doubt)
		}
		v := s.whole.view.Load()
		if (v != nil) != (test.health != nil) || v != nil && (v.lacking != test.shown || v.gaps != test.shown || v.known.Members != 1) {
			t.Errorf("%s: shown %+v", test.name, v)
		}
	}
}

func TestShow(t *testing.T) {
	const none, lacks, cut = "", "the corrosion agent lacks 2 versions of the cluster's data", "the corrosion agent sees no other agent: changes of other hosts don't arrive"
	empty := &knowledge{Self: "B1", Members: 2, Sites: map[string]site{}}
	for _, test := range []struct {
		name    string
		known   *knowledge
		doubt   string
		met     bool
		now     *knowledge
		health  *health
		lacking uint64
		trouble string
	}{
		{name: "well", known: empty, now: agentWith("B1", 2, 1), trouble: none},
		{name: "empty", now: empty, lacking: 1, trouble: "the corrosion agent's database is empty"},
		{name: "empty and whole", now: empty, trouble: none},
		{name: "empty, which it was not", known: agentWith("B1", 2, 2), now: empty, lacking: 2, trouble: lacks},
		{name: "with gaps", now: agentWith("B1", 2, 1), lacking: 2, trouble: lacks},
		{name: "alone, but only just", known: empty, now: agentWith("B1", 0, 1), lacking: 2, trouble: lacks},
		{name: "in doubt among others", known: empty, doubt: doubt, now: agentWith("B1", 1, 1), lacking: 2, trouble: lacks},
		{name: "in doubt and alone", known: empty, doubt: doubt, now: agentWith("B1", 0, 1), lacking: 2, trouble: lacks + ", and sees no other agent to get them from"},
		{name: "whole in doubt and alone", known: empty, doubt: doubt, now: agentWith("B1", 0, 1), trouble: none},
		{name: "cut off", known: empty, met: true, now: agentWith("B1", 0, 1), trouble: cut},
		{name: "mute with gaps", health: &health{Members: 2, Gaps: 2}, lacking: 7, trouble: lacks},
		{name: "mute", health: &health{Members: 2}, trouble: none},
	} {
		s := &Source{}
		s.whole.known, s.whole.doubt, s.whole.met = test.known, test.doubt, test.met
		s.show(test.now, test.lacking, test.health)
		got := ""
		if err := s.Trouble(); err != nil {
			got = err.Error()
		}
		if got != test.trouble {
			t.Errorf("%s: %q, want %q", test.name, got, test.trouble)
		}
		if s.proven() != (test.trouble != cut) {
			t.Errorf("%s: proven %v", test.name, s.proven())
		}
	}
}

// What is shown one after the other.
func TestShowInOrder(t *testing.T) {
	s := &Source{}
	show := func(k *knowledge, h *health) *view { s.show(k, 0, h); return s.whole.view.Load() }
	if v := show(agentWith("B1", 1, 1), nil); !v.learned.IsZero() || s.whole.met != true {
		t.Errorf("at first: %+v", v)
	}
	first := &health{Lag: 1}
	if v := show(agentWith("B1", 1, 2), first); v.health != first || time.Since(v.learned) > time.Minute {
		t.Errorf("after it learned something: %+v", v)
	}
	learned := s.whole.view.Load().learned
	if v := show(agentWith("B1", 0, 2), nil); v.health != first || v.learned != learned || v.trouble == "" {
		t.Errorf("when it is cut off: %+v", v)
	}
	if v := show(agentWith("B1", 1, 3), nil); v.health != nil || v.learned.Before(learned) {
		t.Errorf("after it learned more: %+v", v)
	}
	if v := show(agentWith("B2", 0, 3), nil); v.trouble != "" || s.whole.met {
		t.Errorf("of a new database: %+v", v)
	}
}

func TestRemember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wholeness{pace: defaultPace, memory: &memory{}}
		saves := func(when string, want bool) {
			t.Helper()
			w.remember(agentWith("B1", 2, 10))
			if got := w.unsaved.Swap(nil) != nil; got != want {
				t.Errorf("%s: saved %v", when, got)
			}
		}
		saves("at first", true)
		saves("at once", false)
		time.Sleep(w.pace.remember - 1)
		saves("soon", false)
		time.Sleep(time.Nanosecond)
		w.doubt = doubt
		saves("in doubt", false)
		w.doubt = ""
		saves("after a time", true)
		w.remember(nil)
		w.memory = nil
		time.Sleep(w.pace.remember)
		saves("nowhere", false)
		for _, test := range []struct {
			doubt string
			now   *knowledge
			want  bool
		}{
			{"", agentWith("B2", 2, 5), true},
			{doubt, agentWith("B1", 2, 5), false},
			{doubt, agentWith("B2", 2, 12), false},
			{doubt, agentWith("B1", 2, 12), true},
		} {
			w.known, w.doubt = agentWith("B1", 2, 10), test.doubt
			if w.remember(test.now); (w.known == test.now) != test.want {
				t.Errorf("%+v: remembered %+v", test, w.known)
			}
		}
	})
}

func TestLackingAndReplaced(t *testing.T) {
	gaps := agentWith("B2", 2, 10)
	gaps.Sites["A"] = site{10, []span{{3, 4}}}
	for _, test := range []struct {
		name       string
		known, now *knowledge
		lacking    uint64
		replaced   bool
		patience   time.Duration
	}{
		{"nothing known, empty", nil, &knowledge{}, 1, false, defaultPace.standstillEmpty},
		{"nothing known, whole", nil, agentWith("B1", 2, 10), 0, false, defaultPace.standstillAnew},
		{"nothing known, gaps", nil, gaps, 2, false, defaultPace.standstillAnew},
		{"it was alone", &knowledge{Self: "B1", Sites: map[string]site{"B1": {Head: 9}}}, &knowledge{Self: "B2"}, 0, false, defaultPace.standstill},
		{"the same", agentWith("B1", 2, 10), agentWith("B1", 2, 10), 0, false, defaultPace.standstill},
		{"a new one", agentWith("B1", 2, 10), gaps, 2, true, defaultPace.standstill},
		{"an empty one", agentWith("B1", 2, 10), &knowledge{Self: "B1"}, 10, false, defaultPace.standstill},
	} {
		w := wholeness{pace: defaultPace, known: test.known}
		if n, r, d := w.lacking(test.now), w.replaced(test.now), w.patience(test.now); n != test.lacking || r != test.replaced || d != test.patience {
			t.Errorf("%s: lacks %d, replaced %v, waited for %v", test.name, n, r, d)
		}
	}
}
