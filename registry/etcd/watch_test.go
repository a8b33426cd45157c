package etcd

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dnsd/registry"
	"dnsd/registry/contain"
	"dnsd/registry/follow/followtest"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// scripted is the stream of a watch whose server says some things at some times.
type scripted struct {
	pb.Watch_WatchClient
	ctx   context.Context
	heard chan *pb.WatchResponse // nil in it: the stream breaks
	asked func()                 // for progress
}

var errBroken = errors.New("the stream broke")

func (s *scripted) Watch(ctx context.Context, _ ...grpc.CallOption) (pb.Watch_WatchClient, error) {
	s.ctx = ctx
	return s, nil
}

func (s *scripted) Send(r *pb.WatchRequest) error {
	if r.GetProgressRequest() != nil {
		s.asked()
	}
	return nil
}

func (s *scripted) Recv() (*pb.WatchResponse, error) {
	select {
	case r := <-s.heard:
		if r == nil {
			return nil, errBroken
		}
		return r, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// still is a cluster that is asked for its revision and has no news.
type still struct{ pb.KVClient }

func (still) Range(context.Context, *pb.RangeRequest, ...grpc.CallOption) (*pb.RangeResponse, error) {
	return &pb.RangeResponse{Header: &pb.ResponseHeader{}}, nil
}

// says has the server say r after some time.
func (s *scripted) says(after time.Duration, r *pb.WatchResponse) {
	time.AfterFunc(after, func() { s.heard <- r })
}

// TestAsksForProgress follows the requests over time, at the pace of the product.
func TestAsksForProgress(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	every := func(from, to, step time.Duration) (moments []time.Duration) {
		for ; from <= to; from += step {
			moments = append(moments, from)
		}
		return moments
	}
	progress, created := &pb.WatchResponse{WatchId: -1, Header: &pb.ResponseHeader{Revision: 7}}, &pb.WatchResponse{Created: true} // -1: an answer, and no note
	for name, c := range map[string]struct {
		script func(*scripted)
		asked  []time.Duration
		ends   time.Duration
		err    error
	}{
		"silent from the start": {func(*scripted) {}, every(500*ms, 30*s, 500*ms), 30*s + 500*ms, errSilent},
		"no answer to requests": {func(w *scripted) { w.says(200*ms, created) }, every(500*ms, 30*s, 500*ms), 30*s + 500*ms, errSilent},
		"silent after an answer, during which the registry was behind for a minute": {
			func(w *scripted) { w.says(200*ms, created); w.says(1200*ms, progress); w.says(2*s, progress) },
			slices.Concat(every(500*ms, 1500*ms, 500*ms), every(11*s+500*ms, 91*s, 10*s)), 91*s + 500*ms, errSilent,
		},
		"broken while a request is sent": {func(w *scripted) { w.says(510*ms, nil) }, every(500*ms, 500*ms, s), 520 * ms, errBroken},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var asked []time.Duration
				w := &scripted{heard: make(chan *pb.WatchResponse), asked: func() {
					asked = append(asked, time.Since(began))
					if c.err == errBroken {
						time.Sleep(20 * ms)
					}
				}}
				c.script(w)
				var once sync.Once
				f := &feed{Before: func(_ context.Context, call followtest.Call, _ []registry.Item) {
					if call == followtest.Change {
						once.Do(func() { time.Sleep(time.Minute) })
					}
				}}
				src := &Source{cfg: Config{Prefix: prefix}, pace: defaultPace}
				err := (&session{s: src, c: &client{watch: w, kv: still{}, timeout: time.Second}, feed: f}).run(t.Context(), false)
				if took := time.Since(began); !errors.Is(err, c.err) && err.Error() != "watching: "+c.err.Error() || took != c.ends || !slices.Equal(asked, c.asked) {
					t.Errorf("ended after %v with %v, asked at %v", took, err, asked)
				}
			})
		})
	}
}

// A panic beside the stream ends the watch, and not the process.
func TestAPanicEndsTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Source{cfg: Config{Prefix: prefix}, pace: defaultPace}
		err := (&session{s: s, c: &client{watch: &scripted{asked: func() { panic("out of step") }}}, feed: &feed{}}).run(t.Context(), false)
		if !errors.As(err, new(*contain.Error)) {
			t.Errorf("the watch ended with %v", err)
		}
	})
}

// While revisions are known that the stream has not told of, progress is asked for often: it
// tells whether anything is missing.
func TestAsksSoonWhileBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		w := &scripted{heard: make(chan *pb.WatchResponse), asked: func() { asked.Add(1) }}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w.ctx = ctx
		s, p := &Source{pace: defaultPace}, newPulse()
		p.heard(&pb.WatchResponse{}) // it is steady
		f := &session{s: s, feed: &feed{}, pulse: p, reached: 5, head: 5}
		go func() { _ = s.ask(ctx, w, p) }()
		expect := func(what string, want int) {
			t.Helper()
			asked.Store(0)
			time.Sleep(20 * time.Second)
			synctest.Wait()
			if n := int(asked.Load()); n < want-1 || n > want+1 {
				t.Errorf("%s: asked %d times within 20 s, want %d", what, n, want)
			}
		}
		expect("nothing is missing", 2)
		if err := f.knows(ctx, 9); err != nil {
			t.Fatal(err)
		}
		expect("revisions are known that are not reached", 40)
		f.reached = 9
		if err := f.tell(ctx); err != nil {
			t.Fatal(err)
		}
		expect("they are reached", 2)
	})
}
