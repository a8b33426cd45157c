// Package corrosiontest has agents for tests. Agent is a fake one: a real HTTP
// server, over HTTP/1.1 and HTTP/2 with prior knowledge, that keeps tables in memory,
// speaks the protocol of subscriptions and fails on request in each way that an
// agent is known to fail. Cluster runs real ones.
package corrosiontest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Options says what kind of agent it is.
type Options struct {
	Token   string // bearer token that every request must have; empty: none
	NoHTTP2 bool   // speaks HTTP/1.1 only, as behind a proxy
	Lag     int    // lines that a stream may be behind before it is ended; 0: 10,240
	Keep    int    // changes that are kept for resuming; 0: 500
	Members int    // other agents of its cluster, which then write all rows; 0: it is alone
	Mute    bool   // its internal tables cannot be read, as of an agent of another version
}

// Agent is a running agent. Its methods may be called concurrently.
type Agent struct {
	opts Options
	addr string

	mu     sync.Mutex
	db     database
	subs   map[string]*sub // by id
	serial int             // of subscription ids
	faults faults
	counts Counts
	thaw   chan struct{} // nil: not frozen; closed by Thaw
	server *http.Server  // nil: stopped
	served chan struct{} // closed when server has ended
	conns  map[net.Conn]struct{}
}

// Counts are the requests to an agent since it was made, and what is open now.
type Counts struct {
	Subscribed int // POST of a subscription
	Resumed    int // GET of a subscription, found or not
	Queries    int // POST of a query
	Selects    int // of those, SELECTs of a whole table
	Health     int // GET of its health
	Streams    int // streams open now
	Conns      int // connections open now
	HTTP2      int // requests that came over HTTP/2
}

// New starts an agent with the default tables, empty. Close it.
func New(opts Options) (*Agent, error) {
	if opts.Lag == 0 {
		opts.Lag = 10240
	}
	if opts.Keep == 0 {
		opts.Keep = 500
	}
	a := &Agent{opts: opts, addr: "127.0.0.1:0", subs: map[string]*sub{}, conns: map[net.Conn]struct{}{}}
	a.db = database{tables: map[string]*table{}, newest: map[string]uint64{}, heads: map[string]uint64{}, members: opts.Members}
	a.db.newSite()
	a.CreateTable("machines", []string{"id"}, "network", "app", "region", "process_group", "state", "private_ip", "metadata", "updated_at")
	a.CreateTable("apps", []string{"network", "name"}, "updated_at")
	a.CreateTable("peers", []string{"network", "name"}, "private_ip", "region", "updated_at")
	a.CreateTable("app_addresses", []string{"network", "app", "address"}, "updated_at")
	return a, a.Start()
}

// Addr returns the host:port that the agent listens on. It stays over a restart.
func (a *Agent) Addr() string { return a.addr }

// Start makes a stopped agent serve again, on the same address.
func (a *Agent) Start() error {
	l, err := net.Listen("tcp", a.addr)
	if err != nil {
		return fmt.Errorf("starting the agent: %w", err)
	}
	a.addr = l.Addr().String()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(!a.opts.NoHTTP2)
	server := &http.Server{Handler: a.handler(), Protocols: protocols, ConnState: a.connState}
	served := make(chan struct{})
	a.mu.Lock()
	a.server, a.served = server, served
	a.mu.Unlock()
	go func() {
		defer close(served)
		_ = server.Serve(&listener{l, a}) // until Stop
	}()
	return nil
}

// Stop ends all streams cleanly and closes the port, as SIGTERM does. The
// subscriptions stay.
func (a *Agent) Stop() { a.stop(false) }

// Kill cuts all connections and forgets the subscriptions, as kill -9 does.
func (a *Agent) Kill() { a.stop(true) }

// Close ends the agent.
func (a *Agent) Close() { a.Kill() }

func (a *Agent) stop(kill bool) {
	a.Thaw()
	a.mu.Lock()
	server, served := a.server, a.served
	a.server = nil
	for _, s := range a.subs {
		s.end()
	}
	if kill {
		clear(a.subs)
	}
	a.mu.Unlock()
	if server == nil {
		return
	}
	if !kill {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		server.Shutdown(ctx)
		cancel()
	}
	server.Close()
	a.Reset()
	<-served
}

// Reset cuts all connections and goes on listening.
func (a *Agent) Reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := range a.conns {
		c.Close()
	}
}

// Freeze stops the agent as SIGSTOP does: connections stay, and nothing is sent on
// them, not even the answer to a ping.
func (a *Agent) Freeze() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.thaw == nil {
		a.thaw = make(chan struct{})
	}
}

// Thaw ends Freeze.
func (a *Agent) Thaw() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.thaw != nil {
		close(a.thaw)
		a.thaw = nil
	}
}

// frozen waits for the end of a freeze.
func (a *Agent) frozen() {
	a.mu.Lock()
	thaw := a.thaw
	a.mu.Unlock()
	if thaw != nil {
		<-thaw
	}
}

// Counts returns what was asked so far.
func (a *Agent) Counts() Counts {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.counts
	c.Conns = len(a.conns)
	for _, s := range a.subs {
		c.Streams += len(s.streams)
	}
	return c
}

func (a *Agent) connState(c net.Conn, state http.ConnState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch state {
	case http.StateNew:
		a.conns[c] = struct{}{}
	case http.StateClosed, http.StateHijacked:
		delete(a.conns, c)
	}
}

// The connections of a listener block while the agent is frozen.
type listener struct {
	net.Listener
	agent *Agent
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{c, l.agent}, nil
}

type conn struct {
	net.Conn
	agent *Agent
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.agent.frozen()
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	c.agent.frozen()
	return c.Conn.Write(b)
}
