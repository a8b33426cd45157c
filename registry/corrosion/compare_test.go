package corrosion

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dnsd/registry/corrosion/corrosiontest"
)

// comparing starts a source that compares all the time.
func comparing(t *testing.T, prepare ...func(*fixture)) *fixture {
	f := start(t, corrosiontest.Options{Members: 2}, Config{}, append(prepare, put, func(f *fixture) {
		f.agent.Put("machines", row("m2", "started"), row("m3", "started"))
		f.src.comparison = comparison{first: 20 * time.Millisecond, every: 20 * time.Millisecond, settle: 50 * time.Millisecond}
		if f.patient {
			f.src.comparison.settle = time.Second // the machine may be busy
		}
	})...)
	f.waitListed(1)
	return f
}

// compared waits until each table has been compared n times more.
func (f *fixture) compared(n int) {
	f.t.Helper()
	before := f.agent.Counts().Selects
	f.wait("comparisons", func() bool { return f.agent.Counts().Selects >= before+4*n })
}

func (f *fixture) drifted() (n int64) {
	for _, sub := range f.src.subs {
		n += sub.drifted.Load()
	}
	return n
}

// An old version in the record is drift as well as a row that is missing or gone.
// It is mended by subscribing anew: another listing of the same record would not.
func TestDriftOfContent(t *testing.T) {
	t.Parallel()
	f := comparing(t)
	f.agent.Deafen("machines", true)
	f.agent.Put("machines", row("m2", "stopped"))
	f.agent.Delete("machines", row("m3", ""))
	f.agent.Deafen("machines", false)
	f.waitState("m2", "stopped")
	f.waitState("m3", "")
	if n, all := f.src.subs[0].drifted.Load(), f.drifted(); n != 3 || all != 3 { // m2 as it is, m2 as it was, m3
		t.Errorf("%d rows were found to differ, %d of them machines; want 3", all, n)
	}
	f.logged("record of a subscription differs from its table", 1)
	f.logged("listing the corrosion agent again", 1)
	// The new subscriptions are as good as any.
	f.agent.Put("machines", row("m2", "started"), row("m4", "started"))
	f.waitState("m2", "started")
	f.waitState("m4", "started")
	before := f.world.Listings()
	f.compared(3)
	if n := f.world.Listings(); n != before || f.failed() != "" {
		t.Errorf("%d listings after all was mended; Follow returned %q", n-before, f.failed())
	}
}

// What is under way while two sides are read is no drift, nor is a row that
// cannot be used, is too long, or differs in what is not read.
func TestNoDrift(t *testing.T) {
	t.Parallel()
	f := comparing(t, func(f *fixture) {
		f.patient = true
		f.agent.Put("machines", row("m5", ""), with(row("m6", "started"), "app", ""),
			with(row("m7", "started"), "metadata", strings.Repeat("x", maxLine)), with(row("m8", "started"), "private_ip", []byte("fdaa")))
	})
	begun := f.agent.Counts().Selects
	for i := 0; f.agent.Counts().Selects < begun+4; i++ {
		f.agent.Put("machines", with(row(fmt.Sprintf("m%x", 0x100+i%500), []string{"started", "stopped"}[i%2]), "updated_at", i))
		f.agent.Put("apps", corrosiontest.Row{"network": "fdaa:0:18::", "name": "my-app", "updated_at": i})
		time.Sleep(time.Millisecond) // no faster than a stream is read
	}
	f.compared(2)
	f.wait("a time of comparison", func() bool { return f.src.subs[0].compared.Load() > 0 })
	if at := metrics(t, f.src)["compared_timestamp_seconds machine"]; time.Since(time.UnixMilli(int64(at*1000))).Abs() > time.Minute {
		t.Errorf("compared at %v", at)
	}
	if n := f.drifted(); n != 0 || f.world.Listings() != 1 || f.failed() != "" {
		t.Errorf("%d rows were found to differ; %d listings; Follow returned %q", n, f.world.Listings(), f.failed())
	}
}

// Comparisons are far apart, over a new connection as well.
func TestComparisonsAreSeldom(t *testing.T) {
	t.Parallel()
	f := start(t, corrosiontest.Options{Members: 2}, Config{}, put, func(f *fixture) {
		f.src.comparison = comparison{first: 20 * time.Millisecond, every: time.Hour, settle: 2 * time.Second}
	})
	f.wait("a comparison of each table", func() bool { // of which the first may have come too early
		return !slices.ContainsFunc(f.src.subs, func(s *subscription) bool { return s.compared.Load() == 0 })
	})
	var before corrosiontest.Counts
	f.wait("the end of it", func() bool { // signs of life go on without it
		now := f.agent.Counts()
		if now.Selects > before.Selects {
			before = now
		}
		return now.Queries > before.Queries+10
	})
	f.relist()
	before.Queries = f.agent.Counts().Queries
	f.wait("signs of life", func() bool { return f.agent.Counts().Queries > before.Queries+10 })
	if n := f.agent.Counts().Selects - before.Selects; n != 0 {
		t.Errorf("%d comparisons more", n)
	}
}

// A comparison that fails costs nothing.
func TestComparisonFails(t *testing.T) {
	t.Parallel()
	f := comparing(t)
	f.agent.FailSelects(503)
	f.compared(2)
	if f.log.count("could not be compared") == 0 {
		t.Error("it is not logged")
	}
	f.agent.FailSelects(0)
	f.compared(2)
	if f.drifted() != 0 || f.world.Listings() != 1 || f.failed() != "" {
		t.Errorf("%d drifted, %d listings, Follow returned %q", f.drifted(), f.world.Listings(), f.failed())
	}
}

func TestDifference(t *testing.T) {
	for _, test := range []struct{ a, b, onlyA, onlyB, both []uint64 }{
		{},
		{a: []uint64{1, 2}, onlyA: []uint64{1, 2}},
		{b: []uint64{1, 2}, onlyB: []uint64{1, 2}},
		{a: []uint64{1, 3, 3, 4}, b: []uint64{2, 3, 4, 4}, onlyA: []uint64{1, 3}, onlyB: []uint64{2, 4}, both: []uint64{3, 4}},
	} {
		onlyA, onlyB := difference(test.a, test.b)
		if both := common(test.a, test.b); !slices.Equal(onlyA, test.onlyA) || !slices.Equal(onlyB, test.onlyB) || !slices.Equal(both, test.both) {
			t.Errorf("%v and %v: %v, %v, %v", test.a, test.b, onlyA, onlyB, both)
		}
	}
}
