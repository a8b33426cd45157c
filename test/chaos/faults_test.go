package chaos

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"dnsd/test/internal/lab"
	"dnsd/test/internal/truth"

	"golang.org/x/sys/unix"
)

const (
	// leaderless is how long a member may go on answering that has lost its
	// cluster: an election's time-out, and the three that it takes to call a
	// stream leaderless.
	leaderless = 10 * time.Second

	// elected is how long the members may disturb each other after they are all
	// well again.
	elected = 10 * time.Second

	// emptied is how long etcd is empty at most: the second opinion of the sweep
	// guard comes after 30 s.
	emptied = 12 * time.Second
)

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

// lanes are the three kinds of trouble: the cluster's, the network's and the
// hosts'.
func lanes(s *scene) []*lane {
	all := []*lane{
		{name: "cluster", rest: seconds(4), first: s.platform.progress, faults: []fault{
			{"kill a member", seconds(3), seconds(10), killMember},
			{"freeze a member", seconds(3), seconds(15), freezeMember},
			{"cut a member off the others", seconds(4), seconds(12), isolateMember},
			{"no quorum", seconds(5), seconds(12), noQuorum},
			{"no quorum for long", leaderless + staleAfter + notice + seconds(5), seconds(38), noQuorum},
			{"replace a member", seconds(4), seconds(6), replaceMember},
			{"restore a backup", seconds(8), seconds(14), restore},
			{"wipe and refill", seconds(8), seconds(14), wipe},
			{"compact", seconds(1), seconds(2), compact},
		}},
		{name: "network", rest: seconds(3), faults: []fault{
			{"cut a dnsd off", seconds(3), seconds(10), cutOff},
			{"cut a dnsd off for long", staleAfter + notice + seconds(4), seconds(30), cutOff},
			{"cut a dnsd off one member", seconds(3), seconds(15), cutOffOne},
			{"cut one direction", seconds(3), seconds(15), cutOneWay},
			{"lose packets", seconds(5), seconds(15), lossy},
			{"hold packets up", seconds(5), seconds(15), slow},
		}},
		{name: "hosts", rest: seconds(3), faults: []fault{
			{"freeze a dnsd", seconds(1), seconds(8), freezeHost},
			{"freeze a dnsd for long", staleAfter + seconds(1), staleAfter + seconds(5), freezeHost},
			{"kill a dnsd", seconds(2), seconds(6), killHost},
			{"end a dnsd", seconds(2), seconds(6), endHost},
			{"restart a dnsd that is cut off", seconds(6), seconds(12), restartCutOff},
			{"break a disk", seconds(4), seconds(15), breakDisk},
			{"restart a dnsd whose disk is broken", seconds(5), seconds(10), restartBroken},
			{"flood a dnsd", seconds(3), seconds(6), floodHost},
			{"set a clock", seconds(3), seconds(10), setClock},
		}},
	}
	for _, l := range all {
		l.r, l.made = s.rand(l.name), map[string]int{}
	}
	return all
}

// during logs a fault, waits, and logs its end.
func (s *scene) during(lasts time.Duration, mend func(), format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	s.log("%s for %.1f s", what, lasts.Seconds())
	s.sleep(lasts)
	mend()
	s.log("over: %s", what)
}

// everyone says that a fault of the cluster begins, and returns how to say that it
// ends.
func (s *scene) everyone() (over func()) {
	for _, h := range s.hosts {
		h.enter()
	}
	return func() {
		for _, h := range s.hosts {
			h.leave(elected)
		}
	}
}

// The faults of the cluster.

func killMember(s *scene, r *rand.Rand, lasts time.Duration) {
	defer s.everyone()()
	i := r.IntN(members)
	s.etcd.Kill(i)
	s.during(lasts, func() { s.etcd.Restart(i) }, "member %d is killed", i)
}

func freezeMember(s *scene, r *rand.Rand, lasts time.Duration) {
	defer s.everyone()()
	i := r.IntN(members)
	s.etcd.Stop(i)
	s.during(lasts, func() { s.etcd.Cont(i) }, "member %d is frozen", i)
}

