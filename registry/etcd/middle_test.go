package etcd

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dnsd/registry/etcd/etcdtest"
	"dnsd/registry/follow/followtest"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// middle is a server between a source and a cluster that passes everything on, but
// for what a test has it do.
type middle struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	pb.UnimplementedMaintenanceServer
	pb.UnimplementedAuthServer

	kv    pb.KVClient
	watch pb.WatchClient
	addr  string

	version string                       // of the server; empty: it does not say
	ranges  func(*pb.RangeRequest) error // sees them, and may refuse them
	says    func(*pb.WatchResponse) bool // may change what a watch says; false: that is dropped
	hears   func(*pb.WatchRequest) bool  // likewise what it is asked
	terms   func(*pb.ResponseHeader)     // may change the headers of transactions
	login   func(ctx context.Context) string
}

func between(t *testing.T, c *cluster) *middle {
	t.Helper()
	m := &middle{version: "3.7.3"}
	if c != nil {
		conn := c.cli.ActiveConnection()
		m.kv, m.watch = pb.NewKVClient(conn), pb.NewWatchClient(conn)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.addr = l.Addr().String()
	server := grpc.NewServer(grpc.MaxSendMsgSize(math.MaxInt32))
	pb.RegisterKVServer(server, m)
	pb.RegisterWatchServer(server, m)
	pb.RegisterMaintenanceServer(server, m)
	pb.RegisterAuthServer(server, m)
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { server.Stop(); wg.Wait() })
	return m
}

// through has a source follow through m.
func (m *middle) through(conf *Config) { conf.Endpoints = []string{m.addr} }

func pass(ctx context.Context) context.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	out := metadata.MD{}
	for _, key := range []string{"hasleader", "token"} {
		out.Set(key, md.Get(key)...)
	}
	return metadata.NewOutgoingContext(ctx, out)
}

func (m *middle) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if m.ranges != nil {
		if err := m.ranges(r); err != nil {
			return nil, err
		}
	}
	return m.kv.Range(pass(ctx), r, anySize)
}

func (m *middle) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	resp, err := m.kv.Txn(pass(ctx), r, anySize)
	if err == nil && m.terms != nil {
		m.terms(resp.Header)
	}
	return resp, err
}

func (m *middle) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	if m.version == "" {
		return nil, errors.New("no version")
	}
	return &pb.StatusResponse{Version: m.version}, nil
}

func (m *middle) Authenticate(ctx context.Context, _ *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	token := m.login(ctx)
	return &pb.AuthenticateResponse{Token: token}, ctx.Err()
}

func (m *middle) Watch(in pb.Watch_WatchServer) error {
	ctx, cancel := context.WithCancel(pass(in.Context()))
	defer cancel()
	out, err := m.watch.Watch(ctx, anySize)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		for {
			r, err := in.Recv()
			if err != nil {
				return
			}
			if m.hears == nil || m.hears(r) {
				_ = out.Send(r)
			}
		}
	})
	for {
		r, err := out.Recv()
		if err == io.EOF || err != nil {
			return err // which ends in.Recv as well
		}
		if m.says == nil || m.says(r) {
			if err := in.Send(r); err != nil {
				return err
			}
		}
	}
}

// A change that is lost between etcd and the source is found by a proof, and everything
// is listed beside the stream, which goes on. Where nothing is lost nothing is listed.
func TestALostChangeIsFound(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	lose := func(e *pb.WatchResponse, key string) bool {
		for _, e := range e.Events {
			if strings.HasSuffix(string(e.Kv.Key), key) {
				return true
			}
		}
		return false
	}
	for name, test := range map[string]struct {
		change func()
		key    string
	}{
		"creation": {func() { c.machine("new", "started") }, "/new"},
		"deletion": {func() { c.delete(machineKey("m0003")) }, "/m0003"},
	} {
		c.fill(3000)
		m := between(t, c)
		m.says = func(r *pb.WatchResponse) bool { return !lose(r, test.key) }
		var streams atomic.Int32
		m.hears = func(r *pb.WatchRequest) bool {
			if r.GetCreateRequest() != nil {
				streams.Add(1)
			}
			return true
		}
		s, f := c.source(m.through), &feed{}
		log := c.log(s)
		run := followtest.Follow(t, s, f, false)
		followtest.Eventually(t, "proofs", func() bool { return s.stats.proven.Load() > 3 })
		if f.Listings() != 1 || s.stats.lost.Load() != 0 {
			t.Fatalf("%s: %d listings of a world at rest, %d losses", name, f.Listings(), s.stats.lost.Load())
		}
		test.change()
		c.settles(f)
		followtest.Eventually(t, "another proof", func() bool { return s.stats.proven.Load() > 5 })
		run.Stop()
		if f.Listings() != 2 || s.stats.lost.Load() != 1 || streams.Load() != 1 || !strings.Contains(log.String(), "has lost a change") {
			t.Errorf("%s: %d listings, %d losses found, %d streams, want 2, 1, 1; the log: %s", name, f.Listings(), s.stats.lost.Load(), streams.Load(), log)
		}
	}
}

