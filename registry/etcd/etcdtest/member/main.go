// Member is one etcd server, for tests, or with the argument grpc-proxy etcd's
// proxy. It is a module of its own, so that what etcd's server is made of is no
// part of dnsd's module. Both end when their standard input does.
//
// The environment's DNSD_ETCDTEST_MEMBER holds a server's configuration as JSON.
// It prints "ready" when it serves. A proxy is what etcd's own program makes of
// the arguments.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "grpc-proxy" {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
		etcdmain.Main(os.Args)
		return
	}
	if err := serve(os.Getenv("DNSD_ETCDTEST_MEMBER")); err != nil {
		fmt.Fprintln(os.Stderr, "etcd member:", err)
		os.Exit(1)
	}
}

func serve(text string) error {
	var m struct { // as etcdtest's memberConfig
		Name, Dir, Client, Peer, Cluster string
		State                            string
		CAFile, CertFile, KeyFile        string
		Notify                           time.Duration
		BcryptCost                       int
	}
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
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
	conf.BcryptCost = uint(m.BcryptCost)
	if m.Notify > 0 {
		conf.WatchProgressNotifyInterval = m.Notify
	}
	conf.QuotaBackendBytes = 8 << 30
	conf.MaxTxnOps = 1024 // a small world is one transaction
	if !strings.Contains(m.Cluster, ",") {
		conf.TickMs, conf.ElectionMs = 10, 100 // nobody to wait for: it serves in a tenth of a second
	}
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
	ready := e.Server.ReadyNotify()
	for {
		select {
		case <-ready:
			fmt.Println("ready")
			ready = nil
		case err := <-e.Err():
			return err
		case <-ended:
			return nil
		}
	}
}
