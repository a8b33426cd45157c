package etcdtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// memberEnv holds a member's configuration as JSON in the process that is one.
const memberEnv = "DNSD_ETCDTEST_MEMBER"

// The states of a cluster that a member joins.
const (
	stateNew      = "new"
	stateExisting = "existing"
)

// memberConfig is what a member needs to know.
type memberConfig struct {
	Name, Dir, Client, Peer, Cluster string
	State                            string // of the cluster when the member first joins it
	CAFile, CertFile, KeyFile        string // TLS for clients; empty: none
	Notify                           time.Duration
	BcryptCost                       int
}

// member is one process of a cluster.
type member struct {
	process
	conf    memberConfig
	program string   // empty: the newest etcd
	ready   *os.File // where the newest says that it serves
}

// start starts the process.
func (m *member) start() error {
	if m.program != "" {
		return m.startOld()
	}
	program, err := Build()
	if err != nil {
		return err
	}
	text, err := json.Marshal(m.conf)
	if err != nil {
		return err
	}
	ready, childOut, err := os.Pipe()
	if err != nil {
		return err
	}
	defer childOut.Close()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), memberEnv+"="+string(text))
	cmd.Stdout, cmd.Stderr = childOut, os.Stderr
	if err := m.process.start(cmd); err != nil {
		ready.Close()
		return err
	}
	m.ready = ready
	return nil
}

// startOld starts an etcd of the time of 3.4, by its flags.
func (m *member) startOld() error {
	if m.conf.CertFile != "" {
		return errors.New("an old etcd has no TLS here")
	}
	client, peer := "http://"+m.conf.Client, "http://"+m.conf.Peer
	args := []string{
		"--name", m.conf.Name, "--data-dir", m.conf.Dir,
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", m.conf.Cluster, "--initial-cluster-state", m.conf.State,
		"--bcrypt-cost", strconv.Itoa(m.conf.BcryptCost), "--max-txn-ops", "1024",
		"--logger", "zap", "--log-level", "warn", "--log-outputs", m.conf.Dir + ".log",
	}
	if m.conf.Notify > 0 {
		args = append(args, "--experimental-watch-progress-notify-interval", m.conf.Notify.String())
	}
	return m.startAny(exec.Command(m.program, args...))
}

// wait returns when the member serves, which takes a quorum of its cluster.
func (m *member) wait() error {
	if m.program != "" {
		return m.waitOld()
	}
	if err := m.ready.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := io.ReadFull(m.ready, make([]byte, len("ready\n")))
	return err
}

// waitOld asks until the member says that it is well.
func (m *member) waitOld() error {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return await(func() error {
		resp, err := client.Get("http://" + m.conf.Client + "/health")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

// kill ends the process and waits for it.
func (m *member) kill() {
	m.process.kill()
	if m.ready != nil {
		m.ready.Close()
		m.ready = nil
	}
}

// listens waits until something accepts connections at an address.
func listens(addr string) error {
	return await(func() error {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// await tries something until it works.
func await(try func() error) error {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not within %s: %w", patience, err)
		}
	}
}
