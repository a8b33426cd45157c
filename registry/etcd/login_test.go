package etcd

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dnsd/registry/etcd/etcdtest"
	"dnsd/registry/follow/followtest"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// users gives the cluster users, and its client root's rights.
func (c *cluster) users() {
	c.t.Helper()
	c.AddUsers(c.cli, prefix)
	if _, err := c.cli.AuthEnable(c.Context()); err != nil {
		c.t.Fatal(err)
	}
	c.cli = c.ClientAs("root", "s3cret-root")
}

func withPassword(conf *Config) { conf.Username, conf.Password = "dnsd", "s3cret-dnsd" }

// A token is used for as long as it is accepted, over all streams, and renewed when it is
// not: at once, without a failure in between.
func TestLogsInOnce(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{})
	c.fill(10)
	c.users()
	p := c.Through(t)
	s, f := c.source(withPassword, func(conf *Config) { conf.Endpoints = []string{p.Addr()} }), &feed{}
	run := followtest.Follow(t, s, f, false)
	for range 4 {
		c.settles(f)
		run.Stop()
		c.machine("m0001", "stopped")
		run = followtest.Follow(t, s, f, true)
	}
	if n := s.stats.logins.Load(); n != 1 {
		t.Errorf("%d log-ins over five streams, want 1", n)
	}
	for what, spoil := range map[string]func(){
		"a member has restarted, which forgets its tokens": func() { c.Kill(0); c.Restart(0) },
		"it is another token":                              func() { s.token = "no such token.7" },
	} {
		run.Stop()
		before := s.stats.logins.Load()
		spoil()
		run = followtest.Follow(t, s, f, true)
		n := f.Proofs()
		followtest.Eventually(t, "proof of life", func() bool { return f.Proofs() > n })
		if n := s.stats.logins.Load() - before; n > 1 || n == 0 && what == "it is another token" {
			t.Errorf("%s: %d log-ins", what, n)
		}
		if !run.Running() {
			t.Errorf("%s: %s", what, run.Failed())
		}
	}
	if f.Listings() != 1 {
		t.Errorf("%d listings", f.Listings())
	}
}

// A token that a request in the midst of a session is refused for is not used again.
func TestARefusedTokenIsDropped(t *testing.T) {
	for reason, dropped := range map[string]bool{
		"rpc error: code = Unauthenticated desc = etcdserver: invalid auth token":                      true,
		"rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old":           true,
		"rpc error: code = PermissionDenied desc = etcdserver: permission denied":                      false,
		"rpc error: code = FailedPrecondition desc = etcdserver: mvcc: required revision is compacted": false,
	} {
		if got := (&client{}).refuses(canceled(reason)); got != dropped {
			t.Errorf("%s: dropped %t", reason, got)
		}
	}
	empty := "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
	if (&client{}).refuses(canceled(empty)) || !(&client{password: "p"}).refuses(canceled(empty)) {
		t.Error("who has no password logs in, or who has one does not")
	}
}

