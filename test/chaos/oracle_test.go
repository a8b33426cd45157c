package chaos

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dnsd/test/internal/truth"

	"github.com/miekg/dns"
)

// stand is a dnsd of which a test says what has happened to it and what it
// answers. The time is a bubble's.
type stand struct {
	*sight
	t *testing.T
	h *truth.History
	q truth.Question
}

// versionOf is the i-th world: one machine, with an address of its own.
func versionOf(i int) truth.World {
	const network = "fdaa:0:a11::/48"
	return truth.Of(&truth.App{Name: "web", Network: network}, &truth.Machine{ID: "m1", App: "web", Network: network,
		State: "started", Region: "fra", Addr: truth.AddrIn(network, i), Meta: map[string]string{}},
		&truth.Machine{ID: "m2", App: "web", Network: network, State: "started", Region: "fra", Addr: truth.AddrIn(network, 1000+i), Meta: map[string]string{}})
}

// change makes the next version, which is acknowledged at once.
func (s *stand) change() int {
	n, _ := s.h.Newest()
	v := s.h.Begin(versionOf(n + 1))
	s.h.Settle(v)
	return v
}

// response is an answer to the stand's question.
func (s *stand) response(said string, stale bool) *dns.Msg {
	req := new(dns.Msg).SetQuestion(s.q.Name+".", s.q.Type)
	req.SetEdns0(1232, false)
	resp := new(dns.Msg).SetReply(req)
	resp.SetEdns0(1232, false)
	edes := map[string]uint16{}
	switch said {
	case "NXDOMAIN":
		resp.Rcode = dns.RcodeNameError
	case "NODATA":
	case "unready":
		resp.Rcode = dns.RcodeServerFailure
		edes["not yet"] = dns.ExtendedErrorCodeNotReady
	default:
		for addr := range strings.FieldsSeq(said) {
			rr, err := dns.NewRR(s.q.Name + ". 5 IN AAAA " + addr)
			if err != nil {
				s.t.Fatal(err)
			}
			resp.Answer = append(resp.Answer, rr)
		}
	}
	if stale {
		edes["old"] = dns.ExtendedErrorCodeStaleAnswer
	}
	for text, code := range edes {
		opt := resp.IsEdns0()
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: text})
	}
	return resp
}

// says has dnsd answer as in a version, at once.
func (s *stand) says(version int, stale bool) error {
	return s.saysSo(s.q.Answer(s.h.At(version)), stale)
}

func (s *stand) saysSo(said string, stale bool) error {
	tk, _ := s.ask(0)
	return s.judge(0, tk, &s.q, s.response(said, stale))
}

// right and wrong check what the oracle says of an answer.
func (s *stand) right(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Errorf("a right answer is wrong: %v", err)
	}
}

func (s *stand) wrong(err error, words string) {
	s.t.Helper()
	if err == nil || !strings.Contains(err.Error(), words) {
		s.t.Errorf("a wrong answer is judged %q, want something with %q", err, words)
	}
}

const moment = time.Millisecond

