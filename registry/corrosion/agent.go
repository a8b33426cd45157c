package corrosion

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	// answerTimeout bounds the time until an agent begins to answer a
	// subscription, which it does before it runs the query.
	answerTimeout = 30 * time.Second

	// dialTimeout bounds connecting. The agent is on this host or near it.
	dialTimeout = 5 * time.Second

	// pingAfter and pingTimeout find a dead HTTP/2 connection within 15 s. TCP
	// keepalive does so for the connections of HTTP/1.1: it waits pingAfter and
	// then probes keepProbes times, pingTimeout apart.
	pingAfter   = 10 * time.Second
	pingTimeout = 5 * time.Second
	keepProbes  = 2

	// errorBody bounds what is read of an error's text, in bytes.
	errorBody = 1024
)

// statusError is an answer other than 200.
type statusError struct {
	code int
	text string // the agent's error message; may be empty
}

func (e *statusError) Error() string {
	switch {
	case e.code == http.StatusUnauthorized || e.code == http.StatusForbidden:
		return fmt.Sprintf("status %d: the agent refuses the bearer token, or wants one", e.code)
	case e.text != "":
		return fmt.Sprintf("status %d: %s", e.code, e.text)
	}
	return fmt.Sprintf("status %d", e.code)
}

// errEnded says that the agent has ended the one connection of HTTP/2.
var errEnded = errors.New("the agent has ended the connection: it stops or restarts")

// agent holds the connections to one agent, for one call of Follow. Its methods
// may be called concurrently.
type agent struct {
	timeout   time.Duration // of a query and of a health request
	base      string
	token     *token
	client    *http.Client
	transport *http.Transport
	h2        *http.ClientConn // nil: HTTP/1.1

	mu     sync.Mutex
	conns  []net.Conn // all that were dialed
	closed bool
}

// newAgent returns an agent that is reached by HTTP/2 with prior knowledge, over
// one connection that is made now and never replaced; or by HTTP/1.1, over as
// many as there are requests under way.
func newAgent(ctx context.Context, addr string, token *token, http1 bool, timeout time.Duration) (*agent, error) {
	a := &agent{timeout: timeout, base: "http://" + addr, token: token}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(http1)
	protocols.SetUnencryptedHTTP2(!http1)
	a.transport = &http.Transport{ // no Proxy: the token goes to the agent alone
		DialContext:        a.dial,
		Protocols:          protocols,
		HTTP2:              &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		DisableCompression: true,
		// One beside those of the streams: queries seldom overlap.
		MaxIdleConnsPerHost: 1,
	}
	a.client = &http.Client{
		Transport:     a.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if http1 {
		return a, nil
	}
	var err error
	if a.h2, err = a.transport.NewClientConn(ctx, "http", addr); err != nil {
		a.close()
		return nil, err
	}
	a.client.Transport = a.h2
	return a, nil
}

// dial connects and remembers the connection for close.
func (a *agent) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: pingAfter, Interval: pingTimeout, Count: keepProbes},
	}
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		c.Close()
		return nil, net.ErrClosed
	}
	a.conns = append(a.conns, c)
	return c, nil
}

// close closes every connection, with the requests that are under way.
func (a *agent) close() {
	a.mu.Lock()
	a.closed = true
	for _, c := range a.conns {
		c.Close()
	}
	a.conns = nil
	a.mu.Unlock()
}

// body is a response's body. Closing it ends the request.
type body struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *body) Close() error {
	b.cancel()
	return b.ReadCloser.Close()
}

// do sends a request and returns the response if it is a 200 that began within
// timeout, which does not bound its body. The caller closes the body.
func (a *agent) do(ctx context.Context, method, path, content string, timeout time.Duration) (*http.Response, error) {
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(timeout, cancel)
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, strings.NewReader(content))
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if token := a.token.get(); token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := a.client.Do(req)
	timedOut := !timer.Stop()
	if err != nil {
		cancel()
		switch {
		case timedOut:
			return nil, fmt.Errorf("no answer within %s", timeout)
		case a.h2 != nil && a.h2.Available() == 0: // six requests at most are under way: it has room for those
			return nil, fmt.Errorf("%w (%w)", errEnded, withoutURL(err))
		}
		return nil, withoutURL(err)
	}
	resp.Body = &body{resp.Body, cancel}
	if resp.StatusCode != http.StatusOK {
		timer := time.AfterFunc(timeout, cancel)
		defer timer.Stop()
		defer resp.Body.Close()
		return nil, &statusError{resp.StatusCode, errorText(resp.Body)}
	}
	return resp, nil
}

