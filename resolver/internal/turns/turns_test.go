package turns

import (
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// prefix returns a network told by a letter.
func prefix(letter byte) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0xaa, 5: letter}), 48)
}

// leftOver fails the test where turns remember anything of questions that are done.
func leftOver(t *testing.T, q *Queue, free int) {
	t.Helper()
	if q.free != free || len(q.next)+len(q.lines)+q.waiting != 0 {
		t.Errorf("left over: %+v", q)
	}
}

// TestHalf: half of the processors, and never none.
func TestHalf(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for processors, want := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 8: 4} {
		runtime.GOMAXPROCS(processors)
		for range 2 { // it changes nothing
			if got := Half(); got != want {
				t.Errorf("half of %d is %d, want %d", processors, got, want)
			}
		}
	}
}

// TestNetworksTakeTurns: who waits is served in turn, network by network.
func TestNetworksTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(1)
		q.Enter(prefix('n'))
		var order []string // guarded by the only turn
		for _, who := range []string{"a1", "a2", "a3", "b1", "c1", "b2"} {
			go func() {
				q.Enter(prefix(who[0]))
				order = append(order, who)
				q.Leave(prefix(who[0]))
			}()
			synctest.Wait()
		}
		if len(order) != 0 || q.Waiting() != 6 {
			t.Errorf("%v did not wait, %d do", order, q.Waiting())
		}
		q.Leave(prefix('n'))
		synctest.Wait()
		if want := []string{"a1", "b1", "c1", "a2", "b2", "a3"}; !slices.Equal(order, want) {
			t.Errorf("served %v, want %v", order, want)
		}
		leftOver(t, q, 1)
	})
}

// TestTurnsAtOnce: never more at once than may, nor two of one network, nor fewer
// than may while others wait.
func TestTurnsAtOnce(t *testing.T) {
	q := New(3)
	var all sync.WaitGroup
	var now, most atomic.Int32
	var each [4]atomic.Int32
	for i := range 50 {
		n := prefix(byte(i % len(each)))
		own := &each[i%len(each)]
		all.Go(func() {
			for range 200 {
				q.Enter(n)
				if own.Add(1) > 1 {
					t.Error("two questions of one network are computed at once")
				}
				for range 2 {
					for m := now.Add(1); m > most.Load(); {
						most.CompareAndSwap(most.Load(), m)
					}
					now.Add(-1)
					q.Yield(n)
				}
				own.Add(-1)
				q.Leave(n)
			}
		})
	}
	all.Wait()
	if most.Load() > 3 {
		t.Errorf("%d at once of 3", most.Load())
	}
	leftOver(t, q, 3)
}

// TestYield: a long question lets other networks' go first, and goes on before
// its own network's next.
func TestYield(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(1)
		var order []string // guarded by the only turn
		long := make(chan struct{})
		go func() {
			q.Enter(prefix('a'))
			<-long
			for _, step := range []string{"a1", "a1 again", "a1 at last"} {
				order = append(order, step)
				q.Yield(prefix('a'))
			}
			q.Leave(prefix('a'))
		}()
		synctest.Wait()
		for _, who := range []string{"a2", "b1", "b2"} {
			go func() {
				q.Enter(prefix(who[0]))
				order = append(order, who)
				q.Leave(prefix(who[0]))
			}()
			synctest.Wait()
		}
		close(long)
		synctest.Wait()
		if want := []string{"a1", "b1", "a1 again", "b2", "a1 at last", "a2"}; !slices.Equal(order, want) {
			t.Errorf("served %v, want %v", order, want)
		}
		leftOver(t, q, 1)
	})
}

// TestPauser: a question yields once its turn has lasted, and not before.
func TestPauser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(1)
		q.Enter(prefix('a'))
		pause := q.Pauser(prefix('a'))
		var served atomic.Bool
		go func() {
			q.Enter(prefix('b'))
			served.Store(true)
			q.Leave(prefix('b'))
		}()
		synctest.Wait()
		for range 9 {
			time.Sleep(turnTime / 10)
			pause()
		}
		if synctest.Wait(); served.Load() {
			t.Error("the turn went on before its time")
		}
		time.Sleep(turnTime / 10)
		pause()
		if !served.Load() {
			t.Error("the turn did not go on")
		}
		q.Leave(prefix('a'))
		synctest.Wait()
		leftOver(t, q, 1)
	})
}

// TestBook: a network that has too many waiting gets no more turns, and others do;
// until too many wait in all.
func TestBook(t *testing.T) {
	q := newQueue(1, 5, 2)
	var booked []<-chan struct{}
	var of []netip.Prefix
	book := func(letter byte) bool {
		turn, ok := q.Book(prefix(letter))
		if ok {
			booked, of = append(booked, turn), append(of, prefix(letter))
		}
		return ok
	}
	for i, step := range []struct {
		network byte
		ok      bool
	}{{'a', true}, {'a', true}, {'a', true}, {'a', false}, {'b', true}, {'b', true}, {'b', false}, {'c', true}, {'c', false}, {'d', false}} {
		if ok := book(step.network); ok != step.ok {
			t.Errorf("booking %d, of %c: %t, want %t", i+1, step.network, ok, step.ok)
		}
	}
	for range booked {
		i := slices.IndexFunc(booked, func(turn <-chan struct{}) bool {
			select {
			case <-turn:
				return true
			default:
				return false
			}
		})
		if i < 0 {
			t.Fatal("nobody's turn begins")
		}
		booked[i] = nil
		q.Leave(of[i])
	}
	leftOver(t, q, 1)
}
