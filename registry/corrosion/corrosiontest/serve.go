package corrosiontest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// stream is one client's response, guarded by the agent's mu.
type stream struct {
	lines []string // yet to be sent
	ended bool     // after those
	more  chan struct{}
}

func (st *stream) wake() {
	select {
	case st.more <- struct{}{}:
	default:
	}
}

func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/subscriptions", a.postSubscription)
	mux.HandleFunc("GET /v1/subscriptions/{id}", a.getSubscription)
	mux.HandleFunc("POST /v1/queries", a.postQuery)
	mux.HandleFunc("GET /v1/health", a.getHealth)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		if r.ProtoMajor == 2 && r.Method != "PRI" { // the preface, to a server that does not know it
			a.counts.HTTP2++
		}
		token := a.opts.Token
		a.mu.Unlock()
		if token != "" && r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.Method == http.MethodPost && r.Header.Get("Content-Type") != "application/json" {
			w.WriteHeader(http.StatusUnsupportedMediaType)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// statement reads a request's SQL.
func statement(r *http.Request) (sql string, err error) {
	err = json.NewDecoder(r.Body).Decode(&sql)
	return sql, err
}

// fail answers with an error event, which has no line end.
func fail(w http.ResponseWriter, code int, err error) {
	w.WriteHeader(code)
	io.WriteString(w, errorLine(err.Error()))
}

func errorLine(text string) string { return `{"error":` + encode(text) + `}` }

func (a *Agent) postSubscription(w http.ResponseWriter, r *http.Request) {
	sql, err := statement(r)
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	a.mu.Lock()
	a.counts.Subscribed++
	s, err := a.subscribe(sql)
	if err != nil {
		a.mu.Unlock()
		fail(w, http.StatusBadRequest, err)
		return
	}
	a.list(w, r, s)
}

func (a *Agent) getSubscription(w http.ResponseWriter, r *http.Request) {
	from, _ := strconv.ParseUint(r.FormValue("from"), 10, 64)
	a.mu.Lock()
	a.counts.Resumed++
	s := a.subs[r.PathValue("id")]
	if s == nil {
		a.mu.Unlock()
		fail(w, http.StatusNotFound, fmt.Errorf("could not find subscription with id %s", r.PathValue("id")))
		return
	}
	if from == 0 { // as without it: everything
		a.list(w, r, s)
		return
	}
	lines, ok := s.since(from)
	if !ok {
		lines = []string{errorLine(fmt.Sprintf("subscription already deleted older changes, min change id: %d", s.last+1-uint64(len(s.kept))))}
	}
	a.stream(w, r, s, lines, !ok, nil)
}

// list streams a subscription from its listing on, with the faults that are
// due. It unlocks mu.
func (a *Agent) list(w http.ResponseWriter, r *http.Request, s *sub) {
	lines, cut, hold := s.listing(), false, a.faults.hold
	if f := &a.faults; f.cuts > 0 && (f.cutTable == "" || f.cutTable == s.table) {
		f.cuts--
		cut = true
		lines = lines[:min(1+f.cutAfter, len(lines)-1)]
	}
	a.stream(w, r, s, lines, cut, hold)
}

// stream sends first and then, unless that is all, the changes of the subscription.
// The last line of first waits for hold. It unlocks mu, which the caller has locked.
func (a *Agent) stream(w http.ResponseWriter, r *http.Request, s *sub, first []string, all bool, hold <-chan struct{}) {
	st := &stream{more: make(chan struct{}, 1), ended: all}
	if !all {
		s.streams[st] = struct{}{}
	}
	header := w.Header()
	header.Set("corro-query-id", s.id)
	header.Set("corro-query-hash", s.hash)
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(s.streams, st)
		a.mu.Unlock()
	}()
	flush := http.NewResponseController(w).Flush
	w.WriteHeader(http.StatusOK)
	if flush() != nil {
		return
	}
	for lines, ended := first, false; ; {
		for i, line := range lines {
			if hold != nil && i == len(lines)-1 {
				if flush() != nil {
					return
				}
				select {
				case <-hold:
				case <-r.Context().Done():
					return
				}
				hold = nil
			}
			if _, err := io.WriteString(w, line+"\n"); err != nil {
				return
			}
		}
		if flush() != nil || ended {
			return
		}
		a.mu.Lock()
		lines, ended = st.lines, st.ended
		st.lines = nil
		a.mu.Unlock()
		if len(lines) > 0 || ended {
			continue
		}
		select {
		case <-st.more:
		case <-r.Context().Done():
			return
		}
	}
}