func isolateMember(s *scene, r *rand.Rand, lasts time.Duration) {
	defer s.everyone()()
	i := r.IntN(members)
	one := s.members[i]
	rule := &lab.Rule{Loss: 1, Holds: func(from, to netip.Addr) bool {
		return from == one && slices.Contains(s.members, to) || to == one && slices.Contains(s.members, from)
	}}
	s.sw.Add(rule)
	s.during(lasts, func() { s.sw.Remove(rule) }, "member %d is cut off the others", i)
}

// noQuorum parts all members from each other, or freezes all but one. Nobody can
// write, and dnsd hears nothing that it may believe.
func noQuorum(s *scene, r *rand.Rand, lasts time.Duration) {
	defer s.everyone()()
	frozen := []int{}
	rule := &lab.Rule{Loss: 1, Holds: func(from, to netip.Addr) bool {
		return slices.Contains(s.members, to) && slices.Contains(s.members, from)
	}}
	if r.IntN(2) == 0 {
		frozen = r.Perm(members)[1:]
		s.etcd.Stop(frozen...)
	} else {
		s.sw.Add(rule)
	}
	quiet := map[*host]*silence{}
	for _, h := range s.hosts {
		quiet[h] = h.hush(leaderless)
	}
	s.during(lasts, func() {
		for h, q := range quiet {
			h.speak(q)
		}
		s.etcd.Cont(frozen...)
		s.sw.Remove(rule)
	}, "no quorum, frozen %v", frozen)
}

func replaceMember(s *scene, r *rand.Rand, lasts time.Duration) {
	defer s.everyone()()
	i := r.IntN(members)
	s.during(lasts, func() {}, "member %d loses its disk", i)
	s.etcd.Replace(s.platform.all, i)
	s.log("over: member %d is replaced", i)
}

func compact(s *scene, r *rand.Rand, lasts time.Duration) {
	s.platform.compact()
	s.during(lasts, func() {}, "the history is compacted")
}

// restore takes a copy of the cluster, and some time later puts it back: what was
// written meanwhile is undone.
func restore(s *scene, r *rand.Rand, lasts time.Duration) {
	defer s.everyone()()
	p := s.platform
	p.idle.Lock()
	backup := s.etcd.Backup()
	worlds, serials := make([]truth.World, len(s.nets)), make([]int, len(s.nets))
	for i, n := range s.nets {
		_, worlds[i] = n.history.Newest()
		serials[i] = n.serial
	}
	p.idle.Unlock()
	s.during(lasts, p.idle.Lock, "a backup is taken; changes")
	if s.ctx.Err() != nil {
		p.idle.Unlock()
		return
	}
	versions := make([]int, len(s.nets))
	for i, n := range s.nets {
		versions[i] = n.history.Begin(worlds[i])
	}
	s.etcd.Restore(backup)
	for i, n := range s.nets {
		n.history.Settle(versions[i])
		n.serial = serials[i]
	}
	p.idle.Unlock()
	s.log("over: the backup is restored")
}

// wipe loses all data and, some time later, writes all of it again. Meanwhile
// nothing may be lost: a listing that lacks everything is held back. What other
// dnsds knew that were behind is held back as well, for a while.
func wipe(s *scene, r *rand.Rand, lasts time.Duration) {
	defer s.everyone()()
	s.platform.idle.Lock()
	defer s.platform.idle.Unlock()
	for _, h := range s.hosts {
		h.mix(true)
	}
	s.log("everything is wiped")
	began := time.Now()
	s.etcd.Wipe()
	s.during(max(0, min(lasts, emptied-time.Since(began))), s.platform.fill, "etcd is empty")
	refilled := time.Now()
	for _, h := range s.hosts {
		s.watching.Go(func() { h.unmix(refilled) })
	}
}

// unmix waits until nothing is held back any more. A listing of the empty cluster
// may still be on its way; it may take as long as one request.
func (h *host) unmix(refilled time.Time) {
	const request = 10 * time.Second
	for h.s.sleep(time.Second) {
		if time.Since(refilled) < request+notice {
			continue
		}
		if m := h.metrics(); m != nil && held(m) == 0 {
			h.mix(false)
			return
		}
	}
}

// The faults of the network.

