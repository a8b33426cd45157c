package corrosiontest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// sub is a subscription, guarded by the agent's mu.
type sub struct {
	*selection
	agent         *Agent
	id, hash, sql string

	rows    map[string]*subRow // by the row's identity
	rowID   uint64             // the newest
	last    uint64             // the newest change id
	kept    []kept             // newest changes
	streams map[*stream]struct{}
}

type subRow struct {
	id     uint64
	values string // as JSON
}

type kept struct {
	id   uint64
	line string
	lost bool // not replayed
}

// selection is a SELECT of one table.
type selection struct {
	table             string
	names             []string // output columns
	exprs             []string // columns of the table, or 'text'
	whereCol, whereIs string   // no condition when whereCol is empty
	reads             []string // columns that it names
}

var (
	selectSQL  = regexp.MustCompile(`(?is)^\s*SELECT\s+(.+?)\s+FROM\s+(\w+)(?:\s+WHERE\s+(\w+)\s*=\s*'([^']*)')?\s*$`)
	commentSQL = regexp.MustCompile(`(?s)/\*.*?\*/`)
)

// parse reads a SELECT.
func (db *database) parse(sql string) (*selection, error) {
	parts := selectSQL.FindStringSubmatch(commentSQL.ReplaceAllString(sql, ""))
	if parts == nil {
		return nil, fmt.Errorf("near %q: syntax error", sql)
	}
	t := db.tables[parts[2]]
	if t == nil {
		return nil, fmt.Errorf("no such table: %s", parts[2])
	}
	sel := &selection{table: parts[2], whereCol: parts[3], whereIs: parts[4]}
	if sel.whereCol != "" {
		sel.reads = append(sel.reads, sel.whereCol)
	}
	for _, column := range strings.Split(parts[1], ",") {
		words := strings.Fields(column)
		expr, name := words[0], words[len(words)-1]
		if expr[0] != '\'' {
			if !slices.Contains(t.columns, expr) {
				return nil, fmt.Errorf("no such column: %s", expr)
			}
			sel.reads = append(sel.reads, expr)
		}
		sel.exprs, sel.names = append(sel.exprs, expr), append(sel.names, name)
	}
	return sel, nil
}

// subscribe returns the subscription for sql, and makes one if there is none. Another
// text is another subscription, even of the same query.
func (a *Agent) subscribe(sql string) (*sub, error) {
	for _, s := range a.subs {
		if s.sql == sql {
			return s, nil
		}
	}
	sel, err := a.db.parse(sql)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256([]byte(sql))
	a.serial++
	s := &sub{
		selection: sel, agent: a, id: fmt.Sprintf("00000000-0000-4000-8000-%012d", a.serial), hash: hex.EncodeToString(hash[:8]),
		sql: sql, rows: map[string]*subRow{}, streams: map[*stream]struct{}{},
	}
	rows := a.db.tables[sel.table].rows()
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		if row := rows[id]; s.wants(row) {
			s.rowID++
			s.rows[id] = &subRow{s.rowID, s.values(row)}
		}
	}
	a.subs[s.id] = s
	return s, nil
}

func (s *selection) wants(row Row) bool {
	return row != nil && (s.whereCol == "" || row[s.whereCol] == s.whereIs)
}

// values returns what the query gives for a row, as a JSON array.
func (s *selection) values(row Row) string {
	values := make([]any, len(s.exprs))
	for i, expr := range s.exprs {
		v, ok := row[expr]
		if expr[0] == '\'' {
			v, ok = strings.Trim(expr, "'"), true
		}
		switch b := v.(type) {
		case []byte:
			numbers := make([]int, len(b))
			for i, n := range b {
				numbers[i] = int(n)
			}
			v = numbers
		case bool:
			v = 0
			if b {
				v = 1
			}
		}
		if !ok {
			v = ""
		}
		values[i] = v
	}
	return encode(values)
}

// touch turns a changed row into a change event, if it is one for this query.
func (s *sub) touch(id string, row Row) {
	old := s.rows[id]
	switch {
	case !s.wants(row) && old == nil:
	case !s.wants(row):
		delete(s.rows, id)
		s.change("delete", old.id, old.values)
	case old == nil:
		s.rowID++
		s.rows[id] = &subRow{s.rowID, s.values(row)}
		s.change("insert", s.rowID, s.rows[id].values)
	default:
		if values := s.values(row); values != old.values {
			old.values = values
			s.change("update", old.id, values)
		}
	}
}

// change numbers a change, keeps it and sends it.
func (s *sub) change(kind string, row uint64, values string) {
	s.last++
	f := &s.agent.faults
	c := kept{s.last, fmt.Sprintf(`{"change":[%q,%d,%s,%d]}`, kind, row, values, s.last), f.skip == skipForGood}
	s.kept = append(s.kept, c)
	if len(s.kept) > s.agent.opts.Keep {
		s.kept = s.kept[len(s.kept)-s.agent.opts.Keep:]
	}
	if f.skip == 0 {
		s.send(c.line)
	}
}

// send hands a line to all streams, and ends those that lag.
func (s *sub) send(line string) {
	for st := range s.streams {
		st.lines = append(st.lines, line)
		if len(st.lines) > s.agent.opts.Lag {
			st.lines = nil
			delete(s.streams, st)
			st.ended = true
		}
		st.wake()
	}
}

// end ends all streams after what they have yet to send.
func (s *sub) end() {
	for st := range s.streams {
		delete(s.streams, st)
		st.ended = true
		st.wake()
	}
}

// listing returns the lines of the rows, and of the end-of-query event.
func (s *sub) listing() []string {
	lines := []string{`{"columns":` + encode(s.names) + `}`}
	for _, id := range slices.Sorted(maps.Keys(s.rows)) {
		row := s.rows[id]
		lines = append(lines, fmt.Sprintf(`{"row":[%d,%s]}`, row.id, row.values))
	}
	return append(lines, fmt.Sprintf(`{"eoq":{"time":8e-8,"change_id":%d}}`, s.last))
}

// since returns the lines of the changes after from, and false when they are
// no longer all kept.
func (s *sub) since(from uint64) (lines []string, ok bool) {
	if len(s.kept) > 0 && from+1 < s.kept[0].id || len(s.kept) == 0 && from < s.last {
		return nil, false
	}
	for _, c := range s.kept {
		if c.id > from && !c.lost {
			lines = append(lines, c.line)
		}
	}
	return lines, true
}

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // a value that Row does not allow
	}
	return string(b)
}
