package corrosiontest

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// Statements other than SELECTs of the tables are recognized by what they read.
const (
	knowledgeTable = "crsql_db_versions"
	schemaTable    = "pragma_table_info"
)

func (a *Agent) postQuery(w http.ResponseWriter, r *http.Request) {
	sql, err := statement(r)
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	a.mu.Lock()
	a.counts.Queries++
	code, selects := 0, a.counts.Selects
	lines, err := a.query(sql)
	if a.counts.Selects > selects {
		code = a.faults.selects
	}
	a.mu.Unlock()
	switch {
	case code != 0:
		fail(w, code, fmt.Errorf("max concurrency limit reached"))
	case err != nil:
		fail(w, http.StatusBadRequest, err)
	default:
		io.WriteString(w, strings.Join(lines, "\n")+"\n")
	}
}

// limitSQL is a SELECT of nothing, which shows the columns.
var limitSQL = regexp.MustCompile(`(?s)^SELECT \* FROM \((.*)\) LIMIT 0$`)

// query answers a statement with the lines of its result.
func (a *Agent) query(sql string) ([]string, error) {
	switch {
	case sql == "SELECT 1":
		return result([]string{"1"}, []string{"[1]"}), nil
	case strings.Contains(sql, schemaTable):
		return result([]string{"name", "name", "pk"}, a.db.schema()), nil
	case strings.Contains(sql, knowledgeTable):
		if a.opts.Mute {
			return nil, fmt.Errorf("no such table: %s", knowledgeTable)
		}
		return result([]string{"what", "site", "first", "last"}, a.db.knowledge()), nil
	}
	if parts := limitSQL.FindStringSubmatch(sql); parts != nil {
		sel, err := a.db.parse(parts[1])
		if err != nil {
			return nil, err
		}
		return result(sel.names, nil), nil
	}
	sel, err := a.db.parse(sql)
	if err != nil {
		return nil, err
	}
	a.counts.Selects++
	var values []string
	rows := a.db.tables[sel.table].rows()
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		if sel.wants(rows[id]) {
			values = append(values, sel.values(rows[id]))
		}
	}
	return result(sel.names, values), nil
}

func result(names, rows []string) []string {
	lines := []string{`{"columns":` + encode(names) + `}`}
	for i, row := range rows {
		lines = append(lines, fmt.Sprintf(`{"row":[%d,%s]}`, i+1, row))
	}
	return append(lines, `{"eoq":{"time":1e-7}}`)
}

// schema returns the columns of all tables: table, column, place in the key.
func (db *database) schema() (rows []string) {
	for _, name := range slices.Sorted(maps.Keys(db.tables)) {
		t := db.tables[name]
		for i, column := range t.columns {
			pk := 0
			if i < len(t.key) {
				pk = i + 1
			}
			rows = append(rows, encode([]any{name, column, pk}))
		}
	}
	return rows
}

// knowledge returns what the agent knows of the versions of each site, and of
// the other agents.
func (db *database) knowledge() (rows []string) {
	rows = append(rows, encode([]any{"self", db.site, 0, 0}))
	if db.members > 0 {
		rows = append(rows, encode([]any{"members", "", 0, db.members}))
	}
	if db.down > 0 {
		rows = append(rows, encode([]any{"members", "", 1, db.down}))
	}
	for site, head := range db.heads {
		rows = append(rows, encode([]any{"head", site, 1, head}))
	}
	for site, gaps := range db.gaps() {
		for _, n := range gaps {
			rows = append(rows, encode([]any{"gap", site, n, n}))
		}
	}
	return rows
}

// getHealth answers as the agent does: it refuses to say anything while it has
// applied nothing of another agent's lately.
func (a *Agent) getHealth(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	a.counts.Health++
	gaps, members, lagging := 0, a.db.members, a.db.lagging
	for _, g := range a.db.gaps() {
		gaps += len(g)
	}
	a.mu.Unlock()
	if !lagging {
		fail(w, http.StatusServiceUnavailable, fmt.Errorf("no p99 lag information available"))
		return
	}
	fmt.Fprintf(w, `{"response":{"gaps":%d,"members":%d,"p99_lag":0.4975,"queue_size":0}}`, gaps, members)
}