// link returns when a rule is about packets between a dnsd and some members.
func (s *scene) link(h *host, ends []netip.Addr, out, in bool) func(from, to netip.Addr) bool {
	return func(from, to netip.Addr) bool {
		return out && from == h.addr && slices.Contains(ends, to) || in && to == h.addr && slices.Contains(ends, from)
	}
}

// disturb has a rule hold for one dnsd for a while.
func disturb(s *scene, h *host, rule *lab.Rule, silent bool, lasts time.Duration, format string, args ...any) {
	h.enter()
	defer h.leave(0)
	s.sw.Add(rule)
	mend := func() { s.sw.Remove(rule) }
	if silent {
		q := h.hush(time.Second)
		mend = func() { h.speak(q); s.sw.Remove(rule) }
	}
	s.during(lasts, mend, format, args...)
}

func cutOff(s *scene, r *rand.Rand, lasts time.Duration) {
	h := s.hosts[r.IntN(hosts)]
	disturb(s, h, &lab.Rule{Loss: 1, Holds: s.link(h, s.members, true, true)}, true, lasts, "%v is cut off etcd", h)
}

func cutOffOne(s *scene, r *rand.Rand, lasts time.Duration) {
	h, i := s.hosts[r.IntN(hosts)], r.IntN(members)
	disturb(s, h, &lab.Rule{Loss: 1, Holds: s.link(h, s.members[i:i+1], true, true)}, false, lasts, "%v is cut off member %d", h, i)
}

func cutOneWay(s *scene, r *rand.Rand, lasts time.Duration) {
	h, out := s.hosts[r.IntN(hosts)], r.IntN(2) == 0
	disturb(s, h, &lab.Rule{Loss: 1, Holds: s.link(h, s.members, out, !out)}, false, lasts, "%v is cut off etcd in one direction (its own: %v)", h, out)
}

func lossy(s *scene, r *rand.Rand, lasts time.Duration) {
	h, loss := s.hosts[r.IntN(hosts)], 0.05+0.3*r.Float64()
	disturb(s, h, &lab.Rule{Loss: loss, Holds: s.link(h, s.members, true, true)}, false, lasts, "%v loses %.0f%% of the packets", h, 100*loss)
}

func slow(s *scene, r *rand.Rand, lasts time.Duration) {
	h, delay := s.hosts[r.IntN(hosts)], time.Duration(50+r.IntN(400))*time.Millisecond
	rule := &lab.Rule{Delay: delay, Jitter: delay / 2, Holds: s.link(h, s.members, true, true)}
	disturb(s, h, rule, false, lasts, "%v has packets held up for %v", h, delay)
}

// The faults of hosts.

// mortal draws a host whose dnsd may be restarted. That of the first one lives
// through the whole run, so that what leaks in it shows.
func (s *scene) mortal(r *rand.Rand) *host { return s.hosts[1+r.IntN(hosts-1)] }

func freezeHost(s *scene, r *rand.Rand, lasts time.Duration) {
	h := s.hosts[r.IntN(hosts)]
	h.enter()
	defer h.leave(0)
	server := h.server.Load()
	h.freeze()
	server.Signal(syscall.SIGSTOP)
	s.during(lasts, func() { server.Signal(syscall.SIGCONT); h.thaw() }, "%v is frozen", h)
}

func killHost(s *scene, r *rand.Rand, lasts time.Duration) {
	restart(s, s.mortal(r), syscall.SIGKILL, r, lasts)
}

func endHost(s *scene, r *rand.Rand, lasts time.Duration) {
	restart(s, s.mortal(r), syscall.SIGTERM, r, lasts)
}

// restart ends a dnsd and starts it again, after a while or at once.
func restart(s *scene, h *host, sig syscall.Signal, r *rand.Rand, lasts time.Duration) {
	h.enter()
	defer h.leave(0)
	s.log("%v is ended by %v", h, sig)
	h.end(sig, true)
	if r.IntN(2) == 0 {
		s.sleep(lasts / 2)
	}
	h.launch()
	s.during(lasts/2, func() {}, "%v starts", h)
}

