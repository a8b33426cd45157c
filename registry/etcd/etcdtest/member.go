package etcdtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

// memberEnv holds a member's configuration as JSON in the process that is one.
const memberEnv = "DNSD_ETCDTEST_MEMBER"

// memberConfig is what a member needs to know.
type memberConfig struct {
	Name, Dir, Client, Peer, Cluster string
	State                            string // of the cluster when the member first joins it
	CAFile, CertFile, KeyFile        string // TLS for clients; empty: none
}

// RunIfMember turns the process into an etcd member where it was started as
// one, and then does not return. Call it first in TestMain.
func RunIfMember() {
	text := os.Getenv(memberEnv)
	if text == "" {
		return
	}
	if err := serve(text); err != nil {
		fmt.Fprintln(os.Stderr, "etcd member:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve runs a member until its standard input ends.
func serve(text string) error {
	var m memberConfig
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return err
	}
	conf := embed.NewConfig()
	conf.Name, conf.Dir = m.Name, m.Dir
	scheme := "http"
	if m.CertFile != "" {
		scheme = "https"
		conf.ClientTLSInfo = transport.TLSInfo{CertFile: m.CertFile, KeyFile: m.KeyFile, TrustedCAFile: m.CAFile, ClientCertAuth: true}
	}
	client, peer := []url.URL{{Scheme: scheme, Host: m.Client}}, []url.URL{{Scheme: "http", Host: m.Peer}}
	conf.ListenClientUrls, conf.AdvertiseClientUrls = client, client
	conf.ListenPeerUrls, conf.AdvertisePeerUrls = peer, peer
	conf.InitialCluster, conf.ClusterState = m.Cluster, m.State
	conf.UnsafeNoFsync = true // a killed process loses nothing that was written
	conf.BcryptCost = 4       // the least: passwords of tests need no protection
	conf.QuotaBackendBytes = 8 << 30
	conf.MaxTxnOps = 1024 // a small world is one transaction
	conf.LogLevel = "warn"
	conf.LogOutputs = []string{m.Dir + ".log"}

	e, err := embed.StartEtcd(conf)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	select {
	case <-e.Server.ReadyNotify():
		fmt.Println("ready")
	case err := <-e.Err():
		return err
	case <-ended:
		return nil
	}
	select {
	case err := <-e.Err():
		return err
	case <-ended:
		return nil
	}
}

// start starts the process.
func (m *member) start() error {
	if m.cmd != nil {
		return fmt.Errorf("%s is running", m.conf.Name)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	text, err := json.Marshal(m.conf)
	if err != nil {
		return err
	}
	childIn, stdin, err := os.Pipe()
	if err != nil {
		return err
	}
	defer childIn.Close()
	ready, childOut, err := os.Pipe()
	if err != nil {
		stdin.Close()
		return err
	}
	defer childOut.Close()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), memberEnv+"="+string(text))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = childIn, childOut, os.Stderr
	if err := m.begin(cmd); err != nil {
		stdin.Close()
		ready.Close()
		return err
	}
	m.cmd, m.stdin, m.ready = cmd, stdin, ready
	return nil
}

// wait returns when the member serves, which takes a quorum of its cluster.
func (m *member) wait() error {
	if err := m.ready.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := io.ReadFull(m.ready, make([]byte, len("ready\n")))
	return err
}
