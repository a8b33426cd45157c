// Package etcdtest runs real etcd clusters for tests. Each member is a process
// of its own, so that it can be killed, frozen and wiped like one in the field.
package etcdtest

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// patience bounds every wait for a cluster. A member under the race detector
// on a busy machine needs several seconds to start.
const patience = 60 * time.Second

// Options describe a cluster.
type Options struct {
	Members int  // 0 means 1
	TLS     bool // clients need a certificate of Cluster.CA

	// Program is the etcd that the members run: empty for the newest, or the path
	// of an older one, as Old returns it, which knows no TLS here.
	Program string

	// Notify is how often a watch that asks for it is told of progress: etcd's
	// --watch-progress-notify-interval. 0: etcd's default, 10 min.
	Notify time.Duration

	// BcryptCost is what a password costs to check. 0 means 4, the least, because
	// passwords of tests need no protection; etcd's default is 10.
	BcryptCost int

	// Hosts are the members' addresses and Start starts their processes, where
	// they are to be on hosts of their own; nil: all are on this one.
	Hosts []string
	Start func(member int, cmd *exec.Cmd) error
}

// Cluster is a running cluster. It ends with its test. Methods fail the test
// when they cannot do what they say; they are not safe for concurrent use.
type Cluster struct {
	CA *CA // with Options.TLS

	t       testing.TB
	dir     string
	host    string // of the members, unless Options.Hosts says it
	members []*member
	proxies int // how many were started
}

// Start starts a cluster and waits until it serves.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	// An address of its own instead of free ports: nothing takes its ports
	// while a member is down. All of 127.0.0.0/8 is this host.
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	c := &Cluster{t: t, dir: t.TempDir(), host: host}
	if o.TLS {
		c.CA = NewCA(t)
	}
	var peers []string
	for i := range max(1, o.Members) {
		conf := memberConfig{
			Name:   fmt.Sprintf("m%d", i),
			Dir:    filepath.Join(c.dir, fmt.Sprintf("m%d", i)),
			Client: fmt.Sprintf("%s:%d", host, 2379+10*i),
			Peer:   fmt.Sprintf("%s:%d", host, 2380+10*i),
			State:  stateNew,
			Notify: o.Notify, BcryptCost: cmp.Or(o.BcryptCost, 4),
		}
		begin, host := (*exec.Cmd).Start, host
		if o.Hosts != nil {
			host = o.Hosts[i]
			conf.Client, conf.Peer = host+":2379", host+":2380"
			begin = func(cmd *exec.Cmd) error { return o.Start(i, cmd) }
		}
		if o.TLS {
			conf.CAFile = c.CA.File
			conf.CertFile, conf.KeyFile = c.CA.Issue(Leaf{Host: host})
		}
		peers = append(peers, conf.Name+"=http://"+conf.Peer)
		c.members = append(c.members, &member{conf: conf, program: o.Program, process: process{begin: begin}})
	}
	for _, m := range c.members {
		m.conf.Cluster = strings.Join(peers, ",")
	}
	t.Cleanup(c.close)
	c.Restart(c.All()...)
	return c
}

// All returns the indexes of all members.
func (c *Cluster) All() []int {
	all := make([]int, len(c.members))
	for i := range all {
		all[i] = i
	}
	return all
}

// PIDs returns the members' process ids, 0 for one that does not run.
func (c *Cluster) PIDs() []int {
	var out []int
	for _, m := range c.members {
		out = append(out, m.pid())
	}
	return out
}

// Endpoints returns the members' client addresses, host:port, in order.
func (c *Cluster) Endpoints() []string {
	var out []string
	for _, m := range c.members {
		out = append(out, m.conf.Client)
	}
	return out
}

// URL returns the cluster as dnsd's --registry takes it, for keys under prefix,
// which has a slash at both ends.
func (c *Cluster) URL(prefix string) string {
	return "etcd://" + strings.Join(c.Endpoints(), ",") + prefix
}

// Kill ends members at once (kill -9).
func (c *Cluster) Kill(members ...int) {
	for _, i := range members {
		c.members[i].kill()
	}
}

// Restart starts members that are down, on the data they had, and waits until
// they serve.
func (c *Cluster) Restart(members ...int) {
	c.t.Helper()
	for _, i := range members {
		if err := c.members[i].start(); err != nil {
			c.t.Fatalf("starting etcd member %d: %v", i, err)
		}
	}
	for _, i := range members {
		if err := c.members[i].wait(); err != nil {
			c.t.Fatalf("etcd member %d does not serve: %v\n%s", i, err, c.members[i].lastWords())
		}
	}
}

// Stop freezes members (SIGSTOP): their connections stay, and are silent.
func (c *Cluster) Stop(members ...int) { c.signal(syscall.SIGSTOP, members) }

// Cont thaws members (SIGCONT).
func (c *Cluster) Cont(members ...int) { c.signal(syscall.SIGCONT, members) }

func (c *Cluster) signal(sig syscall.Signal, members []int) {
	c.t.Helper()
	for _, i := range members {
		if err := c.members[i].signal(sig); err != nil {
			c.t.Fatalf("%v to etcd member %d: %v", sig, i, err)
		}
	}
}

// Certify gives the servers a new certificate, which holds from the next
// connection on; l.Host is filled in.
func (c *Cluster) Certify(l Leaf) {
	c.t.Helper()
	for _, m := range c.members {
		l.Host, _, _ = net.SplitHostPort(m.conf.Client)
		c.CA.Renew(l, m.conf.CertFile, m.conf.KeyFile)
	}
}