// restartCutOff restarts a dnsd while it is cut off, so that it has nothing but
// what is on its disk; its clock may be set meanwhile.
func restartCutOff(s *scene, r *rand.Rand, lasts time.Duration) {
	h := s.mortal(r)
	h.enter()
	defer h.leave(0)
	sig := []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[r.IntN(2)]
	rule := &lab.Rule{Loss: 1, Holds: s.link(h, s.members, true, true)}
	s.sw.Add(rule)
	q := h.hush(time.Second)
	s.sleep(seconds(1.5)) // past that second
	s.log("%v is ended by %v", h, sig)
	h.end(sig, true)
	s.sleep(time.Duration(r.IntN(2000)) * time.Millisecond)
	h.launch()
	if by := step(r); r.IntN(2) == 0 {
		s.sleep(lasts / 2)
		s.log("%v has its clock set by %v", h, by)
		h.setClock(by)
		lasts /= 2
	}
	s.during(lasts, func() {
		h.setClock(0)
		h.speak(q)
		s.sw.Remove(rule)
	}, "%v starts, cut off etcd", h)
}

// step draws by how much a clock is set.
func step(r *rand.Rand) time.Duration {
	by := []time.Duration{3 * time.Second, time.Minute, time.Hour, 400 * 24 * time.Hour}[r.IntN(4)]
	if r.IntN(2) == 0 {
		return -by
	}
	return by
}

// setClock sets a dnsd's wall clock, and later sets it right again. Nothing that
// it answers may depend on it.
func setClock(s *scene, r *rand.Rand, lasts time.Duration) {
	h, by := s.hosts[r.IntN(hosts)], step(r)
	h.setClock(by)
	s.during(lasts, func() { h.setClock(0) }, "%v has its clock set by %v", h, by)
}

// broken are the ways in which a state directory refuses writes.
var broken = []string{"full", "without inodes", "read-only"}

// spoil breaks a dnsd's disk in one of them, and returns how to mend it.
func (h *host) spoil(how string) (mend func()) {
	filler := func(i int) string { return filepath.Join(h.dir, fmt.Sprintf("filler%d", i)) }
	h.lab.Do(func() {
		switch how {
		case "full":
			_ = os.WriteFile(filler(0), make([]byte, 4<<20), 0o600)
		case "without inodes":
			for i := 0; os.WriteFile(filler(i), nil, 0o600) == nil; i++ {
			}
		case "read-only":
			var err error
			if lab.Until(time.Second, func() bool {
				err = unix.Mount("", h.dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
				return err == nil
			}) {
				return
			}
			// The kernel refuses it while dnsd has its state open to append to.
			if !errors.Is(err, unix.EBUSY) {
				h.s.errorf("%v: making its disk read-only: %v", h, err)
			}
			_ = os.WriteFile(filler(0), make([]byte, 4<<20), 0o600)
		}
	})
	return func() {
		h.lab.Do(func() {
			_ = unix.Mount("", h.dir, "", unix.MS_REMOUNT, "")
			left, _ := filepath.Glob(filepath.Join(h.dir, "filler*"))
			for _, file := range left {
				_ = os.Remove(file)
			}
		})
	}
}

func breakDisk(s *scene, r *rand.Rand, lasts time.Duration) {
	h, how := s.hosts[r.IntN(hosts)], broken[r.IntN(len(broken))]
	s.during(lasts, h.spoil(how), "%v has a disk that is %s", h, how)
}

// restartBroken restarts a dnsd whose disk can be read and not written.
func restartBroken(s *scene, r *rand.Rand, lasts time.Duration) {
	h, how := s.mortal(r), broken[r.IntN(len(broken))]
	mend := h.spoil(how)
	s.log("%v has a disk that is %s", h, how)
	h.enter()
	defer h.leave(0)
	s.sleep(lasts / 2)
	h.end([]syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[r.IntN(2)], false)
	h.launch()
	s.during(lasts/2, mend, "%v starts, its disk %s", h, how)
}

// floodHost has one of a host's machines ask more than its share.
func floodHost(s *scene, r *rand.Rand, lasts time.Duration) {
	h := s.hosts[r.IntN(hosts)]
	m := h.machine[r.IntN(len(h.machine))]
	stop, sent := make(chan struct{}), make(chan int)
	go func() { sent <- flood(m, 2000, stop) }()
	s.during(lasts, func() { close(stop) }, "%v is flooded by %s", h, m.net.name)
	s.log("%d questions of a flood", <-sent)
}
