package main

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
)

// adminConns bounds how many connections the admin listener has open. A new
// connection does not wait, or a client that holds connections and is silent
// could keep a scrape out: the one that has been without a request for longest is
// closed. The new one is closed only if all others are being answered. Safe for
// concurrent use.
type adminConns struct {
	most int

	mu    sync.Mutex
	open  map[net.Conn]*list.Element // of quiet; nil: it is being answered
	quiet list.List                  // of net.Conn, the longest without a request first
}

func newAdminConns(most int) *adminConns {
	return &adminConns{most: most, open: map[net.Conn]*list.Element{}}
}

// state is an http.Server's ConnState. A connection that is closed here comes back
// as StateClosed.
func (a *adminConns) state(c net.Conn, s http.ConnState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch s {
	case http.StateNew:
		if len(a.open) >= a.most {
			first := a.quiet.Front()
			if first == nil {
				c.Close()
				return
			}
			longest := first.Value.(net.Conn)
			a.drop(longest)
			longest.Close()
		}
		a.open[c] = a.quiet.PushBack(c)
	case http.StateClosed, http.StateHijacked:
		a.drop(c)
	}
}

func (a *adminConns) drop(c net.Conn) {
	if e := a.open[c]; e != nil {
		a.quiet.Remove(e)
	}
	delete(a.open, c)
}

// busy notes that a connection is being answered, or no longer is.
func (a *adminConns) busy(c net.Conn, is bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, open := a.open[c]; !open { // it was closed meanwhile
		return
	}
	a.drop(c)
	if is {
		a.open[c] = nil
	} else {
		a.open[c] = a.quiet.PushBack(c)
	}
}

type adminConnKey struct{}

// context is an http.Server's ConnContext.
func (*adminConns) context(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, adminConnKey{}, c)
}

// serving returns h with a note of which connections it answers.
func (a *adminConns) serving(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _ := r.Context().Value(adminConnKey{}).(net.Conn)
		a.busy(c, true)
		defer a.busy(c, false)
		h.ServeHTTP(w, r)
	})
}