// The number of keys is known whatever happens to them, by part, over pages, breaks and
// listings beside the stream.
func TestNothingLostIsNothingFound(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	c.fill(2500)
	s, f := c.source(), &feed{}
	run := followtest.Follow(t, s, f, false)
	for round := range 6 {
		c.meddle()
		c.put(prefix+"rubbish", "{") // no object is a key as well
		c.delete(prefix + "rubbish")
		if round%2 == 1 {
			run.Stop()
			c.meddle()
			run = followtest.Follow(t, s, f, round != 3)
		}
		n := s.stats.proven.Load()
		followtest.Eventually(t, "a proof", func() bool { return s.stats.proven.Load() > n })
	}
	run.Stop()
	if n := s.stats.lost.Load(); n != 0 {
		t.Errorf("%d losses found", n)
	}
}

// Parts are as large as a page or a few, take turns, and a key is one of the part that
// it falls into.
func TestTally(t *testing.T) {
	var keys tally
	keys = keys.page("p/", 15_000, 7).page("p/f", 5000, 7).page("p/k", 1, 7).page("p/l", 10, 9)
	for _, b := range []born{{"p/a", 8, 1}, {"p/f", 8, 1}, {"p/jj", 9, -1}, {"p/k", 7, 1}, {"p/k", 8, 1}, {"p/l", 9, 1}, {"p/z", 10, -1}} {
		keys.add(b)
	}
	want := []part{{"p/", "p/k", 20_001, 7}, {"p/k", "p/l", 2, 7}, {"p/l", "", 9, 9}}
	for i, p := range want {
		if len(keys) != len(want) || keys[i] != p {
			t.Fatalf("%+v, want %+v", keys, want)
		}
	}
}

// The cost of proofs to etcd is the same however many keys there are, and no two
// hosts have them at one time.
func TestProofsAreSpread(t *testing.T) {
	for keys, least := range map[int64]time.Duration{10: 15 * time.Minute, 20_000: 15 * time.Minute, 1_000_000: 20_000 * time.Second} {
		first, varied := defaultProving.after(&part{keys: keys}, 1), false
		for range 100 {
			d := defaultProving.after(&part{keys: keys}, 1)
			varied = varied || d != first
			if d < least/2 || d > least*3/2 {
				t.Errorf("%d keys: %v, want about %v", keys, d, least)
			}
		}
		if !varied {
			t.Errorf("%d keys: always %v", keys, first)
		}
	}
}

// A server whose term is lower than it was is another one, with the same keys at the
// same revisions or not.
func TestATermOnlyRises(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	c.fill(10)
	m := between(t, c)
	s, f := c.source(m.through), &feed{}
	s.proving = defaultProving
	run := followtest.Follow(t, s, f, false)
	followtest.Eventually(t, "the listing", func() bool { return f.Listings() == 1 })
	run.Stop()
	m.terms = func(h *pb.ResponseHeader) { h.RaftTerm-- }
	run = followtest.Follow(t, s, f, true)
	followtest.Eventually(t, "a listing of the other cluster", func() bool { return f.Listings() == 2 })
	run.Stop()
	m.terms = nil
	run = followtest.Follow(t, s, f, true)
	followtest.Eventually(t, "proof of life", func() bool { return f.Proofs() > 5 })
	if run.Stop(); f.Listings() != 2 {
		t.Errorf("%d listings, want 2: it is the same cluster", f.Listings())
	}
}