// withoutURL strips the method and URL that net/http puts before an error.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// errorText returns the message of an answer other than 200: the text of an error
// event, which has no line end, or the first line.
func errorText(r io.Reader) string {
	text, _ := io.ReadAll(io.LimitReader(r, errorBody))
	var ev event
	if json.Unmarshal(text, &ev) == nil && ev.Error != nil {
		return *ev.Error
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return strings.ToValidUTF8(string(line), "")
}

// origin identifies the subscription of a stream.
type origin struct{ id, hash string }

func originOf(h http.Header) origin {
	return origin{h.Get("corro-query-id"), h.Get("corro-query-hash")}
}

// subscribe opens a stream that begins with a listing.
func (a *agent) subscribe(ctx context.Context, sql string) (origin, io.ReadCloser, error) {
	statement, err := json.Marshal(sql)
	if err != nil {
		return origin{}, nil, err
	}
	resp, err := a.do(ctx, http.MethodPost, "/v1/subscriptions", string(statement), answerTimeout)
	if err != nil {
		return origin{}, nil, err
	}
	from := originOf(resp.Header)
	if from.id == "" {
		resp.Body.Close()
		return origin{}, nil, errors.New("its answer has no corro-query-id: is this the API of a Corrosion agent?")
	}
	return from, resp.Body, nil
}

// resume opens the stream of a subscription after change id last, or from its
// listing if last is 0. The error is errLost if the subscription is gone.
func (a *agent) resume(ctx context.Context, want origin, last uint64) (io.ReadCloser, error) {
	path := fmt.Sprintf("/v1/subscriptions/%s?from=%d", url.PathEscape(want.id), last)
	resp, err := a.do(ctx, http.MethodGet, path, "", answerTimeout)
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusNotFound {
		return nil, fmt.Errorf("%w: %w", errLost, err)
	}
	if err != nil {
		return nil, err
	}
	if got := originOf(resp.Header); got.hash != want.hash {
		resp.Body.Close()
		return nil, fmt.Errorf("%w: its hash is %q, it was %q", errLost, got.hash, want.hash)
	}
	return resp.Body, nil
}

// alive asks the agent for a sign of life that involves its database.
func (a *agent) alive(ctx context.Context) error {
	return a.query(ctx, "SELECT 1", 1, func([]cell) error { return nil })
}

// query runs a read-only statement and calls row with the cells of each row,
// which are as many as there are columns, until that returns an error.
func (a *agent) query(ctx context.Context, sql string, columns int, row func([]cell) error) error {
	return a.events(ctx, sql, a.timeout, func(ev *event, long *longLine) error {
		switch {
		case long != nil:
			return long
		case ev.Row == nil:
			return nil
		}
		_, raw, err := rowOf(ev.Row)
		if err != nil {
			return err
		}
		var cells []cell
		if err := json.Unmarshal(raw, &cells); err != nil {
			return err
		}
		if len(cells) != columns {
			return fmt.Errorf("%d cells, want %d", len(cells), columns)
		}
		return row(cells)
	})
}

// events runs a read-only statement and calls each with its events until that
// returns an error. Of a row that is too long there is a longLine instead. All of
// it must happen within timeout.
func (a *agent) events(ctx context.Context, sql string, timeout time.Duration, each func(*event, *longLine) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	statement, err := json.Marshal(sql)
	if err != nil {
		return err
	}
	resp, err := a.do(ctx, http.MethodPost, "/v1/queries", string(statement), timeout)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := newLineReader(resp.Body)
	for {
		line, err := lines.next()
		var ev *event
		var long *longLine
		if err == nil {
			ev = new(event)
			err = json.Unmarshal(line, ev)
		} else if errors.As(err, &long) {
			err = nil
		}
		switch {
		case err != nil:
			return fmt.Errorf("the answer to %.40q broke off: %w", sql, err)
		case ev != nil && ev.Error != nil:
			return fmt.Errorf("%.40q: %s", sql, *ev.Error)
		case ev != nil && ev.EOQ != nil:
			return nil
		}
		if err := each(ev, long); err != nil {
			return fmt.Errorf("the answer to %.40q: %w", sql, err)
		}
	}
}
