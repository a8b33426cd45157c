package corrosion

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dnsd/registry/follow/followtest"
)

// What an agent may answer that no agent should.
func TestOddAnswers(t *testing.T) {
	const (
		columns = `{"columns":["network","name","updated_at"]}` + "\n"
		row     = `{"row":[1,["fdaa:0:18::/48","my-app",0]]}` + "\n"
		eoq     = `{"eoq":{"time":1e-7,"change_id":0}}` + "\n"
		self    = `{"row":[1,["self","B1",0,0]]}` + "\n"
	)
	type answer struct {
		code int // 0: 200
		body string
	}
	for _, test := range []struct {
		name            string
		alive, versions answer // of queries
		listing         answer
		noID            bool
		err             string
	}{
		{name: "refused by a proxy", alive: answer{403, ""}, err: "status 403: the agent refuses the bearer token, or wants one"},
		{name: "status without text", alive: answer{500, ""}, err: "status 500"},
		{name: "text of a proxy", alive: answer{502, "bad gateway\n<html>"}, err: "status 502: bad gateway"},
		{name: "error of the agent", alive: answer{500, `{"error":"disk full"}`}, err: "status 500: disk full"},
		{name: "error event", alive: answer{0, `{"error":"disk full"}`}, err: `"SELECT 1": disk full`},
		{name: "cut short", alive: answer{0, columns}, err: "broke off: EOF"},
		{name: "two cells", alive: answer{0, `{"row":[1,[1,1]]}` + "\n" + eoq}, err: "2 cells, want 1"},
		{name: "row in three parts", alive: answer{0, `{"row":[1,[1],1]}` + "\n" + eoq}, err: "3 parts, want 2"},
		{name: "row that is no list", alive: answer{0, `{"row":[1,1]}` + "\n" + eoq}, err: "cannot unmarshal number"},
		{name: "row too long", alive: answer{0, `{"row":[1,["` + strings.Repeat("x", maxLine) + `"]]}` + "\n" + eoq}, err: "longer than 8 MiB"},
		{name: "version that is no number", versions: answer{0, `{"row":[1,["head","A",1,"x"]]}` + "\n" + eoq}, err: "invalid syntax"},
		{name: "versions refused", versions: answer{503, ""}, err: "status 503"},
		{name: "no subscription id", noID: true, err: "its answer has no corro-query-id"},
		{name: "listing without columns", listing: answer{0, row + eoq}, err: "listing cut short: unreadable row event: no columns event came before it"},
		{name: "long row without columns", listing: answer{0, `{"row":[1,["` + strings.Repeat("x", maxLine) + `"]]}` + "\n" + eoq}, err: "listing cut short: a line is longer"},
		{name: "row without a number", listing: answer{0, columns + `{"row":["x",[]]}` + "\n" + eoq}, err: "listing cut short: unreadable row event: strconv"},
		{name: "end without columns", listing: answer{0, eoq}, err: "no change id or no columns before its end-of-query event"},
		{name: "end without an id", listing: answer{0, columns + row + `{"eoq":{"time":1e-7}}` + "\n"}, err: "no change id or no columns before its end-of-query event"},
		{name: "error in a listing", listing: answer{0, columns + row + `{"error":"disk full"}` + "\n"}, err: "listing cut short: the agent says: disk full"},
		{name: "no end", listing: answer{0, columns + row}, err: "listing cut short: the agent ended the stream"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var subscribed atomic.Int32
			agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				request, _ := io.ReadAll(r.Body)
				a := answer{body: columns + eoq}
				switch {
				case r.URL.Path == "/v1/subscriptions":
					subscribed.Add(1)
					a = test.listing
					if !test.noID {
						w.Header().Set("corro-query-id", "1")
					}
				case strings.Contains(string(request), "SELECT 1"):
					if a = test.alive; a == (answer{}) {
						a.body = `{"row":[1,[1]]}` + "\n" + eoq
					}
				case strings.Contains(string(request), "crsql"):
					if a = test.versions; a == (answer{}) {
						a.body = self + `{"row":[1,["head","B1",1,1]]}` + "\n" + eoq
					}
				}
				if a.code != 0 {
					w.WriteHeader(a.code)
				}
				io.WriteString(w, a.body)
			}))
			defer agent.Close()
			src, err := New(Config{Addr: strings.TrimPrefix(agent.URL, "http://"), Queries: Queries{Apps: DefaultQueries().Apps}}, testLog(t))
			if err != nil {
				t.Fatal(err)
			}
			src.proveTimeout = time.Minute // the machine may be busy
			var world followtest.Recorder
			if err := world.Follow(t.Context(), src, false); !strings.Contains(err.Error(), test.err) || world.Listings() > 0 {
				t.Errorf("Follow returned %v, want %q", err, test.err)
			} else if n := subscribed.Load(); strings.Contains(err.Error(), "listing cut short") && n != 2 || n > 2 || test.noID && n != 1 {
				t.Errorf("subscribed %d times", n)
			}
		})
	}
}

// The beginning of a line that is too long is told for what it is, or as unreadable.
func TestHeadOf(t *testing.T) {
	for text, want := range map[string]string{
		`{"change":["update",7,["a","b","c`:    "change update 7 [a b]",
		`{"change":["delete",7,[`:              "change delete 7 []",
		`{"row":[7,["a",null,[1,2],"b\u0041c"`: "row  7 [a  \x01\x02 bAc]",
		`["row",[7,["a"`:                       "",
		`{"row":{"7":["a"`:                     "",
		`{"change":7,"update":["a"`:            "",
		`{"row":["7",["a"`:                     "",
		`{"row":[-7,["a"`:                      "",
		`{"row":[7,"a"`:                        "",
		`{"row":[7,{"a":1}`:                    "",
		`{"ro`:                                 "",
		``:                                     "",
	} {
		h, ok := headOf([]byte(text))
		got := ""
		if ok {
			got = fmt.Sprint(h.kind, " ", h.typ, " ", h.row, " ", h.cells)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