// What is known to be wrong with a version of etcd is worked around, or refused.
func TestVersions(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	c.fill(10)
	for version, want := range map[string]struct{ fails, warns string }{
		"2.3.8": {fails: "too old"}, "3.3.27": {fails: "etcd 3.3.27 is too old: dnsd needs 3.4"},
		"3.4.0": {warns: "relies on the changes alone"}, "3.4.24": {warns: "relies on the changes alone"}, "3.4.25": {warns: "a quiet cluster seems dead"},
		"3.4.31": {}, "3.5.7": {warns: "relies on the changes alone"}, "3.5.8": {warns: "a quiet cluster seems dead"}, "3.5.12": {warns: "a quiet cluster seems dead"},
		"3.5.13": {}, "3.6.0-rc.1": {}, "3.7.3": {}, "4.0.0": {}, "": {}, "main": {},
	} {
		m := between(t, c)
		m.version = version
		s, f := c.source(m.through), &feed{}
		log := c.log(s)
		if want.fails != "" {
			followtest.Follow(t, s, f, false).Fails(want.fails)
			continue
		}
		for range 2 {
			run := followtest.Follow(t, s, f, true)
			n := f.Proofs()
			followtest.Eventually(t, "proof of life", func() bool { return f.Proofs() > n })
			run.Stop()
		}
		if n := strings.Count(log.String(), "WARN"); n > 1 || (n == 1) != (want.warns != "") || !strings.Contains(log.String(), want.warns) {
			t.Errorf("%s: %s", version, log)
		}
		if s.quirks.overtakes != strings.Contains(want.warns, "alone") {
			t.Errorf("%s: progress is distrusted: %t", version, s.quirks.overtakes)
		}
	}
}

// Progress that comes before the changes that it is about loses none of them, neither
// on the stream nor over a break.
func TestProgressThatOvertakes(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	c.fill(10)
	for _, version := range []string{"3.4.23", "3.7.3"} {
		m := between(t, c)
		m.version = version
		var late *pb.WatchResponse // a change that is to come after the next two notes of progress
		var loses atomic.Bool      // changes do not come at all
		notes, held := 0, false
		m.says = func(r *pb.WatchResponse) bool {
			switch {
			case len(r.Events) > 0 && loses.Load():
				return false
			case len(r.Events) > 0 && !held:
				late, held = r, true
				return false
			case len(r.Events) == 0 && late != nil && !r.Created:
				if notes++; notes == 2 {
					r.Events, late = late.Events, nil
				}
			}
			return true
		}
		s, f := c.source(m.through), &feed{}
		s.proving = defaultProving
		log := c.log(s)
		run := followtest.Follow(t, s, f, false)
		followtest.Eventually(t, "the listing", func() bool { return f.Listings() == 1 && f.Proofs() > 1 })
		c.machine("late", "started")
		c.settles(f)

		loses.Store(true)
		c.machine("lost", "started")
		n := f.Proofs()
		followtest.Eventually(t, "progress", func() bool { return f.Proofs() > n+2 })
		run.Stop()
		loses.Store(false)
		run = followtest.Follow(t, s, f, true)
		c.settles(f)
		run.Stop()
		if n := strings.Count(log.String(), "WARN"); n != 1 || f.Listings() != 1 {
			t.Errorf("%s: %d listings, %d warnings:\n%s", version, f.Listings(), n, log)
		}
		c.delete(machineKey("late"))
		c.delete(machineKey("lost"))
	}
}

// A grpc-proxy drops progress requests, and passes the notes that etcd makes by itself if
// it is asked for them: they are asked for, and where none come the error says what to set.
func TestAProxyWithoutNotes(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	c.fill(10)
	m := between(t, c)
	var notes atomic.Bool
	m.hears = func(r *pb.WatchRequest) bool {
		if create := r.GetCreateRequest(); create != nil {
			notes.Store(create.ProgressNotify)
		}
		return r.GetProgressRequest() == nil
	}
	s, f := c.source(m.through), &feed{}
	run := followtest.Follow(t, s, f, false)
	run.Fails("--watch-progress-notify-interval=5s")
	if !notes.Load() || f.Listings() != 1 {
		t.Errorf("notes are asked for: %t; %d listings", notes.Load(), f.Listings())
	}
}

// No page is read before the stream is there: what came between them would be missing.
func TestPagesComeAfterTheStream(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	c.fill(10)
	m := between(t, c)
	var pages, early atomic.Int32
	m.ranges = func(r *pb.RangeRequest) error {
		if r.Limit > 0 {
			pages.Add(1)
		}
		return nil
	}
	m.hears = func(r *pb.WatchRequest) bool {
		if r.GetCreateRequest() != nil {
			time.Sleep(100 * time.Millisecond) // for a page that does not wait
			early.Add(pages.Load())
		}
		return true
	}
	s, f := c.source(m.through), &feed{}
	followtest.Follow(t, s, f, false)
	c.settles(f)
	followtest.Eventually(t, "proof of life", func() bool { return f.Proofs() > 0 })
	if early.Load() > 0 || pages.Load() == 0 {
		t.Errorf("%d of %d pages were read before the stream was there", early.Load(), pages.Load())
	}
}