// Wipe loses all data: the cluster starts again at revision 1, with the id it
// had.
func (c *Cluster) Wipe() {
	c.t.Helper()
	c.Kill(c.All()...)
	for _, m := range c.members {
		if err := os.RemoveAll(m.conf.Dir); err != nil {
			c.t.Fatal(err)
		}
		m.conf.State = stateNew
	}
	c.Restart(c.All()...)
}

// Replace loses all data of one member and has it join the others anew, as a
// machine does whose disk is lost. The cluster must have a quorum without it; cli
// is a client of it.
func (c *Cluster) Replace(cli *clientv3.Client, i int) {
	c.t.Helper()
	m := c.members[i]
	m.kill()
	if err := os.RemoveAll(m.conf.Dir); err != nil {
		c.t.Fatal(err)
	}
	m.conf.State = stateExisting
	peer := "http://" + m.conf.Peer
	c.persist("removing etcd member "+m.conf.Name, func(ctx context.Context) error {
		list, err := cli.MemberList(ctx)
		if err != nil {
			return err
		}
		for _, known := range list.Members {
			if slices.Contains(known.PeerURLs, peer) {
				_, err = cli.MemberRemove(ctx, known.ID)
				return err
			}
		}
		return nil
	})
	c.persist("adding etcd member "+m.conf.Name, func(ctx context.Context) error {
		_, err := cli.MemberAdd(ctx, []string{peer})
		if errors.Is(err, rpctypes.ErrPeerURLExist) { // a try before it has worked after all
			return nil
		}
		return err
	})
	c.Restart(i)
}

// persist does something until it works, as a cluster that has just lost a member
// refuses some things for a while.
func (c *Cluster) persist(what string, do func(context.Context) error) {
	c.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
		err := do(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) || c.t.Context().Err() != nil {
			c.t.Fatalf("%s: %v", what, err)
		}
	}
}

// Backup restarts the cluster and returns a copy of its data for Restore.
func (c *Cluster) Backup() string {
	c.t.Helper()
	c.Kill(c.All()...)
	backup := c.t.TempDir()
	c.copyData(func(m *member) (from, to string) { return m.conf.Dir, filepath.Join(backup, m.conf.Name) })
	c.Restart(c.All()...)
	return backup
}

// Restore restarts the cluster on the data of an earlier Backup.
func (c *Cluster) Restore(backup string) {
	c.t.Helper()
	c.Kill(c.All()...)
	for _, m := range c.members {
		if err := os.RemoveAll(m.conf.Dir); err != nil {
			c.t.Fatal(err)
		}
	}
	c.copyData(func(m *member) (from, to string) { return filepath.Join(backup, m.conf.Name), m.conf.Dir })
	c.Restart(c.All()...)
}

func (c *Cluster) copyData(path func(*member) (from, to string)) {
	c.t.Helper()
	for _, m := range c.members {
		from, to := path(m)
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			c.t.Fatal(err)
		}
	}
}

// Client returns a client of the cluster, closed at the test's end.
func (c *Cluster) Client() *clientv3.Client { c.t.Helper(); return c.ClientAs("", "") }

// ClientAs returns a client that is logged in as user.
func (c *Cluster) ClientAs(user, password string) *clientv3.Client {
	c.t.Helper()
	var conf *tls.Config
	if c.CA != nil {
		conf = c.CA.Client()
	}
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: c.Endpoints(), TLS: conf, Username: user, Password: password,
		DialTimeout: patience, Logger: zap.NewNop(),
		// A member that was restarted is tried again soon, not after gRPC's second.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, MaxDelay: 500 * time.Millisecond},
		})},
	})
	if err != nil {
		c.t.Fatalf("connecting to etcd: %v", err)
	}
	c.t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// AddUsers adds root and dnsd, whose passwords are "s3cret-" and their name. dnsd
// may read the keys under prefix. Authentication stays disabled.
func (c *Cluster) AddUsers(cli *clientv3.Client, prefix string) {
	c.t.Helper()
	for _, user := range []string{"root", "dnsd"} {
		_, errUser := cli.UserAdd(c.Context(), user, "s3cret-"+user)
		_, errRole := cli.RoleAdd(c.Context(), user)
		_, err := cli.UserGrantRole(c.Context(), user, user)
		if err := errors.Join(errUser, errRole, err); err != nil {
			c.t.Fatal(err)
		}
	}
	c.Grant(cli, prefix)
}

// Grant lets dnsd read the keys under prefix.
func (c *Cluster) Grant(cli *clientv3.Client, prefix string) {
	c.t.Helper()
	end, read := clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermRead)
	if _, err := cli.RoleGrantPermission(c.Context(), "dnsd", prefix, end, read); err != nil {
		c.t.Fatal(err)
	}
}

// Revoke ends Grant.
func (c *Cluster) Revoke(cli *clientv3.Client, prefix string) {
	c.t.Helper()
	if _, err := cli.RoleRevokePermission(c.Context(), "dnsd", prefix, clientv3.GetPrefixRangeEnd(prefix)); err != nil {
		c.t.Fatal(err)
	}
}

// Context returns a context for requests to the cluster: the test's, bounded.
func (c *Cluster) Context() context.Context {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	c.t.Cleanup(cancel)
	return ctx
}

func (c *Cluster) close() {
	c.Kill(c.All()...)
	if c.t.Failed() {
		for _, m := range c.members {
			c.t.Logf("etcd member %s: %s", m.conf.Name, m.lastWords())
		}
	}
}

// lastWords returns the end of the member's log.
func (m *member) lastWords() string {
	return lastLines(m.conf.Dir + ".log")
}
