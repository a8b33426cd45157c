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

// Row is a row of a table. Values are string, integers, bool, []byte or nil; a
// column that is not named is the empty string.
type Row map[string]any

type table struct {
	key     []string
	columns []string // key included
	rows    map[string]Row
}

// CreateTable makes an empty table, in place of one that was there.
func (a *Agent) CreateTable(name string, key []string, columns ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tables[name] = &table{key: key, columns: slices.Concat(key, columns), rows: map[string]Row{}}
}

// identity returns what a row is found by.
func (t *table) identity(row Row) string {
	parts := make([]any, len(t.key))
	for i, name := range t.key {
		parts[i] = row[name]
	}
	return fmt.Sprintf("%q", parts)
}

// Put inserts rows, or replaces those with the same key.
func (a *Agent) Put(name string, rows ...Row) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.tables[name]
	for _, row := range rows {
		id := t.identity(row)
		t.rows[id] = maps.Clone(row)
		a.touch(name, id, row)
	}
}

// Delete deletes the rows that have the same key as those given.
func (a *Agent) Delete(name string, rows ...Row) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.tables[name]
	for _, row := range rows {
		id := t.identity(row)
		delete(t.rows, id)
		a.touch(name, id, nil)
	}
}

// touch tells every subscription of a table that a row is now so; nil: gone.
func (a *Agent) touch(name, id string, row Row) {
	for _, s := range a.subs {
		if s.table == name {
			s.touch(id, row)
		}
	}
	a.faults.skip = 0
}

// sub is a subscription, guarded by the agent's mu.
type sub struct {
	agent             *Agent
	id, hash, sql     string
	table             string
	names             []string // output columns
	exprs             []string // columns of the table, or 'text'
	whereCol, whereIs string   // no condition when whereCol is empty

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

var selectSQL = regexp.MustCompile(`(?is)^\s*SELECT\s+(.+?)\s+FROM\s+(\w+)(?:\s+WHERE\s+(\w+)\s*=\s*'([^']*)')?\s*$`)

// subscribe returns the subscription for sql, which it makes when there is none.
func (a *Agent) subscribe(sql string) (*sub, error) {
	for _, s := range a.subs {
		if s.sql == sql {
			return s, nil
		}
	}
	parts := selectSQL.FindStringSubmatch(sql)
	if parts == nil {
		return nil, fmt.Errorf("near %q: syntax error", sql)
	}
	t := a.tables[parts[2]]
	if t == nil {
		return nil, fmt.Errorf("no such table: %s", parts[2])
	}
	hash := sha256.Sum256([]byte(sql))
	a.serial++
	s := &sub{
		agent: a, id: fmt.Sprintf("00000000-0000-4000-8000-%012d", a.serial), hash: hex.EncodeToString(hash[:8]), sql: sql,
		table: parts[2], whereCol: parts[3], whereIs: parts[4], rows: map[string]*subRow{}, streams: map[*stream]struct{}{},
	}
	for _, column := range strings.Split(parts[1], ",") {
		words := strings.Fields(column)
		expr, name := words[0], words[len(words)-1]
		if expr[0] != '\'' && !slices.Contains(t.columns, expr) {
			return nil, fmt.Errorf("no such column: %s", expr)
		}
		s.exprs, s.names = append(s.exprs, expr), append(s.names, name)
	}
	for _, id := range slices.Sorted(maps.Keys(t.rows)) {
		if row := t.rows[id]; s.wants(row) {
			s.rowID++
			s.rows[id] = &subRow{s.rowID, s.values(row)}
		}
	}
	a.subs[s.id] = s
	return s, nil
}

func (s *sub) wants(row Row) bool {
	return row != nil && (s.whereCol == "" || row[s.whereCol] == s.whereIs)
}

// values returns what the query gives for a row, as a JSON array.
func (s *sub) values(row Row) string {
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