// The bound of a log-in doubles while log-ins time out, up to a bound of its own, and
// starts over when one is answered, rightly or not.
func TestLogInsGetMoreTime(t *testing.T) {
	t.Parallel()
	m := between(t, nil)
	var late atomic.Bool
	late.Store(true)
	m.login = func(ctx context.Context) string {
		if late.Load() {
			<-ctx.Done()
		}
		return "token"
	}
	s, err := New(Config{Endpoints: []string{m.addr}, Prefix: prefix, Username: "dnsd", Password: "p"}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if s.bound != loginAtFirst {
		t.Errorf("the first log-in may take %v", s.bound)
	}
	s.bound = 20 * time.Millisecond
	for range 4 {
		if _, err := s.connect(t.Context()); err == nil || !strings.Contains(err.Error(), "no answer within") {
			t.Fatalf("connect: %v", err)
		}
	}
	if s.bound != 320*time.Millisecond {
		t.Errorf("after four that timed out the next may take %v", s.bound)
	}
	s.bound = loginAtMost
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.connect(ctx); err == nil || s.bound != loginAtMost {
		t.Errorf("one that is not waited for: %v, the next may take %v", err, s.bound)
	}
	late.Store(false)
	c, err := s.connect(t.Context())
	if err != nil || s.token != "token" || s.bound != loginAtFirst {
		t.Fatalf("%v, %q, %v", err, s.token, s.bound)
	}
	c.lib.Close()
	s.bound = loginAtMost
	if err := s.authenticate(t.Context(), &client{auth: refusing{}}); err == nil || s.bound != loginAtFirst {
		t.Errorf("%v; the next may take %v", err, s.bound)
	}
}

// refusing is a server that refuses all log-ins.
type refusing struct{ pb.AuthClient }

func (refusing) Authenticate(context.Context, *pb.AuthenticateRequest, ...grpc.CallOption) (*pb.AuthenticateResponse, error) {
	return nil, status.Error(codes.InvalidArgument, "etcdserver: authentication failed, invalid user ID or password")
}

// A token that is seldom needed is used all the same, so that etcd does not forget it.
func TestATokenIsKeptInUse(t *testing.T) {
	if tokenKept > 150*time.Second {
		t.Errorf("a token is used every %v; etcd forgets it after 5 min", tokenKept)
	}
}

// The user may be the one that the client's certificate names, without a password.
func TestUserOfACertificate(t *testing.T) {
	t.Parallel()
	c := start(t, etcdtest.Options{TLS: true})
	c.fill(10)
	c.users()
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
	source := func(user string) *Source {
		c.CA.Renew(etcdtest.Leaf{User: user}, certFile, keyFile)
		return c.source(func(conf *Config) { conf.CAFile, conf.CertFile, conf.KeyFile = c.CA.File, certFile, keyFile })
	}
	s, f := source("dnsd"), &feed{}
	run := followtest.Follow(t, s, f, false)
	c.settles(f)
	c.machine("m0001", "stopped")
	c.settles(f)
	run.Stop()
	if n := s.stats.logins.Load(); n != 0 {
		t.Errorf("%d log-ins", n)
	}
	followtest.Follow(t, source("nobody"), &feed{}, false).Fails("permission denied")
}

// TestHerdWithPasswords has many sources begin at once, as after an etcd restart. A
// password costs etcd 70 ms, so that they wait for each other.
func TestHerdWithPasswords(t *testing.T) {
	herd, patience := 12, 90*time.Second
	if os.Getenv("DNSD_TEST_FULL") != "" {
		herd, patience = 250, 5*time.Minute
	} else {
		t.Parallel()
	}
	c := start(t, etcdtest.Options{BcryptCost: 10})
	c.fill(100)
	c.users()
	began := time.Now()
	var listed, logins atomic.Int64
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var mu sync.Mutex
	failed := map[string]int{} // how often, by reason
	for range herd {
		s := c.source(withPassword, func(conf *Config) { conf.Timeout = defaultTimeout })
		s.pace, s.pages, s.proving = defaultPace, defaultPages, defaultProving
		if herd < 250 {
			s.bound = 200 * time.Millisecond // too little for so many: they time out, and get through later
		}
		wg.Go(func() {
			f := &feed{}
			for ctx.Err() == nil && f.Listings() == 0 {
				once, stop := context.WithCancel(ctx)
				f.Applied = func(*followtest.Seen) { stop() }
				err := f.Follow(once, s, false)
				if f.Listings() == 0 && ctx.Err() == nil {
					mu.Lock()
					failed[err.Error()]++
					mu.Unlock()
				}
				stop()
				time.Sleep(time.Second / 2)
			}
			listed.Add(int64(f.Listings()))
			logins.Add(s.stats.logins.Load())
		})
	}
	wg.Wait()
	t.Logf("%d of %d listed after %v, with %d log-ins; %v", listed.Load(), herd, time.Since(began).Round(100*time.Millisecond), logins.Load(), failed)
	if int(listed.Load()) != herd {
		t.Errorf("%d of %d are listed after %v", listed.Load(), herd, patience)
	}
}