// TestOracle has a dnsd lie in every way that the run is there to find, and tell
// the truth in every way that it may.
func TestOracle(t *testing.T) {
	for name, play := range map[string]func(s *stand){
		"current": func(s *stand) {
			v := s.change()
			s.right(s.says(v-1, false))
			time.Sleep(usual - moment)
			s.right(s.says(v-1, false))
			time.Sleep(2 * moment)
			s.wrong(s.says(v-1, false), "was true last in version")
			s.right(s.says(v, false))
		},
		"unacknowledged": func(s *stand) {
			n, _ := s.h.Newest()
			v := s.h.Begin(versionOf(n + 1))
			time.Sleep(time.Hour)
			s.right(s.says(v-1, false))
			s.right(s.says(v, false))
			s.wrong(s.says(v-1, false), "was true last in version")
		},
		"never": func(s *stand) {
			s.wrong(s.saysSo("fdaa:0:a11::1", false), "was never true")
			s.wrong(s.saysSo("NXDOMAIN", false), "was never true")
			s.wrong(s.saysSo("NODATA", false), "was never true")
			now := strings.Fields(s.q.Answer(s.h.At(0)))
			s.wrong(s.saysSo(now[0], false), "was never true")
		},
		"half_of_a_change": func(s *stand) {
			before := strings.Fields(s.q.Answer(s.h.At(0)))
			after := strings.Fields(s.q.Answer(s.h.At(s.change())))
			s.wrong(s.saysSo(before[0]+" "+after[1], false), "was never true")
		},
		"back_in_time": func(s *stand) {
			v := s.change()
			s.right(s.says(v, false))
			s.wrong(s.says(v-1, false), "was true last in version")
		},
		"asked_before": func(s *stand) {
			tk, _ := s.ask(0)
			v := s.change()
			s.right(s.says(v, false))
			s.right(s.judge(0, tk, &s.q, s.response(s.q.Answer(s.h.At(v-1)), false)))
		},
		"cut_off": func(s *stand) {
			old := s.change()
			time.Sleep(usual + moment)
			s.change()
			time.Sleep(usual)
			s.enter()
			q := s.hush(0)
			v := s.change()
			time.Sleep(staleAfter + notice - moment)
			s.right(s.says(v-1, false))
			s.right(s.says(v-1, true))
			s.wrong(s.says(old, true), "was true last in version")
			time.Sleep(2 * moment)
			s.wrong(s.says(v-1, false), "not marked stale, although its source has been silent")
			s.right(s.says(v-1, true))
			s.speak(q)
			s.leave(0)
			s.right(s.says(v-1, true))
			time.Sleep(recovery - moment)
			s.right(s.says(v-1, true))
			time.Sleep(2 * moment)
			s.wrong(s.says(v-1, true), "nothing is wrong")
			s.wrong(s.says(v-1, false), "was true last in version")
		},
		"marked_too_early": func(s *stand) {
			s.wrong(s.says(0, true), "nothing is wrong")
			s.enter()
			time.Sleep(staleAfter - quiet - moment)
			s.wrong(s.says(0, true), "after its source was heard")
			time.Sleep(2 * moment)
			s.right(s.says(0, true))
		},
		"recovered": func(s *stand) {
			s.enter()
			time.Sleep(time.Minute)
			s.leave(2 * time.Second)
			v := s.change()
			s.right(s.says(v, false)) // the disturbance may go on
			time.Sleep(usual + moment)
			w := s.change()
			time.Sleep(usual + moment)
			s.right(s.says(w, false))
			x := s.change()
			time.Sleep(usual + moment)
			s.wrong(s.says(w, false), "was true last in version")
			s.wrong(s.says(x, true), "nothing is wrong")
		},
		"faults_that_overlap": func(s *stand) {
			s.enter()
			v := s.change()
			s.enter()
			s.leave(0)
			time.Sleep(2 * recovery)
			s.right(s.says(v-1, false))
			s.leave(0)
			time.Sleep(recovery - moment)
			s.enter() // before it must have recovered
			s.leave(0)
			time.Sleep(2 * moment)
			s.right(s.says(v-1, false))
		},
		"restarted": func(s *stand) {
			s.mark(false)
			time.Sleep(saving + moment)
			saved := s.change()
			s.right(s.says(saved, false))
			s.mark(false)
			time.Sleep(saving + moment)
			v := s.change()
			s.right(s.says(v, false))
			s.mark(true) // the state on disk may be as old as that before
			s.enter()
			s.stop(false)
			_, ok := s.ask(0)
			if ok {
				s.t.Error("a process that has ended is asked")
			}
			s.start()
			s.right(s.saysSo("unready", false))
			s.right(s.says(saved, true))
			s.wrong(s.says(saved-1, true), "was true last in version")
			s.wrong(s.says(saved, false), "was true last in version")
			time.Sleep(moment)
			s.wrong(s.saysSo("unready", false), "answered before")
			s.right(s.says(v, true))
			s.right(s.says(v, false))
			s.wrong(s.says(saved, true), "was true last in version")
		},
		"restarted_from_an_old_state": func(s *stand) {
			saved := s.change()
			s.right(s.says(saved, false))
			s.mark(false)
			time.Sleep(saving + moment)
			s.mark(true)
			v := s.change()
			s.right(s.says(v, false))
			time.Sleep(time.Hour) // its disk is full
			s.enter()
			s.hush(0)
			s.stop(false)
			s.start()
			s.right(s.says(saved, true))
			s.wrong(s.says(saved-1, true), "was true last in version")
			s.wrong(s.says(saved, false), "was true last in version")
			s.settle() // it is current again
			s.wrong(s.says(saved, false), "was true last in version")
		},
		"ended": func(s *stand) {
			v := s.change()
			s.right(s.says(v, false))
			s.enter()
			s.stop(true)
			s.start()
			s.wrong(s.says(v-1, true), "was true last in version")
			s.right(s.says(v, true))
			s.stop(true)
			s.start()
			time.Sleep(startup + moment)
			s.wrong(s.saysSo("unready", false), "with a state on disk")
		},
		"restarted_cut_off": func(s *stand) {
			s.enter()
			s.hush(0)
			time.Sleep(time.Second)
			s.stop(true)
			s.start()
			time.Sleep(moment)
			s.wrong(s.says(0, false), "has started 1s after its source fell silent")
			s.right(s.says(0, true))
		},
		"asked_before_it_was_ready": func(s *stand) {
			s.enter()
			s.stop(true)
			s.start()
			tk, _ := s.ask(0)
			time.Sleep(moment)
			s.right(s.says(0, true))
			s.right(s.judge(0, tk, &s.q, s.response("unready", false)))
			time.Sleep(moment)
			s.wrong(s.saysSo("unready", false), "answered before")
		},
		"another_process": func(s *stand) {
			tk, _ := s.ask(0)
			s.enter()
			s.stop(true)
			s.start()
			s.right(s.judge(0, tk, &s.q, s.response("NXDOMAIN", false)))
		},
		"frozen": func(s *stand) {
			s.enter()
			s.hush(0)
			time.Sleep(time.Minute)
			s.right(s.says(0, true))
			s.freeze()
			if _, ok := s.ask(0); ok {
				s.t.Error("a process that is frozen is asked")
			}
			s.thaw()
			s.right(s.says(0, false)) // its clock has not ticked yet
			time.Sleep(notice + moment)
			s.wrong(s.says(0, false), "not marked stale")
		},
		"frozen_when_its_source_fell_silent": func(s *stand) {
			s.enter()
			s.freeze()
			time.Sleep(moment)
			s.hush(0)
			time.Sleep(time.Minute)
			s.thaw()
			time.Sleep(staleAfter + notice)
			s.right(s.says(0, false)) // it has just read what it was sent a minute ago
			time.Sleep(moment)
			s.wrong(s.says(0, false), "not marked stale")
		},
		"held": func(s *stand) {
			before := strings.Fields(s.q.Answer(s.h.At(0)))
			after := strings.Fields(s.q.Answer(s.h.At(s.change())))
			s.mix(true)
			s.right(s.saysSo(before[0]+" "+after[1], false))
			s.right(s.saysSo(after[0]+" "+before[1], false))
			s.wrong(s.saysSo(before[0]+" "+after[0]+" "+before[1], false), "was never true") // one machine twice
			s.wrong(s.saysSo("NXDOMAIN", false), "was never true")
			s.wrong(s.saysSo(after[0], false), "was never true")
			s.mix(false)
			s.wrong(s.saysSo(before[0]+" "+after[1], false), "was never true")
		},
		"settled": func(s *stand) {
			s.enter()
			v := s.change()
			s.leave(time.Hour)
			s.settle()
			s.wrong(s.says(v-1, false), "was true last in version")
			s.wrong(s.says(v, true), "nothing is wrong")
		},
		"what_it_says_of_itself": func(s *stand) {
			info := func(stale bool, state string, age time.Duration) error {
				tk, _ := s.ask(0)
				return s.judgeInfo(tk, stale, state, age)
			}
			time.Sleep(notice + moment)
			s.right(info(false, "live", staleAfter))
			s.right(info(false, "held", 0))
			s.wrong(info(false, "live", staleAfter+notice+moment), "at an age of")
			s.wrong(info(false, "stale", 0), "marked stale: false")
			s.wrong(info(true, "stale", time.Minute), "nothing is wrong")
			s.enter()
			s.hush(0)
			time.Sleep(2*staleAfter + moment)
			s.right(info(true, "stale", time.Minute))
			s.right(info(true, "catching-up", time.Minute))
			s.wrong(info(true, "live", time.Minute), "marked stale: true")
			s.stop(true)
			s.start()
			s.right(info(false, "listing", 0))
			time.Sleep(time.Minute)
			s.wrong(info(false, "listing", 0), "with a state on disk")
			s.right(info(true, "cached", time.Minute))
			s.wrong(info(true, "cached", 0), "has heard nothing for 1m0s")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stand{t: t, h: truth.NewHistory(versionOf(0)), q: truth.Network("fdaa:0:a11::/48").AAAA("", "web", nil)}
				s.sight = newSight([]*truth.History{s.h})
				time.Sleep(time.Hour)
				s.start()
				time.Sleep(time.Hour)
				play(s)
			})
		})
	}
}

