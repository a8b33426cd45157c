package corrosion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// The agent announces a row when a column was written that the query names, in
// its list or in a condition, or when the row was deleted. An insert writes every
// column that is not of the key. So a query that names none of those of a table
// is told of no new row of it; where a table has no others, of all.

// schemaSQL reads the columns of all tables, and which are of the key.
const schemaSQL = `SELECT m.name, c.name, c.pk FROM sqlite_schema AS m, pragma_table_info(m.name) AS c WHERE m.type = 'table'`

// schema holds the columns of each table, in lower case; the value says whether
// they are of the key.
type schema map[string]map[string]bool

// Check asks the agent what is wrong with the queries that New could not see,
// and returns a sentence for each mistake; the error says that the agent could
// not be asked.
func (s *Source) Check(ctx context.Context) (mistakes []string, err error) {
	a, err := s.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("corrosion agent at %s: %w", s.cfg.Addr, err)
	}
	defer a.close()
	tables, err := a.schema(ctx, s.proveTimeout)
	if err != nil {
		return nil, fmt.Errorf("corrosion agent at %s: reading its schema: %w", s.cfg.Addr, err)
	}
	for _, sub := range s.subs {
		err := a.events(ctx, "SELECT * FROM ("+sub.query+") LIMIT 0", s.proveTimeout, func(ev *event, _ *longLine) error {
			if ev == nil || ev.Columns == nil {
				return nil
			}
			_, err := sub.shape.bind(ev.Columns)
			return err
		})
		var status *statusError
		var column *columnError
		switch {
		case errors.As(err, &column):
			mistakes = append(mistakes, column.Error())
		case errors.As(err, &status) && status.code == http.StatusBadRequest:
			mistakes = append(mistakes, fmt.Sprintf("the agent refuses the query for %s: %s", sub.shape.table, status.text))
		case err != nil:
			return mistakes, fmt.Errorf("corrosion agent at %s: %w", s.cfg.Addr, err)
		}
		mistakes = append(mistakes, tables.deaf(sub)...)
	}
	return mistakes, nil
}

// checkRule logs which queries break the rule, once, and counts them. That the
// agent's schema cannot be read is no reason not to follow it.
func (s *Source) checkRule(ctx context.Context, a *agent) {
	tables, err := a.schema(ctx, s.proveTimeout)
	if err != nil {
		s.log.Debug("the corrosion agent's schema cannot be read", "err", err)
		return
	}
	n := 0
	for _, sub := range s.subs {
		mistakes := tables.deaf(sub)
		n += len(mistakes)
		for _, m := range mistakes {
			if !s.warned[m] {
				s.warned[m] = true
				s.log.Warn(m)
			}
		}
	}
	s.deaf.Store(int64(n))
}

func (a *agent) schema(ctx context.Context, timeout time.Duration) (schema, error) {
	s := schema{}
	err := a.query(ctx, schemaSQL, timeout, func(raw json.RawMessage) error {
		var cells []cell
		if err := json.Unmarshal(raw, &cells); err != nil {
			return err
		}
		if len(cells) != 3 {
			return fmt.Errorf("%d cells, want 3", len(cells))
		}
		table := strings.ToLower(string(cells[0]))
		if s[table] == nil {
			s[table] = map[string]bool{}
		}
		s[table][strings.ToLower(string(cells[1]))] = cells[2] != "0"
		return nil
	})
	return s, err
}

// deaf returns the tables of a query whose new rows it would not be told of, with
// the columns that it could name.
func (s schema) deaf(sub *subscription) (mistakes []string) {
	named := names(sub.query)
	for _, table := range named {
		var others []string
		for column, key := range s[table] {
			if !key {
				others = append(others, column)
			}
		}
		if len(others) == 0 || slices.ContainsFunc(others, func(c string) bool { return slices.Contains(named, c) }) {
			continue
		}
		slices.Sort(others)
		mistakes = append(mistakes, fmt.Sprintf("the query for %s names no column of the table %s but its key, so that the agent announces no new row of it: select one of %s as well",
			sub.shape.table, table, strings.Join(others, ", ")))
	}
	return mistakes
}

// names returns the identifiers of a statement once each, in lower case, without
// the names that it gives to its output.
func names(sql string) (found []string) {
	for before := ""; sql != ""; {
		var word string
		switch c := sql[0]; {
		case strings.HasPrefix(sql, "--"):
			_, sql, _ = strings.Cut(sql, "\n")
		case strings.HasPrefix(sql, "/*"):
			_, sql, _ = strings.Cut(sql, "*/")
		case c == '\'':
			_, sql, _ = strings.Cut(sql[1:], "'")
		case c == '"' || c == '`':
			word, sql, _ = strings.Cut(sql[1:], sql[:1])
		case c == '[':
			word, sql, _ = strings.Cut(sql[1:], "]")
		case letter(c):
			n := strings.IndexFunc(sql, func(r rune) bool { return r < 0x80 && !letter(byte(r)) && (r < '0' || r > '9') })
			if n < 0 {
				n = len(sql)
			}
			word, sql = sql[:n], sql[n:]
		default:
			sql = sql[1:]
		}
		if word = strings.ToLower(word); word == "" {
			continue
		}
		if before != "as" && !slices.Contains(found, word) {
			found = append(found, word)
		}
		before = word
	}
	return found
}

func letter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}
