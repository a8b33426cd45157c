package etcdtest

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
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
	BcryptCost                       int    // 0: the least
}

// start starts the process.
func (m *member) start() error {
	if m.cmd != nil {
		return fmt.Errorf("%s is running", m.conf.Name)
	}
	program, err := Build()
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
	cmd := exec.Command(program)
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