// TestForeign: wherever something of another network shows, it is noticed; what the
// client asked for itself is not held against dnsd.
func TestForeign(t *testing.T) {
	s := &scene{}
	for _, n := range networks {
		s.nets = append(s.nets, &network{mark: n.mark, name: n.name})
	}
	c := &client{h: &host{s: s}, m: &guest{net: s.nets[0]}}
	rr := func(text string) []dns.RR {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		return []dns.RR{rr}
	}
	for name, put := range map[string]func(resp *dns.Msg){
		"address":    func(resp *dns.Msg) { resp.Answer = rr("web.internal. 5 IN AAAA fdaa:0:b22:1::1") },
		"list":       func(resp *dns.Msg) { resp.Answer = rr(`web.internal. 5 IN TXT "xqa1 fra," "xqb1 fra"`) },
		"reverse":    func(resp *dns.Msg) { resp.Answer = rr("web.internal. 5 IN PTR xqc1.vm.web.internal.") },
		"authority":  func(resp *dns.Msg) { resp.Ns = rr("internal. 5 IN NS xqc1.internal.") },
		"additional": func(resp *dns.Msg) { resp.Extra = append(resp.Extra, rr("x.internal. 5 IN AAAA fdaa:0:b22::1")...) },
		"error": func(resp *dns.Msg) {
			resp.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{ExtraText: "no app in xqb"}}
		},
	} {
		resp := new(dns.Msg)
		resp.SetQuestion("xqb1.vm.web.internal.", dns.TypeAAAA)
		resp.SetEdns0(1232, false)
		resp.Answer = rr("xqb1.vm.web.internal. 5 IN AAAA fdaa:0:a11::1")
		if err := c.foreign(resp); err != nil {
			t.Errorf("its own: %v", err)
		}
		if put(resp); c.foreign(resp) == nil {
			t.Errorf("%s: not noticed:\n%v", name, resp)
		}
	}
}

