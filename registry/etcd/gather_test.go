package etcd

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// arriving is a connection on which a byte arrives at each of some moments.
type arriving struct {
	net.Conn
	bytes chan byte
}

func arrive(moments ...time.Duration) *arriving {
	a := &arriving{bytes: make(chan byte, len(moments))}
	for _, at := range moments {
		time.AfterFunc(at, func() { a.bytes <- 0 })
	}
	return a
}

// Read returns what has come, and waits for the first of it.
func (a *arriving) Read(p []byte) (n int, err error) {
	for p[n] = <-a.bytes; n+1 < len(p) && len(a.bytes) > 0; {
		n++
		p[n] = <-a.bytes
	}
	return n + 1, nil
}

func TestReadsGather(t *testing.T) {
	type read struct {
		at time.Duration
		n  int
	}
	const ms = time.Millisecond
	for _, c := range []struct {
		name    string
		moments []time.Duration
		buffer  int
		want    []read
	}{
		{"after a pause at once", []time.Duration{0, 5 * ms, 12 * ms}, 8, []read{{0, 1}, {5 * ms, 1}, {12 * ms, 1}}},
		{"quick ones together", []time.Duration{1 * ms, 1500 * time.Microsecond, 2 * ms, 2500 * time.Microsecond, 3500 * time.Microsecond, 9 * ms}, 8,
			[]read{{1 * ms, 1}, {3 * ms, 3}, {5 * ms, 1}, {9 * ms, 1}}},
		{"many without a wait", []time.Duration{0, 0, 0, 0, 0}, 2, []read{{0, 2}, {0, 2}, {0, 1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				g := &gathering{Conn: arrive(c.moments...)}
				synctest.Wait()
				for i, want := range c.want {
					n, err := g.Read(make([]byte, c.buffer))
					if got := (read{time.Since(began), n}); err != nil || got != want {
						t.Errorf("read %d: %d bytes at %s, %v; want %d at %s", i, got.n, got.at, err, want.n, want.at)
					}
				}
			})
		})
	}
}
