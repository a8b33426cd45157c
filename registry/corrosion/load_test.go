package corrosion

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"dnsd/registry"
	"dnsd/registry/corrosion/corrosiontest"
	"dnsd/registry/follow/followtest"
)

// processor is what a process has used of processors so far.
func processor(t *testing.T, pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	var user, system int
	fmt.Sscan(fields[11], &user)
	fmt.Sscan(fields[12], &system)
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

func own() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A real agent with 100,000 machines: they are listed and compared, and 500
// changes a second for a minute, through gossip, all arrive. What it costs is
// logged.
func TestRealAgentUnderLoad(t *testing.T) {
	const machines, perSecond, seconds = 100_000, 500, 60
	c := startReal(t, 3)
	writer, agent := c.Agents[0], c.Agents[1]
	load := func(i int, state string) corrosiontest.Row {
		r := full(fmt.Sprintf("m%x", 0x10000+i), state)
		return with(r, "private_ip", fmt.Sprintf("fdaa:0:18:a7b:%x::%x", i/50_000, i%50_000))
	}
	for base := 0; base < machines; base += 500 {
		var rows []corrosiontest.Row
		for i := range 500 {
			rows = append(rows, load(base+i, "started"))
		}
		writer.Put("machines", rows...)
	}
	c.Await("machines")
	f := &fixture{t: t, world: &followtest.Recorder{}}
	var err error
	if f.src, err = New(Config{Addr: agent.Addr(), Token: corrosiontest.Token}, testLog(t)); err != nil {
		t.Fatal(err)
	}
	f.src.comparison = comparison{first: time.Second, every: time.Hour, settle: 5 * time.Second}
	began := time.Now()
	f.follow()
	f.waitLong("a listing", func() bool { return f.world.Listings() > 0 })
	if n := f.world.Get(known); n != machines {
		t.Errorf("%d machines are listed, want %d", n, machines)
	}
	t.Logf("%d machines listed in %v", machines, time.Since(began).Round(10*time.Millisecond))

	f.waitLong("a comparison", func() bool { return f.src.subs[0].compared.Load() > 0 })
	f.stop()
	f.src.comparison.next, f.src.comparison.first = time.Time{}, time.Minute // after 12 s at least
	f.follow()
	f.waitLong("another listing", func() bool { return f.world.Listings() == 2 })
	before, mine, at := processor(t, agent.Pid()), own(), f.src.subs[0].compared.Load()
	f.waitLong("a comparison", func() bool { return f.src.subs[0].compared.Load() > at })
	t.Logf("compared for %v of the agent's processor time and %v of dnsd's, its test's included",
		processor(t, agent.Pid())-before, (own() - mine).Round(10*time.Millisecond))

	states := []string{"stopped", "starting", "started"}
	want := map[string]string{}
	start := time.Now()
	slowest := time.Duration(0)
	for n := range seconds * 10 {
		var rows []corrosiontest.Row
		for i := range perSecond / 10 {
			r := load((n*perSecond/10+i)%machines, states[n%3])
			want[r["id"].(string)] = r["state"].(string)
			rows = append(rows, r)
		}
		writer.Put("machines", rows...)
		if n%50 == 0 { // how long one takes to be seen
			last := rows[len(rows)-1]
			sent := time.Now()
			f.waitLong("a change", func() bool { return f.state(last["id"].(string)) == last["state"] })
			slowest = max(slowest, time.Since(sent))
		}
		time.Sleep(time.Until(start.Add(time.Duration(n+1) * 100 * time.Millisecond)))
	}
	t.Logf("%d changes in %v; of 12 that were watched, the slowest was seen after %v", perSecond*seconds, time.Since(start).Round(time.Second), slowest.Round(time.Millisecond))
	f.waitLong("all changes", func() bool {
		known := f.world.Seen().Objects
		for id, state := range want {
			if m, _ := known[machineKey(id)].(*registry.Machine); m == nil || m.State != state {
				return false
			}
		}
		return len(known) == machines
	})
	if f.world.Listings() != 2 || f.failed() != "context canceled" || f.drifted() != 0 {
		t.Errorf("%d listings, %d rows drifted; Follow returned %q", f.world.Listings(), f.drifted(), f.failed())
	}
}