// TestPlan draws faults: each comes once before any comes again, those that fit
// into the time that is left, and the same ones from the same seed.
func TestPlan(t *testing.T) {
	draw := func(seed uint64, left time.Duration) (names []string, lasting []time.Duration) {
		s := &scene{seed: seed, platform: new(platform)}
		for _, l := range lanes(s) {
			for range 2 * len(l.faults) {
				f, lasts, ok := l.next(left)
				if !ok {
					l.deck = nil
					continue
				}
				if lasts < f.least || lasts > f.most || lasts > left {
					t.Errorf("%s lasts %v", f.name, lasts)
				}
				names, lasting = append(names, f.name), append(lasting, lasts)
			}
		}
		return names, lasting
	}
	names, lasting := draw(1, time.Hour)
	again, lastingAgain := draw(1, time.Hour)
	other, _ := draw(2, time.Hour)
	same := func(a, b []string) bool { return strings.Join(a, ",") == strings.Join(b, ",") }
	if !same(names, again) || lasting[0] != lastingAgain[0] || same(names, other) {
		t.Errorf("seed 1: %v\nagain:  %v\nseed 2: %v", names, again, other)
	}
	count := map[string]int{}
	for _, name := range names {
		count[name]++
	}
	for name, n := range count {
		if n != 2 {
			t.Errorf("%s comes %d times in two rounds", name, n)
		}
	}
	few, _ := draw(1, 3*time.Second)
	if len(few) == 0 || len(few) >= len(names) {
		t.Errorf("within three seconds: %v", few)
	}
}
